use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use oncekey::Payload;
use proptest::prelude::*;

use crate::kept::{Kept, KeptError, Recorded, Responses};
use crate::vary::Varied;

fn fields(trailing: bool) -> impl Strategy<Value = HeaderMap> {
    let value = prop::collection::vec(prop_oneof![32_u8..=126, 128_u8..=255, Just(b'\t')], 0..12);
    let field = ("[a-z]{1,6}(-[a-z0-9]{1,4})?", value, any::<bool>());
    prop::collection::vec(field, 0..if trailing { 3 } else { 8 }).prop_map(|fields| {
        let mut map = HeaderMap::new();
        for (name, value, sensitive) in fields {
            let mut value = HeaderValue::from_bytes(&value).unwrap();
            value.set_sensitive(sensitive);
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
        }
        map
    })
}

fn recorded() -> impl Strategy<Value = Recorded> {
    let body = prop::collection::vec(any::<u8>(), 0..64).prop_map(Bytes::from);
    let varied = prop::collection::vec(("[a-z]{1,6}", any::<[u8; 16]>()), 0..3).prop_map(|varied| {
        Varied(varied.into_iter().map(|(name, digest)| (name.parse().unwrap(), digest)).collect())
    });
    (100_u16..1000, fields(false), body, prop::option::of(fields(true)), varied).prop_map(
        |(status, headers, body, trailers, varied)| Recorded {
            status: StatusCode::from_u16(status).unwrap(),
            headers,
            body,
            trailers,
            varied,
        },
    )
}

fn sensitive(recorded: &Recorded) -> Vec<bool> {
    recorded.headers.values().map(HeaderValue::is_sensitive).collect()
}

proptest! {
    #[test]
    fn what_was_kept_comes_back(recorded in recorded()) {
        let back = Recorded::decode(&recorded.encode()).unwrap();
        prop_assert_eq!(sensitive(&back), sensitive(&recorded));
        let order = |recorded: &Recorded| {
            recorded.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect::<Vec<_>>()
        };
        prop_assert_eq!(order(&back), order(&recorded));
        prop_assert_eq!(back, recorded);
    }

    #[test]
    fn what_is_cut_short_or_goes_on_is_damaged(recorded in recorded(), cut in any::<prop::sample::Index>(), more in any::<u8>()) {
        let bytes = recorded.encode();
        let short = bytes.slice(..cut.index(bytes.len()));
        prop_assert!(matches!(Recorded::decode(&short), Err(KeptError::Damaged(_))));
        let long = Bytes::from([&bytes[..], &[more]].concat());
        prop_assert!(matches!(Recorded::decode(&long), Err(KeptError::Damaged(_))));
    }

    /// A byte that was changed gives an error or another response, and never a panic; what reads is written as it reads.
    #[test]
    fn what_is_damaged_never_panics(recorded in recorded(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = recorded.encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Ok(read) = Recorded::decode(&Bytes::from(bytes)) {
            prop_assert_eq!(Recorded::decode(&read.encode()).unwrap(), read);
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let with_format = Bytes::from([&[1, 0, 200][..], &bytes[..]].concat());
        for bytes in [Bytes::from(bytes), with_format] {
            if let Ok(read) = Recorded::decode(&bytes) {
                prop_assert_eq!(Recorded::decode(&read.encode()).unwrap(), read);
            }
        }
    }
}

/// What this release wrote, later ones read.
#[test]
fn the_stored_form_stays_what_it_is() {
    let mut headers = HeaderMap::new();
    headers.insert("etag", HeaderValue::from_static("\"1\""));
    let (status, body) = (StatusCode::CREATED, Bytes::from_static(b"ok"));
    let mut recorded = Recorded { status, headers, body, trailers: None, varied: Varied::default() };
    let stored: &[u8] =
        b"\x01\x00\xc9\x00\x00\x00\x01\x00\x00\x00\x04etag\x00\x00\x00\x03\"1\"\x00\x00\x00\x00\x02ok\x00";
    assert_eq!(recorded.encode(), stored);
    assert_eq!(Recorded::decode(&Bytes::from_static(stored)).unwrap(), recorded);
    recorded.varied = Varied(vec![("accept".parse().unwrap(), [7; 16])]);
    let stored =
        [&stored[..stored.len() - 1], b"\x02\x00\x00\x00\x01\x00\x00\x00\x06accept", &[7; 16]].concat();
    assert_eq!(recorded.encode(), stored);
    assert_eq!(Recorded::decode(&Bytes::from(stored)).unwrap(), recorded);
}

#[test]
fn a_later_format_is_told_from_damage() {
    let read = Recorded::decode(&Bytes::from_static(b"\x02whatever"));
    assert!(matches!(read, Err(KeptError::Newer(2))));
}

/// More fields than a map of them can have are refused, where `http` itself would panic.
#[test]
fn a_flood_of_fields_is_damage() {
    let mut bytes = vec![1, 0, 200];
    bytes.extend(40_000_u32.to_be_bytes());
    for n in 0..40_000_u32 {
        let name = format!("x{n}");
        bytes.extend(u32::try_from(name.len()).unwrap().to_be_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend([0, 0, 0, 0, 0]);
    }
    bytes.extend([0, 0, 0, 0, 0]);
    let read = Recorded::decode(&Bytes::from(bytes));
    assert!(matches!(read, Err(KeptError::Damaged("it has too many fields"))));
}

#[test]
fn what_is_not_kept_has_no_stored_form() {
    for kept in [Kept::NotReplayable, Kept::Nothing] {
        assert!(Responses.encode_kept(&kept).is_err());
    }
    assert!(Responses.decode_kept(&Payload::empty()).is_err());
}
