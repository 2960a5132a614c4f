//! From what an operation returned to the outcome on record, and from a record to an answer.

use super::answer::{Answer, RecordInfo, Unavailable};
use super::error::RunError;
use super::failure::Failure;
use crate::codec::{Codec, CodecError, FailureCodec};
use crate::protocol::{Conclusion, Entry, Found, Key, Outcome, OutcomeBody, Payload};

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
pub(super) fn read<T, E, C: Codec<T>, F: FailureCodec<E>>(
    codec: &C,
    failures: &F,
    (key, verdict, entry): (&Key, Found, &Entry),
    here: bool,
) -> Result<Answer<T, F::Kept>, RunError<E>> {
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
                    Answer::FailedBefore { failure: Some(failures.decode(bytes).map_err(decoded)?), info }
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
