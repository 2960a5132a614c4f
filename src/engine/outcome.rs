//! From what an operation returned to the outcome on record, and from a record to an answer.

use super::answer::{Answer, RecordInfo, Unavailable};
use super::error::RunError;
use crate::codec::{Codec, CodecError};
use crate::protocol::{Conclusion, Entry, Found, Key, Lent, Outcome, OutcomeBody, Payload};

/// How the failures of an operation are kept and read; `encode` gives `None` where none is ever final.
pub(super) struct Failures<Enc, Dec> {
    pub(super) encode: Enc,
    pub(super) decode: Dec,
}

/// What a codec makes of a value.
type Encoded = Result<Payload, CodecError>;

/// Failures that are kept in the codec of the values.
pub(super) fn failures_in<E, C: Codec<E>>(
    codec: &C,
) -> Failures<impl Fn(&E) -> Option<Encoded>, impl Fn(&Payload) -> Result<E, CodecError>> {
    Failures { encode: |error: &E| Some(codec.encode(error)), decode: |bytes: &Payload| codec.decode(bytes) }
}

/// The outcome of a value that is about to be kept: its own bytes, where it has them, or those that are made of it.
pub(super) fn outcome_of<'v, T, C: Codec<T>>(codec: &C, value: &'v T) -> Outcome<Lent<'v>> {
    match codec.lend(value) {
        Some(bytes) if bytes.len() <= Payload::LEN_MAX => {
            Outcome { conclusion: Conclusion::Succeeded, body: OutcomeBody::Kept(Lent::Of(bytes)) }
        }
        _ => outcome(Conclusion::Succeeded, codec.encode(value)).into(),
    }
}

pub(super) fn outcome(conclusion: Conclusion, encoded: Encoded) -> Outcome {
    let body = match encoded {
        Ok(bytes) if bytes.len() <= Payload::LEN_MAX => OutcomeBody::Kept(bytes),
        Ok(bytes) => OutcomeBody::TooLarge { len: bytes.len() as u64 },
        // What the codec said is not kept: the value exists, and its first caller has it.
        Err(_) => OutcomeBody::Unencodable,
    };
    Outcome { conclusion, body }
}

/// The answer that an entry holds for this request.
pub(super) fn read<T, E, G, C: Codec<T>, Enc, Dec: Fn(&Payload) -> Result<G, CodecError>>(
    codec: &C,
    failures: &Failures<Enc, Dec>,
    (key, verdict, entry): (&Key, Found, &Entry),
    here: bool,
) -> Result<Answer<T, G>, RunError<E>> {
    let info = RecordInfo::of(entry);
    let record = &entry.record;
    let outcome = record.outcome();
    let outcome = outcome.as_ref();
    let decoded = |source| RunError::Decode {
        scope: key.scope_label(),
        conclusion: outcome.expect("what was decoded is an outcome").conclusion,
        source,
    };
    Ok(match verdict {
        Found::Replay | Found::Done => {
            let outcome = outcome.expect("a replay has a completed record");
            let kept = if verdict == Found::Replay { Some(&outcome.body) } else { None };
            match (outcome.conclusion, kept) {
                (Conclusion::Succeeded, Some(OutcomeBody::Kept(bytes))) => {
                    Answer::Replayed { value: codec.decode(bytes).map_err(decoded)?, info }
                }
                (Conclusion::Succeeded, Some(OutcomeBody::TooLarge { len })) => {
                    Answer::Done { why: Unavailable::TooLarge { len: *len }, info }
                }
                (Conclusion::Succeeded, Some(OutcomeBody::Unencodable)) => {
                    Answer::Done { why: Unavailable::Unencodable, info }
                }
                // Dropped while it is live: the store's clock went back since.
                (Conclusion::Succeeded, Some(OutcomeBody::Dropped { .. }) | None) => {
                    Answer::Done { why: Unavailable::NoLongerKept, info }
                }
                (Conclusion::Failed, Some(OutcomeBody::Kept(bytes))) => {
                    Answer::FailedBefore { failure: Some((failures.decode)(bytes).map_err(decoded)?), info }
                }
                (Conclusion::Failed, _) => Answer::FailedBefore { failure: None, info },
            }
        }
        Found::InProgress => Answer::InProgress { left: entry.left, attempt: record.attempt(), here },
        Found::Mismatch => Answer::Mismatch,
        Found::InDoubt => Answer::InDoubt {
            attempt: record.attempt(),
            operation_id: record.operation_id(),
            since: record.created_at(),
        },
        Found::Exhausted => Answer::Exhausted { attempts: record.attempts_counted() },
    })
}
