//! What a store says of a write whose answer is lost. The engine bears an error that wrongly says "not applied" in most places,
//! since it asks again and knows its own record; so the store is asked itself.

use std::time::Duration;

use oncekey::Store;
use oncekey::protocol::{Entry, Expected, Record};
use oncekey::store::{Exchange, Put, StoreError as _};

use super::case::Case;

const HOUR: Duration = Duration::from_secs(3600);

/// A claim and an exchange on its version, while the fault meets the one or the other. What is answered of each is compared
/// with what is there then, as another connection sees it.
pub(super) async fn write<S: Store + 'static>(case: &Case<'_, S>) -> bool {
    let place = case.arm().await;
    let first = put(case, None, &in_progress(1)).await;
    let before = match first {
        Some(entry) => entry,
        None => {
            let again = case.direct.store();
            let record = in_progress(1);
            let written =
                again.compare_exchange(&case.key, Expected::Vacant, Put::new(&record, HOUR, HOUR)).await;
            assert!(
                matches!(written, Ok(Exchange::Done(_))),
                "{}: nothing is there, and {written:?}",
                case.name
            );
            look(case).await.unwrap_or_else(|| panic!("{}: it was written", case.name))
        }
    };
    let _after = put(case, Some(&before), &in_progress(2)).await;
    place.is_met()
}

/// Puts through the proxy; answers what is there then.
async fn put<S: Store + 'static>(
    case: &Case<'_, S>,
    before: Option<&Entry>,
    record: &Record,
) -> Option<Entry> {
    let expected = before.map_or(Expected::Vacant, |entry| Expected::At(entry.version));
    let answered =
        case.near.store().compare_exchange(&case.key, expected, Put::new(record, HOUR, HOUR)).await;
    let there = look(case).await;
    let is_applied = there.as_ref().is_some_and(|entry| entry.record == *record);
    match &answered {
        Ok(Exchange::Done(version)) => {
            assert!(
                is_applied && there.as_ref().is_some_and(|entry| entry.version == *version),
                "{}: a put expecting {expected:?} answered {version:?}, and there is {there:?}",
                case.name
            );
        }
        // A store that sent it again by itself may have met its own copy, as the engine would.
        Ok(Exchange::Conflict(found)) => assert!(
            is_applied && found.as_ref().is_some_and(|entry| entry.record == *record),
            "{}: nobody else writes, and a put expecting {expected:?} was a conflict with {found:?}",
            case.name
        ),
        Err(error) => assert!(
            error.maybe_applied() || !is_applied,
            "{}: a put expecting {expected:?} was applied, and its error says that it was not: {error:?}",
            case.name
        ),
    }
    there
}

async fn look<S: Store + 'static>(case: &Case<'_, S>) -> Option<Entry> {
    let found = case.direct.store().load(&case.key).await;
    found.unwrap_or_else(|error| panic!("{}: with nothing in its way, a load: {error:?}", case.name))
}

/// A first attempt in progress, in the stored form.
fn in_progress(owner: u8) -> Record {
    // One attempt, begun at 7 ms; no token, no end, and nothing last.
    let numbers = [&[0, 0, 0, 1][..], &[0, 0, 0, 0, 0, 7], &[0; 18]].concat();
    let bytes = [&[1, 0x80, 0][..], &[owner; 16], &numbers].concat();
    Record::decode(bytes).expect("it is a record of format 1")
}
