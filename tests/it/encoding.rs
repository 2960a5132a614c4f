//! The stored form of records, over any record.

use oncekey::protocol::DecodeError;
use oncekey::protocol::Record;
use oncekey_conformance::samples::arbitrary_record;
use proptest::prelude::*;

proptest! {
    #[test]
    fn records_round_trip(record in arbitrary_record()) {
        let bytes = record.encode();
        // That the buffer never grows is shown beside the encoder, for the longest record.
        prop_assert!(bytes.capacity() <= bytes.len() + 72, "the buffer that is set aside is close");
        prop_assert_eq!(Record::decode(&bytes.into()).unwrap(), record);
    }

    #[test]
    fn a_cut_or_extended_record_is_damaged(record in arbitrary_record(), cut in 0_usize..1000) {
        let mut bytes = record.encode();
        let cut = cut % bytes.len();
        let is_damaged = |r: Result<Record, DecodeError>| matches!(r, Err(DecodeError::Damaged { .. }));
        prop_assert!(is_damaged(Record::decode(&bytes[..cut].into())));
        bytes.push(0);
        prop_assert!(is_damaged(Record::decode(&bytes.into())));
    }

    /// What decodes at all, encodes to the same bytes: there is one stored form of a record.
    #[test]
    fn the_encoding_is_canonical(record in arbitrary_record(), at in 0_usize..1000, flip in 1_u8..=255) {
        let mut bytes = record.encode();
        let at = at % bytes.len();
        bytes[at] ^= flip;
        if let Ok(other) = Record::decode(&bytes.clone().into()) {
            prop_assert_eq!(other.encode(), bytes);
            prop_assert_ne!(other, record);
        }
    }
}
