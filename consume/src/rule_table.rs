//! Every answer of the engine against the rule, as a table for review: `rule.txt` beside this file.
//!
//! `ONCEKEY_BLESS=1 cargo test -p oncekey-consume --lib` writes the table anew; read the difference before it is committed.

use std::fmt::{Debug, Write as _};

use oncekey::answer::Kept;
use oncekey::samples::{ATTEMPT, KINDS, LEFT, RETRY_AFTER, claims, failed_run, fates, runs, settlements};

use oncekey::{MemoryStore, OperationId};

use super::*;

/// Two failures of the handler, five deliveries.
const RULE: Rule = Rule {
    backoff_first: Duration::from_secs(1),
    backoff_most: Duration::from_secs(600),
    deliveries: 5,
    random: 0,
};
/// The action, its reason, and how long it takes.
fn told<T: Debug, E: Debug, F: Debug>(action: &DeliveryAction<T, E, F>) -> String {
    let why = action.reason();
    match action {
        DeliveryAction::Acknowledge(_) => format!("acknowledge ({why})"),
        DeliveryAction::RetryLater { after, .. } => format!("retry after {after:?} ({why})"),
        DeliveryAction::Extend { by } => format!("extend by {by:?} ({why})"),
        DeliveryAction::DeadLetter(_) => format!("dead letter ({why})"),
    }
}

/// The action for a handler that ran and failed like this.
fn of_failed(kind: FailureKind, claim: ClaimFate) -> DeliveryAction<u8, u8, u8> {
    of_run(Err(failed_run(kind, claim)), &RULE, &Ran(AtomicU32::new(ATTEMPT)))
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
    for (name, answer) in claims::<Claim<MemoryStore>>() {
        let action = of_claim(answer, &RULE).expect_err("nothing of this is a grant");
        let _ = writeln!(table, "  {name:<28} {}", told(&action));
    }
    table.push_str("\nhow the transaction ended\n");
    for (name, settled) in settlements() {
        let action: DeliveryAction<u8, u8> = of_settled(settled, (1, Kept::Whole), ATTEMPT, &RULE);
        let _ = writeln!(table, "  {name:<28} {}", told(&action));
    }
    table.push_str("\nwhat a dead letter says\n");
    let operation_id = OperationId::from_bytes([9; 16]);
    for dead in [
        Dead::<(), String>::Failed(()),
        Dead::FailedBefore(None),
        Dead::Exhausted { attempts: 5 },
        Dead::Mismatch,
        Dead::InDoubt { operation_id },
        Dead::Unreadable("why".to_owned()),
    ] {
        let _ = writeln!(table, "  {:<28} {dead}", dead.reason());
    }
    table
}

#[test]
fn the_rule_is_the_table_under_review() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/rule.txt");
    if std::env::var_os("ONCEKEY_BLESS").is_some() {
        std::fs::write(path, table()).unwrap();
    }
    let reviewed = std::fs::read_to_string(path).unwrap();
    assert_eq!(table(), reviewed, "the rule changed: bless it, and read the difference");
}

/// The record in the store decides, since another consumer may have handled the message meanwhile.
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
