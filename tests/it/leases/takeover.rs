//! What an owner that came too late may still do: nothing, and it is told so.

use oncekey::protocol::Entry;
use oncekey::{Answer, Claim, ClaimAnswer, ClaimError, Earlier};

use crate::support::*;

/// An owner whose lease ended, its successor, and what the successor put on record.
fn superseded() -> (Bench, Claim<FaultyStore>, Claim<FaultyStore>, Entry) {
    let bench = bench();
    let owner = claim(&bench.dedup);
    bench.clock.advance(LEASE);
    let successor = claim(&bench.other_process());
    assert_eq!((successor.number(), successor.after_doubt()), (2, true));
    assert!(successor.fence() > owner.fence());
    assert_eq!(successor.operation_id(), owner.operation_id());
    let record = on_record(&bench);
    (bench, owner, successor, record)
}

fn assert_refused<T: std::fmt::Debug>(
    bench: &Bench,
    told: &Result<T, ClaimError>,
    before: &Entry,
    what: &str,
) {
    let superseded = matches!(told, Err(ClaimError::Superseded { possibly_applied: false, .. }));
    assert!(superseded, "{what}: {told:?}");
    let after = on_record(bench);
    assert_eq!(&after, before, "{what}: the successor's record or lease changed");
    assert_eq!(after.record.as_bytes(), before.record.as_bytes(), "{what}");
}

#[test]
fn each_write_of_an_owner_that_was_superseded_is_refused_and_says_so() {
    let (bench, mut owner, _successor, before) = superseded();
    assert_refused(&bench, &ready(owner.complete("late")), &before, "complete");
    let (bench, mut owner, _successor, before) = superseded();
    assert_refused(&bench, &ready(owner.fail("late")), &before, "fail");
    let (bench, mut owner, _successor, before) = superseded();
    assert_refused(&bench, &ready(owner.release()), &before, "release");
    let (bench, mut owner, _successor, before) = superseded();
    assert_refused(&bench, &ready(owner.abandon()), &before, "abandon");
    let (bench, owner, _successor, before) = superseded();
    assert_refused(&bench, &ready(owner.renew()), &before, "renew");
    assert_eq!(owner.time_left(), secs(0));
    assert!(owner.attempt().is_lost());
    assert_refused(&bench, &ready(owner.renew()), &before, "renew again");
    let (bench, owner, _successor, before) = superseded();
    assert_refused(&bench, &ready(owner.checkpoint("late")), &before, "checkpoint");
    // All of them, one after the other, and the drop.
    let (bench, mut owner, mut successor, before) = superseded();
    assert_refused(&bench, &ready(owner.complete("late")), &before, "complete");
    assert_refused(&bench, &ready(owner.release()), &before, "release");
    assert_refused(&bench, &ready(owner.renew()), &before, "renew");
    drop(owner);
    bench.run(bench.dedup.flush());
    assert_eq!(on_record(&bench), before);
    ready(successor.complete("second")).unwrap();
    let replay = run_text(&bench.dedup, "again");
    assert!(
        matches!(&replay, Answer::Earlier(Earlier::Replayed { value, info, .. }) if value == "second" && info.after_doubt)
    );
}

#[test]
fn an_owner_that_was_superseded_learns_of_an_outcome_and_does_not_change_it() {
    let (bench, mut owner, mut successor, _) = superseded();
    ready(successor.complete("second")).unwrap();
    let before = on_record(&bench);
    assert_refused(&bench, &ready(owner.complete("first")), &before, "complete");
    // Not even with the same bytes: it is another attempt's.
    let (bench, mut owner, mut successor, _) = superseded();
    ready(successor.complete("same")).unwrap();
    let before = on_record(&bench);
    assert_refused(&bench, &ready(owner.complete("same")), &before, "complete");
}

#[test]
fn an_owner_that_is_late_and_was_not_superseded_may_conclude() {
    let begin = bench;
    let bench = begin();
    let mut owner = claim(&bench.dedup);
    bench.clock.advance(LEASE + secs(100));
    assert_eq!(owner.time_left(), secs(0));
    ready(owner.complete("late")).unwrap();
    assert!(
        matches!(run_text(&bench.other_process(), "x"), Answer::Earlier(Earlier::Replayed { value, .. }) if value == "late")
    );
    // As late as the record can be read.
    let bench = begin();
    let mut owner = claim(&bench.dedup);
    bench.clock.advance(LEASE + RETENTION - std::time::Duration::from_nanos(1));
    ready(owner.complete("late")).unwrap();
    // And not later: then nothing is there to complete, and it is told so.
    let bench = begin();
    let mut owner = claim(&bench.dedup);
    bench.clock.advance(LEASE + RETENTION);
    let gone = ready(owner.complete("too late"));
    assert!(matches!(gone, Err(ClaimError::Gone { .. })), "{gone:?}");
    assert!(bench.store.peek(&key()).is_none(), "nothing was created");
}

#[test]
fn a_renewed_lease_cannot_be_taken_over_at_its_old_deadline() {
    let bench = bench();
    let owner = claim(&bench.dedup);
    bench.clock.advance(secs(20));
    ready(owner.renew()).unwrap();
    for (passed, left) in [(secs(10), secs(20)), (secs(19), secs(1))] {
        bench.clock.advance(passed);
        let other = ready(bench.other_process().request(key()).claim()).unwrap();
        match other {
            ClaimAnswer::Answered(Earlier::InProgress { left: told, attempt: 1, .. }) => {
                assert_eq!(told, left);
            }
            other => panic!("taken over: {other:?}"),
        }
    }
    bench.clock.advance(secs(1));
    assert_eq!(claim(&bench.other_process()).number(), 2);
}

#[test]
fn of_many_thieves_on_one_expired_claim_one_wins() {
    let bench = bench();
    let owner = claim(&bench.dedup);
    bench.clock.advance(LEASE);
    bench.store.yields.store(true, std::sync::atomic::Ordering::SeqCst);
    let engines: Vec<_> = (0..50).map(|_| bench.other_process()).collect();
    let answers =
        bench.run(futures::future::join_all(engines.iter().map(|engine| engine.request(key()).claim())));
    let won: Vec<_> = answers
        .iter()
        .filter_map(|answer| match answer.as_ref().unwrap() {
            ClaimAnswer::Granted(claim) => Some(claim.number()),
            ClaimAnswer::Answered(Earlier::InProgress { attempt: 2, .. }) => None,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(won, [2]);
    drop(owner);
}

crate::support::also_at_once! {
    each_write_of_an_owner_that_was_superseded_is_refused_and_says_so
    an_owner_that_was_superseded_learns_of_an_outcome_and_does_not_change_it
    an_owner_that_is_late_and_was_not_superseded_may_conclude
    a_renewed_lease_cannot_be_taken_over_at_its_old_deadline
    of_many_thieves_on_one_expired_claim_one_wins
}
