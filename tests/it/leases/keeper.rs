//! The keeper: renewal from outside, for operations that block their thread.

use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use oncekey::observe::Event;
use oncekey::protocol::{Entry, Expected};
use oncekey::store::{BatchPut, Put};
use oncekey::time::{Clock as _, ManualClock};
use oncekey::{Answer, Claim, ClaimAnswer, Deduplicator, Earlier, Key, MemoryStore, Store};
use oncekey_conformance::Intercept;

use crate::support::*;

/// How often the keeper works: a quarter of a renewal interval.
const TICK: Duration = Duration::from_millis(2500);

/// Moves the clock by the keeper's tick and lets it work.
fn tick(bench: &Bench, keeper: &mut Pin<Box<impl Future<Output = ()>>>) -> bool {
    bench.clock.advance(TICK);
    poll_once(keeper.as_mut()).is_some()
}

#[test]
fn an_operation_that_blocks_its_thread_is_kept_alive_over_many_leases() {
    let bench = bench();
    let other = bench.other_process();
    let runs = Arc::new(AtomicU32::new(0));
    let (started, has_started) = mpsc::channel();
    let (let_go, may_go_on) = mpsc::channel::<()>();
    let thread = {
        let (dedup, runs) = (bench.dedup.clone(), Arc::clone(&runs));
        std::thread::spawn(move || {
            futures::executor::block_on(dedup.request(key()).run(async |attempt: oncekey::Attempt| {
                runs.fetch_add(1, Ordering::SeqCst);
                started.send(()).unwrap();
                may_go_on.recv().unwrap(); // blocks the thread inside of a poll
                assert!(!attempt.is_lost());
                Ok::<_, String>("done".to_owned())
            }))
        })
    };
    has_started.recv().unwrap();
    let mut keeper = Box::pin(bench.dedup.keeper());
    assert!(poll_once(keeper.as_mut()).is_none());
    for _ in 0..100 {
        assert!(!tick(&bench, &mut keeper));
        let duplicate = ready(other.request(key()).run(async |_| {
            runs.fetch_add(1, Ordering::SeqCst);
            Ok::<_, String>("a second run".to_owned())
        }));
        assert!(
            matches!(duplicate, Ok(Answer::Earlier(Earlier::InProgress { attempt: 1, .. }))),
            "{duplicate:?}"
        );
    }
    let_go.send(()).unwrap();
    let answer = thread.join().unwrap().unwrap();
    assert!(matches!(&answer, Answer::Executed { info, .. } if info.attempt == 1), "{answer:?}");
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    assert!(
        matches!(run_text(&other, "again"), Answer::Earlier(Earlier::Replayed { value, .. }) if value == "done")
    );
}

/// A store that notes how large the batches are, and answers so many verdicts fewer than there were items.
fn batching(
    clock: &ManualClock,
    batches: &Arc<Mutex<Vec<usize>>>,
    short_by: &Arc<AtomicU32>,
) -> Intercept<MemoryStore> {
    let (batches, short_by) = (Arc::clone(batches), Arc::clone(short_by));
    Intercept::new(MemoryStore::builder().clock(clock.clone()).build()).on_batch(move |store, batch| {
        batches.lock().unwrap().push(batch.len());
        let len = batch.len() - short_by.load(Ordering::SeqCst) as usize;
        Box::pin(async move {
            let mut answers = store.compare_exchange_many(batch).await;
            answers.truncate(len);
            answers
        })
    })
}

fn claimed<S: Store + 'static>(answer: Result<ClaimAnswer<Claim<S>>, oncekey::Error>) -> Claim<S> {
    match answer {
        Ok(ClaimAnswer::Granted(claim)) => claim,
        other => panic!("not granted: {other:?}"),
    }
}

#[test]
fn it_renews_all_claims_of_its_engine_in_batches() {
    let clock = ManualClock::new();
    let batches = Arc::default();
    let store = batching(&clock, &batches, &Arc::default());
    let dedup = Deduplicator::builder(store.clone()).clock(clock.clone()).build().unwrap();
    let keys: Vec<_> = (0..300).map(|i| Key::new("batch", i.to_string()).unwrap()).collect();
    let claims: Vec<Claim<_>> =
        keys.iter().map(|key| claimed(ready(dedup.request(key.clone()).claim()))).collect();
    let mut keeper = Box::pin(dedup.keeper());
    assert!(poll_once(keeper.as_mut()).is_none());
    for _ in 0..38 {
        clock.advance(TICK);
        assert!(poll_once(keeper.as_mut()).is_none());
        assert!(claims.iter().all(|claim| claim.time_left() > secs(0)));
    }
    // Nine rounds in 95 s, each in five batches.
    assert_eq!(batches.lock().unwrap()[..], [64, 64, 64, 64, 44].repeat(9));
    for key in &keys {
        let entry = ready(store.load(key)).unwrap().unwrap();
        assert!(!entry.left.is_zero());
    }
}

/// Not in the order in which they were granted: a batch that hangs must not be before what is about
/// to end.
#[test]
fn the_most_urgent_claims_are_renewed_first() {
    let clock = ManualClock::new();
    let order: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&order);
    let inner = MemoryStore::builder().clock(clock.clone()).build();
    let store = Intercept::new(inner).on_batch(move |store, batch| {
        seen.lock().unwrap().extend(batch.iter().map(|item| item.key.id().to_owned()));
        Box::pin(async move { store.compare_exchange_many(batch).await })
    });
    let dedup = Deduplicator::builder(store).clock(clock.clone()).build().unwrap();
    let claims: Vec<_> = (0..200)
        .map(|id| claimed(ready(dedup.request(Key::new("batch", id.to_string()).unwrap()).claim())))
        .collect();
    clock.advance(secs(5));
    claims[..100].iter().for_each(|claim| ready(claim.renew()).unwrap());
    clock.advance(secs(11));
    assert!(poll_once(Box::pin(dedup.keeper()).as_mut()).is_none());
    let order: Vec<usize> = order.lock().unwrap().iter().map(|id| id.parse().unwrap()).collect();
    assert_eq!(order.len(), 200);
    assert!(order[..100].iter().all(|id| *id >= 100), "{order:?}");
}

#[test]
fn it_renews_a_claim_no_longer_than_the_engine_allows() {
    let bench = bench_with(|builder| builder.renew_for_max(secs(60)));
    let owner = claim(&bench.dedup);
    let begun = bench.clock.now();
    let mut keeper = Box::pin(bench.dedup.keeper());
    assert!(poll_once(keeper.as_mut()).is_none());
    while !on_record(&bench).left.is_zero() {
        assert!(!tick(&bench, &mut keeper));
        assert!(bench.clock.now() <= begun + secs(60) + LEASE, "a hung claim holds its key");
    }
    assert!(bench.clock.now() >= begun + secs(50) + LEASE);
    assert!(owner.attempt().is_lost());
    assert_eq!(claim(&bench.other_process()).number(), 2);
}

#[test]
fn it_ends_with_the_last_handle_and_claim_of_its_engine() {
    let Bench { clock, store, dedup } = bench();
    let owner = claim(&dedup);
    let mut keeper = Box::pin(dedup.keeper());
    assert!(poll_once(keeper.as_mut()).is_none());
    drop(dedup);
    clock.advance(secs(5));
    assert!(poll_once(keeper.as_mut()).is_none(), "a claim is still held");
    drop(owner);
    clock.advance(TICK);
    assert!(poll_once(keeper.as_mut()).is_some(), "it keeps a dead engine alive");
    assert_eq!(clock.sleepers(), 0);
    drop(store);
}

#[test]
fn two_keepers_and_the_run_itself_renew_once_each_interval() {
    let bench = bench();
    let begun = bench.clock.now();
    let mut tasks = Tasks::default();
    let keepers = [tasks.spawn(bench.dedup.keeper()), tasks.spawn(bench.dedup.keeper())];
    let run = tasks.spawn(bench.dedup.request(key()).run(async |_| {
        bench.clock.sleep_until(begun + secs(105)).await;
        Ok::<_, String>("done".to_owned())
    }));
    tasks.pass(&bench.clock, secs(200));
    assert!(matches!(run.take(), Ok(Answer::Executed { .. })));
    assert_eq!(bench.store.trips(), (1 + 10 + 1, 0));
    assert!(keepers.iter().all(|keeper| !keeper.is_done()));
}

#[test]
fn a_renewal_that_fails_is_tried_again_at_its_next_tick() {
    use Fault::{HangAfter, HangBefore, Refused, ReplyLost, RequestLost};
    for fault in [Refused, RequestLost, ReplyLost, HangBefore, HangAfter] {
        let bench = bench();
        let owner = claim(&bench.dedup);
        let mut tasks = Tasks::default();
        let keeper = tasks.spawn(bench.dedup.keeper());
        for _ in 0..5 {
            bench.store.plan([fault]);
            tasks.pass(&bench.clock, secs(20));
            assert!(owner.time_left() > secs(0), "{fault:?}");
            assert!(!owner.attempt().is_lost(), "{fault:?}");
        }
        assert!(!keeper.is_done());
    }
}

#[test]
fn a_renewal_whose_reply_was_lost_extends_the_deadline_only_when_an_answer_confirms_it() {
    let bench = bench();
    let owner = claim(&bench.dedup);
    let mut keeper = Box::pin(bench.dedup.keeper());
    assert!(poll_once(keeper.as_mut()).is_none());
    bench.store.plan([Fault::ReplyLost]);
    (0..4).for_each(|_| assert!(!tick(&bench, &mut keeper)));
    assert_eq!((on_record(&bench).left, owner.time_left()), (LEASE, secs(17)));
    // The next round finds it: its lease began 2.5 s ago.
    assert!(!tick(&bench, &mut keeper));
    assert_eq!((on_record(&bench).left, owner.time_left()), (LEASE - TICK, LEASE - TICK - MARGIN));
}

#[test]
fn it_learns_of_a_takeover_and_tells_the_owner() {
    let told = Arc::new(AtomicU32::new(0));
    let hears = Arc::clone(&told);
    let bench = bench_with(|builder| {
        builder.observer(move |_: &Key, event: &Event<'_>| {
            if let Event::LeaseLost { superseded: true, .. } = event {
                hears.fetch_add(1, Ordering::SeqCst);
            }
        })
    });
    let owner = claim(&bench.dedup);
    bench.clock.advance(LEASE);
    let successor = claim(&bench.other_process());
    let before = on_record(&bench);
    let mut keeper = Box::pin(bench.dedup.keeper());
    assert!(poll_once(keeper.as_mut()).is_none());
    assert_eq!(told.load(Ordering::SeqCst), 1);
    ready(owner.lost());
    assert!(owner.attempt().is_lost());
    for _ in 0..4 {
        assert!(!tick(&bench, &mut keeper));
    }
    assert_eq!(
        bench.store.trips().0,
        4,
        "two claims take three, and one renewal is refused; then it is left alone"
    );
    assert_eq!(on_record(&bench).version, before.version);
    drop(successor);
}

#[test]
fn a_completion_prepared_for_a_transaction_is_left_alone() {
    let bench = bench();
    let mut owner = claim(&bench.dedup);
    let prepared = ready(owner.prepare("outcome")).unwrap();
    let mut keeper = Box::pin(bench.dedup.keeper());
    (0..20).for_each(|_| assert!(!tick(&bench, &mut keeper)));
    assert_eq!(on_record(&bench).version, prepared.expected);
    owner.rolled_back();
}

#[test]
fn an_operation_that_blocks_just_when_its_renewal_is_due_is_kept_alive_too() {
    let bench = bench();
    let mut keeper = Box::pin(bench.dedup.keeper());
    assert!(poll_once(keeper.as_mut()).is_none());
    let (started, has_started) = mpsc::channel();
    let (let_go, may_go_on) = mpsc::channel::<()>();
    let due = bench.clock.now() + secs(10);
    let thread = {
        let (dedup, clock, store) = (bench.dedup.clone(), bench.clock.clone(), bench.store.clone());
        std::thread::spawn(move || {
            futures::executor::block_on(dedup.request(key()).run(async |_| {
                // A renewal from the run's own task would be under way, and hold the claim's turn, when this blocks.
                store.plan([Fault::HangBefore]);
                clock.sleep_until(due).await;
                started.send(()).unwrap();
                may_go_on.recv().unwrap();
                Ok::<_, String>("done".to_owned())
            }))
        })
    };
    while bench.clock.sleepers() < 3 {
        std::thread::yield_now(); // until the keeper, the operation and its run all sleep
    }
    bench.clock.advance(secs(10));
    has_started.recv().unwrap();
    let mut lived = true;
    for _ in 0..40 {
        assert!(!tick(&bench, &mut keeper));
        lived &= !on_record(&bench).left.is_zero();
    }
    let_go.send(()).unwrap();
    let answer = thread.join().unwrap();
    assert!(lived, "the keeper was kept out: {answer:?}");
}

/// The room of held claims has parts, by token; every token has one.
#[test]
fn claims_of_any_token_are_held_and_renewed() {
    let bench = bench();
    for _ in 0..600 {
        ready(claim(&bench.dedup).release()).unwrap();
        assert_eq!(bench.dedup.held(), 0);
    }
    let owner = claim(&bench.dedup);
    assert!(owner.fence().get() > 600);
    let mut keeper = Box::pin(bench.dedup.keeper());
    assert!(poll_once(keeper.as_mut()).is_none());
    (0..20).for_each(|_| assert!(!tick(&bench, &mut keeper)));
    assert!(owner.time_left() > secs(0));
}

/// Should a keeper be at work, a run gives way to it for a while; one that is gone is not waited for.
#[test]
fn a_run_renews_on_time_once_the_keeper_is_gone() {
    let bench = bench();
    let mut keeper = Box::pin(bench.dedup.keeper());
    assert!(poll_once(keeper.as_mut()).is_none());
    drop(keeper);
    let mut tasks = Tasks::default();
    let _run =
        tasks.spawn(bench.dedup.request(key()).run(|_| std::future::pending::<Result<String, String>>()));
    tasks.pass(&bench.clock, secs(10));
    assert_eq!(on_record(&bench).left, LEASE, "renewed when it was due, not later");
}

/// A claim that falls due just after a round is renewed by the next one, however late the renewal interval is.
#[test]
fn it_is_in_time_for_what_falls_due_just_after_a_round() {
    // An owner stops at 27 s, so a renewal that is due at 26 s has one second.
    let bench = bench_with(|builder| builder.renew_every(secs(26)));
    for after in 0..40 {
        let mut tasks = Tasks::default();
        let _keeper = tasks.spawn(bench.dedup.keeper());
        tasks.pass(&bench.clock, Duration::from_millis(after * 50));
        let mut owner = claim(&bench.dedup);
        tasks.pass(&bench.clock, secs(27));
        assert!(owner.time_left() > secs(0), "claimed {after} x 50 ms after a round");
        ready(owner.release()).unwrap();
    }
}

/// A renewal whose reply was lost, found again only when its lease is over too: the claim is renewed from there.
#[test]
fn a_claim_whose_lease_ended_unheard_is_renewed_by_the_next_round_but_one() {
    let renewals = Arc::new(AtomicU32::new(0));
    let hears = Arc::clone(&renewals);
    let bench = bench_with(|builder| {
        builder.observer(move |_: &Key, event: &Event<'_>| {
            hears.fetch_add(u32::from(matches!(event, Event::Renewed)), Ordering::SeqCst);
        })
    });
    let owner = claim(&bench.dedup);
    let mut keeper = Box::pin(bench.dedup.keeper());
    assert!(poll_once(keeper.as_mut()).is_none());
    bench.store.plan([Fault::ReplyLost]);
    (0..4).for_each(|_| assert!(!tick(&bench, &mut keeper)));
    bench.clock.advance(secs(60));
    assert!(on_record(&bench).left.is_zero());
    // This round learns of the version that is there: no lease, and not lost either.
    assert!(poll_once(keeper.as_mut()).is_none());
    assert_eq!((owner.time_left(), renewals.load(Ordering::SeqCst)), (secs(0), 0));
    assert!(!tick(&bench, &mut keeper));
    assert_eq!((owner.time_left(), renewals.load(Ordering::SeqCst)), (LEASE - MARGIN, 1));
}

/// Who else concluded the key has it: the owner is told, whatever the end was, and before its own deadline.
#[test]
fn it_learns_of_another_ones_conclusion_and_tells_the_owner() {
    for end in ["complete", "release", "forget", "forget at once"] {
        let bench = bench();
        let owner = claim(&bench.dedup);
        // The lease is over in the store, whose clock stepped; the owner's clock has not moved.
        let Entry { record, version, .. } = on_record(&bench);
        let put = Put::new(&record, secs(0), RETENTION);
        ready(bench.store.inner.compare_exchange(&key(), Expected::At(version), put)).unwrap();
        if end != "forget at once" {
            let mut successor = claim(&bench.other_process());
            match end {
                "release" => ready(successor.release()).unwrap(),
                _ => ready(successor.complete("theirs")).map(drop).unwrap(),
            }
        }
        if end.starts_with("forget") {
            ready(bench.other_process().forget(&key()));
        }
        let mut keeper = Box::pin(bench.dedup.keeper());
        assert!(poll_once(keeper.as_mut()).is_none());
        (0..4).for_each(|_| assert!(!tick(&bench, &mut keeper)));
        assert!(owner.attempt().is_lost(), "{end}");
        let told = ready(owner.renew());
        assert!(matches!(told, Err(oncekey::ClaimError::Superseded { .. })), "{end}: {told:?}");
    }
}

/// A run gives way to a keeper, and renews by itself in good time if that one does nothing.
#[test]
fn a_run_whose_keeper_is_stuck_renews_by_itself() {
    let bench = bench();
    let mut stuck = Box::pin(bench.dedup.keeper());
    assert!(poll_once(stuck.as_mut()).is_none());
    let mut tasks = Tasks::default();
    let run =
        tasks.spawn(bench.dedup.request(key()).run(|_| std::future::pending::<Result<String, String>>()));
    tasks.pass(&bench.clock, secs(16));
    assert_eq!(
        on_record(&bench).left,
        LEASE - secs(1),
        "half way between the time it is due and a whole interval"
    );
    tasks.pass(&bench.clock, secs(300));
    assert!(!run.is_done(), "its lease ended");
}

/// Which verdict is whose cannot be told, so each claim counts as unanswered, and is heard to.
#[test]
fn a_batch_that_is_answered_in_part_is_not_believed() {
    let clock = ManualClock::new();
    let short_by = Arc::new(AtomicU32::new(1));
    let store = batching(&clock, &Arc::default(), &short_by);
    let failures = Arc::new(AtomicU32::new(0));
    let hears = Arc::clone(&failures);
    let dedup = Deduplicator::builder(store)
        .clock(clock.clone())
        .observer(move |_: &Key, event: &Event<'_>| {
            let unanswered = matches!(event, Event::StoreFailed { failure, .. } if failure.maybe_applied());
            hears.fetch_add(u32::from(unanswered), Ordering::SeqCst);
        })
        .build()
        .unwrap();
    let claims =
        [0, 1, 2].map(|i| match ready(dedup.request(Key::new("batch", i.to_string()).unwrap()).claim()) {
            Ok(ClaimAnswer::Granted(claim)) => claim,
            _ => panic!("not granted"),
        });
    clock.advance(secs(10));
    let mut keeper = Box::pin(dedup.keeper());
    assert!(poll_once(keeper.as_mut()).is_none());
    assert_eq!(failures.load(Ordering::SeqCst), 3);
    assert!(claims.iter().all(|claim| claim.time_left() == secs(17)), "no deadline was put off");
    short_by.store(0, Ordering::SeqCst);
    clock.advance(TICK);
    assert!(poll_once(keeper.as_mut()).is_none());
    assert!(claims.iter().all(|claim| claim.time_left() > secs(20)), "renewed by the next round");
}

/// An engine over a store in which somebody's transaction has the rows of one scope locked: whoever writes one waits a
/// second, and is told no. A batch goes row by row.
fn with_locked_rows() -> (ManualClock, Deduplicator<Intercept<MemoryStore, Planned>>) {
    async fn write(
        store: &MemoryStore,
        clock: &ManualClock,
        item: BatchPut<'_>,
    ) -> Result<oncekey::store::Exchange, Planned> {
        if item.key.scope().next() == Some("locked") && item.expected != Expected::Vacant {
            clock.sleep_until(clock.now() + secs(1)).await;
            return Err(Planned { fault: Fault::Refused });
        }
        Ok(store.compare_exchange(item.key, item.expected, item.put).await.unwrap())
    }

    let clock = ManualClock::new();
    clock.advance(secs(1000));
    let inner = MemoryStore::builder().clock(clock.clone()).build();
    let (alone, together) = (clock.clone(), clock.clone());
    let store = Intercept::telling(inner, |error| panic!("{error}"))
        .on_exchange(move |store, key, expected, put| {
            let clock = alone.clone();
            Box::pin(async move { write(store, &clock, BatchPut::new(key, expected, put)).await })
        })
        .on_batch(move |store, batch| {
            let clock = together.clone();
            Box::pin(async move {
                let mut answers = Vec::new();
                for item in batch {
                    answers.push(write(store, &clock, *item).await);
                }
                answers
            })
        });
    let builder = Deduplicator::builder(store).clock(clock.clone()).lease(LEASE).margin(MARGIN);
    (clock, builder.build().unwrap())
}

type OverLocked = Intercept<MemoryStore, Planned>;

fn claim_of(dedup: &Deduplicator<OverLocked>, scope: &str, id: usize) -> Claim<OverLocked> {
    match ready(dedup.request(Key::new(scope, id.to_string()).unwrap()).claim()) {
        Ok(ClaimAnswer::Granted(claim)) => claim,
        _ => panic!("not granted"),
    }
}

/// Keeps the claims for 200 s; none of `others` may end.
fn keep(clock: &ManualClock, dedup: &Deduplicator<OverLocked>, others: &[Claim<OverLocked>]) {
    let mut tasks = Tasks::default();
    let _keeper = tasks.spawn(dedup.keeper());
    for second in 0..200 {
        tasks.pass(clock, secs(1));
        for other in others {
            assert!(!other.time_left().is_zero(), "lost after {second} s");
        }
    }
}

/// Past its deadline it stays due, since nobody has said that it is lost: it must not take the time of the others' calls.
#[test]
fn a_claim_whose_row_is_locked_past_its_deadline_costs_no_other_claim_its_lease() {
    let (clock, dedup) = with_locked_rows();
    let stuck = claim_of(&dedup, "locked", 0);
    let others: Vec<_> = (0..3).map(|id| claim_of(&dedup, "keeper", id)).collect();
    keep(&clock, &dedup, &others);
    assert!(stuck.time_left().is_zero());
}

/// However many there are: a round tries a bounded number of them.
#[test]
fn many_claims_past_their_deadlines_hold_up_no_round() {
    let (clock, dedup) = with_locked_rows();
    let stuck: Vec<_> = (0..20_000).map(|id| claim_of(&dedup, "locked", id)).collect();
    clock.advance(LEASE);
    let others: Vec<_> = (0..3).map(|id| claim_of(&dedup, "keeper", id)).collect();
    keep(&clock, &dedup, &others);
    assert!(stuck.iter().all(|claim| claim.time_left().is_zero()));
}

crate::support::also_at_once! {
    an_operation_that_blocks_its_thread_is_kept_alive_over_many_leases
    it_renews_a_claim_no_longer_than_the_engine_allows
    it_ends_with_the_last_handle_and_claim_of_its_engine
    two_keepers_and_the_run_itself_renew_once_each_interval
    a_renewal_that_fails_is_tried_again_at_its_next_tick
    a_renewal_whose_reply_was_lost_extends_the_deadline_only_when_an_answer_confirms_it
    a_completion_prepared_for_a_transaction_is_left_alone
    an_operation_that_blocks_just_when_its_renewal_is_due_is_kept_alive_too
    claims_of_any_token_are_held_and_renewed
    a_run_renews_on_time_once_the_keeper_is_gone
    it_is_in_time_for_what_falls_due_just_after_a_round
    a_claim_whose_lease_ended_unheard_is_renewed_by_the_next_round_but_one
    it_learns_of_another_ones_conclusion_and_tells_the_owner
    a_run_whose_keeper_is_stuck_renews_by_itself
}
