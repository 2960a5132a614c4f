//! For the fuzz targets of this repository, and nobody else.

use bytes::Bytes;

use crate::kept::Recorded;

/// Arbitrary bytes as a kept response.
///
/// # Panics
/// If what reads is not written as it reads.
pub fn kept(data: &[u8]) {
    if let Ok(read) = Recorded::decode(&Bytes::copy_from_slice(data)) {
        let again = Recorded::decode(&read.encode());
        assert_eq!(again.expect("what was written reads"), read, "a kept response comes back as it was");
    }
}
