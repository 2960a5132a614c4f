//! Duplicates that wait for the call that runs.

mod failing_owner;
mod looks;

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::{BoxFuture, FutureExt as _, join_all};
use oncekey::time::Clock as _;
use oncekey::{Answer, Deduplicator, Earlier, Fingerprint};

use crate::support::*;

type Told = Result<Answer<String>, oncekey::RunError<String>>;

/// A call that waits, and whose own operation answers "waiter".
fn waiter(dedup: &Deduplicator<FaultyStore>, wait: Duration) -> BoxFuture<'static, Told> {
    let dedup = dedup.clone();
    async move { dedup.request(key()).wait(wait).run(async |_| Ok::<_, String>("waiter".to_owned())).await }
        .boxed()
}

/// A call whose operation ends when it is told how.
fn owner(
    dedup: &Deduplicator<FaultyStore>,
) -> (oneshot::Sender<Result<String, String>>, BoxFuture<'static, Told>) {
    let (end, ended) = oneshot::channel();
    let dedup = dedup.clone();
    let run = async move { dedup.request(key()).run(async |_| ended.await.unwrap()).await };
    (end, run.boxed())
}

fn assert_nothing_leaked(bench: &Bench, dedup: &Deduplicator<FaultyStore>) {
    assert_eq!((dedup.held(), dedup.waiting()), (0, 0));
    assert_eq!(bench.clock.sleepers(), 0);
}

#[test]
fn a_waiter_of_the_same_process_hears_of_the_outcome_without_the_clock_moving_and_not_before_it_was_stored() {
    let bench = bench();
    let mut tasks = Tasks::default();
    let (end, run) = owner(&bench.dedup);
    let run = tasks.spawn(run);
    tasks.settle();
    let waits = tasks.spawn(waiter(&bench.dedup, secs(20)));
    tasks.pass(&bench.clock, Duration::from_millis(5));
    assert_eq!(bench.dedup.waiting(), 1);
    let now = bench.clock.now();
    bench.store.yields.store(true, Ordering::SeqCst);
    end.send(Ok("done".to_owned())).unwrap();
    // One poll after the other: as long as nothing is on record, nothing is told.
    while !waits.is_done() {
        let stored = on_record(&bench).record.outcome().is_some();
        assert!(tasks.step(), "the waiter was not woken");
        assert!(stored || !waits.is_done(), "told before it was stored");
    }
    tasks.settle();
    assert_eq!(bench.clock.now(), now);
    assert!(matches!(waits.take(), Ok(Answer::Earlier(Earlier::Replayed { value, .. })) if value == "done"));
    assert!(matches!(run.take(), Ok(Answer::Executed { .. })));
    drop(tasks);
    assert_nothing_leaked(&bench, &bench.dedup);
}

#[test]
fn a_waiter_of_another_process_looks_less_and_less_often() {
    let bench = bench();
    let other_store = bench.store.twin();
    let other = engine_with(&bench.clock, &other_store, |builder| {
        builder.poll_every(Duration::from_millis(10), Duration::from_secs(1))
    });
    let mut tasks = Tasks::default();
    let (end, run) = owner(&bench.dedup);
    let _run = tasks.spawn(run);
    tasks.settle();
    let waits = tasks.spawn(waiter(&other, secs(600)));
    tasks.settle();
    // At once, then after 10, 20, 40 .. 640 ms, then each second: at 0, 0.01, 0.03 .. 1.27 s, 2.27 s ..
    assert_eq!(other_store.trips(), (1, 1));
    tasks.pass(&bench.clock, Duration::from_millis(1269));
    assert_eq!(other_store.trips(), (1, 7));
    tasks.pass(&bench.clock, Duration::from_millis(1));
    assert_eq!(other_store.trips(), (1, 8));
    tasks.pass(&bench.clock, secs(20));
    assert_eq!(other_store.trips(), (1, 28));
    end.send(Ok("done".to_owned())).unwrap();
    tasks.settle();
    assert!(!waits.is_done());
    tasks.pass(&bench.clock, secs(1));
    assert!(matches!(waits.take(), Ok(Answer::Earlier(Earlier::Replayed { value, .. })) if value == "done"));
    assert_eq!(other_store.trips(), (1, 29));
    drop(tasks);
    assert_nothing_leaked(&bench, &other);
}

#[test]
fn a_waiter_of_another_process_looks_at_once_when_it_hears_of_a_change_and_never_otherwise() {
    let bench = bench();
    let other = bench.other_process();
    let mut tasks = Tasks::default();
    let (end, run) = owner(&bench.dedup);
    let run = tasks.spawn(run);
    tasks.settle();
    let waits = tasks.spawn(waiter(&other, secs(20)));
    tasks.pass(&bench.clock, secs(5));
    let looks = bench.store.loads.load(Ordering::SeqCst);
    // A false alarm costs one look; word of another key costs none.
    other.changed(&key());
    other.changed(&oncekey::Key::new("another", "key").unwrap());
    tasks.settle();
    assert_eq!(bench.store.loads.load(Ordering::SeqCst), looks + 1);
    assert!(!waits.is_done());
    let now = bench.clock.now();
    end.send(Ok("done".to_owned())).unwrap();
    tasks.settle();
    assert!(run.is_done() && !waits.is_done(), "another process hears of nothing by itself");
    other.changed(&key());
    tasks.settle();
    assert_eq!(waits.take().unwrap().value().map(String::as_str), Some("done"));
    assert_eq!(bench.clock.now(), now);
    assert_nothing_leaked(&bench, &other);
}

#[test]
fn a_waiter_at_its_bound_is_told_that_it_is_in_progress_and_the_owner_goes_on() {
    for fault in [Fault::None, Fault::Refused, Fault::HangBefore] {
        for wait in [Duration::from_nanos(1), Duration::from_millis(1500), secs(12)] {
            let bench = bench();
            let other_store = bench.store.twin();
            let other = engine_with(&bench.clock, &other_store, |builder| builder);
            let mut tasks = Tasks::default();
            let (end, run) = owner(&bench.dedup);
            let run = tasks.spawn(run);
            tasks.settle();
            let record = on_record(&bench);
            let begun = bench.clock.now();
            other_store.plan([Fault::None]);
            other_store.always(fault);
            let ended = Cell::new(None);
            let waits = waiter(&other, wait);
            let waits = tasks.spawn(async {
                let told = waits.await;
                ended.set(Some(bench.clock.now()));
                told
            });
            tasks.pass(&bench.clock, secs(15));
            assert_eq!(ended.get(), Some(begun + wait), "{fault:?}");
            let told = waits.take().unwrap();
            let Answer::Earlier(Earlier::InProgress { left, attempt: 1, .. }) = told else {
                panic!("{told:?}")
            };
            assert!(left <= LEASE && left >= LEASE - wait, "{fault:?}, {wait:?}: {left:?}");
            let after = on_record(&bench).record;
            assert_eq!(after.owner(), record.record.owner());
            end.send(Ok("done".to_owned())).unwrap();
            tasks.settle();
            assert!(matches!(run.take(), Ok(Answer::Executed { .. })));
            drop(tasks);
            assert_nothing_leaked(&bench, &other);
        }
    }
}

#[test]
fn a_waiter_may_wait_for_ever() {
    let bench = bench();
    let other = bench.other_process();
    let mut tasks = Tasks::default();
    let (end, run) = owner(&bench.dedup);
    let _run = tasks.spawn(run);
    tasks.settle();
    let here = tasks.spawn(waiter(&bench.dedup, Duration::MAX));
    let there = tasks.spawn(waiter(&other, Duration::MAX - secs(1)));
    tasks.pass(&bench.clock, secs(3000));
    assert!(!here.is_done() && !there.is_done());
    end.send(Ok("done".to_owned())).unwrap();
    tasks.pass(&bench.clock, secs(1));
    for waits in [here, there] {
        assert!(
            matches!(waits.take(), Ok(Answer::Earlier(Earlier::Replayed { value, .. })) if value == "done")
        );
    }
}

#[test]
fn a_waiter_that_is_cancelled_leaks_nothing_wherever_it_was() {
    for yields in [false, true] {
        for steps in 0..12 {
            let bench = bench();
            let other = bench.other_process();
            let mut owner = claim(&bench.dedup);
            bench.store.yields.store(yields, Ordering::SeqCst);
            for dedup in [&bench.dedup, &other] {
                let mut tasks = Tasks::default();
                let waits = tasks.spawn(waiter(dedup, secs(20)));
                for _ in 0..steps {
                    if !tasks.step() {
                        tasks.pass(&bench.clock, Duration::from_millis(10));
                    }
                }
                tasks.cancel(&waits);
                bench.run(dedup.flush()); // a claim that was under way is given up
                assert_eq!((dedup.waiting(), bench.clock.sleepers()), (0, 0), "after {steps} steps");
            }
            bench.store.yields.store(false, Ordering::SeqCst);
            ready(owner.complete("done")).unwrap();
            drop(owner);
            assert_nothing_leaked(&bench, &bench.dedup);
        }
    }
}

#[test]
fn ten_thousand_waiters_on_one_key_of_one_process_have_one_poller() {
    const WAITERS: usize = 10_000;
    let bench = bench();
    let dedup = engine_with(&bench.clock, &bench.store.twin(), |builder| builder);
    let mut owner = claim(&bench.dedup);
    let mut tasks = Tasks::default();
    let all = tasks.spawn(join_all((0..WAITERS).map(|_| waiter(&dedup, secs(60)))));
    tasks.settle();
    assert_eq!(dedup.waiting(), WAITERS);
    assert_eq!(dedup.store().trips(), (10_000, 1), "each claims once, and one looks");
    tasks.pass(&bench.clock, secs(10));
    let (claims, loads) = dedup.store().trips();
    // 8 looks in the first 1.27 s, then one each second.
    assert_eq!((claims, loads), (10_000, 8 + 8));
    ready(owner.complete("done")).unwrap();
    tasks.pass(&bench.clock, secs(1));
    let answers = all.take();
    assert_eq!(answers.len(), WAITERS);
    for answer in answers {
        assert!(
            matches!(&answer, Ok(Answer::Earlier(Earlier::Replayed { value, .. })) if value == "done"),
            "{answer:?}"
        );
    }
    let (claims, after) = dedup.store().trips();
    assert_eq!(claims, 10_000, "nobody claimed again");
    assert_eq!(after, loads + 1, "one look told all of them");
    drop(tasks);
    assert_nothing_leaked(&bench, &dedup);
}

#[test]
fn a_driver_that_leaves_is_followed_by_another() {
    let bench = bench();
    let other = engine_with(&bench.clock, &bench.store.twin(), |builder| builder);
    let mut owner = claim(&bench.dedup);
    let mut tasks = Tasks::default();
    // The first to wait drives: one is dropped, the next comes to its bound, and the third goes on.
    let dropped = tasks.spawn(waiter(&other, secs(20)));
    tasks.settle();
    let bounded = tasks.spawn(waiter(&other, secs(5)));
    let patient = tasks.spawn(waiter(&other, secs(20)));
    tasks.pass(&bench.clock, secs(3));
    tasks.cancel(&dropped);
    let before = other.store().trips().1;
    tasks.pass(&bench.clock, secs(1));
    assert!(other.store().trips().1 > before, "the second drives");
    tasks.pass(&bench.clock, secs(1));
    assert!(matches!(bounded.take(), Ok(Answer::Earlier(Earlier::InProgress { .. }))));
    ready(owner.complete("done")).unwrap();
    tasks.pass(&bench.clock, secs(1));
    assert!(
        matches!(patient.take(), Ok(Answer::Earlier(Earlier::Replayed { value, .. })) if value == "done")
    );
    drop((tasks, owner));
    assert_nothing_leaked(&bench, &other);
}

#[test]
fn a_driver_dropped_in_the_middle_of_a_look_is_followed_at_once() {
    let bench = bench();
    let other = engine_with(&bench.clock, &bench.store.twin(), |builder| builder);
    let mut owner = claim(&bench.dedup);
    let mut tasks = Tasks::default();
    let driver = tasks.spawn(waiter(&other, secs(20)));
    tasks.settle();
    let heir = tasks.spawn(waiter(&other, secs(20)));
    tasks.settle();
    other.store().plan([Fault::HangBefore]);
    tasks.pass(&bench.clock, Duration::from_millis(10)); // the driver's next look hangs
    ready(owner.complete("done")).unwrap();
    tasks.cancel(&driver);
    let now = bench.clock.now();
    tasks.settle();
    assert!(matches!(heir.take(), Ok(Answer::Earlier(Earlier::Replayed { value, .. })) if value == "done"));
    assert_eq!(bench.clock.now(), now);
}

#[test]
fn a_store_that_fails_now_and_then_does_not_end_a_wait() {
    use Fault::{HangAfter, HangBefore, None, Refused, ReplyLost, RequestLost};
    let bench = bench();
    let other = engine_with(&bench.clock, &bench.store.twin(), |builder| builder);
    let mut owner = claim(&bench.dedup);
    let mut tasks = Tasks::default();
    // The claim itself fails, too.
    other.store().plan([
        RequestLost,
        None,
        Refused,
        None,
        HangBefore,
        ReplyLost,
        None,
        RequestLost,
        HangAfter,
    ]);
    let waits = tasks.spawn(waiter(&other, secs(25)));
    tasks.pass(&bench.clock, secs(10));
    assert!(!waits.is_done());
    other.store().plan([Refused, RequestLost]);
    ready(owner.complete("done")).unwrap();
    tasks.pass(&bench.clock, secs(5));
    let told = waits.take();
    assert!(
        matches!(&told, Ok(Answer::Earlier(Earlier::Replayed { value, .. })) if value == "done"),
        "{told:?}"
    );
}

#[test]
fn a_completion_that_comes_between_the_first_look_and_the_seat_is_not_missed() {
    // The claim's answer is under way when the owner completes: of the waiter's polls, each is the one before it.
    for steps in 0..8 {
        let bench = bench();
        let mut owner = claim(&bench.dedup);
        let mut tasks = Tasks::default();
        bench.store.yields.store(true, Ordering::SeqCst);
        let waits = tasks.spawn(waiter(&bench.dedup, secs(20)));
        (0..steps).for_each(|_| assert!(tasks.step() || steps > 4));
        bench.store.yields.store(false, Ordering::SeqCst);
        ready(owner.complete("done")).unwrap();
        let now = bench.clock.now();
        tasks.settle();
        let told = waits.take();
        assert!(
            matches!(&told, Ok(Answer::Earlier(Earlier::Replayed { value, .. })) if value == "done"),
            "{steps}: {told:?}"
        );
        assert_eq!(bench.clock.now(), now, "{steps}");
    }
}

#[test]
fn each_waiter_checks_its_own_fingerprint_when_the_generation_changes() {
    let (a, b) = (Fingerprint::sha256(b"a"), Fingerprint::sha256(b"b"));
    for of_this_process in [true, false] {
        let bench = bench();
        let other = if of_this_process { bench.dedup.clone() } else { bench.other_process() };
        let mut first = match ready(bench.dedup.request(key()).fingerprint(a).claim()) {
            Ok(oncekey::ClaimAnswer::Granted(claim)) => claim,
            answer => panic!("{answer:?}"),
        };
        let mut tasks = Tasks::default();
        // Two that wait for `a`: one drives, the other hears.
        let waits: Vec<_> = (0..2)
            .map(|_| {
                let request = other.request(key()).fingerprint(a).wait(secs(20));
                tasks.spawn(request.run(async |_| Ok::<_, String>("waiter".to_owned())))
            })
            .collect();
        tasks.settle();
        assert_eq!(other.waiting(), 2);
        // The first gives up cleanly, and another request has the key before anybody looks.
        ready(first.release()).unwrap();
        let request = bench.dedup.request(key()).fingerprint(b);
        let second = ready(request.claim()).unwrap();
        assert!(matches!(second, oncekey::ClaimAnswer::Granted(_)), "{second:?}");
        tasks.pass(&bench.clock, secs(2));
        for waits in waits {
            assert!(
                waits.is_done(),
                "of this process: {of_this_process}: it waits for another request's outcome"
            );
            let told = waits.take();
            assert!(matches!(told, Ok(Answer::Earlier(Earlier::Mismatch))), "{told:?}");
        }
    }
}

/// One look tells all who wait, of a new generation too; and a look that finds nothing new wakes nobody else.
#[test]
fn a_new_generation_is_told_to_all_who_wait_by_the_one_look_that_found_it() {
    let (a, b) = (Fingerprint::sha256(b"a"), Fingerprint::sha256(b"b"));
    let bench = bench();
    let other_store = bench.store.twin();
    let other = engine_with(&bench.clock, &other_store, |builder| builder.poll_every(secs(1), secs(1)));
    let Ok(oncekey::ClaimAnswer::Granted(mut first)) =
        ready(bench.dedup.request(key()).fingerprint(a).claim())
    else {
        panic!("not granted")
    };
    let polls = Cell::new(0);
    let polls = &polls;
    let mut tasks = Tasks::default();
    let waits: Vec<_> = (0..10)
        .map(|_| {
            let mut claim = Box::pin(other.request(key()).fingerprint(a).wait(secs(20)).claim());
            tasks.spawn(std::future::poll_fn(move |cx| {
                polls.set(polls.get() + 1);
                claim.as_mut().poll(cx)
            }))
        })
        .collect();
    tasks.settle();
    let (looks, polled) = (other_store.trips().1, polls.get());
    tasks.pass(&bench.clock, secs(3));
    assert_eq!(other_store.trips().1, looks + 3, "one looks for all");
    assert_eq!(polls.get(), polled + 3, "and only that one is woken");
    ready(first.release()).unwrap();
    let second = ready(bench.dedup.request(key()).fingerprint(b).claim()).unwrap();
    assert!(matches!(second, oncekey::ClaimAnswer::Granted(_)), "{second:?}");
    let looks = other_store.trips().1;
    tasks.pass(&bench.clock, secs(1));
    assert_eq!(other_store.trips().1, looks + 1, "each looked for itself");
    for waits in waits {
        assert!(matches!(waits.take(), Ok(oncekey::ClaimAnswer::Answered(Earlier::Mismatch))));
    }
}

crate::support::also_at_once! {
    a_waiter_of_another_process_looks_less_and_less_often
    a_waiter_of_another_process_looks_at_once_when_it_hears_of_a_change_and_never_otherwise
    a_waiter_at_its_bound_is_told_that_it_is_in_progress_and_the_owner_goes_on
    a_waiter_may_wait_for_ever
    a_waiter_that_is_cancelled_leaks_nothing_wherever_it_was
    ten_thousand_waiters_on_one_key_of_one_process_have_one_poller
    a_driver_that_leaves_is_followed_by_another
    a_driver_dropped_in_the_middle_of_a_look_is_followed_at_once
    each_waiter_checks_its_own_fingerprint_when_the_generation_changes
    a_new_generation_is_told_to_all_who_wait_by_the_one_look_that_found_it
}
