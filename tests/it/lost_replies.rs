//! Every write of the engine, applied or not, with its reply lost (P6).

mod commands;
mod late_answers;

use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use oncekey::admin::{AdminAnswer, Resolution};
use oncekey::answer::RecordInfo;
use oncekey::protocol::{Entry, Expected, Record, State, Status};
use oncekey::store::{Exchange, Put};
use oncekey::{
    Answer, Claim, ClaimAnswer, ClaimError, Earlier, Error, Outcome, Payload, Policy, RunError, Store as _,
};

use crate::one_key::granted;
use crate::support::{
    Bench, Fault, FaultyStore, LEASE, MARGIN, RETENTION, THREE_TRIES, bench, bench_with, key, poll_once,
    ready,
};

use Fault::{HangAfter, HangBefore, Refused, ReplyLost, RequestLost, Twice};

/// How the first calls of a write go wrong. A claim and an operator's command are tried three times, so two may fail.
const PLANS: [&[Fault]; 11] = [
    &[RequestLost],
    &[ReplyLost],
    &[Twice],
    &[HangBefore],
    &[HangAfter],
    &[RequestLost, ReplyLost],
    &[ReplyLost, RequestLost],
    &[ReplyLost, ReplyLost],
    &[Refused, HangAfter],
    &[HangAfter, RequestLost],
    &[ReplyLost, Twice],
];

/// How a write got to the store, and whether an earlier copy of it may have been applied.
const LOST: [(Fault, bool); 3] = [(Refused, false), (RequestLost, true), (ReplyLost, true)];

/// The records written since `before` writes.
fn written_since(bench: &Bench, before: usize) -> Vec<Record> {
    bench.store.written.lock().unwrap()[before..].to_vec()
}

fn writes(bench: &Bench) -> usize {
    bench.store.written.lock().unwrap().len()
}

/// Polls a write until its first reply is lost, lets `meanwhile` happen, and brings the write to its end.
fn interrupted<F: Future>(bench: &Bench, fault: Fault, write: F, meanwhile: impl FnOnce()) -> F::Output {
    let mut write = Box::pin(write);
    bench.store.plan([fault]);
    assert!(poll_once(write.as_mut()).is_none(), "it pauses before it tries again");
    meanwhile();
    bench.run_pinned(write.as_mut())
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Before {
    Vacant,
    Abandoned,
    Released,
    Forgotten,
}

/// Brings the key to that state, by attempts of another process.
fn arrange(bench: &Bench, before: Before) -> Option<Entry> {
    if before == Before::Vacant {
        return None;
    }
    let other = bench.other_process();
    let mut claim = granted(bench.run(other.request(key()).claim()));
    match before {
        Before::Vacant => {}
        Before::Abandoned => bench.run(claim.abandon()).unwrap(),
        Before::Released => bench.run(claim.release()).unwrap(),
        Before::Forgotten => {
            bench.run(claim.complete("earlier")).unwrap();
            assert_eq!(bench.run(other.forget(&key())).unwrap(), AdminAnswer::Done);
        }
    }
    Some(bench.on_record())
}

#[test]
fn a_claim_whose_replies_are_lost_is_granted_once_and_does_not_wait_for_itself() {
    for before in [Before::Vacant, Before::Abandoned, Before::Released, Before::Forgotten] {
        for plan in PLANS {
            let bench = bench();
            let earlier = arrange(&bench, before);
            let writes_before = writes(&bench);
            if before != Before::Vacant {
                bench.store.plan([Fault::None]); // the look that finds what is there
            }
            bench.store.plan(plan.iter().copied());
            let claim = granted(bench.run(bench.dedup.request(key()).claim()));
            let context = format!("{before:?}, {plan:?}");
            let entry = bench.on_record();
            let written = written_since(&bench, writes_before);
            assert!(matches!(&written[..], [record] if record.is_in_progress()), "one effect: {context}");
            assert_eq!(claim.fence(), entry.fencing_token(), "{context}");
            assert_eq!(claim.operation_id(), entry.record.operation_id(), "{context}");
            let continues = matches!(before, Before::Abandoned | Before::Released);
            assert_eq!(claim.number(), if continues { 2 } else { 1 }, "{context}");
            assert_eq!(claim.after_doubt(), before == Before::Abandoned, "{context}");
            if let Some(earlier) = earlier {
                let same = claim.operation_id() == earlier.record.operation_id();
                assert_eq!(same, continues, "{context}");
                assert!(claim.fence() > earlier.fencing_token(), "{context}");
            }
            assert!(claim.time_left() <= LEASE - MARGIN && !claim.time_left().is_zero(), "{context}");
            assert!(
                claim.time_left() + MARGIN <= entry.left,
                "no longer than the store honours it: {context}"
            );
        }
    }
}

#[test]
fn a_run_whose_replies_are_all_lost_once_runs_once() {
    for plan in PLANS {
        let bench = bench();
        let runs = AtomicU32::new(0);
        bench.store.plan(plan.iter().copied());
        let answer = bench.run(bench.dedup.request(key()).run(|_| async {
            runs.fetch_add(1, Ordering::SeqCst);
            bench.store.plan(plan.iter().copied());
            Ok::<_, &str>("charged".to_owned())
        }));
        let answer = answer.unwrap();
        assert!(matches!(&answer, Answer::Executed { .. }), "{plan:?}: {answer:?}");
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        let record = bench.on_record().record;
        assert_eq!((record.attempt(), record.doubt()), (1, false), "{plan:?}");
        assert_eq!(record.outcome(), Some(Outcome::success("charged")));
    }
}

#[test]
fn a_grant_found_again_counts_what_is_left_of_it() {
    // Applied at once, its reply lost, and asked for again only after `pause`.
    for (pause, left) in [(1, 26), (20, 7), (26, 1), (28, 27), (29, 27)] {
        let bench = bench();
        let claim = interrupted(&bench, ReplyLost, bench.dedup.request(key()).claim(), || {
            bench.clock.advance(Duration::from_secs(pause));
        });
        let claim = granted(claim);
        // With less than the margin left it was renewed before it was handed out.
        assert_eq!(claim.time_left(), Duration::from_secs(left), "after {pause} s");
        assert_eq!(bench.on_record().left, Duration::from_secs(left) + MARGIN, "after {pause} s");
        assert_eq!((claim.number(), claim.after_doubt()), (1, false));
    }
}

#[test]
fn a_grant_found_again_after_its_lease_is_the_same_attempt() {
    for policy in [Policy::Reclaim, Policy::Hold] {
        let bench = bench();
        let claim = interrupted(&bench, ReplyLost, bench.dedup.request(key()).policy(policy).claim(), || {
            bench.clock.advance(LEASE * 2);
        });
        let claim = granted(claim);
        assert_eq!(
            (claim.number(), claim.after_doubt()),
            (1, false),
            "nothing was started, so nothing is in doubt"
        );
        assert_eq!(claim.time_left(), LEASE - MARGIN);
        bench.run(claim.renew()).unwrap();
    }
}

#[test]
fn a_claim_that_another_overtook_is_answered_and_never_run() {
    for (fault, _) in LOST {
        let bench = bench();
        let runs = AtomicU32::new(0);
        let run = bench.dedup.request(key()).run(|_| async {
            runs.fetch_add(1, Ordering::SeqCst);
            Ok::<_, &str>(String::new())
        });
        let other = bench.other_process();
        let mut theirs = None;
        let answer = interrupted(&bench, fault, run, || {
            bench.clock.advance(LEASE);
            theirs = Some(granted(bench.run(other.request(key()).claim())));
        });
        let theirs = theirs.unwrap();
        assert!(matches!(answer.unwrap(), Answer::Earlier(Earlier::InProgress { .. })), "{fault:?}");
        assert_eq!(runs.load(Ordering::SeqCst), 0);
        bench.nothing_is_left();
        bench.run(theirs.renew()).unwrap();
    }
}

#[test]
fn a_claim_that_fails_on_every_try_is_an_error_and_its_record_is_given_up() {
    for fault in [Refused, RequestLost, ReplyLost, HangBefore, HangAfter] {
        for policy in [Policy::Reclaim, Policy::Hold] {
            let bench = bench();
            let runs = AtomicU32::new(0);
            bench.store.always(fault);
            let error = bench
                .run(bench.dedup.request(key()).policy(policy).run(|_| async {
                    runs.fetch_add(1, Ordering::SeqCst);
                    Ok::<_, &str>(String::new())
                }))
                .unwrap_err();
            assert!(
                matches!(&error, RunError::Claim { source: Error::Store { .. }, .. }),
                "{fault:?}: {error:?}"
            );
            assert_eq!(runs.load(Ordering::SeqCst), 0, "not run");
            bench.store.always(Fault::None);
            let begun = oncekey::time::Clock::now(&bench.clock);
            bench.nothing_is_left();
            let applied = matches!(fault, ReplyLost | HangAfter);
            let found = bench.store.peek(&key());
            let state = found.as_ref().map(|entry| entry.record.state());
            assert_eq!(state, applied.then_some(State::Released { fresh_operation_id: false }), "{fault:?}");
            let second = bench.second_call(&runs);
            assert_eq!(oncekey::time::Clock::now(&bench.clock), begun, "at once");
            assert!(
                matches!(second, Answer::Executed { info: RecordInfo { after_doubt: false, .. }, .. }),
                "{second:?}"
            );
        }
    }
}

#[test]
fn a_claim_given_up_is_released_though_the_store_fails_a_little_longer() {
    let bench = bench_with(|builder| builder.call_timeout(THREE_TRIES));
    // Three tries, and then the look that the clean-up begins with.
    bench.store.plan([ReplyLost, ReplyLost, ReplyLost, RequestLost]);
    assert!(bench.run(bench.dedup.request(key()).policy(Policy::Hold).claim()).is_err());
    bench.nothing_is_left();
    assert_eq!(bench.on_record().record.state(), State::Released { fresh_operation_id: false });
}

#[test]
fn a_claim_given_up_is_released_though_the_clean_up_comes_after_its_lease() {
    let bench = bench();
    bench.store.always(ReplyLost);
    assert!(bench.run(bench.dedup.request(key()).policy(Policy::Hold).claim()).is_err());
    bench.store.always(Fault::None);
    bench.store.plan([HangBefore]);
    // Nobody drives the clean-up for a while. Nothing was started under the claim, so nothing is in doubt.
    bench.clock.advance(LEASE * 2);
    bench.nothing_is_left();
    assert_eq!(bench.on_record().record.state(), State::Released { fresh_operation_id: false });
}

/// What the last try says of itself is not all: an earlier one may have been applied.
#[test]
fn an_error_after_a_lost_reply_says_that_the_write_may_have_been_applied() {
    let bench = bench();
    bench.store.plan([ReplyLost]);
    bench.store.always(Refused);
    let error = bench.run(bench.dedup.request(key()).claim()).unwrap_err();
    assert!(matches!(&error, Error::Store { source, .. } if source.maybe_applied()), "{error:?}");

    let bench = crate::support::bench();
    let mut claim = bench.grant();
    bench.store.plan([ReplyLost]);
    bench.store.always(Refused);
    let error = bench.run(claim.complete("charged")).unwrap_err();
    assert!(matches!(&error, ClaimError::Store { source, .. } if source.maybe_applied()), "{error:?}");

    let bench = crate::support::bench();
    drop(bench.grant());
    bench.clock.advance(LEASE);
    bench.store.plan([Fault::None, ReplyLost]);
    bench.store.always(Refused);
    let error = bench.run(bench.dedup.forget(&key())).unwrap_err();
    assert!(matches!(&error, Error::Store { source, .. } if source.maybe_applied()), "{error:?}");
}

/// Nothing was started under it, and nobody is to resolve it: it is released, whenever the store is back.
#[test]
fn a_claim_given_up_is_released_though_the_store_is_away_for_longer_than_its_lease() {
    let bench = bench();
    bench.store.always(ReplyLost);
    assert!(bench.run(bench.dedup.request(key()).policy(Policy::Hold).claim()).is_err());
    bench.store.always(Refused);
    let mut tasks = crate::support::Tasks::default();
    let flushed = tasks.spawn(bench.dedup.flush());
    tasks.pass(&bench.clock, LEASE + LEASE / 2);
    assert!(!flushed.is_done(), "it goes on");
    bench.store.always(Fault::None);
    tasks.pass(&bench.clock, LEASE / 2);
    assert!(flushed.is_done());
    assert_eq!(bench.on_record().record.state(), State::Released { fresh_operation_id: false });
}

type Write = fn(&Bench, &mut Claim<FaultyStore>) -> Result<(), ClaimError>;

/// The writes of a holder, with the state that each leaves.
const HOLDER_WRITES: [(&str, Write); 7] = [
    ("renew", |bench, claim| bench.run(claim.renew())),
    ("checkpoint", |bench, claim| bench.run(claim.checkpoint("half way"))),
    ("complete", |bench, claim| bench.run(claim.complete("charged")).map(drop)),
    ("fail", |bench, claim| bench.run(claim.fail("refused")).map(drop)),
    ("release", |bench, claim| bench.run(claim.release())),
    ("release with a fresh id", |bench, claim| bench.run(claim.release_with_fresh_id())),
    ("abandon", |bench, claim| bench.run(claim.abandon())),
];

fn assert_left_by(name: &str, entry: &Entry, context: &str) {
    let live = !entry.left.is_zero();
    let (charged, refused) = (Outcome::success("charged"), Outcome::failure("refused"));
    let expected = match name {
        "renew" | "checkpoint" => (State::InProgress, true),
        "complete" => (State::Completed(charged.borrowed()), true),
        "fail" => (State::Completed(refused.borrowed()), true),
        "release" => (State::Released { fresh_operation_id: false }, false),
        "release with a fresh id" => (State::Released { fresh_operation_id: true }, false),
        _ => (State::InProgress, false),
    };
    assert_eq!((entry.record.state(), live), expected, "{context}");
    if name == "checkpoint" {
        assert_eq!(entry.record.checkpoint(), Payload::from("half way"), "{context}");
    }
}

#[test]
fn a_holders_write_whose_replies_are_lost_has_one_effect_and_one_answer() {
    for (name, write) in HOLDER_WRITES {
        for plan in PLANS {
            let bench = bench();
            let mut claim = bench.grant();
            let granted = bench.on_record();
            let before = writes(&bench);
            bench.clock.advance(Duration::from_secs(5));
            bench.store.plan(plan.iter().copied());
            let context = format!("{name}, {plan:?}");
            let mut answer = write(&bench, &mut claim);
            if matches!(name, "release" | "release with a fresh id" | "abandon")
                && plan.iter().any(|fault| matches!(fault, HangBefore | HangAfter))
            {
                // Giving up is tried for one `store_timeout`, which a store that hangs uses up.
                assert!(matches!(answer, Err(ClaimError::Store { .. })), "{context}: {answer:?}");
                answer = write(&bench, &mut claim);
            }
            answer.unwrap_or_else(|error| panic!("{context}: {error:?}"));
            let entry = bench.on_record();
            assert_left_by(name, &entry, &context);
            let record = &entry.record;
            assert_eq!((record.attempt(), record.doubt()), (1, false), "{context}");
            assert_eq!(record.operation_id(), granted.record.operation_id(), "{context}");
            assert_eq!(record.created_at(), granted.record.created_at(), "{context}");
            assert_eq!(entry.fencing_token(), granted.fencing_token(), "{context}");
            assert_eq!(record.owner(), granted.record.owner(), "{context}");
            let states = written_since(&bench, before);
            if matches!(name, "renew" | "checkpoint") {
                assert!(
                    claim.time_left() + MARGIN <= entry.left && !claim.time_left().is_zero(),
                    "{context}"
                );
            } else {
                assert_eq!(states.len(), 1, "one effect: {context}");
                write(&bench, &mut claim).unwrap_or_else(|error| panic!("{context}, again: {error:?}"));
                assert_eq!(bench.on_record(), entry, "asked again, the same answer and no effect: {context}");
            }
        }
    }
}

#[test]
fn a_holders_write_that_another_overtook_says_whether_it_was_possibly_applied() {
    for (name, _) in HOLDER_WRITES {
        for (fault, possibly) in LOST {
            let bench = bench();
            let mut claim = bench.grant();
            let other = bench.other_process();
            let mut theirs = None;
            let overtake = || {
                // Past the lease, and past the retention of an outcome that may be there.
                bench.clock.advance(RETENTION);
                theirs = Some(granted(bench.run(other.request(key()).claim())));
            };
            let answer = match name {
                "renew" => interrupted(&bench, fault, claim.renew(), overtake),
                "checkpoint" => interrupted(&bench, fault, claim.checkpoint("half way"), overtake),
                "complete" => interrupted(&bench, fault, claim.complete("charged"), overtake).map(drop),
                "fail" => interrupted(&bench, fault, claim.fail("refused"), overtake).map(drop),
                "release" => interrupted(&bench, fault, claim.release(), overtake),
                "abandon" => interrupted(&bench, fault, claim.abandon(), overtake),
                _ => interrupted(&bench, fault, claim.release_with_fresh_id(), overtake),
            };
            let theirs = theirs.unwrap();
            match answer {
                Err(ClaimError::Superseded { possibly_applied, .. }) => {
                    assert_eq!(possibly_applied, possibly, "{name}, {fault:?}");
                }
                other => panic!("{name}, {fault:?}: {other:?}"),
            }
            assert_eq!(bench.on_record().fencing_token(), theirs.fence(), "stale is inert");
            assert_eq!(claim.time_left(), Duration::ZERO);
            drop(claim);
            bench.nothing_is_left();
            bench.run(theirs.renew()).unwrap();
        }
    }
}

#[test]
fn a_write_with_nothing_left_to_read_is_unknown_and_never_refused() {
    for (name, _) in HOLDER_WRITES {
        for (fault, possibly) in LOST {
            let bench = bench();
            let mut claim = bench.grant();
            let wait = || bench.clock.advance(LEASE + RETENTION);
            let answer = match name {
                "renew" => interrupted(&bench, fault, claim.renew(), wait),
                "checkpoint" => interrupted(&bench, fault, claim.checkpoint("half way"), wait),
                "complete" => interrupted(&bench, fault, claim.complete("charged"), wait).map(drop),
                "fail" => interrupted(&bench, fault, claim.fail("refused"), wait).map(drop),
                "release" => interrupted(&bench, fault, claim.release(), wait),
                "abandon" => interrupted(&bench, fault, claim.abandon(), wait),
                _ => interrupted(&bench, fault, claim.release_with_fresh_id(), wait),
            };
            match answer {
                Err(ClaimError::Unknown { .. }) => assert!(possibly, "{name}, {fault:?}"),
                Err(ClaimError::Gone { .. }) => assert!(!possibly, "{name}, {fault:?}"),
                other => panic!("{name}, {fault:?}: {other:?}"),
            }
            assert_eq!(bench.store.peek(&key()), None, "nothing was created");
        }
    }
}

#[test]
fn a_completion_called_again_remembers_that_it_may_have_been_applied() {
    // The first call was dropped after it was applied, or gave up on a store that applied it and never answered.
    for dropped in [true, false] {
        for gone in [true, false] {
            let bench = bench();
            let mut claim = bench.grant();
            if dropped {
                bench.store.plan([HangAfter]);
                assert!(poll_once(Box::pin(claim.complete("charged")).as_mut()).is_none());
            } else {
                bench.store.always(HangAfter);
                assert!(matches!(bench.run(claim.complete("charged")), Err(ClaimError::Store { .. })));
                bench.store.always(Fault::None);
            }
            assert_eq!(bench.on_record().status(), Status::Completed);
            bench.clock.advance(RETENTION);
            let other = bench.other_process();
            let theirs = (!gone).then(|| granted(bench.run(other.request(key()).claim())));
            match bench.run(claim.complete("charged")) {
                Err(ClaimError::Unknown { .. }) => assert!(gone),
                Err(ClaimError::Superseded { possibly_applied: true, .. }) => assert!(!gone),
                other => panic!("dropped: {dropped}, gone: {gone}: {other:?}"),
            }
            drop(theirs);
        }
    }
}

#[test]
fn a_renewal_whose_reply_is_lost_does_not_extend_the_deadline_until_confirmed() {
    let bench = bench();
    let claim = bench.grant();
    bench.clock.advance(Duration::from_secs(10));
    let renewed = interrupted(&bench, ReplyLost, claim.renew(), || {
        assert_eq!(claim.time_left(), Duration::from_secs(17), "not extended");
        assert_eq!(bench.on_record().left, LEASE, "though it was applied");
        bench.clock.advance(Duration::from_secs(5));
    });
    renewed.unwrap();
    assert_eq!(claim.time_left(), Duration::from_secs(22), "counted from when it was applied");
    assert_eq!(bench.on_record().left, Duration::from_secs(25), "and not sent a second time");

    // The same for a checkpoint.
    let renewed = interrupted(&bench, ReplyLost, claim.checkpoint("half way"), || {
        assert_eq!(claim.time_left(), Duration::from_secs(22));
        bench.clock.advance(Duration::from_secs(4));
    });
    renewed.unwrap();
    assert_eq!(claim.time_left(), Duration::from_secs(23));
}

#[test]
fn a_renewal_of_the_keeper_whose_reply_is_lost_does_not_extend_the_deadline_until_confirmed() {
    let bench = bench();
    let claim = bench.grant();
    let mut keeper = Box::pin(bench.dedup.keeper());
    bench.clock.advance(Duration::from_secs(10));
    bench.store.plan([ReplyLost]);
    assert!(poll_once(keeper.as_mut()).is_none());
    assert_eq!((claim.time_left(), bench.on_record().left), (Duration::from_secs(17), LEASE));
    bench.clock.advance(Duration::from_millis(2500));
    assert!(poll_once(keeper.as_mut()).is_none());
    assert_eq!(claim.time_left(), LEASE - MARGIN - Duration::from_millis(2500));
    assert_eq!(writes(&bench), 2, "the grant and one renewal");
}

#[test]
fn an_old_copy_of_a_claim_is_a_ghost_and_never_adopted() {
    for by_keeper in [false, true] {
        let bench = bench();
        let mut claim = bench.grant();
        let request = bench.on_record().record;
        // Our record lapses, past all its lifetimes; then the network delivers an old copy of the request.
        bench.clock.advance(LEASE + RETENTION);
        assert_eq!(bench.store.peek(&key()), None);
        let put = Put::new(&request, LEASE, RETENTION);
        let ghost = ready(bench.store.inner.compare_exchange(&key(), Expected::Vacant, put)).unwrap();
        assert!(matches!(ghost, Exchange::Done(_)));
        let before = bench.on_record();
        assert_eq!((before.record.owner(), before.record.attempt()), (request.owner(), 1));
        if by_keeper {
            assert!(poll_once(Box::pin(bench.dedup.keeper()).as_mut()).is_none());
            assert!(claim.attempt().is_lost(), "the keeper found out");
        }
        assert!(matches!(bench.run(claim.renew()), Err(ClaimError::Superseded { .. })));
        assert!(matches!(bench.run(claim.complete("charged")), Err(ClaimError::Superseded { .. })));
        assert!(matches!(bench.run(claim.release()), Err(ClaimError::Superseded { .. })));
        assert_eq!(bench.on_record(), before, "the ghost is nobody's");
        assert_eq!(claim.time_left(), Duration::ZERO);
        // It never runs anything, and costs one lease.
        bench.clock.advance(LEASE);
        assert_eq!(bench.grant().number(), 2);
    }
}

#[test]
fn a_claim_that_lost_its_reply_is_not_found_by_another_call_of_the_same_process() {
    let bench = bench();
    let first = interrupted(&bench, ReplyLost, bench.dedup.request(key()).claim(), || {
        let second = bench.run(bench.dedup.request(key()).claim()).unwrap();
        assert!(
            matches!(second, ClaimAnswer::Answered(Earlier::InProgress { .. })),
            "an owner is one call, not one process"
        );
    });
    assert_eq!(granted(first).number(), 1);
}
