//! What happens to keys and bodies on their way into a table.

use oncekey::Key;
use oncekey::protocol::{Draft, Outcome, OutcomeBody, Policy, Record, State};

use super::flaws::Flaw;

/// The key as a flawed table keeps it; `None` if it keeps it well.
pub(crate) fn key(flaw: Flaw, key: &Key) -> Option<Vec<u8>> {
    let parts = || key.scope().chain([key.id()]);
    // With their lengths, so that nothing but what was done to the text is lost.
    let each = |change: fn(&str) -> String| {
        let changed = parts().map(change).flat_map(|part| {
            let len = u32::try_from(part.len()).expect("a part has at most 255 bytes");
            len.to_be_bytes().into_iter().chain(part.into_bytes()).collect::<Vec<_>>()
        });
        Some(changed.collect())
    };
    match flaw {
        Flaw::KeysFolded => each(str::to_lowercase),
        Flaw::KeysTrimmed => each(|part| part.trim_end_matches(' ').to_owned()),
        // As far as the kit has such text: a letter and its accent, in two characters or in one.
        Flaw::KeysNormalised => each(|part| part.replace("e\u{301}", "\u{e9}")),
        Flaw::KeysCutAtNul => each(|part| part.split('\0').next().unwrap_or_default().to_owned()),
        Flaw::KeysJoined => Some(parts().collect::<String>().into_bytes()),
        Flaw::KeysCutAt191 => Some(key.as_bytes().iter().copied().take(191).collect()),
        _ => None,
    }
}

/// The record as a flawed table keeps it; `None` if it keeps it well.
pub(crate) fn body(flaw: Flaw, record: &Record) -> Option<Vec<u8>> {
    let draft = record.draft();
    let draft = match flaw {
        Flaw::NoDoubt => Draft { doubt: false, ..draft },
        Flaw::NoPolicy => Draft { policy: Policy::Reclaim, ..draft },
        Flaw::NoFingerprint => Draft { fingerprint: None, ..draft },
        Flaw::NoCheckpoint => Draft { checkpoint: &[], ..draft },
        Flaw::NoFinishedAt => Draft { finished_at: None, ..draft },
        Flaw::BytesThroughText => {
            let outcome = record.outcome()?;
            let OutcomeBody::Kept(bytes) = outcome.body else { return None };
            let text: Vec<u8> = bytes.iter().map(|byte| if byte.is_ascii() { *byte } else { b'?' }).collect();
            let outcome = Outcome { conclusion: outcome.conclusion, body: OutcomeBody::Kept(&text[..]) };
            return Some(
                Record::from(Draft { state: State::Completed(outcome), ..draft }).as_bytes().to_vec(),
            );
        }
        Flaw::CutAt64KiB => return record.as_bytes().get(..65_535).map(<[u8]>::to_vec),
        _ => return None,
    };
    Some(Record::from(draft).as_bytes().to_vec())
}
