//! Bytes that are cheap to hand around.

use std::fmt;
use std::iter;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// Immutable bytes behind a shared pointer: an outcome, or a checkpoint.
///
/// A clone costs one reference count. A payload may be a window into a larger buffer (an outcome read
/// from a store is a window into its encoded record), so keeping one keeps that buffer alive.
///
/// `Debug` shows the length only: outcomes may hold customer data.
#[derive(Clone, Default)]
pub struct Payload {
    bytes: Option<Arc<[u8]>>,
    start: usize,
    end: usize,
}

impl Payload {
    /// Most bytes that the engine and the memory store take for one record: 1 GiB.
    pub const LEN_MAX: usize = 1 << 30;

    /// No bytes.
    pub const fn empty() -> Self {
        Self { bytes: None, start: 0, end: 0 }
    }

    /// Wraps a whole buffer.
    pub fn from_shared(bytes: Arc<[u8]>) -> Self {
        let end = bytes.len();
        Self { bytes: Some(bytes), start: 0, end }
    }

    /// The end of a buffer, from where `begin` says.
    #[inline]
    pub(crate) fn window(bytes: Arc<[u8]>, begin: impl FnOnce(&[u8]) -> usize) -> Self {
        let (start, end) = (begin(&bytes), bytes.len());
        assert!(start <= end, "a window from {start} of {end} bytes");
        Self { bytes: Some(bytes), start, end }
    }

    /// A window into this payload that shares its buffer.
    ///
    /// # Panics
    /// If the range does not lie within the payload, as slicing does.
    #[must_use]
    #[inline]
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.len(),
            "slice {range:?} of {} bytes",
            self.len()
        );
        Self { bytes: self.bytes.clone(), start: self.start + range.start, end: self.start + range.end }
    }
}

impl Deref for Payload {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Some(bytes) => &bytes[self.start..self.end],
            None => &[],
        }
    }
}

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        if bytes.is_empty() { Self::empty() } else { Self::from_shared(bytes.into()) }
    }
}

impl From<&[u8]> for Payload {
    fn from(bytes: &[u8]) -> Self {
        if bytes.is_empty() { Self::empty() } else { Self::from_shared(bytes.into()) }
    }
}

impl From<&str> for Payload {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl From<String> for Payload {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Payload {}

impl PartialEq<[u8]> for Payload {
    fn eq(&self, other: &[u8]) -> bool {
        **self == *other
    }
}

impl std::hash::Hash for Payload {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.len())
    }
}

/// A buffer of this length, in one allocation, as `fill` leaves it. It begins with zeros.
#[inline]
pub(crate) fn filled(len: usize, fill: impl FnOnce(&mut [u8])) -> Arc<[u8]> {
    // Copied at once: most records are as short.
    const ZEROS: [u8; 512] = [0; 512];
    let mut bytes: Arc<[u8]> = match ZEROS.get(..len) {
        Some(zeros) => zeros.into(),
        None => iter::repeat_n(0, len).collect(),
    };
    fill(Arc::get_mut(&mut bytes).expect("nobody else has it yet"));
    bytes
}

/// Puts bytes at the front of a buffer; what is behind them.
#[inline]
pub(crate) fn put<'b>(buffer: &'b mut [u8], bytes: &[u8]) -> &'b mut [u8] {
    let (place, behind) = buffer.split_at_mut(bytes.len());
    place.copy_from_slice(bytes);
    behind
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_shares_the_buffer_and_compares_by_content() {
        let whole = Payload::from(b"0123456789".to_vec());
        let part = whole.slice(2..5);
        assert_eq!(&*part, b"234");
        assert_eq!(&*part.slice(1..3), b"34");
        assert_eq!(part, Payload::from(&b"234"[..]));
        assert_eq!(Payload::from(Vec::new()), Payload::empty());
        assert_eq!(format!("{part:?}"), "Payload(3 bytes)");
    }

    /// Equal bytes are equal in every way that a payload can be looked at, whatever buffer they are a window of.
    #[test]
    fn content_is_what_counts() {
        use std::hash::BuildHasher as _;
        let (part, same) = (Payload::from("0123456789").slice(2..5), Payload::from("234".to_owned()));
        let other = Payload::from("235".to_owned());
        let hash = |payload: &Payload| {
            std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default().hash_one(payload)
        };
        assert_eq!(part, same);
        assert_eq!(hash(&part), hash(&same));
        assert_ne!(part, other);
        assert_ne!(hash(&part), hash(&other), "a hash that all payloads share makes a map a list");
        assert_eq!(part.as_ref(), b"234");
        assert!(part == b"234"[..] && part != b"235"[..]);
    }

    #[test]
    #[should_panic(expected = "slice 2..4 of 3 bytes")]
    fn a_window_cannot_leave_its_payload() {
        // The buffer behind has more bytes; the window must not reach them.
        let _ = Payload::from(b"0123456789".to_vec()).slice(2..5).slice(2..4);
    }
}
