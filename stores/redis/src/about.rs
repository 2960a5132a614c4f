//! What a record says to somebody who looks at it with redis-cli. Nothing is decided by it, but which records a listing
//! of those in doubt looks at.

use std::fmt::Write as _;

use oncekey::{Conclusion, OutcomeBody, Policy, Record, State};

const TAKES_ALL: &str = "a string takes all that is written to it";
const HEX: &[u8; 16] = b"0123456789abcdef";

/// The stored state in one word.
pub(crate) fn state(record: &Record) -> &'static str {
    match record.state() {
        State::InProgress => "in_progress",
        State::Completed(_) => "completed",
        State::Released { .. } => "released",
        State::Forgotten => "forgotten",
    }
}

/// The rest in one line.
pub(crate) fn about(record: &Record) -> String {
    let mut line = String::with_capacity(160);
    let policy = match record.policy() {
        Policy::Reclaim => "reclaim",
        Policy::Hold => "hold",
    };
    write!(line, "attempt={} policy={policy} operation_id=", record.attempt()).expect(TAKES_ALL);
    // By hand: sixteen calls of the formatter would be most of what a put costs here.
    for byte in record.operation_id().to_bytes() {
        line.push(char::from(HEX[usize::from(byte >> 4)]));
        line.push(char::from(HEX[usize::from(byte & 15)]));
    }
    write!(line, " created={}", record.created_at()).expect(TAKES_ALL);
    if let Some(finished) = record.finished_at() {
        write!(line, " finished={finished}").expect(TAKES_ALL);
    }
    if let Some(outcome) = record.outcome() {
        let conclusion = match outcome.conclusion {
            Conclusion::Succeeded => "succeeded",
            Conclusion::Failed => "failed",
        };
        let (kept, len) = match &outcome.body {
            OutcomeBody::Kept(bytes) => ("outcome_bytes", bytes.len() as u64),
            OutcomeBody::TooLarge { len } => ("outcome_too_large_bytes", *len),
            OutcomeBody::Unencodable => ("outcome_unencodable_bytes", 0),
        };
        write!(line, " {conclusion} {kept}={len}").expect(TAKES_ALL);
    }
    if record.doubt() {
        line.push_str(" after_doubt");
    }
    line
}
