use http::StatusCode;

use crate::{Disposition, Effect};

/// Every status that can be written, so that none is left to chance.
#[test]
fn each_status_has_its_disposition() {
    for code in 100..=999 {
        let expected = match code {
            401 | 403 | 407 | 409 | 425 | 429 => Disposition::Release,
            // A timeout around the handler says 408 as it drops it: nobody knows how far it got.
            408 => Disposition::Unknown,
            200..=499 => Disposition::Keep,
            _ => Disposition::Unknown,
        };
        assert_eq!(Disposition::by_status(StatusCode::from_u16(code).unwrap()), expected, "{code}");
    }
}

#[test]
fn a_handlers_word_is_one_of_the_three() {
    assert_eq!(Disposition::from(Effect::None), Disposition::Release);
    assert_eq!(Disposition::from(Effect::Final), Disposition::Keep);
    assert_eq!(Disposition::from(Effect::Unknown), Disposition::Unknown);
}
