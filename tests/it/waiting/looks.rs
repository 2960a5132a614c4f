//! The one that looks for all who wait: what it hears while a look hangs, and that it lets others
//! on its thread run.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll, Waker};

use oncekey::admin::{AdminAnswer, Resolution};
use oncekey::protocol::UnixMillis;
use oncekey::time::{Clock, Moment};
use oncekey::{ClaimAnswer, Earlier, Outcome};

use super::*;

/// A store's timeout of five minutes: far longer than anybody waits.
fn patient_bench() -> Bench {
    bench_with(|builder| builder.store_timeout(secs(300)).call_timeout(secs(300)))
}

fn fingerprint() -> Fingerprint {
    Fingerprint::sha256(b"request")
}

fn granted(dedup: &Deduplicator<FaultyStore>, fingerprint: Fingerprint) -> oncekey::Claim<FaultyStore> {
    match ready(dedup.request(key()).fingerprint(fingerprint).claim()) {
        Ok(ClaimAnswer::Granted(claim)) => claim,
        other => panic!("not granted: {other:?}"),
    }
}

/// Three that wait for a minute in the owner's process. The first one looks for all, and its look
/// hangs.
fn three_of_whom_one_looks_in_vain<'a>(bench: &'a Bench, tasks: &mut Tasks<'a>) -> Vec<Slot<Told>> {
    bench.store.plan([Fault::None, Fault::HangBefore]);
    let waits = (0..3).map(|_| {
        let request = bench.dedup.request(key()).fingerprint(fingerprint()).wait(secs(60));
        tasks.spawn(request.run(async |_| Ok::<_, String>("waiter".to_owned())))
    });
    let waits = waits.collect();
    tasks.settle();
    assert_eq!((bench.dedup.waiting(), bench.store.trips()), (3, (4, 1)), "one looks");
    waits
}

#[test]
fn the_one_that_looks_hears_of_the_outcome_while_its_look_hangs() {
    let bench = patient_bench();
    let mut owner = granted(&bench.dedup, fingerprint());
    let mut tasks = Tasks::default();
    let waits = three_of_whom_one_looks_in_vain(&bench, &mut tasks);
    let now = bench.clock.now();
    ready(owner.complete("done")).unwrap();
    tasks.settle();
    for (number, waits) in waits.into_iter().enumerate() {
        assert!(waits.is_done(), "waiter {number} hears nothing");
        let told = waits.take();
        assert!(
            matches!(&told, Ok(Answer::Earlier(Earlier::Replayed { value, .. })) if value == "done"),
            "{told:?}"
        );
    }
    assert_eq!((bench.clock.now(), bench.store.trips().1), (now, 1), "no time passed, and nobody looked");
    drop((tasks, owner));
    assert_nothing_leaked(&bench, &bench.dedup);
}

/// An operator's resolution is heard too; and what somebody else's request left is no outcome of
/// this one's.
#[test]
fn the_one_that_looks_judges_what_it_hears_by_its_own_request() {
    for own_request in [true, false] {
        let bench = patient_bench();
        let mut first = granted(&bench.dedup, fingerprint());
        let mut tasks = Tasks::default();
        let waits = three_of_whom_one_looks_in_vain(&bench, &mut tasks);
        // Word of the release waits for the look that hangs, and somebody else comes first.
        ready(first.release()).unwrap();
        let other = if own_request { fingerprint() } else { Fingerprint::sha256(b"another") };
        let mut second = granted(&bench.dedup, other);
        ready(second.complete("by the second")).unwrap();
        tasks.settle();
        for waits in waits {
            match waits.take() {
                Ok(Answer::Earlier(Earlier::Replayed { value, .. })) => {
                    assert!(own_request && value == "by the second");
                }
                told => assert!(
                    !own_request && matches!(told, Ok(Answer::Earlier(Earlier::Mismatch))),
                    "{told:?}"
                ),
            }
        }
    }
}

/// A completion that no wake-up tells of is found by the look after, once the store gave the one
/// that hangs up.
#[test]
fn a_look_that_hangs_ends_with_the_stores_timeout() {
    let bench = bench();
    let other = engine_with(&bench.clock, &bench.store.twin(), |builder| builder.store_timeout(secs(5)));
    let mut owner = claim(&bench.dedup);
    let mut tasks = Tasks::default();
    other.store().plan([Fault::None, Fault::HangBefore]);
    let waits = tasks.spawn(waiter(&other, secs(60)));
    tasks.settle();
    ready(owner.complete("done")).unwrap();
    tasks.pass(&bench.clock, millis(4_900));
    assert!(!waits.is_done(), "another process tells nobody");
    tasks.pass(&bench.clock, millis(200));
    assert!(matches!(waits.take(), Ok(Answer::Earlier(Earlier::Replayed { value, .. })) if value == "done"));
}

/// A claim in flight is another matter: dropped, it would have to be given up, so its answer is
/// awaited.
#[test]
fn a_claim_in_flight_is_not_dropped_for_news() {
    let bench = patient_bench();
    let mut owner = claim(&bench.dedup);
    let mut tasks = Tasks::default();
    let waits = tasks.spawn(waiter(&bench.dedup, secs(60)));
    tasks.settle();
    // The look finds nobody, and the claim that follows is applied; its answer is late.
    bench.store.plan([Fault::None, Fault::None, Fault::HangAfter]);
    ready(owner.release()).unwrap();
    tasks.settle();
    assert_eq!(on_record(&bench).record.attempt(), 2, "the waiter has the claim, and does not know it");
    tasks.pass(&bench.clock, LEASE);
    let resolution = Resolution::Completed(Outcome::success("as the bank says"));
    assert_eq!(ready(bench.dedup.resolve(&key(), &resolution)).unwrap(), AdminAnswer::Done);
    let trips = bench.store.trips();
    tasks.settle();
    assert_eq!((waits.is_done(), bench.store.trips()), (false, trips), "it is given up");
    tasks.pass(&bench.clock, LEASE);
    assert!(matches!(waits.take(), Ok(Answer::Earlier(Earlier::InProgress { .. }))), "its own bound ends it");
}

/// How a clock keeps its readers busy.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Each reading is an hour after the one before.
    Leaps,
    /// It stands still, and its sleeps end all the same.
    WakesTooEarly,
}

/// A clock by which nobody ever has to wait. Clones are one clock.
#[derive(Clone, Debug)]
struct Restless {
    way: Way,
    hours: Arc<AtomicU64>,
    /// How often it was read since the poll began.
    readings: Arc<AtomicU64>,
}

impl Clock for Restless {
    fn now(&self) -> Moment {
        let readings = self.readings.fetch_add(1, Ordering::SeqCst);
        assert!(readings < 1_000, "{:?}: one poll does not end, and holds its thread", self.way);
        let hour = match self.way {
            Way::Leaps => self.hours.fetch_add(1, Ordering::SeqCst),
            Way::WakesTooEarly => 1,
        };
        Moment::ORIGIN + secs(3600 * hour)
    }

    fn sleep_until(&self, _: Moment) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }

    fn unix(&self, _: Moment) -> UnixMillis {
        UnixMillis(0)
    }
}

/// A waiter on a runtime of one thread must let the owner run there, however its clock and its
/// store answer.
#[test]
fn a_waiter_over_a_store_that_answers_at_once_looks_once_a_poll_whatever_its_clock_says() {
    for way in [Way::Leaps, Way::WakesTooEarly] {
        let bench = bench();
        let store = bench.store.twin();
        let clock = Restless { way, hours: Arc::default(), readings: Arc::default() };
        let other = Deduplicator::builder(store.clone()).clock(clock.clone()).lease(LEASE);
        let other = other.poll_every(millis(1), millis(1)).build().unwrap();
        let mut owner = claim(&bench.dedup);
        let mut waits = waiter(&other, Duration::MAX);
        let woken = Arc::new(Flag::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut poll = || {
            let looks = store.trips().1;
            clock.readings.store(0, Ordering::SeqCst);
            let polled = waits.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(store.trips().1 <= looks + 1, "{way:?}: it looks more than once a poll");
            polled
        };
        for number in 0..20 {
            assert!(poll().is_pending(), "{way:?}");
            let asked = woken.0.swap(false, Ordering::SeqCst);
            assert!(asked, "{way:?}: poll {number} leaves it asleep, and its clock wakes nobody");
        }
        let looks = store.trips().1;
        match way {
            Way::Leaps => assert!(looks >= 20, "{looks} looks"),
            Way::WakesTooEarly => assert_eq!(looks, 1, "the next one is not due"),
        }
        ready(owner.complete("done")).unwrap();
        other.changed(&key());
        let told = (0..3).find_map(|_| match poll() {
            Poll::Ready(told) => Some(told),
            Poll::Pending => None,
        });
        assert!(
            matches!(&told, Some(Ok(Answer::Earlier(Earlier::Replayed { value, .. }))) if value == "done"),
            "{told:?}"
        );
    }
}

/// The same over the memory store and the system's clock, on a runtime of one thread.
#[cfg(feature = "tokio")]
#[test]
fn a_waiter_with_the_shortest_intervals_leaves_its_thread_to_others() {
    let dedup = Deduplicator::builder(oncekey::MemoryStore::new())
        .lease(secs(600))
        .renew_every(millis(1))
        .poll_every(millis(1), millis(1))
        .build()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let (end, ended) = oneshot::channel::<()>();
        let owner = dedup.request(key()).run(async |_| {
            ended.await.unwrap();
            Ok::<_, String>("done".to_owned())
        });
        // The owner is polled first, so this one waits.
        let waits = dedup.request(key()).wait(Duration::MAX);
        let waits = waits.run(async |_| Ok::<_, String>("waiter".to_owned()));
        let others = async {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            end.send(()).unwrap();
        };
        let (executed, replayed, ()) = tokio::join!(owner, waits, others);
        assert!(matches!(executed, Ok(Answer::Executed { .. })));
        assert!(matches!(replayed, Ok(Answer::Earlier(Earlier::Replayed { value, .. })) if value == "done"));
    });
}

crate::support::also_at_once! {
    the_one_that_looks_hears_of_the_outcome_while_its_look_hangs
    the_one_that_looks_judges_what_it_hears_by_its_own_request
    a_look_that_hangs_ends_with_the_stores_timeout
    a_waiter_over_a_store_that_answers_at_once_looks_once_a_poll_whatever_its_clock_says
}
