//! What tells one request from another under the same key.

use std::fmt;

/// Which digest a fingerprint was made by. Fingerprints of different algorithms cannot be compared.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Algorithm(u8);

impl Algorithm {
    /// SHA-256 (FIPS 180-4, section 6.2).
    pub const SHA256: Self = Self(1);
    /// BLAKE3, which the caller computes.
    pub const BLAKE3: Self = Self(2);

    /// An algorithm of the caller's own, numbered 0 to 127.
    ///
    /// # Panics
    /// If the number is above 127: those are kept for this crate.
    pub const fn private(number: u8) -> Self {
        assert!(number < 128, "private algorithms are numbered 0 to 127");
        Self(number | 0x80)
    }

    /// The number kept in a record.
    pub const fn number(self) -> u8 {
        self.0
    }

    pub(crate) const fn from_number(number: u8) -> Self {
        Self(number)
    }
}

/// A digest of the request, bound to its key for one generation: the same key with another digest is a mismatch.
///
/// `Debug` hides the digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    algorithm: Algorithm,
    len: u8,
    digest: [u8; Self::LEN_MAX],
}

/// Bytes that cannot serve as a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct FingerprintError(Problem);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Problem {
    #[error(
        "a fingerprint takes a digest of 1 to 32 bytes, not {len}; hash the request, or cut a longer digest"
    )]
    Len { len: usize },
    #[cfg(all(feature = "json", feature = "sha256"))]
    #[error(
        "a fingerprint cannot be made of this value, since JSON cannot express it ({why}); give its bytes instead"
    )]
    Json { why: String },
}

impl Fingerprint {
    /// Most bytes of a digest.
    pub const LEN_MAX: usize = 32;

    /// A digest that the caller computed.
    ///
    /// # Errors
    /// [`FingerprintError`] unless the digest has 1 to 32 bytes.
    pub fn from_digest(algorithm: Algorithm, digest: &[u8]) -> Result<Self, FingerprintError> {
        let error = FingerprintError(Problem::Len { len: digest.len() });
        let len = u8::try_from(digest.len()).map_err(|_| error.clone())?;
        let mut bytes = [0; Self::LEN_MAX];
        if digest.is_empty() || digest.len() > Self::LEN_MAX {
            return Err(error);
        }
        bytes[..digest.len()].copy_from_slice(digest);
        Ok(Self { algorithm, len, digest: bytes })
    }

    /// The SHA-256 of these bytes.
    #[cfg(feature = "sha256")]
    pub fn sha256(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self { algorithm: Algorithm::SHA256, len: 32, digest: sha2::Sha256::digest(bytes).into() }
    }

    /// The SHA-256 of a value's JSON, as `serde_json::to_vec` writes it by the value's `Serialize`.
    ///
    /// It is for requests that reach the service as values. Where the bytes of the request are at hand, take
    /// [`sha256`](Self::sha256) of them. Two values have one fingerprint exactly if they have the same JSON, byte for
    /// byte, so:
    ///
    /// - Fields of a struct come in the order of their declaration. To add, rename or reorder a field changes the
    ///   fingerprint: a retry that spans the release is then a mismatch. Leave out what is `None`
    ///   (`skip_serializing_if`), and the value without the new field keeps its fingerprint.
    /// - A `HashMap` or `HashSet` comes in another order each time: take `BTreeMap` or `BTreeSet`. A
    ///   `serde_json::Value` is ordered by key, unless its feature `preserve_order` is on anywhere in the build.
    /// - Floats that are not finite, and `None`, are all `null`.
    ///
    /// # Errors
    /// [`FingerprintError`] if JSON cannot express the value: a map whose keys are no strings or numbers, or a
    /// `Serialize` that fails.
    ///
    /// ```
    /// use oncekey::Fingerprint;
    ///
    /// #[derive(serde::Serialize)]
    /// struct Charge { cents: u32, card: &'static str }
    ///
    /// let one = Fingerprint::sha256_json(&Charge { cents: 5000, card: "c1" })?;
    /// assert_eq!(one, Fingerprint::sha256(br#"{"cents":5000,"card":"c1"}"#));
    /// # Ok::<(), oncekey::protocol::FingerprintError>(())
    /// ```
    #[cfg(all(feature = "json", feature = "sha256"))]
    pub fn sha256_json<T: serde::Serialize + ?Sized>(value: &T) -> Result<Self, FingerprintError> {
        let json = serde_json::to_vec(value);
        let json = json.map_err(|error| FingerprintError(Problem::Json { why: error.to_string() }))?;
        Ok(Self::sha256(&json))
    }

    /// The SHA-256 of several parts, each prefixed with its length as eight little-endian bytes, so that
    /// `["ab", "c"]` and `["a", "bc"]` differ.
    #[cfg(feature = "sha256")]
    pub fn sha256_parts<P: AsRef<[u8]>>(parts: impl IntoIterator<Item = P>) -> Self {
        use sha2::Digest as _;
        let mut hasher = sha2::Sha256::new();
        for part in parts {
            let part = part.as_ref();
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self { algorithm: Algorithm::SHA256, len: 32, digest: hasher.finalize().into() }
    }

    /// Which algorithm made it.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The digest's bytes.
    pub fn digest(&self) -> &[u8] {
        &self.digest[..usize::from(self.len)]
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint(algorithm {}, {} bytes)", self.algorithm.0, self.len)
    }
}

/// How the fingerprint of a request stands to the one on record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Comparison {
    Same,
    Differs,
    /// Both sides have one, by different algorithms: nobody can tell.
    Incomparable,
}

/// One side without a fingerprint counts as another request.
pub(crate) fn compare(one: Option<&Fingerprint>, other: Option<&Fingerprint>) -> Comparison {
    match (one, other) {
        (None, None) => Comparison::Same,
        (Some(a), Some(b)) if a.algorithm != b.algorithm => Comparison::Incomparable,
        (Some(a), Some(b)) if a == b => Comparison::Same,
        _ => Comparison::Differs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_have_bounds() {
        assert!(Fingerprint::from_digest(Algorithm::BLAKE3, &[]).is_err());
        assert!(Fingerprint::from_digest(Algorithm::BLAKE3, &[1; 33]).is_err());
        assert!(Fingerprint::from_digest(Algorithm::BLAKE3, &[1; 300]).is_err());
        assert_eq!(Fingerprint::from_digest(Algorithm::private(3), &[1; 32]).unwrap().digest(), [1; 32]);
    }

    #[test]
    fn debug_hides_the_digest() {
        let fingerprint = Fingerprint::from_digest(Algorithm::SHA256, &[0xab; 8]).unwrap();
        assert_eq!(format!("{fingerprint:?}"), "Fingerprint(algorithm 1, 8 bytes)");
    }

    /// A number in a record is forever.
    #[test]
    fn algorithms_of_the_callers_own_are_apart_from_those_of_this_crate() {
        for number in [0, 1, 2, 127] {
            let algorithm = Algorithm::private(number);
            assert_eq!(algorithm.number(), 128 + number);
            assert_eq!(Algorithm::from_number(algorithm.number()), algorithm);
        }
        assert_eq!((Algorithm::SHA256.number(), Algorithm::BLAKE3.number()), (1, 2));
    }

    #[test]
    fn a_missing_fingerprint_is_another_one() {
        let make = |algorithm, byte| Fingerprint::from_digest(algorithm, &[byte; 8]).unwrap();
        let (a, b) = (make(Algorithm::SHA256, 1), make(Algorithm::SHA256, 2));
        let c = make(Algorithm::BLAKE3, 1);
        assert_eq!(compare(None, None), Comparison::Same);
        assert_eq!(compare(Some(&a), Some(&a)), Comparison::Same);
        assert_eq!(compare(Some(&a), Some(&b)), Comparison::Differs);
        assert_eq!(compare(Some(&a), None), Comparison::Differs);
        assert_eq!(compare(None, Some(&a)), Comparison::Differs);
        assert_eq!(compare(Some(&a), Some(&c)), Comparison::Incomparable);
    }

    #[cfg(all(feature = "json", feature = "sha256"))]
    #[test]
    fn json_is_digested_as_serde_json_writes_it_or_refused() {
        #[derive(serde::Serialize)]
        struct Charge {
            cents: u32,
            #[serde(skip_serializing_if = "Option::is_none")]
            note: Option<&'static str>,
        }
        let digest = |charge: &Charge| Fingerprint::sha256_json(charge).unwrap();
        let plain = Charge { cents: 5000, note: None };
        assert_eq!(digest(&plain), Fingerprint::sha256(br#"{"cents":5000}"#));
        assert_ne!(digest(&plain), digest(&Charge { cents: 5001, note: None }));
        assert_ne!(digest(&plain), digest(&Charge { cents: 5000, note: Some("gift") }));
        let keyed_by_pairs = std::collections::BTreeMap::from([((1, 2), 3)]);
        let refused = Fingerprint::sha256_json(&keyed_by_pairs).unwrap_err();
        assert!(refused.to_string().contains("key must be a string"), "{refused}");
    }

    #[cfg(feature = "sha256")]
    #[test]
    fn sha256_is_the_standard_one_and_parts_do_not_run_together() {
        // FIPS 180-2, appendix B.1: the digest of "abc".
        let abc = Fingerprint::sha256(b"abc");
        assert_eq!(abc.digest()[..4], [0xba, 0x78, 0x16, 0xbf]);
        assert_ne!(Fingerprint::sha256_parts(["ab", "c"]), Fingerprint::sha256_parts(["a", "bc"]));
    }
}
