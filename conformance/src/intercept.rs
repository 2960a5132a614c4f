//! A store around a store, of which a test changes one call and leaves the others.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::future::BoxFuture;

use oncekey::Key;
use oncekey::protocol::{Entry, Expected};
use oncekey::store::{
    AtOnce, BatchPut, Durability, Exchange, InDoubtPage, ListInDoubt, Purged, Put, Store, StoreError,
    TrimOutcomes, Trimmed,
};

use crate::fault::CallKind;

type Around = dyn Fn(CallKind) -> BoxFuture<'static, ()> + Send + Sync;
type OnLoad<S, E> = dyn for<'a> Fn(&'a S, &'a Key) -> BoxFuture<'a, Result<Option<Entry>, E>> + Send + Sync;
type OnExchange<S, E> =
    dyn for<'a> Fn(&'a S, &'a Key, Expected, Put<'a>) -> BoxFuture<'a, Result<Exchange, E>> + Send + Sync;
type OnBatch<S, E> =
    dyn for<'a> Fn(&'a S, &'a [BatchPut<'a>]) -> BoxFuture<'a, Vec<Result<Exchange, E>>> + Send + Sync;
type OnPurge<S, E> = dyn for<'a> Fn(&'a S, usize) -> BoxFuture<'a, Result<Purged, E>> + Send + Sync;
type OnTrim<S, E> =
    dyn for<'a> Fn(&'a S, Option<u64>, usize) -> BoxFuture<'a, Result<Trimmed, E>> + Send + Sync;

/// A store around a store, for tests: closures stand in for the calls that a test changes, and all other calls are passed
/// on. For stores in the same process; what goes wrong between a client and its store is for
/// [`FaultStore`](crate::FaultStore).
///
/// - [`before`](Intercept::before) and [`after`](Intercept::after) run around every call.
/// - [`on_load`](Intercept::on_load), [`on_exchange`](Intercept::on_exchange), [`on_batch`](Intercept::on_batch),
///   [`on_purge`](Intercept::on_purge) and [`on_trim`](Intercept::on_trim) take the place of one call. Each gets the store
///   inside and the arguments of the call, and may pass them on: once, twice, changed, or not at all.
///
/// No call that has a closure of its own goes round it; so the short way of the store inside ([`Store::at_once`]) is not
/// offered. `list_in_doubt` has none: it is passed on, and [`before`](Intercept::before)
/// hears of it as a load, as it hears of a trim as a purge. Where exchanges are replaced and batches are not, the items of a batch are exchanged one
/// by one, up to 16 of them at once, as a store does that knows of no batches.
///
/// A clone has the same store inside, and the same closures.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicBool, Ordering};
/// use oncekey::{Deduplicator, Key, MemoryStore};
/// use oncekey_conformance::Intercept;
/// # futures::executor::block_on(async {
/// // Each write is sent twice, as by a network that repeats requests.
/// let repeats = Arc::new(AtomicBool::new(true));
/// let repeated = Arc::clone(&repeats);
/// let store = Intercept::new(MemoryStore::new()).on_exchange(move |store, key, expected, put| {
///     let repeats = Arc::clone(&repeated);
///     Box::pin(async move {
///         if repeats.load(Ordering::SeqCst) {
///             store.compare_exchange(key, expected, put).await?;
///         }
///         store.compare_exchange(key, expected, put).await
///     })
/// });
/// # use oncekey::Store as _;
/// let dedup = Deduplicator::new(store);
/// let charge = |_| async { Ok::<_, std::io::Error>("receipt".to_owned()) };
/// let answer = dedup.request(Key::new("payments.charge", "7f3a-91")?).run(charge).await?;
/// // The engine knows its own claim and its own outcome again.
/// assert!(matches!(answer, oncekey::Answer::Executed { .. }));
/// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
pub struct Intercept<S: Store, E = <S as Store>::Error> {
    store: Arc<S>,
    told: fn(S::Error) -> E,
    before: Option<Arc<Around>>,
    after: Option<Arc<Around>>,
    on_load: Option<Arc<OnLoad<S, E>>>,
    on_exchange: Option<Arc<OnExchange<S, E>>>,
    on_batch: Option<Arc<OnBatch<S, E>>>,
    on_purge: Option<Arc<OnPurge<S, E>>>,
    on_trim: Option<Arc<OnTrim<S, E>>>,
    durability: Option<Durability>,
}

impl<S: Store> Intercept<S> {
    /// A store that passes every call on, until it is told otherwise.
    pub fn new(store: S) -> Self {
        Self::telling(store, |error| error)
    }
}

impl<S: Store, E> Intercept<S, E> {
    /// The same, with errors of another kind: `told` makes one of each error of the store inside.
    pub fn telling(store: S, told: fn(S::Error) -> E) -> Self {
        Self {
            store: Arc::new(store),
            told,
            before: None,
            after: None,
            on_load: None,
            on_exchange: None,
            on_batch: None,
            on_purge: None,
            on_trim: None,
            durability: None,
        }
    }

    /// Runs before every call, also before one that a closure takes the place of. A batch that is passed on is one call,
    /// of the kind [`CallKind::BatchItem`]; one that is taken apart is as many as it has items.
    #[must_use]
    pub fn before(
        mut self,
        hook: impl Fn(CallKind) -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) -> Self {
        self.before = Some(Arc::new(hook));
        self
    }

    /// Runs after every call, before its answer is given.
    #[must_use]
    pub fn after(
        mut self,
        hook: impl Fn(CallKind) -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) -> Self {
        self.after = Some(Arc::new(hook));
        self
    }

    /// Takes the place of [`Store::load`].
    #[must_use]
    pub fn on_load(
        mut self,
        hook: impl for<'a> Fn(&'a S, &'a Key) -> BoxFuture<'a, Result<Option<Entry>, E>> + Send + Sync + 'static,
    ) -> Self {
        self.on_load = Some(Arc::new(hook));
        self
    }

    /// Takes the place of [`Store::compare_exchange`], and of each item of a batch unless
    /// [`on_batch`](Intercept::on_batch) is set.
    #[must_use]
    pub fn on_exchange(
        mut self,
        hook: impl for<'a> Fn(&'a S, &'a Key, Expected, Put<'a>) -> BoxFuture<'a, Result<Exchange, E>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.on_exchange = Some(Arc::new(hook));
        self
    }

    /// Takes the place of [`Store::compare_exchange_many`].
    #[must_use]
    pub fn on_batch(
        mut self,
        hook: impl for<'a> Fn(&'a S, &'a [BatchPut<'a>]) -> BoxFuture<'a, Vec<Result<Exchange, E>>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.on_batch = Some(Arc::new(hook));
        self
    }

    /// Takes the place of [`Store::purge`].
    #[must_use]
    pub fn on_purge(
        mut self,
        hook: impl for<'a> Fn(&'a S, usize) -> BoxFuture<'a, Result<Purged, E>> + Send + Sync + 'static,
    ) -> Self {
        self.on_purge = Some(Arc::new(hook));
        self
    }

    /// Takes the place of [`TrimOutcomes::trim_outcomes`], where the store inside trims.
    #[must_use]
    pub fn on_trim(
        mut self,
        hook: impl for<'a> Fn(&'a S, Option<u64>, usize) -> BoxFuture<'a, Result<Trimmed, E>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.on_trim = Some(Arc::new(hook));
        self
    }

    /// Declares this, whatever the store inside declares.
    #[must_use]
    pub fn declaring(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }

    /// The store inside, past all closures.
    pub fn inner(&self) -> &S {
        &self.store
    }

    async fn around<T>(&self, kind: CallKind, call: impl Future<Output = T> + Send) -> T {
        if let Some(before) = &self.before {
            before(kind).await;
        }
        let answer = call.await;
        if let Some(after) = &self.after {
            after(kind).await;
        }
        answer
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<S: Store, E: StoreError> Store for Intercept<S, E> {
    type Error = E;

    async fn load(&self, key: &Key) -> Result<Option<Entry>, E> {
        self.around(CallKind::Load, async {
            match &self.on_load {
                Some(hook) => hook(&self.store, key).await,
                None => self.store.load(key).await.map_err(self.told),
            }
        })
        .await
    }

    async fn compare_exchange(&self, key: &Key, expected: Expected, put: Put<'_>) -> Result<Exchange, E> {
        self.around(CallKind::Exchange, async {
            match &self.on_exchange {
                Some(hook) => hook(&self.store, key, expected, put).await,
                None => self.store.compare_exchange(key, expected, put).await.map_err(self.told),
            }
        })
        .await
    }

    async fn compare_exchange_many(&self, batch: &[BatchPut<'_>]) -> Vec<Result<Exchange, E>> {
        if self.on_exchange.is_some() && self.on_batch.is_none() {
            // As the trait's own default does.
            let calls = batch.iter().map(|item| self.compare_exchange(item.key, item.expected, item.put));
            let calls: Vec<_> = calls.collect();
            return futures::stream::iter(calls).buffered(16).collect().await;
        }
        self.around(CallKind::BatchItem, async {
            if let Some(hook) = &self.on_batch {
                return hook(&self.store, batch).await;
            }
            let answers = self.store.compare_exchange_many(batch).await;
            answers.into_iter().map(|answer| answer.map_err(self.told)).collect()
        })
        .await
    }

    async fn purge(&self, limit: usize) -> Result<Purged, E> {
        self.around(CallKind::Purge, async {
            match &self.on_purge {
                Some(hook) => hook(&self.store, limit).await,
                None => self.store.purge(limit).await.map_err(self.told),
            }
        })
        .await
    }

    /// None: see the type.
    fn at_once(&self) -> Option<&dyn AtOnce<Error = Self::Error>> {
        None
    }

    /// None: it would go round what is intercepted. The store is listed and trimmed by its type.
    fn lists(&self) -> Option<&dyn ListInDoubt<Error = Self::Error>> {
        None
    }

    /// None, likewise.
    fn trims(&self) -> Option<&dyn TrimOutcomes<Error = Self::Error>> {
        None
    }

    fn durability(&self) -> Durability {
        self.durability.clone().unwrap_or_else(|| self.store.durability())
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<S: ListInDoubt, E: StoreError> ListInDoubt for Intercept<S, E> {
    async fn list_in_doubt(&self, cursor: Option<u64>, limit: usize) -> Result<InDoubtPage, E> {
        let listing = async { self.store.list_in_doubt(cursor, limit).await.map_err(self.told) };
        self.around(CallKind::Load, listing).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<S: TrimOutcomes, E: StoreError> TrimOutcomes for Intercept<S, E> {
    async fn trim_outcomes(&self, cursor: Option<u64>, limit: usize) -> Result<Trimmed, E> {
        self.around(CallKind::Purge, async {
            match &self.on_trim {
                Some(hook) => hook(&self.store, cursor, limit).await,
                None => self.store.trim_outcomes(cursor, limit).await.map_err(self.told),
            }
        })
        .await
    }
}

impl<S: Store, E> Clone for Intercept<S, E> {
    fn clone(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            told: self.told,
            before: self.before.clone(),
            after: self.after.clone(),
            on_load: self.on_load.clone(),
            on_exchange: self.on_exchange.clone(),
            on_batch: self.on_batch.clone(),
            on_purge: self.on_purge.clone(),
            on_trim: self.on_trim.clone(),
            durability: self.durability.clone(),
        }
    }
}

impl<S: Store + fmt::Debug, E> fmt::Debug for Intercept<S, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intercept").field("store", &self.store).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use futures::FutureExt as _;
    use futures::executor::block_on;
    use oncekey::MemoryStore;
    use oncekey::store::DurabilityClass;
    use parking_lot::Mutex;

    use super::*;
    use crate::samples;

    const LIVES: Duration = Duration::from_secs(60);

    fn keys<const N: usize>() -> [Key; N] {
        std::array::from_fn(|id| Key::new("s", id.to_string()).expect("a short key"))
    }

    fn claims<'a>(keys: &'a [Key], record: &'a oncekey::protocol::Record) -> Vec<BatchPut<'a>> {
        let put = Put::new(record, LIVES, LIVES);
        keys.iter().map(|key| BatchPut::new(key, Expected::Vacant, put)).collect()
    }

    /// A batch is no way round what was set for exchanges; nor is it taken apart without need.
    #[test]
    fn a_batch_meets_what_stands_for_exchanges_and_is_whole_otherwise() {
        let (keys, record) = (keys::<5>(), samples::in_progress(1));
        let met = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&met);
        let one_by_one = Intercept::new(MemoryStore::new()).on_exchange(move |store, key, expected, put| {
            count.fetch_add(1, Ordering::SeqCst);
            store.compare_exchange(key, expected, put)
        });
        let answers = block_on(one_by_one.compare_exchange_many(&claims(&keys, &record)));
        assert!(answers.iter().all(|answer| matches!(answer, Ok(Exchange::Done(_)))), "{answers:?}");
        assert_eq!((answers.len(), met.load(Ordering::SeqCst)), (5, 5));

        let outer = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&outer);
        let whole = Intercept::new(one_by_one).on_batch(move |store, batch| {
            count.fetch_add(batch.len(), Ordering::SeqCst);
            store.compare_exchange_many(&batch[1..])
        });
        let answers = block_on(whole.compare_exchange_many(&claims(&keys, &record)));
        assert!(
            answers.iter().all(|answer| matches!(answer, Ok(Exchange::Conflict(Some(_))))),
            "{answers:?}"
        );
        assert_eq!((answers.len(), outer.load(Ordering::SeqCst), met.load(Ordering::SeqCst)), (4, 5, 9));
    }

    #[test]
    fn every_call_is_heard_of_before_and_after() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (begins, ends) = (Arc::clone(&heard), Arc::clone(&heard));
        let store = Intercept::new(MemoryStore::new())
            .before(move |kind| {
                begins.lock().push((kind, "begins"));
                futures::future::ready(()).boxed()
            })
            .after(move |kind| {
                ends.lock().push((kind, "ends"));
                futures::future::ready(()).boxed()
            });
        let ([key], record) = (keys(), samples::in_progress(1));
        let calls: [(CallKind, BoxFuture<'_, bool>); 6] = [
            (CallKind::Load, store.load(&key).map(|answer| answer.is_ok()).boxed()),
            (
                CallKind::Exchange,
                store
                    .compare_exchange(&key, Expected::Vacant, Put::new(&record, LIVES, LIVES))
                    .map(|answer| answer.is_ok())
                    .boxed(),
            ),
            (CallKind::BatchItem, store.compare_exchange_many(&[]).map(|answers| answers.is_empty()).boxed()),
            (CallKind::Purge, store.purge(1).map(|answer| answer.is_ok()).boxed()),
            (CallKind::Load, store.list_in_doubt(None, 1).map(|answer| answer.is_ok()).boxed()),
            (CallKind::Purge, store.trim_outcomes(None, 1).map(|answer| answer.is_ok()).boxed()),
        ];
        for (kind, call) in calls {
            assert!(heard.lock().is_empty(), "nothing is called before it is polled");
            assert!(block_on(call), "{kind}");
            assert_eq!(std::mem::take(&mut *heard.lock()), [(kind, "begins"), (kind, "ends")]);
        }
    }

    #[test]
    fn nothing_goes_round_it_by_the_short_way() {
        let store = Intercept::new(MemoryStore::new());
        assert!(store.inner().at_once().is_some());
        assert!(store.at_once().is_none());
    }

    #[test]
    fn it_declares_what_the_store_does_unless_it_is_told_what() {
        let store = Intercept::new(MemoryStore::new());
        assert_eq!(store.durability(), store.inner().durability());
        let disk = Durability::new(DurabilityClass::Disk, "so it is said");
        assert_eq!(store.declaring(disk.clone()).durability(), disk);
    }
}
