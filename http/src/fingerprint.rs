//! What tells one request from another under the same key. The draft's section 2.4 leaves it to the
//! server; the default is its "Checksum of the entire request payload", and what it is sent to.

use std::fmt;
use std::sync::Arc;

use http::header::{CONTENT_TYPE, HeaderName};
use http::request::Parts;
use http::{HeaderMap, Uri};
use oncekey::Fingerprint;
use oncekey::protocol::Algorithm;
use sha2::{Digest as _, Sha256};

type Identify = dyn Fn(&Parts, &[u8]) -> Vec<u8> + Send + Sync;

/// A part of a request that is compared by default.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The method. It is part of the key's scope too, so that the same key with another method is
    /// another operation in any case.
    Method,
    /// The path that the client sent. By default it is part of the key's scope too, as its
    /// [route](crate::Route).
    Path,
    /// The query: `/charges`, `/charges?` and `/charges?dry=1` are three.
    Query,
    /// All values of `Content-Type`.
    ContentType,
    /// The body, byte for byte.
    Body,
}

const ALL: [Part; 5] = [Part::Method, Part::Path, Part::Query, Part::ContentType, Part::Body];

/// What of a request is compared with the first one of its key. A request that differs in it gets
/// the problem `mismatch`, and does not run.
///
/// By default that is each [`Part`]: method, path, query, content type and body. **What is left out
/// can differ, and the client still gets the first response.** Another choice is another
/// comparison: it does not know the requests of the one before, and takes each for a mismatch.
///
/// ```
/// use http::HeaderName;
/// # use oncekey::{Deduplicator, MemoryStore};
/// # use oncekey_http::{IdempotencyLayer, LayerError, Principal};
/// use oncekey_http::{Compared, Part};
///
/// # fn main() -> Result<(), LayerError> {
/// # let dedup = Deduplicator::new(MemoryStore::new());
/// // A version of the API is part of the request; a tracking parameter in the query is not.
/// let compared = Compared::default().with(HeaderName::from_static("x-api-version")).without(Part::Query);
/// let layer = IdempotencyLayer::builder(dedup, Principal::waived()).compared(compared);
/// # layer.run_in_request().build().map(drop) }
/// ```
#[derive(Clone)]
pub struct Compared(By);

#[derive(Clone)]
enum By {
    Parts { parts: Vec<Part>, fields: Vec<HeaderName> },
    Function(Arc<Identify>),
}

impl Default for Compared {
    fn default() -> Self {
        Self(By::Parts { parts: ALL.to_vec(), fields: Vec::new() })
    }
}

impl fmt::Debug for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            By::Parts { parts, fields } => write!(f, "Compared({parts:?}, {fields:?})"),
            By::Function(_) => f.write_str("Compared(function)"),
        }
    }
}

impl Compared {
    /// Leaves a part out. Has no effect on a [function](Self::by).
    #[must_use = "the layer is told by `Builder::compared`"]
    pub fn without(mut self, part: Part) -> Self {
        if let By::Parts { parts, .. } = &mut self.0 {
            parts.retain(|other| *other != part);
        }
        self
    }

    /// Adds a header field, with all its values. Has no effect on a [function](Self::by).
    #[must_use = "the layer is told by `Builder::compared`"]
    pub fn with(mut self, field: HeaderName) -> Self {
        if let By::Parts { fields, .. } = &mut self.0 {
            if !fields.contains(&field) {
                fields.push(field);
                fields.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
            }
        }
        self
    }

    /// For webhooks, whose sender puts the id of the event into the key and sends it again **with
    /// another body**: a count of attempts, a time of sending. Method and path are compared, and
    /// nothing else.
    ///
    /// With the default, such a delivery that failed once is a mismatch from then on: the sender
    /// hears 422 until it gives up, and the event is never handled.
    ///
    /// ```
    /// # use oncekey::{Deduplicator, MemoryStore};
    /// # use oncekey_http::{IdempotencyLayer, LayerError, Principal};
    /// use http::HeaderName;
    /// use oncekey_http::Compared;
    ///
    /// # fn main() -> Result<(), LayerError> {
    /// # let dedup = Deduplicator::new(MemoryStore::new());
    /// let layer = IdempotencyLayer::builder(dedup, Principal::waived()) // or the account that the signature shows
    ///     .field(HeaderName::from_static("webhook-id"))
    ///     .required()
    ///     .compared(Compared::webhook());
    /// # layer.run_in_request().build().map(drop) }
    /// ```
    pub fn webhook() -> Self {
        Self::default().without(Part::Query).without(Part::ContentType).without(Part::Body)
    }

    /// What the closure makes of a request and its body, and nothing else: the members of a JSON
    /// body that matter, say.
    ///
    /// # Panics
    /// If the closure does, the server sees it, and nothing was claimed.
    pub fn by<I: Into<Vec<u8>>>(identify: impl Fn(&Parts, &[u8]) -> I + Send + Sync + 'static) -> Self {
        Self(By::Function(Arc::new(move |parts, body| identify(parts, body).into())))
    }

    /// Begins with a request's head. `target`: where the client sent it.
    pub(crate) fn begin(&self, parts: &Parts, target: &Uri) -> Digest<'_> {
        let mut digest = Digest { compared: self, sha: Sha256::new(), body_len: 0 };
        match &self.0 {
            By::Parts { parts: compared, fields } => digest.head(parts, target, compared, fields),
            By::Function(_) => digest.field(b"by a function"),
        }
        digest
    }
}

/// A digest that grows with the body as it comes in.
pub(crate) struct Digest<'c> {
    compared: &'c Compared,
    sha: Sha256,
    body_len: u64,
}

impl Digest<'_> {
    fn field(&mut self, bytes: &[u8]) {
        self.sha.update((bytes.len() as u64).to_be_bytes());
        self.sha.update(bytes);
    }

    fn values(&mut self, headers: &HeaderMap, name: &HeaderName) {
        let values = headers.get_all(name);
        self.field(&(values.iter().count() as u64).to_be_bytes());
        values.iter().for_each(|value| self.field(value.as_bytes()));
    }

    fn head(&mut self, parts: &Parts, target: &Uri, compared: &[Part], fields: &[HeaderName]) {
        // What is not the default says first what it is; a method has no space.
        if compared != ALL || !fields.is_empty() {
            self.field(format!("only {compared:?} {fields:?}").as_bytes());
        }
        for part in compared {
            match part {
                Part::Method => self.field(parts.method.as_str().as_bytes()),
                Part::Path => self.field(target.path().as_bytes()),
                // No query is not an empty one.
                Part::Query => {
                    self.field(
                        &target.query().map_or_else(Vec::new, |query| [b"?", query.as_bytes()].concat()),
                    );
                }
                Part::ContentType => self.values(&parts.headers, &CONTENT_TYPE),
                Part::Body => {}
            }
        }
        fields.iter().for_each(|name| self.values(&parts.headers, name));
    }

    /// More of the body.
    pub(crate) fn update(&mut self, data: &[u8]) {
        if matches!(&self.compared.0, By::Parts { parts, .. } if parts.contains(&Part::Body)) {
            self.sha.update(data);
            self.body_len += data.len() as u64;
        }
    }

    /// Of a request that is there in full.
    pub(crate) fn finish(mut self, parts: &Parts, body: &[u8]) -> Fingerprint {
        if let By::Function(identify) = &self.compared.0 {
            let identity = identify(parts, body);
            self.field(&identity);
        }
        // Everything before the body has its length; the body is the rest but for its own.
        self.sha.update(self.body_len.to_be_bytes());
        Fingerprint::from_digest(Algorithm::SHA256, &self.sha.finalize()).expect("a SHA-256 has 32 bytes")
    }
}
