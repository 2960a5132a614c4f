//! Stores whose calls block.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use oncekey::protocol::{Entry, Expected, Record};
use oncekey::store::{
    AtOnce, BatchPut, Durability, Exchange, InDoubtPage, ListInDoubt, Purged, Put, StoreError,
    StoreErrorKind, TrimOutcomes,
};
use oncekey::{Key, Store};

/// A store whose calls block their thread until they have their answer: a [`Store`] for databases with a blocking client.
/// [`Blocking`] makes it one.
///
/// The contract is that of [`Store`], clause by clause. Calls come from several threads at once.
///
/// ```
/// use std::{collections::BTreeMap, sync::Mutex, time::{Duration, Instant}};
/// use oncekey_blocking::{Blocking, BlockingStore};
/// use oncekey::store::{Exchange, Put, StoreError, StoreErrorKind};
/// use oncekey::{Deduplicator, Key, Payload};
/// use oncekey::protocol::{Entry, Expected, Record, Version};
///
/// #[derive(Default)]
/// struct TableStore(Mutex<Table>);
///
/// #[derive(Default)]
/// struct Table { rows: BTreeMap<Vec<u8>, Row>, last_version: u64 }
///
/// struct Row { body: Vec<u8>, version: u64, written: Instant, live: Duration, linger: Duration }
///
/// #[derive(Debug, thiserror::Error)]
/// #[error("row does not decode: {0}")]
/// struct TableError(#[from] oncekey::protocol::DecodeError);
///
/// impl StoreError for TableError {
///     fn kind(&self) -> StoreErrorKind { StoreErrorKind::Corrupt }
///     fn maybe_applied(&self) -> bool { false } // this store only fails on reading
/// }
///
/// impl Table {
///     fn read(&self, key: &Key, now: Instant) -> Result<Option<Entry>, TableError> {
///         let Some(row) = self.rows.get(key.as_bytes()) else { return Ok(None) };
///         let age = now - row.written;
///         if age >= row.live.saturating_add(row.linger) {
///             return Ok(None); // past live + linger: nothing is readable, purged or not (S3)
///         }
///         let record = Record::decode(&row.body[..])?;
///         let left = match row.live {
///             Duration::MAX => Duration::MAX, // forever stays forever
///             live => live.saturating_sub(age), // zero: expired, and still readable
///         };
///         Ok(Some(Entry { record, version: Version::new(row.version), left }))
///     }
/// }
///
/// impl BlockingStore for TableStore {
///     type Error = TableError;
///
///     fn load(&self, key: &Key) -> Result<Option<Entry>, TableError> {
///         self.0.lock().unwrap().read(key, Instant::now())
///     }
///
///     fn compare_exchange(&self, key: &Key, expected: Expected, put: Put<'_>) -> Result<Exchange, TableError> {
///         let mut table = self.0.lock().unwrap(); // one step under one lock (S1)
///         let now = Instant::now();
///         let current = table.read(key, now)?;
///         if match expected {
///             Expected::Vacant => current.is_some(),
///             Expected::At(version) => current.as_ref().map(|entry| entry.version) != Some(version),
///         } {
///             return Ok(Exchange::Conflict(current));
///         }
///         table.last_version += 1; // outlives every row (S2)
///         let version = table.last_version;
///         let body = put.record.as_bytes().to_vec();
///         let row = Row { body, version, written: now, live: put.live, linger: put.linger };
///         table.rows.insert(key.as_bytes().to_vec(), row);
///         Ok(Exchange::Done(Version::new(version)))
///     }
/// }
///
/// let engine = Deduplicator::new(Blocking::new(TableStore::default()));
/// let dedup = oncekey_blocking::Deduplicator::new(engine)?;
/// let key = Key::new("payments.charge", "7f3a-91")?;
/// let first = dedup.request(key.clone()).run(|_| Ok::<_, TableError>("charged".to_owned()))?;
/// let again = dedup.request(key).run(|_| Ok::<_, TableError>("charged twice!".to_owned()))?;
/// assert_eq!(first.value(), again.value());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a store whose calls block",
    note = "implement `oncekey_blocking::BlockingStore` for it; an async store needs no `Blocking` around it"
)]
pub trait BlockingStore: Send + Sync {
    /// What goes wrong in this store.
    type Error: StoreError;

    /// As [`Store::load`].
    ///
    /// # Errors
    /// The store's own.
    ///
    /// # Guarantees
    /// S1, S6, S7, S9.
    fn load(&self, key: &Key) -> Result<Option<Entry>, Self::Error>;

    /// As [`Store::compare_exchange`].
    ///
    /// # Errors
    /// The store's own; the write is then maybe applied, unless the error says otherwise.
    ///
    /// # Guarantees
    /// S1 to S10.
    fn compare_exchange(&self, key: &Key, expected: Expected, put: Put<'_>) -> Result<Exchange, Self::Error>;

    /// As [`Store::compare_exchange_many`]. The default makes one call after the other.
    ///
    /// # Guarantees
    /// Those of [`BlockingStore::compare_exchange`], for each item.
    fn compare_exchange_many(&self, batch: &[BatchPut<'_>]) -> Vec<Result<Exchange, Self::Error>> {
        batch.iter().map(|item| self.compare_exchange(item.key, item.expected, item.put)).collect()
    }

    /// As [`Store::purge`]. The default removes nothing.
    ///
    /// # Errors
    /// The store's own.
    ///
    /// # Guarantees
    /// S2, S8.
    fn purge(&self, limit: usize) -> Result<Purged, Self::Error> {
        let _ = limit;
        Ok(Purged { removed: 0, more: false })
    }

    /// As [`Store::durability`]; does not block. The default declares nothing.
    ///
    /// # Guarantees
    /// S9 is held to what is said here.
    fn durability(&self) -> Durability {
        Durability::undeclared()
    }
}

/// A blocking store that can list the keys whose operations are in doubt: see [`ListInDoubt`].
pub trait BlockingListInDoubt: BlockingStore {
    /// As [`ListInDoubt::list_in_doubt`].
    ///
    /// # Errors
    /// The store's own.
    fn list_in_doubt(&self, cursor: Option<u64>, limit: usize) -> Result<InDoubtPage, Self::Error>;
}

#[deny(clippy::missing_trait_methods)]
impl<B: BlockingStore + ?Sized> BlockingStore for Arc<B> {
    type Error = B::Error;

    fn load(&self, key: &Key) -> Result<Option<Entry>, Self::Error> {
        (**self).load(key)
    }

    fn compare_exchange(&self, key: &Key, expected: Expected, put: Put<'_>) -> Result<Exchange, Self::Error> {
        (**self).compare_exchange(key, expected, put)
    }

    fn compare_exchange_many(&self, batch: &[BatchPut<'_>]) -> Vec<Result<Exchange, Self::Error>> {
        (**self).compare_exchange_many(batch)
    }

    fn purge(&self, limit: usize) -> Result<Purged, Self::Error> {
        (**self).purge(limit)
    }

    fn durability(&self) -> Durability {
        (**self).durability()
    }
}

#[deny(clippy::missing_trait_methods)]
impl<B: BlockingListInDoubt + ?Sized> BlockingListInDoubt for Arc<B> {
    fn list_in_doubt(&self, cursor: Option<u64>, limit: usize) -> Result<InDoubtPage, Self::Error> {
        (**self).list_in_doubt(cursor, limit)
    }
}

/// A [`BlockingStore`] as a [`Store`]: for both faces of the engine, under any executor. Cheap to clone.
///
/// Each call goes to a thread of the `blocking` crate's pool, which starts threads as calls come and ends those that are
/// idle; its bound is 500, or the environment's `BLOCKING_MAX_THREADS`. So it goes also from a plain thread: the engine
/// can then give up a call that takes longer than its `store_timeout`.
///
/// # Cancel safety
/// A call whose future is dropped before a thread took it up is not made. One under way goes on to its end.
pub struct Blocking<B> {
    store: Arc<B>,
}

impl<B> Clone for Blocking<B> {
    fn clone(&self) -> Self {
        Self { store: Arc::clone(&self.store) }
    }
}

impl<B> fmt::Debug for Blocking<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blocking({})", std::any::type_name::<B>())
    }
}

/// What goes wrong in a [`Blocking`] store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockingError<E> {
    /// The store's own error.
    #[error(transparent)]
    Store(E),
    /// The store's call panicked.
    #[error("the store's call panicked ({what}); if that was a write, it may have been applied")]
    #[non_exhaustive]
    Panicked {
        /// What the panic said, where it was text.
        what: String,
    },
}

impl<E: StoreError> StoreError for BlockingError<E> {
    /// After a panic, nobody knows.
    fn maybe_applied(&self) -> bool {
        match self {
            Self::Store(error) => error.maybe_applied(),
            Self::Panicked { .. } => true,
        }
    }

    fn kind(&self) -> StoreErrorKind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Panicked { .. } => StoreErrorKind::Other,
        }
    }
}

fn what(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "with a value that is not text".to_owned())
}

impl<B: BlockingStore + 'static> Blocking<B> {
    /// This store, for async callers.
    pub fn new(store: B) -> Self {
        Self { store: Arc::new(store) }
    }

    /// The store itself.
    pub fn get_ref(&self) -> &B {
        &self.store
    }

    /// Makes a call on a thread that may block. `Err`: it panicked, and said this.
    async fn unblock<T: Send + 'static>(
        &self,
        call: impl FnOnce(&B) -> T + Send + 'static,
    ) -> Result<T, String> {
        let store = Arc::clone(&self.store);
        ::blocking::unblock(move || {
            // A store that a panic left half-way is its author's concern: it is shared, as any store is.
            catch_unwind(AssertUnwindSafe(|| call(&store))).map_err(|panic| what(&*panic))
        })
        .await
    }

    async fn ask<T: Send + 'static>(
        &self,
        call: impl FnOnce(&B) -> Result<T, B::Error> + Send + 'static,
    ) -> Result<T, BlockingError<B::Error>> {
        match self.unblock(call).await {
            Ok(answer) => answer.map_err(BlockingError::Store),
            Err(what) => Err(BlockingError::Panicked { what }),
        }
    }
}

/// A write that outlives the call that asked for it. A record is cheap to clone.
struct OwnPut {
    key: Key,
    expected: Expected,
    record: Record,
    live: Duration,
    linger: Duration,
}

impl OwnPut {
    fn new(key: &Key, expected: Expected, put: Put<'_>) -> Self {
        Self { key: key.clone(), expected, record: put.record.clone(), live: put.live, linger: put.linger }
    }

    fn put(&self) -> Put<'_> {
        Put::new(&self.record, self.live, self.linger)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<B: BlockingStore + 'static> Store for Blocking<B> {
    type Error = BlockingError<B::Error>;

    async fn load(&self, key: &Key) -> Result<Option<Entry>, Self::Error> {
        let key = key.clone();
        self.ask(move |store| store.load(&key)).await
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Expected,
        put: Put<'_>,
    ) -> Result<Exchange, Self::Error> {
        let own = OwnPut::new(key, expected, put);
        self.ask(move |store| store.compare_exchange(&own.key, own.expected, own.put())).await
    }

    async fn compare_exchange_many(&self, batch: &[BatchPut<'_>]) -> Vec<Result<Exchange, Self::Error>> {
        let len = batch.len();
        let own: Vec<_> = batch.iter().map(|item| OwnPut::new(item.key, item.expected, item.put)).collect();
        let answers = self.unblock(move |store| {
            let batch: Vec<_> =
                own.iter().map(|own| BatchPut::new(&own.key, own.expected, own.put())).collect();
            store.compare_exchange_many(&batch)
        });
        match answers.await {
            Ok(answers) => answers.into_iter().map(|answer| answer.map_err(BlockingError::Store)).collect(),
            Err(what) => (0..len).map(|_| Err(BlockingError::Panicked { what: what.clone() })).collect(),
        }
    }

    async fn purge(&self, limit: usize) -> Result<Purged, Self::Error> {
        self.ask(move |store| store.purge(limit)).await
    }

    /// None: its calls block their thread.
    fn at_once(&self) -> Option<&dyn AtOnce<Error = Self::Error>> {
        None
    }

    /// None: whether the store can is not known here.
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
impl<B: BlockingListInDoubt + 'static> ListInDoubt for Blocking<B> {
    async fn list_in_doubt(&self, cursor: Option<u64>, limit: usize) -> Result<InDoubtPage, Self::Error> {
        self.ask(move |store| store.list_in_doubt(cursor, limit)).await
    }
}
