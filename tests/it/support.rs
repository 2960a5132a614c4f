//! What the scenarios share: a store whose calls go wrong on demand, and ways to drive futures by hand.
#![allow(dead_code, unused_imports, unused_macros)] // each crate uses its part

// By path: the tests of other crates have this file by one too.
#[path = "support/short.rs"]
mod short;
#[path = "support/spans.rs"]
mod spans;

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use oncekey::protocol::{Entry, Expected, Record};
use oncekey::store::{AtOnce, BatchPut, Exchange, Put, StoreError, StoreErrorKind};
use oncekey::time::{Clock as _, ManualClock};
use oncekey::{Answer, Claim, ClaimAnswer, Deduplicator, DeduplicatorBuilder, Key, MemoryStore, Store};

pub(crate) use short::also_at_once;
pub use short::at_once;
pub use spans::Spans;

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
    /// Not applied, and no use in trying again.
    Hopeless,
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
        !matches!(self.fault, Fault::Refused | Fault::Hopeless)
    }

    fn kind(&self) -> StoreErrorKind {
        if self.fault == Fault::Hopeless { StoreErrorKind::Rejected } else { StoreErrorKind::Unavailable }
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
    /// How many items each batch had. They count as exchanges too.
    pub batches: Arc<Mutex<Vec<usize>>>,
    /// Yield once before and once after each call.
    pub yields: Arc<AtomicBool>,
    /// The records written, in order, of writes that were applied.
    pub written: Arc<Mutex<Vec<Record>>>,
    /// It offers the short way. Only what is refused can go wrong there.
    short: bool,
}

impl std::fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultyStore").finish_non_exhaustive()
    }
}

impl FaultyStore {
    pub fn new(clock: &ManualClock) -> Self {
        Self {
            inner: Arc::new(MemoryStore::builder().clock(clock.clone()).build()),
            plan: Arc::default(),
            always: Arc::new(Mutex::new(Fault::None)),
            exchanges: Arc::default(),
            loads: Arc::default(),
            batches: Arc::default(),
            yields: Arc::default(),
            written: Arc::default(),
            short: short::is_offered(),
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
            Fault::Refused | Fault::Hopeless | Fault::RequestLost | Fault::ReplyLost => {
                return Err(Planned { fault });
            }
        }
        let answer = self.inner.load(key).await.unwrap();
        self.pause().await;
        Ok(answer)
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Expected,
        put: Put<'_>,
    ) -> Result<Exchange, Planned> {
        self.exchanges.fetch_add(1, Ordering::SeqCst);
        let fault = self.next();
        self.pause().await;
        match fault {
            Fault::None | Fault::ReplyLost | Fault::HangAfter | Fault::Twice => {}
            Fault::HangBefore => std::future::pending().await,
            Fault::Refused | Fault::Hopeless | Fault::RequestLost => return Err(Planned { fault }),
        }
        let mut answer = self.inner.compare_exchange(key, expected, put).await.unwrap();
        if matches!(answer, Exchange::Done(_)) {
            self.written.lock().unwrap().push(put.record.clone());
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

    /// One after the other; each item goes as planned for it.
    async fn compare_exchange_many(&self, batch: &[BatchPut<'_>]) -> Vec<Result<Exchange, Planned>> {
        self.batches.lock().unwrap().push(batch.len());
        let keys: BTreeSet<_> = batch.iter().map(|item| item.key).collect();
        assert_eq!(keys.len(), batch.len(), "a batch is of distinct keys");
        let mut answers = Vec::new();
        for item in batch {
            answers.push(self.compare_exchange(item.key, item.expected, item.put).await);
        }
        answers
    }

    fn at_once(&self) -> Option<&dyn AtOnce<Error = Planned>> {
        self.short.then_some(self)
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
        .completion_timeout(Duration::from_secs(60))
        .purge_every(Duration::MAX);
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
            let next =
                self.clock.next_wake().expect("the future is stuck: nothing woke it, and nothing sleeps");
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
pub fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Option<F::Output> {
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

/// Another connection to the same data, with faults and counts of its own.
impl FaultyStore {
    pub fn twin(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), ..Self::new(&ManualClock::new()) }
    }

    /// How many round trips there were, exchanges and loads.
    pub fn trips(&self) -> (u32, u32) {
        (self.exchanges.load(Ordering::SeqCst), self.loads.load(Ordering::SeqCst))
    }
}

/// Claims the key, against a store that answers at once.
pub fn claim<S: Store + 'static>(dedup: &Deduplicator<S>) -> Claim<S> {
    match ready(dedup.request(key()).claim()) {
        Ok(ClaimAnswer::Granted(claim)) => claim,
        Ok(_) => panic!("answered, not granted"),
        Err(error) => panic!("not granted: {error}"),
    }
}

/// What is on record under the one key, past all faults.
pub fn on_record(bench: &Bench) -> Entry {
    bench.store.peek(&key()).expect("something is on record")
}

/// Runs an operation that returns `text` at once, against a store that answers at once.
pub fn run_text<S: Store + 'static>(dedup: &Deduplicator<S>, text: &str) -> Answer<String> {
    ready(dedup.request(key()).run(|_| async { Ok::<_, String>(text.to_owned()) })).unwrap()
}

pub fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A `call_timeout` that leaves time for two pauses, 25 and 50 ms, and not for the third.
pub const THREE_TRIES: Duration = Duration::from_millis(150);

pub fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Tasks of one thread: polled when they are woken, and dropped on demand.
#[derive(Default)]
pub struct Tasks<'a> {
    tasks: Vec<Task<'a>>,
}

struct Task<'a> {
    woken: Arc<Flag>,
    future: Option<Pin<Box<dyn Future<Output = ()> + 'a>>>,
}

/// Where a task leaves its output.
pub struct Slot<T> {
    output: Rc<RefCell<Option<T>>>,
    index: usize,
}

impl<T> Slot<T> {
    pub fn is_done(&self) -> bool {
        self.output.borrow().is_some()
    }

    pub fn take(&self) -> T {
        self.output.borrow_mut().take().expect("the task has not ended")
    }
}

impl<'a> Tasks<'a> {
    pub fn spawn<T: 'a>(&mut self, future: impl Future<Output = T> + 'a) -> Slot<T> {
        let output = Rc::new(RefCell::new(None));
        let slot = Slot { output: Rc::clone(&output), index: self.tasks.len() };
        let future = Box::pin(async move {
            let done = future.await;
            *output.borrow_mut() = Some(done);
        });
        let woken = Arc::new(Flag(AtomicBool::new(true)));
        self.tasks.push(Task { woken, future: Some(future) });
        slot
    }

    pub fn cancel<T>(&mut self, slot: &Slot<T>) {
        self.tasks[slot.index].future = None;
    }

    /// Polls once the tasks that are woken; whether there were any.
    pub fn step(&mut self) -> bool {
        let mut any = false;
        for task in &mut self.tasks {
            let Some(future) = &mut task.future else { continue };
            if !task.woken.0.swap(false, Ordering::SeqCst) {
                continue;
            }
            any = true;
            let waker = Waker::from(Arc::clone(&task.woken));
            if future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                task.future = None;
            }
        }
        any
    }

    /// Polls until nothing can go on while the clocks stand still.
    pub fn settle(&mut self) {
        for _ in 0..100_000 {
            if !self.step() {
                return;
            }
        }
        panic!("the tasks do not come to rest");
    }

    /// Lets time pass, from one sleep's end to the next.
    pub fn pass(&mut self, clock: &ManualClock, duration: Duration) {
        let end = clock.now() + duration;
        self.settle();
        while let Some(next) = clock.next_wake().filter(|next| *next <= end) {
            clock.advance(next.saturating_since(clock.now()));
            self.settle();
        }
        clock.advance(end.saturating_since(clock.now()));
        self.settle();
    }
}
