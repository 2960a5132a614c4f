//! Random histories: the engine against the protocol's reference, and the memory store against a plain register.
//!
//! `PROPTEST_CASES` sets the number of histories; a failure shrinks to the fewest and plainest steps that show it.

mod reference;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{FileFailurePersistence, TestCaseError, TestRunner};
use reference::checks::Met;
use reference::way::Way;
use reference::{register, steps, world};

fn steps<S: std::fmt::Debug>(from_bytes: fn([u8; 4]) -> S, most: usize) -> impl Strategy<Value = Vec<S>> {
    prop::collection::vec(any::<[u8; 4]>().prop_map(from_bytes), 1..most)
}

/// So many, unless the environment says otherwise.
fn cases(count: u32) -> ProptestConfig {
    let regressions = FileFailurePersistence::Direct("tests/histories.proptest-regressions");
    let mut config =
        ProptestConfig { failure_persistence: Some(Box::new(regressions)), ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = count;
    }
    config
}

proptest! {
    #![proptest_config(cases(1200))]

    /// P1, P2, P3, P5, T1, and the whole table: several callers in two processes, stale holders, operators, time.
    #[test]
    fn the_engine_answers_as_the_table_says(steps in steps(steps::Step::from_bytes, 80)) {
        for way in Way::ALL {
            world::play(&steps, way).map_err(|what| TestCaseError::fail(format!("{way:?}: {what}")))?;
        }
    }
}

proptest! {
    #![proptest_config(cases(1200))]

    /// S2 to S8, at the store's bound too.
    #[test]
    fn the_memory_store_is_a_register_with_lifetimes(steps in steps(register::Step::from_bytes, 80)) {
        register::play(&steps).map_err(TestCaseError::fail)?;
    }
}

/// The histories are not vacuous: each answer that the table has is met.
#[test]
fn the_histories_meet_every_answer() {
    let mut runner = TestRunner::deterministic();
    let strategy = steps(steps::Step::from_bytes, 80);
    for way in Way::ALL {
        let mut met = Met::new();
        for _ in 0..600 {
            let steps = strategy.new_tree(&mut runner).unwrap().current();
            for (what, times) in world::play(&steps, way).unwrap() {
                *met.entry(what).or_default() += times;
            }
        }
        let never: Vec<_> = ANSWERS.iter().filter(|answer| !met.contains_key(**answer)).collect();
        assert!(never.is_empty(), "{way:?}, never met: {never:?}\nmet: {met:#?}");
    }
}

/// Every answer to every kind of command, and every way to be granted.
const ANSWERS: [&str; 54] = [
    "Abandon: AlreadyCompleted",
    "Abandon: AlreadyReleased",
    "Abandon: Gone",
    "Abandon: Ok",
    "Abandon: Superseded",
    "Checkpoint: AlreadyCompleted",
    "Checkpoint: AlreadyReleased",
    "Checkpoint: GivenUp",
    "Checkpoint: Gone",
    "Checkpoint: Ok",
    "Checkpoint: Superseded",
    "Complete: AlreadyCompleted",
    "Complete: AlreadyReleased",
    "Complete: Gone",
    "Complete: Ok",
    "Complete: Superseded",
    "Release: AlreadyCompleted",
    "Release: Gone",
    "Release: Ok",
    "Release: Superseded",
    "Renew: AlreadyCompleted",
    "Renew: AlreadyReleased",
    "Renew: GivenUp",
    "Renew: Gone",
    "Renew: Ok",
    "Renew: Superseded",
    "claim of Abandoned, other fingerprint false: Granted",
    "claim of Abandoned: Mismatch",
    "claim of Completed: Mismatch",
    "claim of Forgotten, other fingerprint false: Granted",
    "claim of Forgotten, other fingerprint true: Granted",
    "claim of InProgress: Mismatch",
    "claim of NoLongerKept: Mismatch",
    "claim of Released, other fingerprint false: Granted",
    "claim of Released, other fingerprint true: Granted",
    "claim of Vacant: Granted",
    "claim: Exhausted",
    "claim: InDoubt",
    "claim: InProgress",
    "claim: Incomparable",
    "claim: Replay, kept false",
    "claim: Replay, kept true",
    "forget: Absent",
    "forget: Done",
    "forget: Live",
    "reset: Absent",
    "reset: AlreadyCompleted",
    "reset: Done",
    "reset: Live",
    "resolve: Absent",
    "resolve: AlreadyCompleted",
    "resolve: Done",
    "resolve: Live",
    "resolve: NotInDoubt",
];
