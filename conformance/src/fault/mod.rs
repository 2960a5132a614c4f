//! A store whose calls go wrong on demand.

mod chance;
mod kinds;
mod log;
mod plan;
#[cfg(test)]
#[cfg(not(any(oncekey_loom, oncekey_shuttle)))]
mod tests;

use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;

pub use chance::Odds;
pub use kinds::{CallKind, Fault};
pub use log::{FaultLog, Injection};

use oncekey::protocol::{Entry, Expected, Key};
use oncekey::store::{
    AtOnce, BatchPut, Durability, Exchange, InDoubtPage, ListInDoubt, Purged, Put, Store, StoreError,
    StoreErrorKind, TrimOutcomes, Trimmed,
};
use oncekey::time::{Clock, SystemClock};
use parking_lot::Mutex;
use plan::{Decided, Plan, Stray};

/// A store around a store, whose calls go wrong as planned: for tests of what uses a store.
///
/// Faults come from a queue for the next calls ([`plan`](FaultStore::plan), [`plan_at`](FaultStore::plan_at)) or by chance
/// ([`with_odds`](FaultStore::with_odds)). By chance, what happens to call number n depends on the seed, on n and on the
/// kind of call, and on nothing else; so a seed replays as long as the calls come in the same order. Calls are numbered
/// from 1 in the order in which they are first polled. A batch takes one number per item, and each item meets a fault
/// of its own; what is delayed or never answered delays the answer to the whole batch.
///
/// As long as nothing is planned it passes every call on, and keeps the whole contract. It does not offer the short way
/// of the store inside ([`Store::at_once`]): calls would meet no fault there. Wrap it in an [`Arc`] to plan
/// faults while an engine uses it.
///
/// ```
/// use std::sync::Arc;
/// use oncekey_conformance::{Fault, FaultStore};
/// use oncekey::{Answer, Deduplicator, Key, MemoryStore};
/// # futures::executor::block_on(async {
/// let store = Arc::new(FaultStore::new(MemoryStore::new()));
/// let dedup = Deduplicator::new(Arc::clone(&store));
/// // The claim arrives. The completion arrives too, and its reply is lost on the way back.
/// store.plan([None, Some(Fault::ReplyLost)]);
/// let charge = |_| async { Ok::<_, std::io::Error>("receipt".to_owned()) };
/// let answer = dedup.request(Key::new("payments.charge", "7f3a-91")?).run(charge).await?;
/// // The engine sent it again, and saw that it was there already: one outcome, and no doubt about it.
/// assert!(matches!(answer, Answer::Executed { .. }));
/// assert_eq!(store.log().to_string(), "call 2, exchange: applied, and the reply lost\n");
/// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
pub struct FaultStore<S> {
    store: S,
    clock: Arc<dyn Clock>,
    plan: Mutex<Plan>,
}

/// What goes wrong in a [`FaultStore`].
#[derive(Debug, thiserror::Error)]
pub enum FaultError<E> {
    /// What was planned.
    #[error("call {call} was made to fail: {fault}")]
    #[non_exhaustive]
    Injected {
        /// The number of the call.
        call: u64,
        /// What it met.
        fault: Fault,
    },
    /// The store's own error.
    #[error(transparent)]
    Store(E),
}

impl<E: StoreError> StoreError for FaultError<E> {
    fn maybe_applied(&self) -> bool {
        match self {
            Self::Injected { fault, .. } => *fault != Fault::Refused,
            Self::Store(error) => error.maybe_applied(),
        }
    }

    fn kind(&self) -> StoreErrorKind {
        match self {
            Self::Injected { .. } => StoreErrorKind::Unavailable,
            Self::Store(error) => error.kind(),
        }
    }
}

impl<S> FaultStore<S> {
    /// A store that passes every call on until something is planned.
    pub fn new(store: S) -> Self {
        Self { store, clock: Arc::new(SystemClock::new()), plan: Mutex::new(Plan::default()) }
    }

    /// Delays are slept on this clock, instead of the system's.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Every call that has no planned fault meets one by chance, from this seed.
    #[must_use]
    pub fn with_odds(self, seed: u64, odds: Odds) -> Self {
        self.plan.lock().set_odds(seed, &CallKind::ALL, odds);
        self
    }

    /// As [`with_odds`](FaultStore::with_odds), for calls of this kind only; other kinds keep the odds they have.
    #[must_use]
    pub fn with_odds_of(self, kind: CallKind, seed: u64, odds: Odds) -> Self {
        self.plan.lock().set_odds(seed, &[kind], odds);
        self
    }

    /// The next calls go like this, one each, after those that are planned already; `None`: nothing goes wrong. A call with
    /// a place in the plan meets nothing by chance.
    pub fn plan(&self, faults: impl IntoIterator<Item = Option<Fault>>) {
        self.plan.lock().queue(faults.into_iter().map(Some));
    }

    /// The `n`-th call from now meets this, counted from 1; it replaces what was planned for that call. The calls before it
    /// go as they would have.
    ///
    /// # Panics
    /// If `n` is zero: that call has been made.
    pub fn plan_at(&self, n: usize, fault: Fault) {
        assert!(n > 0, "calls from now are counted from 1");
        self.plan.lock().set(n - 1, fault);
    }

    /// Nothing goes wrong from now on: what is planned is dropped, the odds too, and copies that are still under way
    /// never arrive. Calls that are delayed, or never answered, stay so.
    pub fn heal(&self) {
        self.plan.lock().heal();
    }

    /// What went wrong, in order; the latest [`FaultLog::LEN_MAX`] of it.
    pub fn log(&self) -> FaultLog {
        self.plan.lock().log.clone()
    }

    /// How many calls were made, the items of a batch counted one by one.
    pub fn calls(&self) -> u64 {
        self.plan.lock().calls
    }

    /// How many calls met a fault.
    pub fn faults(&self) -> u64 {
        self.plan.lock().log.count()
    }

    /// The store inside, past all faults.
    pub fn inner(&self) -> &S {
        &self.store
    }
}

impl<S: Store> FaultStore<S> {
    /// Late copies arrive, in the order in which they were sent. Nobody hears their answers.
    async fn deliver(&self, copies: Vec<Stray>) {
        for copy in copies {
            let put = Put::new(&copy.record, copy.live, copy.linger);
            let _unheard = self.store.compare_exchange(&copy.key, copy.expected, put).await;
        }
    }

    async fn sleep(&self, duration: Duration) {
        self.clock.sleep_until(self.clock.now() + duration).await;
    }

    /// One call, with what it meets. `send` passes it on, as often as it arrives.
    async fn carry<'f, T>(
        &self,
        decided: Decided,
        mut send: impl FnMut() -> BoxFuture<'f, Result<T, S::Error>> + Send,
    ) -> Result<T, FaultError<S::Error>> {
        let Decided { call, fault, arriving } = decided;
        self.deliver(arriving).await;
        let Some(fault) = fault else { return send().await.map_err(FaultError::Store) };
        if let Fault::DelayedBefore(duration) = fault {
            self.sleep(duration).await;
        }
        if fault == Fault::HangsBefore {
            return pending().await;
        }
        if !fault.arrives() {
            return Err(FaultError::Injected { call, fault });
        }
        let mut answer = send().await;
        if fault == Fault::Twice {
            answer = send().await;
        }
        match fault {
            Fault::DelayedAfter(duration) => self.sleep(duration).await,
            Fault::ReplyLost => return Err(FaultError::Injected { call, fault }),
            Fault::HangsAfter => return pending().await,
            _ => {}
        }
        answer.map_err(FaultError::Store)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<S: Store> Store for FaultStore<S> {
    type Error = FaultError<S::Error>;

    async fn load(&self, key: &Key) -> Result<Option<Entry>, Self::Error> {
        let decided = self.plan.lock().decide(CallKind::Load, None);
        self.carry(decided, || self.store.load(key)).await
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Expected,
        put: Put<'_>,
    ) -> Result<Exchange, Self::Error> {
        let copy = || Stray::of(key, expected, put);
        let decided = self.plan.lock().decide(CallKind::Exchange, Some(&copy));
        self.carry(decided, || self.store.compare_exchange(key, expected, put)).await
    }

    async fn compare_exchange_many(&self, batch: &[BatchPut<'_>]) -> Vec<Result<Exchange, Self::Error>> {
        let (decided, arriving) = self.plan.lock().decide_batch(batch);
        self.deliver(arriving).await;
        let longest = |delay: fn(Fault) -> Option<Duration>| {
            decided.iter().filter_map(|(_, fault)| delay(*fault.as_ref()?)).max()
        };
        if let Some(duration) = longest(Fault::delay_before) {
            self.sleep(duration).await;
        }
        let pick = |chosen: fn(Fault) -> bool, otherwise: bool| {
            let both = batch.iter().zip(&decided);
            both.filter(move |(_, (_, fault))| fault.map_or(otherwise, chosen))
                .map(|(item, _)| *item)
                .collect::<Vec<_>>()
        };
        let arriving = pick(Fault::arrives, true);
        let mut answers = if arriving.is_empty() {
            Vec::new().into_iter()
        } else {
            self.store.compare_exchange_many(&arriving).await.into_iter()
        };
        let again = pick(|fault| fault == Fault::Twice, false);
        let mut seconds = if again.is_empty() {
            Vec::new().into_iter()
        } else {
            self.store.compare_exchange_many(&again).await.into_iter()
        };
        if let Some(duration) = longest(Fault::delay_after) {
            self.sleep(duration).await;
        }
        if decided.iter().any(|(_, fault)| fault.is_some_and(Fault::hangs)) {
            return pending().await;
        }
        let mut merged = Vec::with_capacity(batch.len());
        for (call, fault) in decided {
            let answer = match fault {
                Some(fault) if !fault.arrives() => Err(FaultError::Injected { call, fault }),
                fault => {
                    // A store that answers too few breaks its contract; so does this then, and the engine notices.
                    let Some(answer) = answers.next() else { break };
                    match fault {
                        Some(Fault::ReplyLost) => Err(FaultError::Injected { call, fault: Fault::ReplyLost }),
                        Some(Fault::Twice) => seconds.next().unwrap_or(answer).map_err(FaultError::Store),
                        _ => answer.map_err(FaultError::Store),
                    }
                }
            };
            merged.push(answer);
        }
        merged
    }

    async fn purge(&self, limit: usize) -> Result<Purged, Self::Error> {
        let decided = self.plan.lock().decide(CallKind::Purge, None);
        self.carry(decided, || self.store.purge(limit)).await
    }

    /// None: see the type.
    fn at_once(&self) -> Option<&dyn AtOnce<Error = Self::Error>> {
        None
    }

    /// None: it would go round the faults. The store is listed and trimmed by its type.
    fn lists(&self) -> Option<&dyn ListInDoubt<Error = Self::Error>> {
        None
    }

    /// None, likewise.
    fn trims(&self) -> Option<&dyn TrimOutcomes<Error = Self::Error>> {
        None
    }

    fn durability(&self) -> Durability {
        self.store.durability()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<S: ListInDoubt> ListInDoubt for FaultStore<S> {
    async fn list_in_doubt(&self, cursor: Option<u64>, limit: usize) -> Result<InDoubtPage, Self::Error> {
        let decided = self.plan.lock().decide(CallKind::Load, None);
        self.carry(decided, || self.store.list_in_doubt(cursor, limit)).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<S: TrimOutcomes> TrimOutcomes for FaultStore<S> {
    async fn trim_outcomes(&self, cursor: Option<u64>, limit: usize) -> Result<Trimmed, Self::Error> {
        let decided = self.plan.lock().decide(CallKind::Purge, None);
        self.carry(decided, || self.store.trim_outcomes(cursor, limit)).await
    }
}

impl<S: fmt::Debug> fmt::Debug for FaultStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultStore")
            .field("store", &self.store)
            .field("calls", &self.calls())
            .field("faults", &self.faults())
            .finish_non_exhaustive()
    }
}
