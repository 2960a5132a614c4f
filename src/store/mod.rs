//! The store contract: what any database must do for the engine to keep its promise.
//!
//! A store holds no policy. It is, per key, a linearizable register with compare-and-exchange and a lifetime; the
//! state machine lives in the engine, once. See [`Store`] for the contract and a worked example.

mod at_once;
mod cache;
mod durability;
mod erase;
mod error;
mod forward;
mod put;

use async_trait::async_trait;
use futures::StreamExt as _;

pub use at_once::{AtOnce, Step, StepPut, exchange_at_once, load_at_once};
pub use cache::CachedStore;
pub use durability::{Durability, DurabilityClass};
pub use erase::{ErasedStore, erased};
pub use error::{ErasedError, StoreError, StoreErrorKind, StoreFailure};
pub use put::{BatchPut, Exchange, Put};

use crate::protocol::{Entry, Expected, Key};

/// A store of records: per key, a linearizable register with compare-and-exchange.
///
/// Usable as a value, as `Arc<S>`, as `Arc<dyn Store<Error = E>>`, and, where it is chosen at run time, by [`erased`].
///
/// # The contract
///
/// | clause | the store guarantees |
/// |---|---|
/// | **S1** | Calls on one key are atomic and linearizable. |
/// | **S2** | Versions of a key rise strictly, forever: also after its entry is gone, purged or not. A sequence or counter that outlives the entry does it; so does `max(last + 1, microseconds now)`, which must then be documented, since it holds only while the clock does not step back past a whole linger. |
/// | **S3** | A put expecting [`Expected::Vacant`] succeeds exactly when no entry is readable: never written, or past live + linger, purged or not. |
/// | **S4** | A put expecting [`Expected::At`] succeeds exactly when the current entry has that version and is readable, expired or not. Past live + linger it conflicts with nothing there. |
/// | **S5** | A conflict changes nothing, and carries an entry that was current during the call; never one that equals the expectation. |
/// | **S6** | Bytes and every field come back as written. Keys are compared byte for byte: case, accents, trailing spaces and NUL count. |
/// | **S7** | Expiry is judged by the store's own clock. Between steps of that clock, a live entry never reads as expired early, and an expired one never reads as live again at the same version. A step back only delays. |
/// | **S8** | Nothing is dropped before live + linger. A store at a bound of its own refuses puts expecting `Vacant`, never puts expecting `At`, and evicts nothing. Physically full is an error. |
/// | **S9** | A `Done`, and every entry answered, is as durable as the store's documentation says, and [`Store::durability`] declares. |
/// | **S10** | An error means "maybe applied", unless the store knows better and says so. |
///
/// Only durations cross this trait: the store stamps what it writes with its own clock, and answers how much is
/// left. So clocks of different machines need not agree.
///
/// A client that blocks its thread needs no async code: implement `blocking::BlockingStore` (feature
/// `blocking`), which has the same contract with plain functions, and wrap it in `blocking::Blocking`.
///
/// A durable store keeps [`Record::as_bytes`](crate::protocol::Record::as_bytes) and reads it with [`Record::decode`](crate::protocol::Record::decode); a record that does not decode is
/// an error of kind [`StoreErrorKind::Corrupt`] or [`StoreErrorKind::Newer`], **never** an absent entry.
///
/// # Cancel safety
///
/// Any future of a store may be dropped at any point; its write is then maybe applied, as after an error.
///
/// # Example
///
/// A whole third-party store. It has one table, one lock, and a counter that outlives its entries.
///
/// ```
/// use std::{collections::BTreeMap, sync::Mutex, time::{Duration, Instant}};
/// use oncekey::store::{Exchange, Put, Store, StoreError, StoreErrorKind};
/// use oncekey::{Key, Payload};
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
/// #[async_trait::async_trait]
/// impl Store for TableStore {
///     type Error = TableError;
///
///     async fn load(&self, key: &Key) -> Result<Option<Entry>, TableError> {
///         self.0.lock().unwrap().read(key, Instant::now())
///     }
///
///     async fn compare_exchange(&self, key: &Key, expected: Expected, put: Put<'_>)
///         -> Result<Exchange, TableError>
///     {
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
/// let dedup = oncekey::Deduplicator::new(TableStore::default());
/// # let run = async {
/// let key = Key::new("payments.charge", "7f3a-91")?;
/// let first = dedup.request(key.clone()).run(|_| async { Ok::<_, TableError>("charged".to_owned()) }).await?;
/// let again = dedup.request(key).run(|_| async { Ok::<_, TableError>("charged twice!".to_owned()) }).await?;
/// assert_eq!(first.value(), again.value());
/// # Ok::<(), Box<dyn std::error::Error>>(()) };
/// # futures::executor::block_on(run).unwrap();
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a store",
    note = "a store is `oncekey::MemoryStore`, one of a companion crate, or a type with `impl oncekey::Store`",
    note = "for a client that blocks its thread, wrap a `BlockingStore` as `Blocking::new(store)`, of the crate `oncekey-blocking`"
)]
#[async_trait]
pub trait Store: Send + Sync {
    /// What goes wrong in this store.
    type Error: StoreError;

    /// The entry under `key`, live or expired; `None` if it was never written or is past live + linger.
    ///
    /// # Guarantees
    /// S1, S6, S7, S9.
    async fn load(&self, key: &Key) -> Result<Option<Entry>, Self::Error>;

    /// Writes if and only if the key is as `expected`; else answers what is there now.
    ///
    /// # Guarantees
    /// S1 to S10.
    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Expected,
        put: Put<'_>,
    ) -> Result<Exchange, Self::Error>;

    /// Several writes, of distinct keys, in as few round trips as the store can; one answer per item, in order. Items
    /// do not depend on each other: each is done or not on its own.
    ///
    /// The default has up to 16 calls of [`Store::compare_exchange`] under way together.
    ///
    /// # Guarantees
    /// Those of [`Store::compare_exchange`], for each item.
    async fn compare_exchange_many(&self, batch: &[BatchPut<'_>]) -> Vec<Result<Exchange, Self::Error>> {
        let calls = batch.iter().map(|item| self.compare_exchange(item.key, item.expected, item.put));
        // Collected first: a stream over a closure that borrows would not be `Send` for every lifetime.
        let calls: Vec<_> = calls.collect();
        futures::stream::iter(calls).buffered(16).collect().await
    }

    /// Removes up to `limit` entries that are past live + linger, in bounded work. Never changes what can be read.
    ///
    /// The default removes nothing, which is within the contract: for a store that reclaims by itself.
    ///
    /// # Guarantees
    /// S2, S8.
    async fn purge(&self, limit: usize) -> Result<Purged, Self::Error> {
        let _ = limit;
        Ok(Purged { removed: 0, more: false })
    }

    /// The short way to this store, if it has one: one atomic step, without waiting. The answer is always the same.
    ///
    /// The default has none. A store that wraps another hands it through only if it does nothing in `load` and
    /// `compare_exchange`, since calls would go round it.
    ///
    /// # Guarantees
    /// Those of [`AtOnce`].
    fn at_once(&self) -> Option<&dyn AtOnce<Error = Self::Error>> {
        None
    }

    /// How to list the keys in doubt, if the store can. Whoever can gives `Some(self)`; a store that wraps another gives that
    /// one's. It serves where the store's type is not known.
    fn lists(&self) -> Option<&dyn ListInDoubt<Error = Self::Error>> {
        None
    }

    /// How to trim outcomes, if the store can; as for [`lists`](Self::lists).
    fn trims(&self) -> Option<&dyn TrimOutcomes<Error = Self::Error>> {
        None
    }

    /// What the store declares about its durability, and about its clock.
    ///
    /// The default declares nothing. A store for production should.
    ///
    /// # Guarantees
    /// S9 is held to what is said here.
    fn durability(&self) -> Durability {
        Durability::undeclared()
    }
}

/// What a purge did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Purged {
    /// How many entries it removed.
    pub removed: usize,
    /// Whether another call now would find more to do.
    pub more: bool,
}

/// A store that can list the keys whose operations are in doubt, for operators.
#[diagnostic::on_unimplemented(
    message = "the store `{Self}` cannot list the keys in doubt",
    note = "implement `ListInDoubt` for it; an erased store tells by `Store::lists` whether it can"
)]
#[async_trait]
pub trait ListInDoubt: Store {
    /// Up to `limit` keys whose record is in progress with nothing left to live, after the place where `cursor`
    /// left off, with the place to go on from; `None` when there are no more.
    ///
    /// A listing is not a snapshot: entries written meanwhile may or may not be in it.
    async fn list_in_doubt(&self, cursor: Option<u64>, limit: usize) -> Result<InDoubtPage, Self::Error>;
}

/// Some of the keys in doubt.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct InDoubtPage {
    /// Keys with their entries.
    pub entries: Vec<(Key, Entry)>,
    /// Where the next page begins; `None` when this was the last.
    pub next: Option<u64>,
}

impl InDoubtPage {
    /// A page with these entries.
    pub fn new(entries: Vec<(Key, Entry)>, next: Option<u64>) -> Self {
        Self { entries, next }
    }
}

/// A store that can drop the bytes of outcomes whose retention is over, and go on keeping that the operation is done: the
/// cheap part of an engine's [`tail`](crate::DeduplicatorBuilder::tail). An engine's
/// [keeper](crate::Deduplicator::keeper) calls it, as it does [`Store::purge`], where [`Store::trims`] offers it.
#[async_trait]
pub trait TrimOutcomes: Store {
    /// Looks at completed entries with nothing left to live, from the place where `cursor` left off, and puts
    /// [`Record::without_outcome`](crate::protocol::Record::without_outcome) in place of up to `limit` of them: under the same key, at
    /// the same version, until the same time. It does bounded work. Outcomes of a few bytes may stay, since nothing would be
    /// gained.
    ///
    /// # Guarantees
    /// An entry that is live is never touched, nor one that was written meanwhile. Nobody is answered otherwise than before:
    /// the bytes of an outcome past its retention are given to no caller.
    async fn trim_outcomes(&self, cursor: Option<u64>, limit: usize) -> Result<Trimmed, Self::Error>;
}

/// What a trim did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trimmed {
    /// How many outcomes it dropped.
    pub trimmed: usize,
    /// Where to go on; `None` when it came to the end.
    pub next: Option<u64>,
}
