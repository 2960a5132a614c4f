//! Records as an engine writes them.

use std::time::Duration;

use oncekey::protocol::{ClaimCommand, Command, Decision, Holder, Lifetimes, decide};
use oncekey::protocol::{Entry, Owner, Record, UnixMillis, Version};
use oncekey::{OperationId, Outcome, Policy};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
const LIFETIMES: Lifetimes = Lifetimes { lease: HOUR, retention: HOUR, tail: Duration::ZERO };

/// The record of a first claim.
pub(crate) fn in_progress() -> Record {
    let command = ClaimCommand {
        owner: Owner::from_bytes([7; 16]),
        operation_id: OperationId::from_bytes([8; 16]),
        fingerprint: None,
        policy: Policy::Reclaim,
        attempts_max: None,
        now: UnixMillis(1_795_478_400_000),
    };
    written(decide(None, &Command::Claim(&command), &LIFETIMES))
}

/// The record of a completion, with an outcome of 100 bytes.
pub(crate) fn completed() -> Record {
    let entry = Entry { record: in_progress(), version: Version::new(1), left: HOUR };
    let holder =
        Holder { owner: entry.record.owner(), token: entry.fencing_token(), attempt: entry.record.attempt() };
    let outcome = Outcome::success(vec![9; 100]);
    written(decide(
        Some(&entry),
        &Command::Complete(holder, &outcome, UnixMillis(1_795_478_400_001)),
        &LIFETIMES,
    ))
}

fn written(decision: Decision) -> Record {
    match decision {
        Decision::Write(write) => write.record,
        Decision::Answer(verdict) => panic!("a write is due, and decided was {verdict:?}"),
    }
}
