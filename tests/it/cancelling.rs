//! Dropped at every await, and panics: in whatever state that leaves the key, it is one that the design allows.

mod after_effect;
mod callbacks;
mod clean_up;
mod panics;

use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use oncekey::answer::RecordInfo;
use oncekey::builder::OnDrop;
use oncekey::protocol::{State, Status};
use oncekey::time::{Clock as _, ManualClock};
use oncekey::{Answer, Deduplicator, Earlier, Key, MemoryStore, Outcome, Payload, Policy};

use crate::one_key::granted;
use crate::support::{Bench, Fault, Flag, LEASE, bench, bench_with, key, poll_once, yield_now};

/// How far an operation got.
#[derive(Default)]
struct Progress {
    polled: Cell<bool>,
    ended: Cell<bool>,
}

impl Progress {
    /// An operation of a few polls.
    async fn operation(&self) -> Result<String, &'static str> {
        self.polled.set(true);
        yield_now().await;
        yield_now().await;
        self.ended.set(true);
        Ok("first".to_owned())
    }
}

/// What came before the call that is dropped.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Before {
    Nothing,
    /// An attempt that stopped in the middle.
    Abandoned,
    /// An attempt that did nothing.
    Released,
}

fn arrange(bench: &Bench, earlier: Before) {
    let other = bench.other_process();
    let mut claim = match earlier {
        Before::Nothing => return,
        Before::Abandoned | Before::Released => granted(bench.run(other.request(key()).claim())),
    };
    match earlier {
        Before::Released => bench.run(claim.release()).unwrap(),
        _ => bench.run(claim.abandon()).unwrap(),
    }
}

/// Drops a call after so many polls, and sees what the next one gets; whether the call had ended by itself.
fn drop_run_after(polls: usize, earlier: Before, policy: Policy, on_drop: OnDrop) -> bool {
    let context = format!("{polls} polls, {earlier:?}, {policy:?}, {on_drop:?}");
    let bench = bench_with(|builder| builder.on_drop(on_drop));
    arrange(&bench, earlier);
    bench.store.yields.store(true, Ordering::SeqCst);
    let progress = Progress::default();
    let done = {
        let request = bench.dedup.request(key()).policy(policy);
        let mut run = Box::pin(request.run(|_| progress.operation()));
        bench.poll_times(run.as_mut(), polls).is_some()
    };
    let begun = bench.clock.now();
    bench.nothing_is_left();
    assert_eq!(bench.clock.now(), begun, "clean-up waits for nothing: {context}");
    next_call_is_legal(&bench, &progress, earlier, policy, on_drop, &context);
    done
}

fn next_call_is_legal(
    bench: &Bench,
    progress: &Progress,
    earlier: Before,
    policy: Policy,
    on_drop: OnDrop,
    context: &str,
) {
    let runs = AtomicU32::new(0);
    let ran = || runs.load(Ordering::SeqCst);
    if progress.ended.get() {
        // Once a completion was begun it is brought to its end, and the operation never run twice.
        let answer = bench.second_call(&runs);
        assert!(
            matches!(&answer, Answer::Earlier(Earlier::Replayed { value, .. }) if value == "first"),
            "{context}: {answer:?}"
        );
        assert_eq!(ran(), 0, "{context}");
        return;
    }
    if !progress.polled.get() {
        // Nothing happened: whoever comes runs it at once. Doubt that was there stays.
        match bench.second_call(&runs) {
            Answer::Executed { info, .. } => {
                assert_eq!(info.after_doubt, earlier == Before::Abandoned, "{context}");
            }
            Answer::Earlier(Earlier::InDoubt { .. }) => {
                // A takeover under Hold that did nothing cannot vouch for the attempt before.
                assert!(policy == Policy::Hold && earlier == Before::Abandoned, "{context}");
            }
            other => panic!("{context}: {other:?}"),
        }
        return;
    }
    if on_drop == OnDrop::KeepLease {
        // The effect may be under way: nobody runs it while the lease stands.
        let answer = bench.second_call(&runs);
        assert!(matches!(answer, Answer::Earlier(Earlier::InProgress { .. })), "{context}: {answer:?}");
        bench.clock.advance(LEASE);
    }
    match (policy, bench.second_call(&runs)) {
        (Policy::Reclaim, Answer::Executed { info: RecordInfo { after_doubt, attempt, .. }, .. }) => {
            assert!(after_doubt && attempt >= 2, "{context}");
            assert_eq!(ran(), 1, "{context}");
        }
        (Policy::Hold, Answer::Earlier(Earlier::InDoubt { .. })) => assert_eq!(ran(), 0, "{context}"),
        (_, other) => panic!("{context}: {other:?}"),
    }
}

#[test]
fn a_run_dropped_at_any_await_leaves_a_legal_state() {
    for earlier in [Before::Nothing, Before::Abandoned, Before::Released] {
        for policy in [Policy::Reclaim, Policy::Hold] {
            for on_drop in [OnDrop::KeepLease, OnDrop::ExpireNow] {
                let mut polls = 0;
                while !drop_run_after(polls, earlier, policy, on_drop) {
                    polls += 1;
                    assert!(polls < 100, "it does not end");
                }
                assert!(polls >= 6, "too few awaits to mean anything: {polls}");
            }
        }
    }
}

#[test]
fn a_replay_dropped_at_any_await_changes_nothing() {
    for polls in 0.. {
        let bench = bench();
        let mut claim = bench.grant();
        bench.run(claim.complete("first")).unwrap();
        drop(claim);
        let before = bench.on_record();
        bench.store.yields.store(true, Ordering::SeqCst);
        let progress = Progress::default();
        let done = {
            let mut run = Box::pin(bench.dedup.request(key()).run(|_| progress.operation()));
            bench.poll_times(run.as_mut(), polls).is_some()
        };
        bench.nothing_is_left();
        assert_eq!(bench.on_record(), before);
        assert!(!progress.polled.get());
        if done {
            assert!(polls > 2);
            break;
        }
    }
}

#[test]
fn a_waiter_that_takes_over_dropped_at_any_await_leaves_a_legal_state() {
    for policy in [Policy::Reclaim, Policy::Hold] {
        for polls in 0.. {
            let bench =
                bench_with(|builder| builder.poll_every(Duration::from_secs(4), Duration::from_secs(8)));
            drop(bench.grant()); // its owner died; the lease stands
            bench.store.yields.store(true, Ordering::SeqCst);
            let progress = Progress::default();
            let done = {
                let request = bench.dedup.request(key()).policy(policy).wait(LEASE * 3);
                let mut run = Box::pin(request.run(|_| progress.operation()));
                bench.poll_times(run.as_mut(), polls).is_some()
            };
            bench.nothing_is_left();
            let context = format!("{polls} polls, {policy:?}");
            let untouched = bench.on_record().record.attempt() == 1;
            if untouched && !bench.on_record().left.is_zero() {
                bench.clock.advance(LEASE); // the dead owner's
            }
            next_call_is_legal(
                &bench,
                &progress,
                Before::Abandoned,
                policy_on_record(&bench),
                OnDrop::KeepLease,
                &context,
            );
            if done {
                assert!(progress.ended.get() && polls > 10, "{context}");
                break;
            }
        }
    }
}

fn policy_on_record(bench: &Bench) -> Policy {
    bench.on_record().record.policy()
}

#[test]
fn of_two_waiters_either_may_be_dropped_anywhere_and_the_other_is_answered() {
    for driver_leaves in [true, false] {
        // Whether the owner completes in this process, or another one does.
        for locally in [true, false] {
            for polls in 0..40 {
                let bench = bench();
                let owner = if locally { bench.dedup.clone() } else { bench.other_process() };
                let mut claim = granted(bench.run(owner.request(key()).claim()));
                bench.store.yields.store(true, Ordering::SeqCst);
                let wait = |leaves: bool| {
                    let request =
                        bench.dedup.request(key()).wait(Duration::from_secs(if leaves { 10 } else { 25 }));
                    Box::pin(request.run(|_| async { Err::<String, _>("nobody else may run it") }))
                };
                let (mut one, mut two) = (wait(driver_leaves), wait(!driver_leaves));
                let joined = |run: &mut Pin<Box<_>>| (0..4).for_each(|_| assert!(poll(run).is_none()));
                joined(&mut one);
                joined(&mut two);
                assert_eq!(bench.dedup.waiting(), 2);
                let (mut leaver, mut stayer) = if driver_leaves { (one, two) } else { (two, one) };
                let left_with = bench.poll_times(leaver.as_mut(), polls);
                assert!(
                    left_with.is_none_or(|answer| matches!(
                        answer,
                        Ok(Answer::Earlier(Earlier::InProgress { .. }))
                    )),
                    "the bound"
                );
                drop(leaver);
                assert_eq!(bench.dedup.waiting(), 1, "one seat is free");
                bench.run(claim.complete("first")).unwrap();
                let answer = bench.run_pinned(stayer.as_mut()).unwrap();
                assert!(
                    matches!(&answer, Answer::Earlier(Earlier::Replayed { value, .. }) if value == "first"),
                    "{answer:?}"
                );
                drop(stayer);
                drop(claim);
                bench.nothing_is_left();
            }
        }
    }
}

fn poll<F: Future>(future: &mut Pin<Box<F>>) -> Option<F::Output> {
    poll_once(future.as_mut())
}

#[test]
fn a_waiter_told_of_a_leaving_driver_is_woken_to_drive() {
    let bench = bench();
    drop(bench.grant());
    let wait = || {
        let request = bench.dedup.request(key()).wait(LEASE * 2);
        Box::pin(request.run(|_| async { Ok::<_, &str>("second".to_owned()) }))
    };
    let (mut one, mut two) = (wait(), wait());
    assert!(poll(&mut one).is_none());
    let woken = Arc::new(Flag::default());
    let waker = Waker::from(Arc::clone(&woken));
    assert!(two.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    assert!(!woken.0.load(Ordering::SeqCst));
    drop(one);
    assert!(woken.0.load(Ordering::SeqCst), "somebody must drive");
    assert!(matches!(bench.run_pinned(two.as_mut()).unwrap(), Answer::Executed { .. }));
}

#[test]
fn an_explicit_claim_dropped_at_any_await_is_released() {
    for earlier in [Before::Nothing, Before::Abandoned, Before::Released] {
        for polls in 0.. {
            let bench = bench();
            arrange(&bench, earlier);
            bench.store.yields.store(true, Ordering::SeqCst);
            let claim = {
                let mut claim = Box::pin(bench.dedup.request(key()).policy(Policy::Hold).claim());
                bench.poll_times(claim.as_mut(), polls)
            };
            let context = format!("{polls} polls, {earlier:?}");
            if let Some(claim) = claim {
                // Handed out, its caller may have begun to act.
                drop(granted(claim));
                bench.nothing_is_left();
                assert_eq!(bench.on_record().status(), Status::InProgress, "{context}");
                break;
            }
            bench.nothing_is_left();
            let progress = Progress::default();
            next_call_is_legal(&bench, &progress, earlier, Policy::Hold, OnDrop::KeepLease, &context);
        }
    }
}

#[test]
fn a_late_grant_dropped_while_it_is_renewed_is_released() {
    // The grant is found again when its own deadline has passed, and the renewal of it is dropped at each await.
    for polls in 0.. {
        let bench = bench();
        let progress = Progress::default();
        bench.store.plan([Fault::ReplyLost]);
        let mut run = Box::pin(bench.dedup.request(key()).policy(Policy::Hold).run(|_| progress.operation()));
        assert!(poll(&mut run).is_none());
        bench.clock.advance(LEASE - Duration::from_secs(1));
        bench.store.yields.store(true, Ordering::SeqCst);
        let done = bench.poll_times(run.as_mut(), polls).is_some();
        drop(run);
        bench.nothing_is_left();
        next_call_is_legal(
            &bench,
            &progress,
            Before::Nothing,
            Policy::Hold,
            OnDrop::KeepLease,
            &format!("{polls} polls"),
        );
        if done {
            break;
        }
    }
}

#[test]
fn a_completion_dropped_at_any_await_is_finished_when_the_claim_goes() {
    for polls in 0.. {
        let bench = bench();
        let mut claim = bench.grant();
        bench.store.yields.store(true, Ordering::SeqCst);
        let done = {
            let mut complete = Box::pin(claim.complete("first"));
            bench.poll_times(complete.as_mut(), polls).is_some()
        };
        drop(claim);
        bench.nothing_is_left();
        let begun = polls > 0;
        let outcome = bench.on_record().record.outcome();
        assert_eq!(outcome, begun.then(|| Outcome::success("first")), "{polls} polls");
        if done {
            break;
        }
    }
}

#[test]
fn a_completion_dropped_at_any_await_can_be_called_again() {
    for polls in 0.. {
        let bench = bench();
        let mut claim = bench.grant();
        bench.store.yields.store(true, Ordering::SeqCst);
        let done = {
            let mut complete = Box::pin(claim.complete("first"));
            bench.poll_times(complete.as_mut(), polls).is_some()
        };
        bench.run(claim.complete("first")).unwrap();
        let before = bench.on_record();
        drop(claim);
        bench.nothing_is_left();
        assert_eq!(bench.on_record(), before);
        assert_eq!(before.record.outcome(), Some(Outcome::success("first")));
        if done {
            break;
        }
    }
}

#[test]
fn a_completion_that_the_background_finishes_survives_a_store_that_fails() {
    let bench = bench();
    let mut claim = bench.grant();
    bench.store.plan([
        Fault::HangBefore,
        Fault::Refused,
        Fault::RequestLost,
        Fault::HangBefore,
        Fault::ReplyLost,
    ]);
    assert!(poll_once(Box::pin(claim.complete("first")).as_mut()).is_none());
    drop(claim);
    bench.nothing_is_left();
    assert_eq!(bench.on_record().record.outcome(), Some(Outcome::success("first")));
}

#[test]
fn a_renewal_or_a_checkpoint_dropped_at_any_await_harms_nothing() {
    for by_checkpoint in [false, true] {
        for polls in 0.. {
            let bench = bench();
            let mut claim = bench.grant();
            let checkpointed = || by_checkpoint.then(|| Payload::from("half way"));
            bench.clock.advance(Duration::from_secs(10));
            bench.store.yields.store(true, Ordering::SeqCst);
            let mut write: Pin<Box<dyn Future<Output = _>>> =
                if by_checkpoint { Box::pin(claim.checkpoint("half way")) } else { Box::pin(claim.renew()) };
            let done = bench.poll_times(write.as_mut(), polls).is_some();
            drop(write);
            let (left, on_record) = (claim.time_left(), bench.on_record());
            let expected = Duration::from_secs(if done { 27 } else { 17 });
            assert_eq!(left, expected, "unconfirmed, it does not extend the deadline: {polls} polls");
            let kept = on_record.record.checkpoint().clone();
            assert!(kept.is_empty() || Some(&kept) == checkpointed().as_ref());
            // What is written next goes by what is there.
            bench.run(claim.renew()).unwrap();
            assert_eq!(bench.on_record().record.checkpoint(), kept, "{polls} polls");
            bench.run(claim.complete("first")).unwrap();
            drop(claim);
            bench.nothing_is_left();
            assert_eq!(bench.on_record().record.outcome(), Some(Outcome::success("first")));
            if done {
                break;
            }
        }
    }
}

#[test]
fn a_release_dropped_at_any_await_is_done_or_not() {
    for polls in 0.. {
        let bench = bench();
        let mut claim = bench.grant();
        bench.store.yields.store(true, Ordering::SeqCst);
        let done = {
            let mut release = Box::pin(claim.release());
            bench.poll_times(release.as_mut(), polls).is_some()
        };
        drop(claim);
        bench.nothing_is_left();
        let found = bench.on_record();
        let judged = (found.record.state(), found.left);
        let released = (State::Released { fresh_operation_id: false }, Duration::ZERO);
        assert!(
            judged == released || (!done && judged == (State::InProgress, LEASE)),
            "{polls} polls: {judged:?}"
        );
        if done {
            break;
        }
    }
}

#[test]
fn a_run_dropped_after_its_operation_ended_is_completed_though_a_renewal_is_in_flight() {
    for final_failure in [false, true] {
        let bench = bench();
        let ended = Cell::new(false);
        let mut run = Box::pin(bench.dedup.request(key()).run_or_fail(|_| async {
            bench.clock.sleep_until(bench.clock.now() + Duration::from_secs(11)).await;
            ended.set(true);
            let value = "first".to_owned();
            if final_failure { Err(oncekey::Failure::Final(value)) } else { Ok(value) }
        }));
        assert!(poll(&mut run).is_none());
        bench.store.plan([Fault::HangBefore]);
        bench.clock.advance(Duration::from_secs(10));
        assert!(poll(&mut run).is_none(), "a renewal is under way, and hangs");
        bench.clock.advance(Duration::from_millis(999));
        assert!(poll(&mut run).is_none() && !ended.get());
        bench.store.plan([Fault::HangBefore]);
        bench.clock.advance(Duration::from_millis(1));
        assert!(poll(&mut run).is_none() && ended.get(), "it ended, and its completion is on its way");
        drop(run);
        bench.nothing_is_left();
        let expected = if final_failure { Outcome::failure("first") } else { Outcome::success("first") };
        assert_eq!(bench.on_record().record.outcome(), Some(expected));
    }
}

crate::support::also_at_once! {
    a_waiter_that_takes_over_dropped_at_any_await_leaves_a_legal_state
    of_two_waiters_either_may_be_dropped_anywhere_and_the_other_is_answered
    a_waiter_told_of_a_leaving_driver_is_woken_to_drive
    an_explicit_claim_dropped_at_any_await_is_released
    a_completion_dropped_at_any_await_is_finished_when_the_claim_goes
    a_completion_dropped_at_any_await_can_be_called_again
    a_renewal_or_a_checkpoint_dropped_at_any_await_harms_nothing
    a_release_dropped_at_any_await_is_done_or_not
}
