//! What tells one request from another under the same key: method, path, query, content type and
//! body. The draft's section 2.4 leaves it to the server; this is its "Checksum of the entire
//! request payload", and what it is sent to.

use http::Uri;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use oncekey::Fingerprint;
use oncekey::protocol::Algorithm;
use sha2::{Digest as _, Sha256};

/// A digest that grows with the body as it comes in.
pub(crate) struct Digest {
    sha: Sha256,
    body_len: u64,
}

impl Digest {
    /// `target`: where the client sent it.
    pub(crate) fn of(parts: &Parts, target: &Uri) -> Self {
        let mut sha = Sha256::new();
        let mut field = |bytes: &[u8]| {
            sha.update((bytes.len() as u64).to_be_bytes());
            sha.update(bytes);
        };
        field(parts.method.as_str().as_bytes());
        field(target.path().as_bytes());
        // No query is not an empty one.
        field(&target.query().map_or_else(Vec::new, |query| [b"?", query.as_bytes()].concat()));
        let types = parts.headers.get_all(CONTENT_TYPE);
        field(&(types.iter().count() as u64).to_be_bytes());
        types.iter().for_each(|value| field(value.as_bytes()));
        Self { sha, body_len: 0 }
    }

    pub(crate) fn update(&mut self, data: &[u8]) {
        self.sha.update(data);
        self.body_len += data.len() as u64;
    }

    pub(crate) fn finish(mut self) -> Fingerprint {
        // Everything before the body has its length; the body is the rest but for its own.
        self.sha.update(self.body_len.to_be_bytes());
        Fingerprint::from_digest(Algorithm::SHA256, &self.sha.finalize()).expect("a SHA-256 has 32 bytes")
    }
}
