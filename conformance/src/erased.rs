//! Harnesses and stores without their types: so that every case is compiled once, in this crate, and not again for each
//! store that is put to the test.

use std::any::Any;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;

use async_trait::async_trait;

use super::harness::{Abilities, Effort, Harness, Subject};
use oncekey::protocol::{Entry, Expected, Key};
use oncekey::store::{
    AtOnce, BatchPut, Durability, Exchange, ListInDoubt, Purged, Put, Step, Store, StoreError,
    StoreErrorKind, TrimOutcomes,
};
use oncekey::time::Timeline;

/// A store's error, told in words.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}")]
pub(super) struct Told {
    pub(super) what: String,
    pub(super) kind: StoreErrorKind,
    pub(super) maybe_applied: bool,
}

impl Told {
    fn of(error: &impl StoreError) -> Self {
        Self { what: error.to_string(), kind: error.kind(), maybe_applied: error.maybe_applied() }
    }
}

impl StoreError for Told {
    fn maybe_applied(&self) -> bool {
        self.maybe_applied
    }

    fn kind(&self) -> StoreErrorKind {
        self.kind
    }
}

/// Any store, with its errors told in words.
pub(super) type AnyStore = Arc<dyn Store<Error = Told>>;

/// What cleans up, whatever it is.
pub(super) type AnyGuard = Box<dyn Any + Send + Sync>;

struct Telling<S>(S);

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<S: Store> Store for Telling<S> {
    type Error = Told;

    async fn load(&self, key: &Key) -> Result<Option<Entry>, Told> {
        self.0.load(key).await.map_err(|error| Told::of(&error))
    }

    async fn compare_exchange(&self, key: &Key, expected: Expected, put: Put<'_>) -> Result<Exchange, Told> {
        self.0.compare_exchange(key, expected, put).await.map_err(|error| Told::of(&error))
    }

    async fn compare_exchange_many(&self, batch: &[BatchPut<'_>]) -> Vec<Result<Exchange, Told>> {
        let answers = self.0.compare_exchange_many(batch).await;
        answers.into_iter().map(|answer| answer.map_err(|error| Told::of(&error))).collect()
    }

    async fn purge(&self, limit: usize) -> Result<Purged, Told> {
        self.0.purge(limit).await.map_err(|error| Told::of(&error))
    }

    fn at_once(&self) -> Option<&dyn AtOnce<Error = Told>> {
        self.0.at_once().map(|_| self as _)
    }

    /// None: no case asks for it by this type.
    fn lists(&self) -> Option<&dyn ListInDoubt<Error = Self::Error>> {
        None
    }

    /// None, likewise.
    fn trims(&self) -> Option<&dyn TrimOutcomes<Error = Self::Error>> {
        None
    }

    fn durability(&self) -> Durability {
        self.0.durability()
    }
}

/// Offered only where the store has the short way.
#[deny(clippy::missing_trait_methods)]
impl<S: Store> AtOnce for Telling<S> {
    type Error = Told;

    fn update(&self, key: &Key, step: &mut (dyn Step + Send)) -> Result<Option<Entry>, Told> {
        let door = self.0.at_once().expect("the answer of `at_once` is always the same");
        door.update(key, step).map_err(|error| Told::of(&error))
    }

    fn timeline(&self) -> Option<Timeline> {
        self.0.at_once().and_then(AtOnce::timeline)
    }
}

/// The store without its type.
pub(super) fn any_store(store: impl Store + 'static) -> AnyStore {
    Arc::new(Telling(store))
}

/// A harness that can be called without knowing its type.
trait Site: Sync {
    fn fresh(&self) -> Subject<AnyStore, AnyGuard>;
    fn fresh_bounded(&self, records_max: usize) -> Option<Subject<AnyStore, AnyGuard>>;
    fn reopen(&self, guard: AnyGuard) -> Option<Subject<AnyStore, AnyGuard>>;
    fn drive(&self, task: Pin<&mut dyn Future<Output = ()>>);
    fn abilities(&self) -> Abilities;
    fn effort(&self) -> Effort;
}

fn erase<S: Store + 'static, G: Send + Sync + 'static>(
    subject: Subject<S, G>,
) -> Subject<AnyStore, AnyGuard> {
    Subject::guarded(any_store(subject.store), subject.time, Box::new(subject.guard))
}

impl<H: Harness> Site for H {
    fn fresh(&self) -> Subject<AnyStore, AnyGuard> {
        erase(Harness::fresh(self))
    }

    fn fresh_bounded(&self, records_max: usize) -> Option<Subject<AnyStore, AnyGuard>> {
        Harness::fresh_bounded(self, records_max).map(erase)
    }

    fn reopen(&self, guard: AnyGuard) -> Option<Subject<AnyStore, AnyGuard>> {
        let guard = guard.downcast::<H::Guard>().expect("the guard is the one that this harness gave");
        Harness::reopen(self, *guard).map(erase)
    }

    fn drive(&self, task: Pin<&mut dyn Future<Output = ()>>) {
        self.block_on(task);
    }

    fn abilities(&self) -> Abilities {
        Harness::abilities(self)
    }

    fn effort(&self) -> Effort {
        Harness::effort(self)
    }
}

/// Any harness: what the cases are compiled for.
pub(super) struct AnyHarness<'h>(&'h dyn Site);

impl<'h> AnyHarness<'h> {
    pub(super) fn new<H: Harness>(harness: &'h H) -> Self {
        Self(harness)
    }
}

#[deny(clippy::missing_trait_methods)]
impl Harness for AnyHarness<'_> {
    type Store = AnyStore;
    type Guard = AnyGuard;

    fn fresh(&self) -> Subject<AnyStore, AnyGuard> {
        self.0.fresh()
    }

    fn block_on<F: Future>(&self, future: F) -> F::Output {
        let mut output = None;
        {
            let task = async { output = Some(future.await) };
            self.0.drive(pin!(task));
        }
        output.expect("the harness runs a future to its end")
    }

    fn fresh_bounded(&self, records_max: usize) -> Option<Subject<AnyStore, AnyGuard>> {
        self.0.fresh_bounded(records_max)
    }

    fn reopen(&self, guard: AnyGuard) -> Option<Subject<AnyStore, AnyGuard>> {
        self.0.reopen(guard)
    }

    fn abilities(&self) -> Abilities {
        self.0.abilities()
    }

    fn effort(&self) -> Effort {
        self.0.effort()
    }
}
