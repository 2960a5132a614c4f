//! How long things are kept: outcomes, the tail after them, doubt, and what a store holds.

mod full;
mod memory;
mod purge;

use std::time::Duration;

use oncekey::answer::Unavailable;
use oncekey::protocol::{ClaimCommand, Decision, Lifetimes, OnDoubt, decide};
use oncekey::protocol::{Expected, Owner, Record, UnixMillis, Version};
use oncekey::store::{Exchange, Put};
use oncekey::{Answer, ClaimAnswer, Earlier, Key, MemoryStore, OperationId, Policy, Store as _};

use crate::support::*;

const NANO: Duration = Duration::from_nanos(1);

/// A record in progress, told from others by its owner.
fn record(owner: u8, policy: Policy) -> Record {
    let claim = ClaimCommand {
        owner: Owner::from_bytes([owner; 16]),
        operation_id: OperationId::from_bytes([owner; 16]),
        fingerprint: None,
        policy,
        attempts_max: None,
        on_doubt: OnDoubt::GoByPolicy,
        now: UnixMillis(0),
    };
    let lifetimes = Lifetimes { lease: LEASE, retention: RETENTION, tail: Duration::ZERO };
    match decide(None, &claim, &lifetimes) {
        Decision::Write(write) => write.record,
        Decision::Answer(verdict) => panic!("{verdict:?}"),
    }
}

fn put(store: &MemoryStore, key: &Key, expected: Expected, live: Duration, linger: Duration) -> Exchange {
    let record = record(1, Policy::Reclaim);
    ready(store.compare_exchange(key, expected, Put::new(&record, live, linger))).unwrap()
}

fn done(exchange: Exchange) -> Version {
    match exchange {
        Exchange::Done(version) => version,
        other => panic!("{other:?}"),
    }
}

fn numbered(i: usize) -> Key {
    Key::new("numbered", format!("{i:08}")).unwrap()
}

#[test]
fn retention_counts_from_completion_and_past_it_the_key_is_as_if_absent_before_any_purge() {
    let bench = bench();
    let mut owner = claim(&bench.dedup);
    for _ in 0..10 {
        bench.clock.advance(secs(20));
        ready(owner.renew()).unwrap();
    }
    ready(owner.complete("first")).unwrap();
    bench.clock.advance(RETENTION - NANO);
    let replay = run_text(&bench.other_process(), "x");
    let Answer::Earlier(Earlier::Replayed { value, info, .. }) = replay else { panic!("{replay:?}") };
    assert_eq!(value, "first");
    // When it was claimed and when it was completed, by the wall clock.
    assert_eq!((info.created_at, info.finished_at), (UnixMillis(1_000_000), Some(UnixMillis(1_200_000))));
    bench.clock.advance(NANO);
    assert!(bench.store.peek(&key()).is_none());
    assert_eq!(ready(bench.dedup.inspect(&key())).unwrap().map(|found| found.attempt), None);
    assert_eq!(bench.store.inner.usage().records, 1, "nothing was purged");
    let first_id = owner.operation_id();
    let second = claim(&bench.dedup);
    assert_eq!((second.number(), second.after_doubt()), (1, false));
    assert_ne!(second.operation_id(), first_id, "a new generation");
    assert!(second.fence() > owner.fence());
}

#[test]
fn what_is_replayed_is_the_outcome_of_this_generation() {
    let bench = bench();
    for round in 0..20 {
        let text = format!("outcome {round}");
        assert!(matches!(run_text(&bench.dedup, &text), Answer::Executed { .. }), "{round}");
        assert!(
            matches!(run_text(&bench.other_process(), "x"), Answer::Earlier(Earlier::Replayed { value, .. }) if value == text)
        );
        bench.clock.advance(RETENTION);
    }
}

#[test]
fn in_its_tail_an_operation_is_known_to_be_done_and_its_outcome_no_longer_given() {
    let bench = bench_with(|builder| builder.tail(RETENTION * 2));
    run_text(&bench.dedup, "first");
    for (advance, kept) in [(RETENTION - NANO, true), (NANO, false), (RETENTION * 2 - NANO, false)] {
        bench.clock.advance(advance);
        let answer = run_text(&bench.other_process(), "x");
        match answer {
            Answer::Earlier(Earlier::Replayed { .. }) if kept => {}
            Answer::Earlier(Earlier::Done { why: Unavailable::NoLongerKept, info, .. }) if !kept => {
                assert_eq!(info.attempt, 1);
            }
            other => panic!("kept: {kept}: {other:?}"),
        }
        let saved = ready(bench.dedup.request(key()).claim()).unwrap();
        assert!(if kept {
            matches!(saved, ClaimAnswer::Answered(Earlier::Replayed { .. }))
        } else {
            matches!(saved, ClaimAnswer::Answered(Earlier::Done { why: Unavailable::NoLongerKept, .. }))
        });
    }
    bench.clock.advance(NANO);
    assert!(matches!(run_text(&bench.dedup, "second"), Answer::Executed { .. }));
}

#[test]
fn a_final_failure_in_its_tail_is_still_a_failure() {
    let bench = bench_with(|builder| builder.tail(RETENTION));
    ready(claim(&bench.dedup).fail("refused for good")).unwrap();
    bench.clock.advance(RETENTION);
    let answer = run_text(&bench.dedup, "x");
    assert!(matches!(answer, Answer::Earlier(Earlier::FailedBefore { failure: None, .. })), "{answer:?}");
}

#[test]
fn an_outcome_can_be_kept_for_ever() {
    let bench = bench_with(|builder| builder.retention(Duration::MAX));
    run_text(&bench.dedup, "first");
    for _ in 0..3 {
        bench.clock.advance(secs(100 * 365 * 86_400));
        assert!(
            matches!(run_text(&bench.dedup, "x"), Answer::Earlier(Earlier::Replayed { value, .. }) if value == "first")
        );
    }
    assert_eq!(on_record(&bench).left, Duration::MAX);
}

#[test]
fn an_attempt_that_stopped_is_remembered_for_the_retention_under_reclaim_and_for_ever_under_hold() {
    for (policy, released) in [(Policy::Reclaim, false), (Policy::Hold, false), (Policy::Reclaim, true)] {
        let bench = bench();
        let answer = ready(bench.dedup.request(key()).policy(policy).claim());
        let Ok(ClaimAnswer::Granted(mut owner)) = answer else { panic!("{answer:?}") };
        if released {
            ready(owner.release()).unwrap();
        } else {
            bench.clock.advance(LEASE);
        }
        let id = owner.operation_id();
        drop(owner);
        bench.clock.advance(RETENTION - NANO);
        assert_eq!(on_record(&bench).record.operation_id(), id, "{policy:?}");
        bench.clock.advance(NANO);
        match policy {
            Policy::Reclaim => {
                assert!(bench.store.peek(&key()).is_none());
                let next = claim(&bench.dedup);
                assert_eq!((next.number(), next.after_doubt()), (1, false));
            }
            Policy::Hold => {
                bench.clock.advance(secs(100 * 365 * 86_400));
                let next = ready(bench.dedup.request(key()).claim()).unwrap();
                assert!(matches!(next, ClaimAnswer::Answered(Earlier::InDoubt { .. })), "{next:?}");
            }
        }
    }
}

#[test]
fn an_outcome_of_a_hundred_megabytes_round_trips() {
    const LEN: usize = 100 << 20;
    let bench = bench_with(|builder| builder.outcome_len_max(LEN));
    let mut huge = vec![0_u8; LEN];
    (huge[0], huge[LEN / 2], huge[LEN - 1]) = (1, 2, 3);
    let run = bench.dedup.request(key()).run(async |_| Ok::<_, String>(huge.clone()));
    assert!(matches!(ready(run), Ok(Answer::Executed { .. })));
    let replay = ready(bench.dedup.request(key()).run(async |_| Ok::<Vec<u8>, String>(Vec::new()))).unwrap();
    assert!(
        matches!(&replay, Answer::Earlier(Earlier::Replayed { value, .. }) if *value == huge),
        "it came back otherwise"
    );
    // One byte more is not kept, and not run again.
    let other = Key::new("huge", "2").unwrap();
    let run = bench.dedup.request(other.clone()).run(async |_| Ok::<_, String>(vec![0_u8; LEN + 1]));
    assert!(matches!(ready(run), Ok(Answer::Executed { value, .. }) if value.len() == LEN + 1));
    let again = ready(bench.dedup.request(other).run(async |_| Ok::<Vec<u8>, String>(Vec::new()))).unwrap();
    let Answer::Earlier(Earlier::Done { why: Unavailable::TooLarge { len, .. }, .. }) = again else {
        panic!("not `Done`")
    };
    assert_eq!(len, LEN as u64 + 1);
}
