//! What happens to keys and bodies on their way into a table.

use oncekey::Key;

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

// The stored form of a record, as far as an author would need to lift columns out of it.
const STATE: u8 = 0b0000_0011;
const DOUBT: u8 = 0b0000_0100;
const HOLD: u8 = 0b0000_1000;
const FINGERPRINT: u8 = 0b0001_0000;
const TOKEN: u8 = 0b0010_0000;
const CHECKPOINT: u8 = 0b0100_0000;
const OWN_ID: u8 = 0b1000_0000;
const IN_PROGRESS: u8 = 0;
const COMPLETED: u8 = 1;

/// The body as a flawed table keeps it; `None` if it keeps it well.
pub(crate) fn body(flaw: Flaw, body: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = body.to_vec();
    let flags = bytes[1];
    let mut at = 2 + if flags & OWN_ID == 0 { 32 } else { 16 };
    let numbers = 3 + usize::from(flags & TOKEN != 0);
    for _ in 0..numbers {
        at += varint(body, at).1;
    }
    let ends = flags & STATE != IN_PROGRESS;
    let finished = at..at + if ends { varint(body, at).1 } else { 0 };
    let digest = if flags & FINGERPRINT != 0 { 1 + bytes_at(body, finished.end + 1) } else { 0 };
    let fingerprint = finished.end..finished.end + digest;
    let recovery = if flags & CHECKPOINT != 0 { bytes_at(body, fingerprint.end) } else { 0 };
    let checkpoint = fingerprint.end..fingerprint.end + recovery;
    match flaw {
        Flaw::NoDoubt => bytes[1] &= !DOUBT,
        Flaw::NoPolicy => bytes[1] &= !HOLD,
        Flaw::NoFingerprint => {
            bytes[1] &= !FINGERPRINT;
            bytes.drain(fingerprint);
        }
        Flaw::NoCheckpoint => {
            bytes[1] &= !CHECKPOINT;
            bytes.drain(checkpoint);
        }
        Flaw::NoFinishedAt if ends => {
            bytes.splice(finished, [0]);
        }
        // The outcome ends the record of a completed operation. Its length stays, so that the record decodes.
        Flaw::BytesThroughText if flags & STATE == COMPLETED => {
            let outcome = checkpoint.end + 1;
            let (len, digits) = if body.len() > outcome { varint(body, outcome) } else { (0, 0) };
            if body[checkpoint.end] > 1 || len == 0 {
                return None;
            }
            bytes[outcome + digits..]
                .iter_mut()
                .for_each(|byte| *byte = if byte.is_ascii() { *byte } else { b'?' });
        }
        Flaw::CutAt64KiB => bytes.truncate(65_535),
        _ => return None,
    }
    Some(bytes)
}

/// A number, and how many bytes it takes.
fn varint(bytes: &[u8], at: usize) -> (u64, usize) {
    let taken = bytes[at..].iter().take_while(|byte| **byte >= 0x80).count() + 1;
    let digits = bytes[at..at + taken].iter().rev();
    (digits.fold(0, |number, byte| number << 7 | u64::from(byte & 0x7f)), taken)
}

/// How much a string of bytes takes, with its length.
fn bytes_at(bytes: &[u8], at: usize) -> usize {
    let (len, taken) = varint(bytes, at);
    usize::try_from(len).expect("lengths are small") + taken
}
