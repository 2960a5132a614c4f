//! Stores that are right but for calls that meet, and are refused for it.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::executor::block_on;
use futures::future::poll_fn;
use parking_lot::Mutex;

use crate::history::Kind;
use crate::{Clause, Harness, Subject, Time, Violation, check, over};
use oncekey::memory::{MemoryError, MemoryStore};
use oncekey::protocol::{Entry, Expected, Key, Version};
use oncekey::store::{BatchPut, CachedStore, Exchange, Purged, Put, Store};
use oncekey::time::ManualClock;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wrong {
    Not,
    /// What a put expects is checked, and then it is written, whatever is there by then.
    Split,
    /// A load answers what was there before the last write.
    StaleLoads,
    /// A conflict carries what was there before the last write.
    StaleConflicts,
    /// A conflict carries a record that another put wrote, under the version that is current.
    MixedUp,
    /// A put that conflicts writes all the same, now and then.
    WritesOnConflict,
    /// A write is there only when it is read a second time.
    Late,
}

/// Where two calls meet: between the two steps of a call that ought to be one.
#[derive(Default)]
struct Gap {
    entered: AtomicU64,
    waiting: AtomicBool,
}

impl Gap {
    /// No call has to meet another. One that is alone goes on after this time; the next one may not be.
    const ALONE: Duration = Duration::from_millis(20);

    /// Waits for another call to get here too, if none is waiting here already.
    fn meet(&self) {
        let entered = self.entered.fetch_add(1, Ordering::SeqCst) + 1;
        if self.waiting.swap(true, Ordering::SeqCst) {
            return;
        }
        let begun = Instant::now();
        while self.entered.load(Ordering::SeqCst) == entered && begun.elapsed() < Self::ALONE {
            std::thread::yield_now();
        }
        self.waiting.store(false, Ordering::SeqCst);
    }
}

struct Bent {
    gap: Gap,
    store: MemoryStore,
    wrong: Wrong,
    /// Whether each step waits for another poll.
    yields: bool,
    before: Mutex<HashMap<Key, Option<Entry>>>,
    calls: Mutex<u64>,
}

impl Bent {
    async fn turn(&self) {
        let mut passed = !self.yields;
        poll_fn(|cx| {
            if std::mem::replace(&mut passed, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    fn nth(&self) -> u64 {
        let mut calls = self.calls.lock();
        *calls += 1;
        *calls
    }

    async fn write(&self, key: &Key, put: Put<'_>) -> Result<Version, MemoryError> {
        loop {
            let found = self.store.load(key).await?;
            let expected = found.map_or(Expected::Vacant, |entry| Expected::At(entry.version));
            if let Exchange::Done(version) = self.store.compare_exchange(key, expected, put).await? {
                return Ok(version);
            }
        }
    }
}

#[async_trait]
impl Store for Bent {
    type Error = MemoryError;

    async fn load(&self, key: &Key) -> Result<Option<Entry>, MemoryError> {
        self.turn().await;
        let found = self.store.load(key).await?;
        self.turn().await;
        let mut before = self.before.lock();
        match self.wrong {
            Wrong::StaleLoads if before.contains_key(key) => Ok(before[key].clone()),
            Wrong::Late => Ok(before.remove(key).unwrap_or(found)),
            _ => Ok(found),
        }
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Expected,
        put: Put<'_>,
    ) -> Result<Exchange, MemoryError> {
        self.turn().await;
        let found = self.store.load(key).await?;
        let answer = if self.wrong == Wrong::Split {
            let holds = match expected {
                Expected::Vacant => found.is_none(),
                Expected::At(version) => found.as_ref().is_some_and(|entry| entry.version == version),
            };
            if !holds {
                return Ok(Exchange::Conflict(found));
            }
            if !self.yields {
                // One thread a client: without this, the gap is a few instructions, and calls may never meet in it.
                self.gap.meet();
            }
            self.turn().await;
            Exchange::Done(self.write(key, put).await?)
        } else {
            self.store.compare_exchange(key, expected, put).await?
        };
        self.turn().await;
        let nth = self.nth();
        let mut before = self.before.lock();
        Ok(match (answer, self.wrong) {
            (Exchange::Done(version), _) => {
                before.insert(key.clone(), found);
                Exchange::Done(version)
            }
            (Exchange::Conflict(now), Wrong::StaleConflicts) => {
                let stale = before.get(key).cloned().flatten();
                let stale = stale.filter(|entry| Expected::At(entry.version) != expected);
                Exchange::Conflict(stale.or(now))
            }
            (Exchange::Conflict(Some(now)), Wrong::MixedUp) => {
                let record =
                    before.get(key).cloned().flatten().map_or(now.record.clone(), |entry| entry.record);
                Exchange::Conflict(Some(Entry { record, ..now }))
            }
            (Exchange::Conflict(now), Wrong::WritesOnConflict) if nth % 5 == 0 => {
                drop(before);
                self.write(key, put).await?;
                Exchange::Conflict(now)
            }
            (answer, _) => answer,
        })
    }

    async fn compare_exchange_many(&self, batch: &[BatchPut<'_>]) -> Vec<Result<Exchange, MemoryError>> {
        let mut answers = Vec::new();
        for item in batch {
            answers.push(self.compare_exchange(item.key, item.expected, item.put).await);
        }
        answers
    }

    async fn purge(&self, limit: usize) -> Result<Purged, MemoryError> {
        self.store.purge(limit).await
    }
}

#[derive(Clone, Copy)]
struct Kit {
    wrong: Wrong,
    yields: bool,
}

impl Harness for Kit {
    type Store = Bent;
    type Guard = ();

    fn fresh(&self) -> Subject<Bent> {
        let clock = ManualClock::new();
        let store = MemoryStore::builder().clock(clock.clone()).build();
        let Self { wrong, yields } = *self;
        let bent = Bent {
            gap: Gap::default(),
            store,
            wrong,
            yields,
            before: Mutex::default(),
            calls: Mutex::default(),
        };
        Subject::new(bent, Time::manual(clock))
    }
}

const THREADS: &str = "s1_concurrent_histories_are_linearizable";
const LOST: &str = "s1_concurrent_histories_with_lost_calls_are_linearizable";
const ONE_THREAD: &str = "s1_calls_in_flight_on_one_thread_are_linearizable";

fn refused(case: &str, wrong: Wrong, yields: bool) -> Violation {
    check(&Kit { wrong, yields }, case).expect_err(&format!("{wrong:?}, by {case}"))
}

#[test]
fn right_stores_hold() {
    for case in [THREADS, LOST, ONE_THREAD] {
        for yields in [false, true] {
            let held =
                check(&Kit { wrong: Wrong::Not, yields }, case).unwrap_or_else(|found| panic!("{found}"));
            assert_eq!((held.histories, held.not_shown), (256, None), "{case}");
        }
    }
}

#[test]
fn a_check_and_write_in_two_steps_is_refused() {
    assert_eq!(refused(THREADS, Wrong::Split, false).clause, Clause::S1);
    // Where one of two winners was not heard, a conflict may be all that has seen it.
    assert!(matches!(refused(LOST, Wrong::Split, false).clause, Clause::S1 | Clause::S5));
    assert_eq!(refused(ONE_THREAD, Wrong::Split, true).clause, Clause::S1);
}

#[test]
fn stale_loads_are_refused() {
    assert_eq!(refused(THREADS, Wrong::StaleLoads, false).clause, Clause::S1);
    assert_eq!(refused(LOST, Wrong::StaleLoads, false).clause, Clause::S1);
    assert_eq!(refused(ONE_THREAD, Wrong::StaleLoads, false).clause, Clause::S1);
    assert_eq!(refused(THREADS, Wrong::Late, false).clause, Clause::S1);
}

#[test]
fn what_a_conflict_must_not_do_is_refused() {
    assert_eq!(refused(THREADS, Wrong::StaleConflicts, false).clause, Clause::S5);
    assert_eq!(refused(THREADS, Wrong::WritesOnConflict, false).clause, Clause::S5);
    assert_eq!(refused(ONE_THREAD, Wrong::MixedUp, false).clause, Clause::S2);
}

#[test]
fn what_one_thread_shows_is_the_same_in_every_run_and_short() {
    let first = refused(ONE_THREAD, Wrong::Split, true);
    let again = refused(ONE_THREAD, Wrong::Split, true);
    let calls = |violation: &Violation| violation.what.lines().filter(|line| line.contains("client")).count();
    assert_eq!((calls(&first), first.what.lines().count()), (calls(&again), again.what.lines().count()));
    assert!(calls(&first) <= 3, "two puts that both find the key vacant do: {first}");
}

/// A cache over a store whose answers come late: what it remembers must not outlive a forget that it passed on.
#[test]
fn a_cache_over_a_slow_store_holds() {
    for entries_max in [2, 100] {
        let slow = Kit { wrong: Wrong::Not, yields: true };
        let cached = over(slow, |store, time| {
            CachedStore::new(store, entries_max, Duration::from_secs(10)).with_clock(time.clone())
        });
        for case in [THREADS, LOST, ONE_THREAD] {
            let held = check(&cached, case).unwrap_or_else(|violation| panic!("{entries_max}: {violation}"));
            assert_eq!(held.not_shown, None);
        }
    }
}

fn polled<F: Future + ?Sized>(mut call: Pin<&mut F>, times: usize) -> Option<F::Output> {
    for _ in 0..times {
        if let Poll::Ready(answer) = call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return Some(answer);
        }
    }
    None
}

/// A load was answered before a forget was applied, and is heard after somebody saw the forget: what the load found must
/// not be remembered, though the forget has no answer yet, or was dropped.
#[test]
fn a_cache_does_not_remember_what_a_forget_overtook() {
    for dropped in [false, true] {
        let Subject { store, time, .. } = Kit { wrong: Wrong::Not, yields: true }.fresh();
        let cached = CachedStore::new(store, 100, Duration::from_secs(10)).with_clock(time);
        let key = Key::new("s", "k").unwrap();
        let lives = (Duration::MAX, Duration::MAX);
        let record = Kind::Completed.record(1);
        let put = Put::new(&record, lives.0, lives.1);
        let behind = &cached.inner().store;
        let written = block_on(behind.compare_exchange(&key, Expected::Vacant, put));
        let Ok(Exchange::Done(version)) = written else { panic!("{written:?}") };
        let forgotten = Kind::Forgotten.record(2);
        let put = Put::new(&forgotten, Duration::ZERO, lives.1);

        // Two polls: it was applied behind, and its answer is on the way.
        let mut load = cached.load(&key);
        assert!(polled(load.as_mut(), 2).is_none());
        let mut forget = cached.compare_exchange(&key, Expected::At(version), put);
        assert!(polled(forget.as_mut(), 2).is_none());
        let forget = (!dropped).then_some(forget);
        let seen = block_on(cached.compare_exchange(&key, Expected::At(version), put));
        let Ok(Exchange::Conflict(Some(seen))) = seen else { panic!("{seen:?}") };
        assert_eq!(seen.record, forgotten);
        assert_eq!(block_on(load).unwrap().unwrap().record, record, "asked before the forget");
        let after = block_on(cached.load(&key)).unwrap().unwrap();
        assert_eq!(after.record, forgotten, "the forget was seen before; dropped: {dropped}");
        drop(forget);
    }
}

/// A forget that is dropped half-way may be applied: what was remembered is asked for again.
#[test]
fn a_cache_asks_again_after_a_dropped_forget() {
    let Subject { store, time, .. } = Kit { wrong: Wrong::Not, yields: true }.fresh();
    let cached = CachedStore::new(store, 100, Duration::from_secs(10)).with_clock(time);
    let key = Key::new("s", "k").unwrap();
    let record = Kind::Completed.record(1);
    let put = Put::new(&record, Duration::MAX, Duration::MAX);
    let written = block_on(cached.compare_exchange(&key, Expected::Vacant, put));
    let Ok(Exchange::Done(version)) = written else { panic!("{written:?}") };
    assert_eq!(cached.cached(), 1);
    let forgotten = Kind::Forgotten.record(2);
    let put = Put::new(&forgotten, Duration::ZERO, Duration::MAX);
    let mut forget = cached.compare_exchange(&key, Expected::At(version), put);
    assert!(polled(forget.as_mut(), 2).is_none());
    drop(forget);
    assert_eq!(block_on(cached.load(&key)).unwrap().unwrap().record, forgotten);
}
