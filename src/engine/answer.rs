//! What a run answers. Everything expected is a value.

use std::fmt;
use std::time::Duration;

use super::error::ClaimError;
use crate::kept::Kept;
use crate::protocol::{Entry, FencingToken, OperationId, Payload, UnixMillis};
use crate::store::StoreFailure;

/// What a run got: every expected answer.
///
/// `T` is the operation's value. `F` is what is kept of a final failure, where one is on record: for
/// [`Request::run_or_fail`](super::Request::run_or_fail) its text, or what the request's
/// [failure codec](super::Request::failures) keeps; the bytes on record otherwise.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "the operation may not have run: look at the answer, or take its value"]
pub enum Answer<T, F = Payload> {
    /// The operation ran in this call, and that it is done is on record: no later call runs it again.
    #[non_exhaustive]
    Executed {
        /// What it returned.
        value: T,
        /// Whether its outcome is on record with that, so that later calls get it. Otherwise they get [`Earlier::Done`].
        kept: Kept,
        /// The record that the answer comes from.
        info: RecordInfo,
    },
    /// The operation ran in this call, and its outcome could not be put on record. Whether a later call runs it again
    /// depends on the reason.
    #[non_exhaustive]
    Unrecorded {
        /// What it returned.
        value: T,
        /// Why it is not on record.
        why: Unrecorded,
    },
    /// The operation was not run in this call, since an earlier one was there.
    Earlier(Earlier<T, F>),
}

/// What an earlier call left of a key, so that the operation is not run now.
///
/// `T` is the operation's value, and `F` what is kept of a final failure: both are bytes for a
/// [claim](super::Request::claim).
#[derive(Debug, Clone, PartialEq)]
#[must_use = "the operation was not run: look at the answer, or take its value"]
pub enum Earlier<T, F = Payload> {
    /// The operation ran before; this is its outcome.
    #[non_exhaustive]
    Replayed {
        /// What it returned then.
        value: T,
        /// The record that the answer comes from.
        info: RecordInfo,
    },
    /// The operation is done, and its outcome cannot be given again. It is not run again.
    #[non_exhaustive]
    Done {
        /// Why there is no outcome.
        why: Unavailable,
        /// The record that the answer comes from.
        info: RecordInfo,
    },
    /// The operation failed for good before, and was not run again.
    #[non_exhaustive]
    FailedBefore {
        /// The failure; `None` if it could not be kept, or is not kept any more.
        failure: Option<F>,
        /// The record that the answer comes from.
        info: RecordInfo,
    },
    /// Another attempt is running.
    #[non_exhaustive]
    InProgress {
        /// How long its lease runs unless renewed.
        left: Duration,
        /// When asking again may be worth it: soon, and the later the longer the attempt has run, from 100 ms to 5 s and
        /// within its lease; up to half as much is added by chance, so that callers do not come back together.
        retry_after: Duration,
        /// The number of that attempt.
        attempt: u32,
        /// It is running in this very engine.
        here: bool,
    },
    /// The key is bound to another request. Nothing about that request is revealed.
    Mismatch,
    /// An attempt stopped in the middle, and the operation must not run again until somebody resolved what happened.
    #[non_exhaustive]
    InDoubt {
        /// The number of that attempt.
        attempt: u32,
        /// The id it handed downstream, to ask there.
        operation_id: OperationId,
        /// When the generation began, by its owner's wall clock.
        since: UnixMillis,
    },
    /// The attempts are used up. An operator can reset them.
    #[non_exhaustive]
    Exhausted {
        /// How many were used.
        attempts: u32,
    },
}

/// What a claim got. `C` is the claim, of the async face or of the blocking one.
#[derive(Debug)]
#[must_use = "a granted claim that is dropped holds its key for a lease"]
pub enum ClaimAnswer<C> {
    /// The right to execute. Act, then conclude it.
    Granted(C),
    /// An earlier call was there. Value and failure are the bytes on record.
    Answered(Earlier<Payload, Payload>),
}

/// What an answer rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordInfo {
    /// The attempt that concluded, from 1.
    pub attempt: u32,
    /// An earlier attempt was taken over, and its effect is unknown: the effect may have happened more than once.
    pub after_doubt: bool,
    /// The id of the generation, which its attempts handed downstream.
    pub operation_id: OperationId,
    /// The fencing token of the attempt.
    pub token: FencingToken,
    /// When the generation began, by its first owner's wall clock.
    pub created_at: UnixMillis,
    /// When it was completed, by the wall clock of who did.
    pub finished_at: Option<UnixMillis>,
}

impl RecordInfo {
    pub(super) fn of(entry: &Entry) -> Self {
        Self {
            attempt: entry.record.attempt(),
            after_doubt: entry.record.doubt(),
            operation_id: entry.record.operation_id(),
            token: entry.fencing_token(),
            created_at: entry.record.created_at(),
            finished_at: entry.record.finished_at(),
        }
    }
}

/// Why an outcome is not on record.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Unrecorded {
    /// It was refused, or could not be stored in time.
    Completion(ClaimError),
    /// The store could not answer the claim, and the call chose to run unprotected: it has no promise at all.
    FailedOpen(StoreFailure),
}

impl PartialEq for Unrecorded {
    /// By variant: errors do not compare.
    fn eq(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// Why a completed operation's outcome cannot be given again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unavailable {
    /// It was over the limit of the engine that completed it.
    #[non_exhaustive]
    TooLarge {
        /// Its encoded length in bytes.
        len: u64,
    },
    /// The codec refused it, or panicked.
    Unencodable,
    /// Its retention is over.
    NoLongerKept,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { len } => {
                write!(f, "its {len} bytes were over the `outcome_len_max` of the engine that completed it")
            }
            Self::Unencodable => f.write_str("its codec could not encode it"),
            Self::NoLongerKept => f.write_str("its retention is over"),
        }
    }
}

impl<T, F> Answer<T, F> {
    /// The value, if the call got one, however it did.
    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Executed { value, .. } | Self::Unrecorded { value, .. } => Some(value),
            Self::Earlier(earlier) => earlier.value(),
        }
    }

    /// Whether the operation ran in this very call.
    pub fn ran_now(&self) -> bool {
        !matches!(self, Self::Earlier(_))
    }
}

impl<T, F> Earlier<T, F> {
    /// The value, if it is there to be given.
    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Replayed { value, .. } => Some(value),
            _ => None,
        }
    }
}

impl<C> ClaimAnswer<C> {
    /// The same for another kind of claim.
    pub fn map<D>(self, claim: impl FnOnce(C) -> D) -> ClaimAnswer<D> {
        match self {
            Self::Granted(granted) => ClaimAnswer::Granted(claim(granted)),
            Self::Answered(earlier) => ClaimAnswer::Answered(earlier),
        }
    }
}
