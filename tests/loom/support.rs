//! What the models share: how they are explored, the engine they explore, and operations that notice an overlap.

use std::convert::Infallible;
use std::future::poll_fn;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use loom::future::block_on;
use oncekey::memory::MemoryError;
use oncekey::observe::Event;
use oncekey::store::{Exchange, Put};
use oncekey::time::ManualClock;
use oncekey::{
    Answer, Attempt, Claim, ClaimAnswer, Deduplicator, Entry, Expected, Key, MemoryStore, State, Store,
    Version,
};

pub(crate) const LEASE: Duration = Duration::from_secs(30);
/// How many preemptions a model allows. Most races need one or two.
pub(crate) const PREEMPTIONS: usize = 3;
/// The same for a model of three threads that branches so much that three take over ten seconds.
pub(crate) const PREEMPTIONS_FEW: usize = 2;

pub(crate) type Engine = Deduplicator<Arc<ModelStore>>;

/// Explores a model, and says how much there was to explore.
///
/// The model's bound is for the everyday run; `LOOM_MAX_PREEMPTIONS` overrides it.
pub(crate) fn explore(name: &str, preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    let bound = *builder.preemption_bound.get_or_insert(preemptions);
    builder.max_branches = builder.max_branches.max(20_000);
    let explored = Arc::new(AtomicUsize::new(0));
    let begun = Instant::now();
    let count = Arc::clone(&explored);
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        model();
    });
    let explored = explored.load(Ordering::Relaxed);
    println!("{name}: {explored} interleavings, {bound} preemptions, {:.2?}", begun.elapsed());
}

/// Something that must happen in some interleaving, or the model says nothing.
#[derive(Clone)]
pub(crate) struct Sometimes(&'static str, Arc<AtomicBool>);

impl Sometimes {
    pub(crate) fn new(what: &'static str) -> Self {
        Self(what, Arc::default())
    }

    pub(crate) fn saw(&self, happened: bool) {
        self.1.fetch_or(happened, Ordering::Relaxed);
    }

    /// Call it after the model was explored.
    pub(crate) fn check(&self) {
        assert!(self.1.load(Ordering::Relaxed), "no interleaving in which {}: the model is vacuous", self.0);
    }
}

/// The bug that this process was started to find, if any.
pub(crate) fn planted(bug: &str) -> bool {
    std::env::var_os("ONCEKEY_PLANT").is_some_and(|planted| planted == bug)
}

/// A memory store with one lock, which breaks its contract if a bug is planted.
pub(crate) struct ModelStore {
    inner: MemoryStore,
    checks_apart: bool,
    ignores_versions: bool,
    leaves_a_gap: bool,
}

impl ModelStore {
    fn new(clock: &ManualClock) -> Self {
        Self {
            inner: MemoryStore::builder().shards(NonZeroUsize::MIN).clock(clock.clone()).build(),
            checks_apart: planted("store: check and write under two locks"),
            ignores_versions: planted("store: versions are not compared"),
            leaves_a_gap: planted("store: a completion removes first and writes second"),
        }
    }

    async fn put_whatever_is_there(&self, key: &Key, put: Put<'_>) -> Result<Exchange, MemoryError> {
        loop {
            let expected = match self.inner.load(key).await? {
                Some(entry) => Expected::At(entry.version),
                None => Expected::Vacant,
            };
            if let Exchange::Done(version) = self.inner.compare_exchange(key, expected, put).await? {
                return Ok(Exchange::Done(version));
            }
        }
    }
}

#[async_trait]
impl Store for ModelStore {
    type Error = MemoryError;

    async fn load(&self, key: &Key) -> Result<Option<Entry>, MemoryError> {
        self.inner.load(key).await
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Expected,
        put: Put<'_>,
    ) -> Result<Exchange, MemoryError> {
        if self.checks_apart {
            let found = self.inner.load(key).await?;
            let version: Option<Version> = found.as_ref().map(|entry| entry.version);
            let as_expected = match expected {
                Expected::Vacant => version.is_none(),
                Expected::At(expected) => version == Some(expected),
            };
            if !as_expected {
                return Ok(Exchange::Conflict(found));
            }
            return self.put_whatever_is_there(key, put).await;
        }
        if self.ignores_versions && expected != Expected::Vacant {
            return self.put_whatever_is_there(key, put).await;
        }
        if self.leaves_a_gap && matches!(put.record.state(), State::Completed(_)) {
            let removal = Put::new(put.record, Duration::ZERO, Duration::ZERO);
            return match self.inner.compare_exchange(key, expected, removal).await? {
                Exchange::Done(_) => self.put_whatever_is_there(key, put).await,
                conflict => Ok(conflict),
            };
        }
        self.inner.compare_exchange(key, expected, put).await
    }
}

/// A clock moved by hand, a store, and what was run against them.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) clock: ManualClock,
    pub(crate) store: Arc<ModelStore>,
    pub(crate) runs: Arc<Mutex<Vec<Run>>>,
    /// How many calls took a seat to wait.
    waited: Arc<AtomicUsize>,
    /// How many leases were renewed.
    renewed: Arc<AtomicUsize>,
    running: Arc<loom::sync::atomic::AtomicUsize>,
}

/// One execution of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    pub(crate) attempt: u32,
    pub(crate) token: u64,
    pub(crate) after_doubt: bool,
}

impl World {
    pub(crate) fn new() -> Self {
        let clock = ManualClock::new();
        clock.advance(Duration::from_secs(1000));
        Self {
            store: Arc::new(ModelStore::new(&clock)),
            clock,
            runs: Arc::default(),
            waited: Arc::default(),
            renewed: Arc::default(),
            running: Arc::new(loom::sync::atomic::AtomicUsize::new(0)),
        }
    }

    /// An engine over the store: another process, if there is one already. Its waiters look so seldom that none ends
    /// by looking again while the clock stands.
    pub(crate) fn engine(&self) -> Engine {
        let (waited, renewed) = (Arc::clone(&self.waited), Arc::clone(&self.renewed));
        let observer = move |_: &Key, event: &Event<'_>| match event {
            Event::Waiting => drop(waited.fetch_add(1, Ordering::Relaxed)),
            Event::Renewed => drop(renewed.fetch_add(1, Ordering::Relaxed)),
            _ => {}
        };
        Deduplicator::builder(Arc::clone(&self.store))
            .clock(self.clock.clone())
            .lease(LEASE)
            .margin(LEASE / 10)
            .renew_every(LEASE / 3)
            .retention(Duration::from_secs(3600))
            .poll_every(Duration::from_secs(600), Duration::from_secs(600))
            .observer(observer)
            .build()
            .unwrap()
    }

    /// The operation: notes that it ran, and that no other ran meanwhile (T1).
    pub(crate) async fn operate(&self, attempt: Attempt, value: &str) -> Result<String, Infallible> {
        let others = self.running.fetch_add(1, Ordering::SeqCst);
        assert_eq!(others, 0, "two attempts execute at once");
        self.runs.lock().unwrap().push(Run {
            attempt: attempt.number(),
            token: attempt.fence().get(),
            after_doubt: attempt.after_doubt(),
        });
        pend_once().await;
        self.running.fetch_sub(1, Ordering::SeqCst);
        Ok(value.to_owned())
    }

    /// A call on a thread of its own, which waits for a running duplicate for at most `wait`.
    pub(crate) fn call(&self, engine: &Engine, wait: Duration, value: &str) -> Answer<String> {
        block_on(engine.request(key()).wait(wait).run(|attempt| self.operate(attempt, value))).unwrap()
    }

    pub(crate) fn spawn_call(
        &self,
        engine: &Engine,
        wait: Duration,
        value: &'static str,
    ) -> loom::thread::JoinHandle<Answer<String>> {
        let (world, engine) = (self.clone(), engine.clone());
        loom::thread::spawn(move || world.call(&engine, wait, value))
    }

    pub(crate) fn runs(&self) -> Vec<Run> {
        self.runs.lock().unwrap().clone()
    }

    pub(crate) fn waited(&self) -> usize {
        self.waited.load(Ordering::Relaxed)
    }

    pub(crate) fn renewed(&self) -> usize {
        self.renewed.load(Ordering::Relaxed)
    }

    /// The value on record.
    pub(crate) fn recorded(&self) -> Option<String> {
        let entry = block_on(self.store.inner.load(&key())).unwrap()?;
        let outcome = entry.record.outcome()?;
        match &outcome.body {
            oncekey::OutcomeBody::Kept(bytes) => Some(String::from_utf8(bytes.to_vec()).unwrap()),
            other => panic!("not kept: {other:?}"),
        }
    }
}

/// Pending once, as an operation that awaits its effect is: its run looks after the lease meanwhile.
async fn pend_once() {
    let mut pended = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut pended, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A claim of a key that nobody has.
pub(crate) fn granted(engine: &Engine) -> Claim<Arc<ModelStore>> {
    match block_on(engine.request(key()).claim()).unwrap() {
        ClaimAnswer::Granted(claim) => claim,
        other => panic!("nobody else has the key: {other:?}"),
    }
}

/// Nobody waits any more, and nothing is held.
pub(crate) fn assert_idle(engine: &Engine) {
    assert_eq!((engine.waiting(), engine.held()), (0, 0), "a seat or a claim is left behind");
}

pub(crate) fn key() -> Key {
    Key::new("payments.charge", "7f3a-91").unwrap()
}
