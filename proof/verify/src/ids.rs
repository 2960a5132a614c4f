//! Who is who: each call has an id of one byte, and its outcome is that byte.

use oncekey::protocol::{Entry, Holder, Outcome};

use crate::store::number;

/// Whether the record is of this very call.
pub(crate) fn is_of(entry: &Entry, number: u8, call: u8) -> bool {
    entry.record.owner().to_bytes()[15] == id(number, call)
}

/// The id of a call, as one byte.
pub(crate) fn id(client: u8, call: u8) -> u8 {
    (client + 1) * 16 + call
}

/// The id in the length that the protocol's ids have.
pub(crate) fn bytes(id: u8) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[15] = id;
    bytes
}

/// The outcome of an attempt: each has another.
pub(crate) fn outcome_of(id: u8) -> Outcome {
    Outcome::success(vec![id])
}

/// What a holder is, as the protocol asks for it.
pub(crate) fn holder_of(entry: &Entry) -> (Holder, u8) {
    let token = entry.fencing_token();
    let holder = Holder { owner: entry.record.owner(), token, attempt: entry.record.attempt() };
    (holder, number(token))
}
