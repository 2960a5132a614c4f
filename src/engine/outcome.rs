//! From what an operation returned to the outcome on record, and from a record to an answer.

use std::time::Duration;

use super::answer::{Earlier, RecordInfo, Unavailable};
use super::failure::Failure;
use crate::codec::{Codec, CodecError, FailureCodec};
use crate::protocol::{Conclusion, Entry, Found, Lent, Outcome, OutcomeBody, Payload};

/// What a codec makes of a value.
type Encoded = Result<Payload, CodecError>;

/// Failures as they are on record. None goes there: this is for operations that say nothing of theirs.
pub(super) struct AsBytes;

impl<E> FailureCodec<E> for AsBytes {
    type Kept = Payload;

    fn encode(&self, _: &E) -> Encoded {
        Err("the operation does not say that it failed for good".into())
    }

    fn decode(&self, bytes: &Payload) -> Encoded {
        Ok(bytes.clone())
    }
}

/// How an operation that failed has ended.
pub(super) enum Ending {
    NoEffect,
    /// For good. `cut_from`: the length of the failure, if only a part of it is kept.
    Final {
        outcome: Outcome,
        cut_from: Option<u64>,
    },
    Unknown,
}

/// `len_max` is the engine's `outcome_len_max`. A final failure is encoded here, once.
pub(super) fn ending<E, F: FailureCodec<E>>(codec: &F, failure: &Failure<E>, len_max: usize) -> Ending {
    let error = match failure {
        Failure::NoEffect(_) => return Ending::NoEffect,
        Failure::Unknown(_) => return Ending::Unknown,
        Failure::Final(error) => error,
    };
    let mut encoded = codec.encode(error);
    let mut cut_from = None;
    if let Ok(bytes) = &mut encoded {
        if bytes.len() > len_max {
            if let Some(part) = codec.shortened(bytes, len_max).filter(|part| part.len() <= len_max) {
                cut_from = Some(bytes.len() as u64);
                *bytes = part;
            }
        }
    }
    Ending::Final { outcome: outcome(Conclusion::Failed, encoded), cut_from }
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

/// What an entry holds for a request, by the ways to read a value and a failure. `running` says of one in progress
/// whether this engine holds it, and when to ask again.
pub(super) fn earlier<T, F, X>(
    (verdict, entry): (Found, &Entry),
    running: impl FnOnce() -> (bool, Duration),
    value: impl FnOnce(&Payload) -> Result<T, X>,
    failure: impl FnOnce(&Payload) -> Result<F, X>,
) -> Result<Earlier<T, F>, X> {
    let info = RecordInfo::of(entry);
    let record = &entry.record;
    Ok(match verdict {
        Found::Replay | Found::Done => {
            let Outcome { conclusion, body } = record.outcome().expect("a replay has a completed record");
            match (conclusion, (verdict == Found::Replay).then_some(body)) {
                (Conclusion::Succeeded, Some(OutcomeBody::Kept(bytes))) => {
                    Earlier::Replayed { value: value(&bytes)?, info }
                }
                (Conclusion::Succeeded, Some(OutcomeBody::TooLarge { len })) => {
                    Earlier::Done { why: Unavailable::TooLarge { len }, info }
                }
                (Conclusion::Succeeded, Some(OutcomeBody::Unencodable)) => {
                    Earlier::Done { why: Unavailable::Unencodable, info }
                }
                // Dropped while it is live: the store's clock went back since.
                (Conclusion::Succeeded, Some(OutcomeBody::Dropped { .. }) | None) => {
                    Earlier::Done { why: Unavailable::NoLongerKept, info }
                }
                (Conclusion::Failed, Some(OutcomeBody::Kept(bytes))) => {
                    Earlier::FailedBefore { failure: Some(failure(&bytes)?), info }
                }
                (Conclusion::Failed, _) => Earlier::FailedBefore { failure: None, info },
            }
        }
        Found::InProgress => {
            let (here, retry_after) = running();
            Earlier::InProgress { left: entry.left, retry_after, attempt: record.attempt(), here }
        }
        Found::Mismatch => Earlier::Mismatch,
        Found::InDoubt => Earlier::InDoubt {
            attempt: record.attempt(),
            operation_id: record.operation_id(),
            since: record.created_at(),
        },
        Found::Exhausted => Earlier::Exhausted { attempts: record.attempts_counted() },
    })
}
