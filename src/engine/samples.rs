//! Every answer of the engine, for tables under review: what a layer over the engine makes of each. No part of the API: an
//! answer may come to the list in any release.

use std::time::Duration;

use super::answer::{Answer, ClaimAnswer, Earlier, RecordInfo, Unavailable, Unrecorded};
use super::error::{ClaimError, ClaimFate, Error, RunError};
use super::failure::FailureKind;
use super::lease::prepared::Settled;
use crate::kept::Kept;
use crate::protocol::{Conclusion, FencingToken, OperationId, Payload, UnixMillis};
use crate::store::{StoreError, StoreErrorKind, StoreFailure};

#[derive(Debug, thiserror::Error)]
#[error("planned")]
struct Planned(StoreErrorKind);

impl StoreError for Planned {
    fn kind(&self) -> StoreErrorKind {
        self.0
    }
}

/// How long the lease of the sample in progress runs.
pub const LEFT: Duration = Duration::from_secs(17);
/// When to ask again about it.
pub const RETRY_AFTER: Duration = Duration::from_millis(1200);
const ID: OperationId = OperationId::from_bytes([9; 16]);

/// The attempt of the samples that are concluded, and of those that are exhausted.
pub const ATTEMPT: u32 = 3;

fn scope() -> String {
    "orders.ship".to_owned()
}

fn info() -> RecordInfo {
    RecordInfo {
        attempt: ATTEMPT,
        after_doubt: false,
        operation_id: ID,
        token: FencingToken::new(7),
        created_at: UnixMillis(1_000),
        finished_at: None,
    }
}

fn lost() -> ClaimError {
    ClaimError::Superseded { scope: scope(), possibly_applied: false }
}

fn failed(kind: StoreErrorKind) -> StoreFailure {
    StoreFailure::new(Planned(kind))
}

/// The answer of a run.
pub type Run = Result<Answer<u8, u8>, RunError<u8>>;

/// Each answer of a run with its name, except that its handler failed.
pub fn runs() -> Vec<(&'static str, Run)> {
    let store = |kind| Err(RunError::Claim { source: Error::Store { scope: scope(), source: failed(kind) } });
    let done = |why| Ok(Answer::Earlier(Earlier::Done { why, info: info() }));
    vec![
        ("executed", Ok(Answer::Executed { value: 1, kept: Kept::Whole, info: info() })),
        ("replayed", Ok(Answer::Earlier(Earlier::Replayed { value: 1, info: info() }))),
        ("unrecorded, refused", Ok(Answer::Unrecorded { value: 1, why: Unrecorded::Completion(lost()) })),
        (
            "unrecorded, failed open",
            Ok(Answer::Unrecorded {
                value: 1,
                why: Unrecorded::FailedOpen(failed(StoreErrorKind::Unavailable)),
            }),
        ),
        ("done, too large", done(Unavailable::TooLarge { len: 9 })),
        ("done, not encodable", done(Unavailable::Unencodable)),
        ("done, no longer kept", done(Unavailable::NoLongerKept)),
        ("failed before", Ok(Answer::Earlier(Earlier::FailedBefore { failure: Some(1), info: info() }))),
        (
            "failed before, not kept",
            Ok(Answer::Earlier(Earlier::FailedBefore { failure: None, info: info() })),
        ),
        (
            "in progress elsewhere",
            Ok(Answer::Earlier(Earlier::InProgress {
                left: LEFT,
                retry_after: RETRY_AFTER,
                attempt: 1,
                here: false,
            })),
        ),
        (
            "in progress here",
            Ok(Answer::Earlier(Earlier::InProgress {
                left: LEFT,
                retry_after: RETRY_AFTER,
                attempt: 1,
                here: true,
            })),
        ),
        ("mismatch", Ok(Answer::Earlier(Earlier::Mismatch))),
        (
            "in doubt under Hold",
            Ok(Answer::Earlier(Earlier::InDoubt { attempt: 1, operation_id: ID, since: UnixMillis(1) })),
        ),
        ("exhausted", Ok(Answer::Earlier(Earlier::Exhausted { attempts: 3 }))),
        ("lease lost", Err(RunError::LeaseLost { source: lost() })),
        (
            "success does not decode",
            Err(RunError::Decode { scope: scope(), conclusion: Conclusion::Succeeded, source: "bad".into() }),
        ),
        (
            "failure does not decode",
            Err(RunError::Decode { scope: scope(), conclusion: Conclusion::Failed, source: "bad".into() }),
        ),
        (
            "fingerprints not comparable",
            Err(RunError::Claim { source: Error::Incomparable { scope: scope() } }),
        ),
        ("store contradicts itself", Err(RunError::Claim { source: Error::Inconsistent { scope: scope() } })),
        ("store unavailable", store(StoreErrorKind::Unavailable)),
        ("store timed out", store(StoreErrorKind::TimedOut)),
        ("store full", store(StoreErrorKind::Full)),
        ("record corrupt", store(StoreErrorKind::Corrupt)),
        ("record of a newer version", store(StoreErrorKind::Newer)),
        ("store rejects", store(StoreErrorKind::Rejected)),
        ("store, other", store(StoreErrorKind::Other)),
    ]
}

/// Each thing that may become of a claim whose handler failed.
pub fn fates() -> Vec<(&'static str, ClaimFate)> {
    let store = |kind| ClaimError::Store { scope: scope(), source: failed(kind) };
    let not_stored = [
        ("superseded", lost()),
        (
            "superseded, maybe applied before",
            ClaimError::Superseded { scope: scope(), possibly_applied: true },
        ),
        ("already completed", ClaimError::AlreadyCompleted { scope: scope() }),
        ("already released", ClaimError::AlreadyReleased { scope: scope() }),
        ("gone", ClaimError::Gone { scope: scope() }),
        ("gone, maybe applied before", ClaimError::Unknown { scope: scope() }),
        ("store unavailable", store(StoreErrorKind::Unavailable)),
        ("store full", store(StoreErrorKind::Full)),
        ("record corrupt", store(StoreErrorKind::Corrupt)),
        ("store contradicts itself", ClaimError::Inconsistent { scope: scope() }),
        ("deadline passed", ClaimError::DeadlinePassed { scope: scope() }),
        ("prepared for a transaction", ClaimError::Prepared { scope: scope() }),
    ];
    let mut fates = vec![
        ("released", ClaimFate::Released),
        ("recorded", ClaimFate::Recorded { kept: Kept::Whole }),
        ("recorded, the failure not kept", ClaimFate::Recorded { kept: Kept::Unencodable }),
        ("in doubt", ClaimFate::InDoubt),
        ("unprotected", ClaimFate::Unprotected),
    ];
    fates.extend(not_stored.map(|(name, error)| (name, ClaimFate::NotStored(error))));
    fates
}

/// How an operation may fail.
pub const KINDS: [(&str, FailureKind); 3] = [
    ("no effect", FailureKind::NoEffect),
    ("final", FailureKind::Final),
    ("unknown effect", FailureKind::Unknown),
];

/// A run whose operation ran and failed like this.
pub fn failed_run(kind: FailureKind, claim: ClaimFate) -> RunError<u8> {
    RunError::Operation { error: 1, kind, claim }
}

/// Each answer of a claim, except that it is granted.
pub fn claims<C>() -> Vec<(&'static str, Result<ClaimAnswer<C>, Error>)> {
    let answered = |earlier| Ok(ClaimAnswer::Answered(earlier));
    let bytes = || Payload::from("x");
    let done = |why| answered(Earlier::Done { why, info: info() });
    let failed = |failure| answered(Earlier::FailedBefore { failure, info: info() });
    let running =
        |here| answered(Earlier::InProgress { left: LEFT, retry_after: RETRY_AFTER, attempt: 1, here });
    let store = |kind| Err(Error::Store { scope: scope(), source: self::failed(kind) });
    vec![
        ("succeeded, kept", answered(Earlier::Replayed { value: bytes(), info: info() })),
        ("succeeded, too large", done(Unavailable::TooLarge { len: 9 })),
        ("succeeded, not encodable", done(Unavailable::Unencodable)),
        ("succeeded, no longer kept", done(Unavailable::NoLongerKept)),
        ("failed, kept", failed(Some(bytes()))),
        ("failed, no longer kept", failed(None)),
        ("in progress elsewhere", running(false)),
        ("in progress here", running(true)),
        ("mismatch", Ok(ClaimAnswer::Answered(Earlier::Mismatch))),
        (
            "in doubt under Hold",
            Ok(ClaimAnswer::Answered(Earlier::InDoubt {
                attempt: 1,
                operation_id: ID,
                since: UnixMillis(1),
            })),
        ),
        ("exhausted", Ok(ClaimAnswer::Answered(Earlier::Exhausted { attempts: 3 }))),
        ("fingerprints not comparable", Err(Error::Incomparable { scope: scope() })),
        ("store contradicts itself", Err(Error::Inconsistent { scope: scope() })),
        ("store unavailable", store(StoreErrorKind::Unavailable)),
        ("record corrupt", store(StoreErrorKind::Corrupt)),
    ]
}

/// How a prepared completion may end.
pub fn settlements() -> Vec<(&'static str, Result<Settled, ClaimError>)> {
    vec![
        ("committed", Ok(Settled::Committed)),
        ("not committed", Ok(Settled::NotCommitted)),
        ("superseded", Err(lost())),
        ("unsettled", Err(ClaimError::Store { scope: scope(), source: failed(StoreErrorKind::Unavailable) })),
    ]
}
