//! What the models share: how they are explored, the engine they explore, and operations that notice an overlap.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use loom::future::block_on;
use oncekey::observe::Event;
use oncekey::protocol::Entry;
use oncekey::time::ManualClock;
use oncekey::{Answer, Attempt, Claim, ClaimAnswer, Deduplicator, DeduplicatorBuilder, Key, Store as _};

pub(crate) use crate::sometimes::Sometimes;
use crate::store::{ModelStore, pend};

pub(crate) const LEASE: Duration = Duration::from_secs(30);
pub(crate) const STORE_TIMEOUT: Duration = Duration::from_secs(5);
/// How many preemptions a model allows. Most races need one or two.
pub(crate) const PREEMPTIONS: usize = 3;
/// The same for a model of three threads that branches so much that three take over ten seconds.
pub(crate) const PREEMPTIONS_FEW: usize = 2;
/// The same where two take about a minute.
pub(crate) const PREEMPTIONS_ONE: usize = 1;

/// The variable that lowers the models' own bounds.
pub(crate) const PREEMPTIONS_AT_MOST: &str = "ONCEKEY_PREEMPTIONS_AT_MOST";

pub(crate) type Engine = Deduplicator<Arc<ModelStore>>;

/// Explores a model, and says how much there was to explore.
///
/// The model's bound is for the everyday run; `LOOM_MAX_PREEMPTIONS` overrides it.
pub(crate) fn explore(name: &str, preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    let at_most = std::env::var(PREEMPTIONS_AT_MOST).map(|most| most.parse().expect("it is a number"));
    let bound = *builder.preemption_bound.get_or_insert(preemptions.min(at_most.unwrap_or(usize::MAX)));
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
    /// How many owners were told that their lease is lost.
    lost: Arc<AtomicUsize>,
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
    /// Over a store that is asked by exchanges.
    pub(crate) fn new() -> Self {
        Self::over(ModelStore::new)
    }

    /// Over a store that is asked at once.
    pub(crate) fn at_once() -> Self {
        Self::over(ModelStore::at_once)
    }

    fn over(store: fn(&ManualClock) -> ModelStore) -> Self {
        let clock = ManualClock::new();
        clock.advance(Duration::from_secs(1000));
        Self {
            store: Arc::new(store(&clock)),
            clock,
            runs: Arc::default(),
            waited: Arc::default(),
            renewed: Arc::default(),
            lost: Arc::default(),
            running: Arc::new(loom::sync::atomic::AtomicUsize::new(0)),
        }
    }

    /// An engine over the store: another process, if there is one already. Its waiters look so seldom that none ends
    /// by looking again while the clock stands.
    pub(crate) fn engine(&self) -> Engine {
        self.engine_with(|builder| builder)
    }

    /// The same, with other options.
    pub(crate) fn engine_with(
        &self,
        change: impl FnOnce(DeduplicatorBuilder<Arc<ModelStore>>) -> DeduplicatorBuilder<Arc<ModelStore>>,
    ) -> Engine {
        let (waited, renewed, lost) =
            (Arc::clone(&self.waited), Arc::clone(&self.renewed), Arc::clone(&self.lost));
        let observer = move |_: &Key, event: &Event<'_>| match event {
            Event::Waiting => drop(waited.fetch_add(1, Ordering::Relaxed)),
            Event::Renewed => drop(renewed.fetch_add(1, Ordering::Relaxed)),
            Event::LeaseLost { .. } => drop(lost.fetch_add(1, Ordering::Relaxed)),
            _ => {}
        };
        let builder = Deduplicator::builder(Arc::clone(&self.store))
            .clock(self.clock.clone())
            .lease(LEASE)
            .margin(LEASE / 10)
            .renew_every(LEASE / 3)
            .retention(Duration::from_secs(3600))
            .store_timeout(STORE_TIMEOUT)
            // Its time would be random.
            .purge_every(Duration::MAX)
            .poll_every(Duration::from_secs(600), Duration::from_secs(600))
            .observer(observer);
        change(builder).build().unwrap()
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
        pend(1).await; // its run looks after the lease meanwhile
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

    pub(crate) fn lost(&self) -> usize {
        self.lost.load(Ordering::Relaxed)
    }

    /// What is on record.
    pub(crate) fn entry(&self) -> Option<Entry> {
        block_on(self.store.load(&key())).unwrap()
    }

    /// The value on record.
    pub(crate) fn recorded(&self) -> Option<String> {
        let entry = self.entry()?;
        let outcome = entry.record.outcome()?;
        match &outcome.body {
            oncekey::protocol::OutcomeBody::Kept(bytes) => Some(String::from_utf8(bytes.to_vec()).unwrap()),
            other => panic!("not kept: {other:?}"),
        }
    }
}

/// A claim of a key that nobody has.
pub(crate) fn granted(engine: &Engine) -> Claim<Arc<ModelStore>> {
    match block_on(engine.request(key()).claim()).unwrap() {
        ClaimAnswer::Granted(claim) => claim,
        other => panic!("nobody else has the key: {other:?}"),
    }
}

/// Polls a future that cannot end yet; whatever wakes it is not heard.
pub(crate) fn polled_once<F: Future + ?Sized>(future: Pin<&mut F>) {
    assert!(future.poll(&mut Context::from_waker(Waker::noop())).is_pending(), "it has to wait");
}

/// Moves the clock on by steps until `done`: for what is ended by time.
pub(crate) fn pass_time_until(world: &World, step: Duration, done: &AtomicBool) {
    while !done.load(Ordering::SeqCst) {
        world.clock.advance(step);
        loom::thread::yield_now();
    }
}

/// Nobody waits any more, and nothing is held.
pub(crate) fn assert_idle(engine: &Engine) {
    assert_eq!((engine.waiting(), engine.held()), (0, 0), "a seat or a claim is left behind");
}

pub(crate) fn key() -> Key {
    Key::new("payments.charge", "7f3a-91").unwrap()
}
