use http::StatusCode;

use crate::{Effect, OutcomeRule};

/// Every status that can be written, so that none is left to chance.
#[test]
fn each_status_has_its_rule() {
    for code in 100..=999 {
        let expected = match code {
            401 | 403 | 407 | 409 | 425 | 429 => OutcomeRule::Release,
            // A timeout around the handler says 408 as it drops it: nobody knows how far it got.
            408 => OutcomeRule::Unknown,
            200..=499 => OutcomeRule::Keep,
            _ => OutcomeRule::Unknown,
        };
        assert_eq!(OutcomeRule::by_status(StatusCode::from_u16(code).unwrap()), expected, "{code}");
    }
}

#[test]
fn a_handlers_word_is_one_of_the_three() {
    assert_eq!(OutcomeRule::from(Effect::None), OutcomeRule::Release);
    assert_eq!(OutcomeRule::from(Effect::Final), OutcomeRule::Keep);
    assert_eq!(OutcomeRule::from(Effect::Unknown), OutcomeRule::Unknown);
}
