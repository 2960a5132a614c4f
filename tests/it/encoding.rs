//! The stored form of records, over any record.

use oncekey::protocol::DecodeError;
use oncekey::protocol::Record;
use oncekey_conformance::samples::arbitrary_record;
use proptest::prelude::*;

proptest! {
    #[test]
    fn records_round_trip(record in arbitrary_record()) {
        let bytes = record.as_bytes();
        prop_assert_eq!(&Record::decode(bytes).unwrap(), &record);
        prop_assert_eq!(Record::from(record.draft()), record, "made anew of its fields");
    }

    #[test]
    fn a_cut_or_extended_record_is_damaged(record in arbitrary_record(), cut in 0_usize..1000) {
        let mut bytes = record.as_bytes().to_vec();
        let cut = cut % bytes.len();
        let is_damaged = |r: Result<Record, DecodeError>| matches!(r, Err(DecodeError::Damaged { .. }));
        prop_assert!(is_damaged(Record::decode(&bytes[..cut])));
        bytes.push(0);
        prop_assert!(is_damaged(Record::decode(bytes)));
    }

    /// What decodes at all, is what its fields are written as: there is one stored form of a record.
    #[test]
    fn the_encoding_is_canonical(record in arbitrary_record(), at in 0_usize..1000, flip in 1_u8..=255) {
        let mut bytes = record.as_bytes().to_vec();
        let at = at % bytes.len();
        bytes[at] ^= flip;
        if let Ok(other) = Record::decode(bytes.clone()) {
            prop_assert_eq!(Record::from(other.draft()).as_bytes().to_vec(), bytes);
            prop_assert_ne!(other, record);
        }
    }
}
