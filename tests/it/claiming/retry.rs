//! When a caller who is not served is to ask again.

use std::collections::BTreeSet;
use std::time::Duration;

use oncekey::answer::NoValue;
use oncekey::{Answer, ClaimAnswer, Deduplicator, Earlier};

use crate::support::*;

/// What a claim and a run are told about an attempt in progress.
fn hints(dedup: &Deduplicator<FaultyStore>) -> [Duration; 2] {
    let claim = ready(dedup.request(key()).claim()).unwrap();
    let ClaimAnswer::Answered(Earlier::InProgress { retry_after: of_claim, .. }) = claim else {
        panic!("{claim:?}")
    };
    let run = run_text(dedup, "x");
    let Answer::Earlier(Earlier::InProgress { retry_after: of_run, .. }) = run else { panic!("{run:?}") };
    [of_claim, of_run]
}

fn are_about(hints: [Duration; 2], exactly: Duration) {
    assert!(
        hints.iter().all(|hint| *hint >= exactly && *hint <= exactly * 3 / 2),
        "{hints:?} of {exactly:?}"
    );
}

#[test]
fn the_hint_is_as_long_as_the_attempt_has_run() {
    let bench = bench();
    let owner = claim(&bench.dedup);
    are_about(hints(&bench.other_process()), Duration::from_millis(100));
    bench.clock.advance(Duration::from_millis(700));
    are_about(hints(&bench.dedup), Duration::from_millis(700));
    are_about(hints(&bench.other_process()), Duration::from_millis(700));
    // A renewal does not make a first attempt young again.
    bench.clock.advance(secs(2));
    ready(owner.renew()).unwrap();
    are_about(hints(&bench.other_process()), Duration::from_millis(2_700));
    bench.clock.advance(secs(20));
    are_about(hints(&bench.other_process()), secs(5));
    bench.clock.advance(secs(9));
    are_about(hints(&bench.other_process()), secs(1));
}

#[test]
fn a_second_attempt_is_not_as_old_as_its_generation() {
    let bench = bench();
    let mut first = claim(&bench.dedup);
    bench.clock.advance(secs(20));
    ready(first.release()).unwrap();
    let _second = claim(&bench.dedup);
    are_about(hints(&bench.other_process()), Duration::from_millis(100));
    bench.clock.advance(secs(1));
    are_about(hints(&bench.other_process()), secs(1));
}

#[test]
fn callers_who_are_sent_away_together_do_not_come_back_together() {
    let bench = bench();
    let _owner = claim(&bench.dedup);
    bench.clock.advance(secs(4));
    let told: BTreeSet<_> = (0..20).flat_map(|_| hints(&bench.other_process())).collect();
    // By chance two may be alike, to the nanosecond.
    assert!(told.len() > 30, "{told:?}");
    let no_value = run_text(&bench.dedup, "x").into_value().unwrap_err();
    assert!(
        matches!(no_value, NoValue::InProgress { retry_after, .. } if retry_after >= secs(4)),
        "{no_value:?}"
    );
}
