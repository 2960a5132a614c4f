//! What the scenarios share: a store whose calls go wrong on demand, and ways to drive futures by hand.
#![allow(dead_code)]

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use oncekey::store::{Exchange, Put, StoreError, StoreErrorKind};
use oncekey::time::ManualClock;
use oncekey::{Deduplicator, DeduplicatorBuilder, Entry, Expected, Key, MemoryStore, State, Store};

pub const LEASE: Duration = Duration::from_secs(30);
pub const MARGIN: Duration = Duration::from_secs(3);
pub const RETENTION: Duration = Duration::from_secs(3600);

/// How one call to the store goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It does not.
    None,
    /// Not applied, and the store knows it.
    Refused,
    /// Not applied, and nobody knows.
    RequestLost,
    /// Applied, and the reply lost.
    ReplyLost,
    /// Not applied, and no answer ever comes.
    HangBefore,
    /// Applied, and no answer ever comes.
    HangAfter,
    /// Applied twice: what a network that repeats a request does. The second answer is the one that arrives.
    Twice,
}

#[derive(Debug, thiserror::Error)]
#[error("planned: {fault:?}")]
pub struct Planned {
    pub fault: Fault,
}

impl StoreError for Planned {
    fn maybe_applied(&self) -> bool {
        self.fault != Fault::Refused
    }

    fn kind(&self) -> StoreErrorKind {
        StoreErrorKind::Unavailable
    }
}

/// A memory store on a clock moved by hand, whose next calls go as planned.
#[derive(Clone)]
pub struct FaultyStore {
    pub inner: Arc<MemoryStore>,
    plan: Arc<Mutex<VecDeque<Fault>>>,
    /// When the plan is used up: every further call does this.
    pub always: Arc<Mutex<Fault>>,
    pub exchanges: Arc<AtomicU32>,
    pub loads: Arc<AtomicU32>,
    /// Yield once before and once after each call.
    pub yields: Arc<AtomicBool>,
    /// The states written, in order, of writes that were applied.
    pub written: Arc<Mutex<Vec<State>>>,
}

impl FaultyStore {
    pub fn new(clock: &ManualClock) -> Self {
        Self {
            inner: Arc::new(MemoryStore::builder().clock(clock.clone()).build()),
            plan: Arc::default(),
            always: Arc::new(Mutex::new(Fault::None)),
            exchanges: Arc::default(),
            loads: Arc::default(),
            yields: Arc::default(),
            written: Arc::default(),
        }
    }

    /// The next calls (loads and exchanges alike) go like this.
    pub fn plan(&self, faults: impl IntoIterator<Item = Fault>) {
        self.plan.lock().unwrap().extend(faults);
    }

    pub fn always(&self, fault: Fault) {
        *self.always.lock().unwrap() = fault;
    }

    fn next(&self) -> Fault {
        self.plan.lock().unwrap().pop_front().unwrap_or(*self.always.lock().unwrap())
    }

    async fn pause(&self) {
        if self.yields.load(Ordering::SeqCst) {
            yield_now().await;
        }
    }

    /// What is on record, past all faults.
    pub fn peek(&self, key: &Key) -> Option<Entry> {
        ready(self.inner.load(key)).unwrap()
    }
}

#[async_trait]
impl Store for FaultyStore {
    type Error = Planned;

    async fn load(&self, key: &Key) -> Result<Option<Entry>, Planned> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        let fault = self.next();
        self.pause().await;
        match fault {
            Fault::None | Fault::Twice => {}
            Fault::HangBefore | Fault::HangAfter => std::future::pending().await,
            Fault::Refused | Fault::RequestLost | Fault::ReplyLost => return Err(Planned { fault }),
        }
        let answer = self.inner.load(key).await.unwrap();
        self.pause().await;
        Ok(answer)
    }

    async fn compare_exchange(&self, key: &Key, expected: Expected, put: Put<'_>) -> Result<Exchange, Planned> {
        self.exchanges.fetch_add(1, Ordering::SeqCst);
        let fault = self.next();
        self.pause().await;
        match fault {
            Fault::None | Fault::ReplyLost | Fault::HangAfter | Fault::Twice => {}
            Fault::HangBefore => std::future::pending().await,
            Fault::Refused | Fault::RequestLost => return Err(Planned { fault }),
        }
        let mut answer = self.inner.compare_exchange(key, expected, put).await.unwrap();
        if matches!(answer, Exchange::Done(_)) {
            self.written.lock().unwrap().push(put.record.state().clone());
        }
        if fault == Fault::Twice {
            answer = self.inner.compare_exchange(key, expected, put).await.unwrap();
        }
        self.pause().await;
        match fault {
            Fault::ReplyLost => Err(Planned { fault }),
            Fault::HangAfter => std::future::pending().await,
            _ => Ok(answer),
        }
    }
}

/// A clock, a store that can go wrong, and an engine over them.
pub struct Bench {
    pub clock: ManualClock,
    pub store: FaultyStore,
    pub dedup: Deduplicator<FaultyStore>,
}

/// Lease 30 s, margin 3 s (so an owner stops at 27 s), renewal each 10 s, retention 1 h, store timeout 1 s, completion
/// timeout 60 s.
pub fn bench() -> Bench {
    bench_with(|builder| builder)
}

pub fn bench_with(
    change: impl FnOnce(DeduplicatorBuilder<FaultyStore>) -> DeduplicatorBuilder<FaultyStore>,
) -> Bench {
    let clock = ManualClock::new();
    clock.advance(Duration::from_secs(1000));
    let store = FaultyStore::new(&clock);
    let dedup = engine_with(&clock, &store, change);
    Bench { clock, store, dedup }
}

/// Another engine over the same store, as another process would have.
pub fn engine_with(
    clock: &ManualClock,
    store: &FaultyStore,
    change: impl FnOnce(DeduplicatorBuilder<FaultyStore>) -> DeduplicatorBuilder<FaultyStore>,
) -> Deduplicator<FaultyStore> {
    let builder = Deduplicator::builder(store.clone())
        .clock(clock.clone())
        .lease(LEASE)
        .margin(MARGIN)
        .renew_every(Duration::from_secs(10))
        .retention(RETENTION)
        .store_timeout(Duration::from_secs(1))
        .completion_timeout(Duration::from_secs(60));
    change(builder).build().unwrap()
}

impl Bench {
    /// Another engine over the same store, with the same options.
    pub fn other_process(&self) -> Deduplicator<FaultyStore> {
        engine_with(&self.clock, &self.store, |builder| builder)
    }

    /// Drives a future to its end, moving the clock from one sleep to the next whenever nothing else can go on.
    /// Panics if nothing sleeps and nothing goes on.
    pub fn run<F: Future>(&self, future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        self.run_pinned(future.as_mut())
    }

    pub fn run_pinned<F: Future>(&self, mut future: Pin<&mut F>) -> F::Output {
        for _ in 0..100_000 {
            let woken = Arc::new(Flag::default());
            let waker = Waker::from(Arc::clone(&woken));
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return output;
            }
            if woken.0.swap(false, Ordering::SeqCst) {
                continue;
            }
            let next = self.clock.next_wake().expect("the future is stuck: nothing woke it, and nothing sleeps");
            let now = oncekey::time::Clock::now(&self.clock);
            self.clock.advance(next.saturating_since(now));
        }
        panic!("the future does not end");
    }
}

#[derive(Default)]
pub struct Flag(pub AtomicBool);

impl std::task::Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

pub fn key() -> Key {
    Key::new("payments.charge", "7f3a-91").unwrap()
}

/// Polls once; the answer if it is there.
pub fn poll_once<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// The output of a future that must be ready at once.
pub fn ready<F: Future>(future: F) -> F::Output {
    poll_once(std::pin::pin!(future)).expect("the future is not ready at once")
}

/// Pending once.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
