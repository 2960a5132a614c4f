//! A store that is chosen when the program runs.

use std::sync::Arc;

use async_trait::async_trait;

use super::error::ErasedError;
use super::{
    AtOnce, BatchPut, Durability, Exchange, InDoubtPage, ListInDoubt, Purged, Put, Step, Store, TrimOutcomes,
    Trimmed,
};
use crate::protocol::{Entry, Expected, Key};
use crate::time::Timeline;

/// Any store, as one type: from [`erased`]. Cheap to clone.
pub type ErasedStore = Arc<dyn Store<Error = ErasedError>>;

/// This store without its type, so that one [`Deduplicator`](crate::Deduplicator) type serves stores of several: SQLite in
/// development and PostgreSQL in production, say. Everything a store does is passed on: batches, purge,
/// lists and trims, durability, and the short way.
///
/// ```
/// use oncekey::store::{CachedStore, ErasedStore, erased};
/// use oncekey::{Deduplicator, Key, MemoryStore};
/// # use std::time::Duration;
///
/// struct Shop { dedup: Deduplicator<ErasedStore> }
///
/// # fn open(production: bool) -> Shop {
/// let store = if production {
///     erased(CachedStore::new(MemoryStore::new(), 10_000, Duration::from_secs(60))) // a database, behind a cache
/// } else {
///     erased(MemoryStore::new())
/// };
/// let shop = Shop { dedup: Deduplicator::new(store) };
/// # shop }
/// # futures::executor::block_on(async {
/// # for production in [false, true] {
/// # let shop = open(production);
/// let charge = || shop.dedup.request(Key::new("payments.charge", "7f3a-91").unwrap())
///     .run(|_| async { Ok::<_, std::io::Error>("charged".to_owned()) });
/// assert_eq!(charge().await?.into_value()?, charge().await?.into_value()?);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
pub fn erased<S: Store + 'static>(store: S) -> ErasedStore {
    Arc::new(Erased(store))
}

struct Erased<S>(S);

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<S: Store> Store for Erased<S> {
    type Error = ErasedError;

    async fn load(&self, key: &Key) -> Result<Option<Entry>, ErasedError> {
        self.0.load(key).await.map_err(ErasedError::new)
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Expected,
        put: Put<'_>,
    ) -> Result<Exchange, ErasedError> {
        self.0.compare_exchange(key, expected, put).await.map_err(ErasedError::new)
    }

    async fn compare_exchange_many(&self, batch: &[BatchPut<'_>]) -> Vec<Result<Exchange, ErasedError>> {
        let answers = self.0.compare_exchange_many(batch).await;
        answers.into_iter().map(|answer| answer.map_err(ErasedError::new)).collect()
    }

    async fn purge(&self, limit: usize) -> Result<Purged, ErasedError> {
        self.0.purge(limit).await.map_err(ErasedError::new)
    }

    fn at_once(&self) -> Option<&dyn AtOnce<Error = ErasedError>> {
        self.0.at_once().map(|_| self as _)
    }

    fn lists(&self) -> Option<&dyn ListInDoubt<Error = ErasedError>> {
        self.0.lists().map(|_| self as _)
    }

    fn trims(&self) -> Option<&dyn TrimOutcomes<Error = ErasedError>> {
        self.0.trims().map(|_| self as _)
    }

    fn durability(&self) -> Durability {
        self.0.durability()
    }
}

/// Offered only where the store offers it.
impl<S: Store> AtOnce for Erased<S> {
    type Error = ErasedError;

    fn update(&self, key: &Key, step: &mut (dyn Step + Send)) -> Result<Option<Entry>, ErasedError> {
        offered(self.0.at_once()).update(key, step).map_err(ErasedError::new)
    }

    fn timeline(&self) -> Option<Timeline> {
        offered(self.0.at_once()).timeline()
    }
}

#[async_trait]
impl<S: Store> ListInDoubt for Erased<S> {
    async fn list_in_doubt(&self, cursor: Option<u64>, limit: usize) -> Result<InDoubtPage, ErasedError> {
        offered(self.0.lists()).list_in_doubt(cursor, limit).await.map_err(ErasedError::new)
    }
}

#[async_trait]
impl<S: Store> TrimOutcomes for Erased<S> {
    async fn trim_outcomes(&self, cursor: Option<u64>, limit: usize) -> Result<Trimmed, ErasedError> {
        offered(self.0.trims()).trim_outcomes(cursor, limit).await.map_err(ErasedError::new)
    }
}

fn offered<T>(ability: Option<T>) -> T {
    ability.expect("a store always offers what it offered once")
}
