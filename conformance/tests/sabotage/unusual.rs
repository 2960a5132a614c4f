//! Stores that are unusual, and right: the kit must not be stricter than the contract.

use std::future::poll_fn;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use futures::channel::oneshot;
use oncekey::Key;
use oncekey::protocol::{Entry, Expected, Record};
use oncekey::store::{Durability, Exchange, Purged, Put, Store};
use oncekey::time::ManualClock;
use oncekey_conformance::{Abilities, Effort, Harness, Intercept, Subject, Time};

use super::kit::{Kit, open};
use super::register::{Data, Register, Trouble, Versions};

/// Gives the thread up once.
pub(crate) async fn pending_once() {
    let mut polled = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut polled, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A store that is pending many times before it does anything, and after.
pub(crate) fn hesitant(store: Register) -> Intercept<Register> {
    async fn hesitate() {
        for _ in 0..9 {
            pending_once().await;
        }
    }

    Intercept::new(store)
        .before(|_| Box::pin(hesitate()))
        .after(|_| Box::pin(hesitate()))
        .on_exchange(|store, key, expected, put| store.compare_exchange(key, expected, put))
}

type Job = Box<dyn FnOnce(&Register) + Send>;

/// A store that lives in a thread of its own. A call that was sent is done there, also when nobody waits any more.
pub(crate) struct Elsewhere {
    jobs: Mutex<Sender<Job>>,
    durability: Durability,
}

impl Elsewhere {
    pub(crate) fn new(register: Register) -> Self {
        let (jobs, inbox) = channel::<Job>();
        let durability = register.durability();
        // Ends with the last sender.
        std::thread::spawn(move || inbox.into_iter().for_each(|job| job(&register)));
        Self { jobs: Mutex::new(jobs), durability }
    }

    async fn ask<T: Send + 'static>(&self, job: impl FnOnce(&Register) -> T + Send + 'static) -> T {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |register| drop(reply.send(job(register))));
        self.jobs.lock().unwrap().send(job).expect("the thread lives as long as the store");
        answer.await.expect("the thread answers each job")
    }
}

#[async_trait]
impl Store for Elsewhere {
    type Error = Trouble;

    async fn load(&self, key: &Key) -> Result<Option<Entry>, Trouble> {
        let key = key.clone();
        self.ask(move |register| futures::executor::block_on(register.load(&key))).await
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Expected,
        put: Put<'_>,
    ) -> Result<Exchange, Trouble> {
        let (key, record, live, linger): (_, Record, _, _) =
            (key.clone(), put.record.clone(), put.live, put.linger);
        self.ask(move |register| {
            let put = Put::new(&record, live, linger);
            futures::executor::block_on(register.compare_exchange(&key, expected, put))
        })
        .await
    }

    async fn purge(&self, limit: usize) -> Result<Purged, Trouble> {
        self.ask(move |register| futures::executor::block_on(register.purge(limit))).await
    }

    fn durability(&self) -> Durability {
        self.durability.clone()
    }
}

/// A store that lives on a runtime, as most drivers of databases do: each call panics where there is none.
pub(crate) struct Spawning(Arc<Register>);

#[async_trait]
impl Store for Spawning {
    type Error = Trouble;

    async fn load(&self, key: &Key) -> Result<Option<Entry>, Trouble> {
        let (register, key) = (Arc::clone(&self.0), key.clone());
        tokio::spawn(async move { register.load(&key).await }).await.expect("the register does not panic")
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Expected,
        put: Put<'_>,
    ) -> Result<Exchange, Trouble> {
        let (register, key, record) = (Arc::clone(&self.0), key.clone(), put.record.clone());
        let (live, linger) = (put.live, put.linger);
        let call = tokio::spawn(async move {
            register.compare_exchange(&key, expected, Put::new(&record, live, linger)).await
        });
        call.await.expect("the register does not panic")
    }

    async fn purge(&self, limit: usize) -> Result<Purged, Trouble> {
        let register = Arc::clone(&self.0);
        tokio::spawn(async move { register.purge(limit).await }).await.expect("the register does not panic")
    }

    fn durability(&self) -> Durability {
        self.0.durability()
    }
}

/// Its harness, which brings the runtime.
pub(crate) struct OnRuntime {
    runtime: tokio::runtime::Runtime,
    kit: Kit,
}

impl OnRuntime {
    pub(crate) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build();
        Self { runtime: runtime.expect("a runtime can be built"), kit: Kit::new(None) }
    }

    fn spawning(subject: Subject<Register, Arc<Data>>) -> Subject<Spawning, Arc<Data>> {
        Subject::guarded(Spawning(Arc::new(subject.store)), subject.time, subject.guard)
    }
}

impl Harness for OnRuntime {
    type Store = Spawning;
    type Guard = Arc<Data>;

    fn fresh(&self) -> Subject<Spawning, Arc<Data>> {
        Self::spawning(self.kit.fresh())
    }

    fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    fn fresh_bounded(&self, records_max: usize) -> Option<Subject<Spawning, Arc<Data>>> {
        self.kit.fresh_bounded(records_max).map(Self::spawning)
    }

    fn reopen(&self, guard: Arc<Data>) -> Option<Subject<Spawning, Arc<Data>>> {
        self.kit.reopen(guard).map(Self::spawning)
    }

    fn abilities(&self) -> Abilities {
        self.kit.abilities()
    }
}

/// A register that is unusual in one way.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unusual {
    /// Versions are `max(last + 1, microseconds now)`.
    Microseconds,
    /// Versions begin at a great number.
    GreatNumbers,
    /// Versions take great steps.
    GreatSteps,
    /// Each key counts for itself.
    CountersOfKeys,
    /// Nothing is ever removed.
    NeverPurges,
    /// An update asks its step three times.
    AsksAgain,
}

impl Unusual {
    fn bend(self, store: Register) -> Register {
        match self {
            Self::Microseconds => Register { versions: Versions::Microseconds, ..store },
            Self::GreatSteps => Register { versions: Versions::Counter { step: 1_000_003 }, ..store },
            Self::CountersOfKeys => Register { versions: Versions::PerKey, ..store },
            Self::NeverPurges => Register { purges: false, ..store },
            Self::AsksAgain => Register { asks: 3, ..store },
            Self::GreatNumbers => store,
        }
    }
}

impl Harness for Unusual {
    type Store = Register;
    type Guard = Arc<Data>;

    fn fresh(&self) -> Subject<Register, Arc<Data>> {
        self.subject(None)
    }

    fn fresh_bounded(&self, records_max: usize) -> Option<Subject<Register, Arc<Data>>> {
        Some(self.subject(Some(records_max)))
    }

    fn reopen(&self, guard: Arc<Data>) -> Option<Subject<Register, Arc<Data>>> {
        let subject = open(guard, None);
        Some(Subject::guarded(self.bend(subject.store), subject.time, subject.guard))
    }

    fn abilities(&self) -> Abilities {
        match self {
            Self::NeverPurges => Abilities::default(),
            _ => Abilities::default().purging(),
        }
    }
}

impl Unusual {
    fn subject(self, bound: Option<usize>) -> Subject<Register, Arc<Data>> {
        let first = if matches!(self, Self::GreatNumbers) { u64::MAX / 2 } else { 0 };
        let data = Data::new(Time::manual(ManualClock::new()), first);
        let store = self.bend(Register::new(Arc::clone(&data), None, bound));
        Subject::guarded(store, data.time.clone(), data)
    }
}

/// A register on the clock of this machine, that rounds ends up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Coarse;

const ROUNDED_TO: Duration = Duration::from_millis(10);

impl Harness for Coarse {
    type Store = Register;
    type Guard = Arc<Data>;

    fn fresh(&self) -> Subject<Register, Arc<Data>> {
        Self::subject(Self::data(), None)
    }

    fn fresh_bounded(&self, records_max: usize) -> Option<Subject<Register, Arc<Data>>> {
        Some(Self::subject(Self::data(), Some(records_max)))
    }

    fn reopen(&self, guard: Arc<Data>) -> Option<Subject<Register, Arc<Data>>> {
        Some(Self::subject(guard, None))
    }

    fn abilities(&self) -> Abilities {
        Abilities::default().purging()
    }

    fn effort(&self) -> Effort {
        Effort::modest()
    }
}

impl Coarse {
    fn data() -> Arc<Data> {
        Data::new(Time::real(Duration::from_millis(50), ROUNDED_TO), 0)
    }

    fn subject(data: Arc<Data>, bound: Option<usize>) -> Subject<Register, Arc<Data>> {
        let store = Register { resolution: ROUNDED_TO, ..Register::new(Arc::clone(&data), None, bound) };
        Subject::guarded(store, data.time.clone(), data)
    }
}

mod versions_by_the_microsecond {
    oncekey_conformance::conformance_tests!(super::Unusual::Microseconds);
}

mod versions_that_begin_at_a_great_number {
    oncekey_conformance::conformance_tests!(super::Unusual::GreatNumbers);
}

mod versions_in_great_steps {
    oncekey_conformance::conformance_tests!(super::Unusual::GreatSteps);
}

mod versions_of_each_key {
    oncekey_conformance::conformance_tests!(super::Unusual::CountersOfKeys);
}

mod never_purges {
    oncekey_conformance::conformance_tests!(super::Unusual::NeverPurges);
}

mod asks_again {
    oncekey_conformance::conformance_tests!(super::Unusual::AsksAgain);
}

mod hesitant {
    oncekey_conformance::conformance_tests!(oncekey_conformance::over(super::Kit::new(None), |store, _| {
        super::hesitant(store)
    }));
}

mod in_another_thread {
    oncekey_conformance::conformance_tests!(oncekey_conformance::over(super::Kit::new(None), |store, _| {
        super::Elsewhere::new(store)
    }));
}

mod on_a_runtime {
    oncekey_conformance::conformance_tests!(super::OnRuntime::new());
}

mod rounded_up_on_real_time {
    oncekey_conformance::conformance_tests!(super::Coarse);
}
