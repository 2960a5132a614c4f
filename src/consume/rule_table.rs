//! Every answer of the engine against the rule, as a table for review: `rule.txt` beside this file.
//!
//! `ONCEKEY_BLESS=1 cargo test --lib consume` writes the table anew; read the difference before it is committed.

use std::fmt::{Debug, Write as _};

use super::*;
use crate::engine::{RecordInfo, Unavailable, Unrecorded};
use crate::protocol::{FencingToken, OperationId, UnixMillis};
use crate::store::{StoreError, StoreFailure};

#[derive(Debug, thiserror::Error)]
#[error("planned")]
struct Planned(StoreErrorKind);

impl StoreError for Planned {
    fn kind(&self) -> StoreErrorKind {
        self.0
    }
}

const LEFT: Duration = Duration::from_secs(17);
const RETRY_AFTER: Duration = Duration::from_millis(1200);
const ID: OperationId = OperationId::from_bytes([9; 16]);

/// Two failures of the handler, five deliveries.
const RULE: Rule = Rule {
    backoff_first: Duration::from_secs(1),
    backoff_most: Duration::from_secs(600),
    deliveries: 5,
    random: 0,
};
const ATTEMPT: u32 = 3;

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

/// What to do, and why, and how long.
fn told<T: Debug, E: Debug, F: Debug>(action: &DeliveryAction<T, E, F>) -> String {
    let why = action.reason();
    match action {
        DeliveryAction::Acknowledge(_) => format!("acknowledge ({why})"),
        DeliveryAction::RetryLater { after, .. } => format!("retry after {after:?} ({why})"),
        DeliveryAction::Extend { by } => format!("extend by {by:?} ({why})"),
        DeliveryAction::DeadLetter(_) => format!("dead letter ({why})"),
    }
}

type Told = Result<Answer<u8, u8>, RunError<u8>>;

/// Each answer of a run, except that its handler failed.
fn runs() -> Vec<(&'static str, Told)> {
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
fn fates() -> Vec<(&'static str, ClaimFate)> {
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

const KINDS: [(&str, FailureKind); 3] = [
    ("no effect", FailureKind::NoEffect),
    ("final", FailureKind::Final),
    ("unknown effect", FailureKind::Unknown),
];

/// The action for a handler that ran and failed like this.
fn of_failed(kind: FailureKind, claim: ClaimFate) -> DeliveryAction<u8, u8, u8> {
    of_run(Err(RunError::Operation { error: 1, kind, claim }), &RULE, &Ran(AtomicU32::new(ATTEMPT)))
}

type Claimed = Result<ClaimAnswer<Claim<crate::MemoryStore>>, Error>;

fn claims() -> Vec<(&'static str, Claimed)> {
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

fn settlements() -> Vec<(&'static str, Result<Settled, ClaimError>)> {
    vec![
        ("committed", Ok(Settled::Committed)),
        ("not committed", Ok(Settled::NotCommitted)),
        ("superseded", Err(lost())),
        ("unsettled", Err(ClaimError::Store { scope: scope(), source: failed(StoreErrorKind::Unavailable) })),
    ]
}

fn table() -> String {
    let mut table = format!(
        "What becomes of a delivery: attempt {ATTEMPT}, delivery {}, {LEFT:?} left of a lease that runs, asked again in \
         {RETRY_AFTER:?}; pauses from {:?}, doubled, to {:?}, not spread.\n",
        RULE.deliveries, RULE.backoff_first, RULE.backoff_most
    );
    table.push_str("\nwhat the run answered\n");
    for (name, answer) in runs() {
        let handled = matches!(answer, Err(RunError::LeaseLost { .. }));
        let ran = Ran(AtomicU32::new(if handled { ATTEMPT } else { 0 }));
        let _ = writeln!(table, "  {name:<28} {}", told(&of_run(answer, &RULE, &ran)));
    }
    let ran = Ran(AtomicU32::new(ATTEMPT));
    let panicked: DeliveryAction<u8, u8> = of_panic(&RULE, &ran);
    let _ = writeln!(table, "  {:<28} {}", "panicked, in a poll", told(&panicked));
    table.push_str("\nhow the handler failed, and what became of its claim\n");
    for (how, kind) in KINDS {
        for (name, fate) in fates() {
            let row = format!("{how}, {name}");
            let _ = writeln!(table, "  {row:<48} {}", told(&of_failed(kind, fate)));
        }
    }
    table.push_str("\nwhat the claim answered\n");
    for (name, answer) in claims() {
        let action = of_claim(answer, &RULE).expect_err("nothing of this is a grant");
        let _ = writeln!(table, "  {name:<28} {}", told(&action));
    }
    table.push_str("\nhow the transaction ended\n");
    for (name, settled) in settlements() {
        let action: DeliveryAction<u8, u8> = of_settled(settled, (1, Kept::Whole), ATTEMPT, &RULE);
        let _ = writeln!(table, "  {name:<28} {}", told(&action));
    }
    table
}

#[test]
fn the_rule_is_the_table_under_review() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/consume/rule.txt");
    if std::env::var_os("ONCEKEY_BLESS").is_some() {
        std::fs::write(path, table()).unwrap();
    }
    let reviewed = std::fs::read_to_string(path).unwrap();
    assert_eq!(table(), reviewed, "the rule changed: bless it, and read the difference");
}

/// What the store has on record decides, since another consumer may have handled the message meanwhile.
#[test]
fn a_message_that_failed_leaves_its_source_only_if_its_final_failure_is_on_record() {
    for (how, kind) in KINDS {
        for (name, fate) in fates() {
            let recorded = matches!(fate, ClaimFate::Recorded { .. });
            let action = of_failed(kind, fate);
            if kind == FailureKind::Final && recorded {
                assert!(
                    matches!(action, DeliveryAction::DeadLetter(Dead::Failed(1))),
                    "{how}, {name}: {action:?}"
                );
            } else {
                assert!(matches!(action, DeliveryAction::RetryLater { .. }), "{how}, {name}: {action:?}");
            }
        }
    }
}

#[test]
fn pauses_double_up_to_the_longest_and_never_overflow() {
    let seconds = |times| RULE.after(times).as_secs();
    assert_eq!([1, 2, 3, 4, 10, 11].map(seconds), [1, 2, 4, 8, 512, 600]);
    assert_eq!(seconds(0), 1);
    assert_eq!(seconds(u32::MAX), 600);
}
