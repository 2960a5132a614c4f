//! One writer a claim: who waits for the turn, and for how long, and what is sent meanwhile.

use std::pin::{Pin, pin};
use std::task::{Context, Waker};
use std::time::Duration;

use futures::future::BoxFuture;
use oncekey::builder::OnDrop;
use oncekey::{Claim, Prepared};

use super::*;

/// A checkpoint of the claim that was sent, hangs in the store, and is then put aside: neither polled nor dropped.
fn put_aside(
    bench: &Bench,
    claim: &Claim<FaultyStore>,
    fault: Fault,
) -> BoxFuture<'static, Result<(), ClaimError>> {
    let attempt = claim.attempt();
    bench.store.plan([fault]);
    let mut checkpoint = Box::pin(async move { attempt.checkpoint("half way").await });
    assert!(poll_once(checkpoint.as_mut()).is_none());
    checkpoint
}

#[test]
fn who_waits_for_the_turn_is_woken_when_it_ends() {
    let bench = bench();
    let mut owner = claim(&bench.dedup);
    let attempt = owner.attempt();
    bench.store.yields.store(true, Ordering::SeqCst);
    let mut checkpoint = Box::pin(attempt.checkpoint("half way"));
    assert!(poll_once(checkpoint.as_mut()).is_none());
    let mut complete = pin!(owner.complete("done"));
    let woken = Arc::new(Flag::default());
    let waker = Waker::from(Arc::clone(&woken));
    for _ in 0..2 {
        // Polled twice, as a task may be: it waits once.
        assert!(complete.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    assert_eq!(bench.store.trips().0, 2, "one writer at a time");
    while poll_once(checkpoint.as_mut()).is_none() {
        assert!(!woken.0.load(Ordering::SeqCst));
    }
    assert!(woken.0.load(Ordering::SeqCst), "the turn ended in silence");
    bench.run_pinned(complete).unwrap();
}

#[test]
fn a_conclusion_waits_for_a_writer_put_aside_for_twice_the_stores_timeout() {
    let bench = bench();
    let mut owner = claim(&bench.dedup);
    let _aside = put_aside(&bench, &owner, Fault::HangBefore);
    let begun = bench.clock.now();
    let mut tasks = Tasks::default();
    let done = tasks.spawn(async { owner.complete("done").await });
    tasks.pass(&bench.clock, secs(2) - Duration::from_nanos(1));
    assert_eq!(bench.store.trips().0, 2, "sent beside a writer whose turn it was");
    tasks.pass(&bench.clock, Duration::from_nanos(1));
    assert_eq!(bench.clock.now(), begun + secs(2));
    assert!(done.is_done());
    done.take().unwrap();
}

/// Who lost its turn sends nothing more: not while the conclusion that took it is under way either.
#[test]
fn a_writer_whose_turn_was_taken_sends_nothing_beside_the_conclusion() {
    let bench = bench();
    let mut owner = claim(&bench.dedup);
    let mut aside = put_aside(&bench, &owner, Fault::HangBefore);
    let mut tasks = Tasks::default();
    bench.store.plan([Fault::HangBefore]);
    let done = tasks.spawn(async { owner.complete("done").await });
    tasks.pass(&bench.clock, secs(2));
    assert_eq!(bench.store.trips().0, 3, "claim, checkpoint and completion, which hangs");
    // The checkpoint's own call has timed out: it would try again after a pause.
    let mut told = None;
    for _ in 0..4 {
        told = told.or_else(|| poll_once(Pin::new(&mut aside)));
        bench.clock.advance(Duration::from_millis(50));
    }
    assert_eq!(bench.store.trips().0, 3, "sent beside the conclusion: {told:?}");
    assert!(told.is_some_and(|told| told.is_err()), "it is told that its turn is over");
    tasks.pass(&bench.clock, secs(10));
    done.take().unwrap();
    assert!(on_record(&bench).record.outcome().is_some());
}

/// What a writer put aside had sent may have been applied: what is prepared expects the version that is there.
#[test]
fn what_is_prepared_past_a_writer_put_aside_expects_the_version_that_it_left() {
    for fault in [Fault::HangBefore, Fault::HangAfter] {
        let bench = bench();
        let mut owner = claim(&bench.dedup);
        let _aside = put_aside(&bench, &owner, fault);
        let Prepared { expected, .. } = bench.run(owner.prepare("done")).unwrap();
        assert_eq!(expected, on_record(&bench).version, "{fault:?}");
    }
}

#[test]
fn a_claim_that_was_superseded_leaves_the_store_alone_when_it_is_dropped() {
    let bench = bench_with(|builder| builder.on_drop(OnDrop::ExpireNow));
    let owner = claim(&bench.dedup);
    bench.clock.advance(LEASE);
    let _successor = claim(&bench.other_process());
    // Refused by the store: the deadline is the owner's, and has passed.
    let mut owner = owner;
    assert!(matches!(bench.run(owner.release()), Err(ClaimError::Superseded { .. })));
    let trips = bench.store.trips();
    drop(owner);
    bench.run(bench.dedup.flush());
    assert_eq!(bench.store.trips(), trips);
}

#[test]
fn a_holders_write_that_can_never_succeed_is_not_tried_again() {
    for kind in ["renew", "checkpoint", "complete", "release", "abandon"] {
        let bench = bench();
        let mut owner = claim(&bench.dedup);
        bench.store.always(Fault::Hopeless);
        let begun = bench.clock.now();
        let told = match kind {
            "renew" => bench.run(owner.renew()),
            "checkpoint" => bench.run(owner.checkpoint("half way")),
            "complete" => bench.run(owner.complete("done")).map(drop),
            "release" => bench.run(owner.release()),
            _ => bench.run(owner.abandon()),
        };
        assert!(matches!(told, Err(ClaimError::Store { .. })), "{kind}: {told:?}");
        assert_eq!((bench.store.trips().0, bench.clock.now()), (2, begun), "{kind}");
    }
}

/// A renewal that fails while its operation ends is of little use: it holds the completion up for one more try.
#[test]
fn a_renewal_is_sent_at_most_once_more_when_its_operation_has_ended() {
    let bench = bench();
    let operation_ends = bench.clock.now() + secs(10) + Duration::from_millis(10);
    let mut tasks = Tasks::default();
    let run = tasks.spawn(bench.dedup.request(key()).run(async |_| {
        bench.clock.sleep_until(operation_ends).await;
        Ok::<_, String>("done".to_owned())
    }));
    tasks.settle();
    // The renewal at 10 s fails, and would be sent again 25 ms later, and again after that.
    bench.store.plan([Fault::Refused; 2]);
    tasks.pass(&bench.clock, secs(10) + Duration::from_millis(11));
    assert!(matches!(run.take(), Ok(Answer::Executed { .. })));
    assert_eq!(bench.store.trips().0, 4, "claim, two renewals, completion");
}

/// A renewal that can never succeed is tried now and then all the same: the store may be mended before the deadline.
#[test]
fn a_run_whose_renewals_can_never_succeed_ends_at_its_deadline() {
    let bench = bench();
    let begun = bench.clock.now();
    let mut tasks = Tasks::default();
    let run = tasks.spawn(bench.dedup.request(key()).run(|_| pending::<Result<String, String>>()));
    tasks.settle();
    bench.store.always(Fault::Hopeless);
    tasks.pass(&bench.clock, LEASE - MARGIN - Duration::from_nanos(1));
    assert!(!run.is_done());
    assert!((10..1000).contains(&bench.store.trips().0), "{} tries in 17 s", bench.store.trips().0);
    tasks.pass(&bench.clock, Duration::from_nanos(1));
    assert!(matches!(run.take(), Err(RunError::LeaseLost { .. })));
    assert_eq!(bench.clock.now(), begun + LEASE - MARGIN);
}

/// No two writes of one claim are under way together: what came of the renewal is known before the outcome is sent.
#[test]
fn a_completion_waits_for_the_renewal_that_is_under_way() {
    let bench = bench();
    let operation_ends = bench.clock.now() + secs(10);
    let mut run = Box::pin(bench.dedup.request(key()).run(async |_| {
        bench.clock.sleep_until(operation_ends).await;
        Ok::<_, String>("done".to_owned())
    }));
    assert!(poll_once(run.as_mut()).is_none());
    bench.store.yields.store(true, Ordering::SeqCst);
    bench.clock.advance(secs(10));
    // This poll begins the renewal, and the operation ends.
    assert!(poll_once(run.as_mut()).is_none());
    assert_eq!(bench.store.trips().0, 2, "claim and renewal, which is under way");
    let mut renewed = false;
    while poll_once(run.as_mut()).is_none() {
        let completing = bench.store.trips().0 > 2;
        renewed |= on_record(&bench).left == LEASE;
        assert!(renewed || !completing, "two writes under way");
    }
    assert_eq!(bench.store.trips().0, 3);
}

#[test]
fn preparing_costs_no_round_trip_when_every_write_was_answered() {
    let bench = bench();
    let mut owner = claim(&bench.dedup);
    ready(owner.renew()).unwrap();
    assert!(ready(owner.prepare("done")).is_ok());
    assert_eq!(bench.store.trips(), (2, 0));
}

crate::support::also_at_once! {
    a_claim_that_was_superseded_leaves_the_store_alone_when_it_is_dropped
    a_renewal_is_sent_at_most_once_more_when_its_operation_has_ended
    a_run_whose_renewals_can_never_succeed_ends_at_its_deadline
    preparing_costs_no_round_trip_when_every_write_was_answered
}

/// A checkpoint in flight, by an attempt that outlives its claim. The claim was dropped, and nobody is to wait for its lease.
#[test]
fn a_checkpoint_in_flight_does_not_revive_a_claim_that_was_dropped() {
    for fault in [Fault::HangBefore, Fault::HangAfter] {
        let bench = bench_with(|builder| builder.on_drop(OnDrop::ExpireNow));
        let owner = claim(&bench.dedup);
        let mut aside = put_aside(&bench, &owner, fault);
        drop(owner);
        // The checkpoint's call is over first, so that it would be sent again beside the clean-up, or after it.
        let mut tasks = Tasks::default();
        let cleaned_up = tasks.spawn(bench.dedup.flush());
        tasks.pass(&bench.clock, secs(2));
        assert!(cleaned_up.is_done());
        let abandoned = on_record(&bench);
        assert_eq!(abandoned.left, Duration::ZERO, "{fault:?}");
        let mut told = None;
        for _ in 0..20 {
            told = told.or_else(|| poll_once(Pin::new(&mut aside)));
            bench.clock.advance(millis(50));
        }
        assert!(matches!(told, Some(Err(_))), "{fault:?}: {told:?}");
        let entry = on_record(&bench);
        assert_eq!(
            (entry.version, entry.left),
            (abandoned.version, Duration::ZERO),
            "{fault:?}: a claim is revived"
        );
    }
}
