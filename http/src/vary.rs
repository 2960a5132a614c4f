//! Responses that depend on header fields of their requests: those that they name in `Vary`.

use http::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderName, VARY};
use sha2::{Digest as _, Sha256};

/// What a request meets whose key has a kept response, if that response names in `Vary` a header
/// field in which this request differs from the first one. A retry that accepts other codings, or
/// names another version of the API, is such a request.
///
/// `Vary: *`, `Authorization` and `Cookie` do not count. Who calls is for the
/// [principal](crate::Principal) to say, and a session may be another at the retry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum OnVary {
    /// It gets the problem `vary-mismatch`, with the names of these fields, and does not run.
    #[default]
    Mismatch,
    /// It gets the kept response as it is, which it may not be able to read.
    Replay,
    /// It runs, as an operation of its own with its own operation id, and its response is kept
    /// beside the first one. **The effect happens once for each variant**: for handlers without an
    /// effect, or whose effect is idempotent by something else.
    Run,
}

/// The fields that a response names in `Vary`, each with a digest of the values that its request
/// had.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Varied(pub(crate) Vec<(HeaderName, [u8; 16])>);

impl Varied {
    /// Of a response and its request.
    pub(crate) fn of(response: &HeaderMap, request: &HeaderMap) -> Self {
        let values = response.get_all(VARY).iter().filter_map(|value| value.to_str().ok());
        let names = values.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok());
        let counts = |name: &HeaderName| *name != AUTHORIZATION && *name != COOKIE && name.as_str() != "*";
        let mut names: Vec<HeaderName> = names.filter(counts).collect();
        names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        names.dedup();
        Self(
            names
                .into_iter()
                .map(|name| {
                    let of = digest(request, &name);
                    (name, of)
                })
                .collect(),
        )
    }

    /// The fields in which this request differs.
    pub(crate) fn differing(&self, request: &HeaderMap) -> Vec<HeaderName> {
        let differs = |(name, of_first): &&(HeaderName, [u8; 16])| digest(request, name) != *of_first;
        self.0.iter().filter(differs).map(|(name, _)| name.clone()).collect()
    }

    /// The name of the variant that this request asks for.
    pub(crate) fn variant(&self, request: &HeaderMap) -> String {
        let mut sha = Sha256::new();
        for (name, _) in &self.0 {
            sha.update((name.as_str().len() as u64).to_be_bytes());
            sha.update(name.as_str());
            sha.update(digest(request, name));
        }
        sha.finalize().iter().fold("vary:".to_owned(), |hex, byte| format!("{hex}{byte:02x}"))
    }
}

fn digest(headers: &HeaderMap, name: &HeaderName) -> [u8; 16] {
    let mut sha = Sha256::new();
    for value in headers.get_all(name) {
        sha.update((value.len() as u64).to_be_bytes());
        sha.update(value.as_bytes());
    }
    sha.finalize()[..16].try_into().expect("a SHA-256 is longer")
}
