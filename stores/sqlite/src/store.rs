//! The store: hands calls to its threads, and waits for their answers.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use futures::channel::oneshot;
use oncekey::protocol::{Entry, Expected};
use oncekey::store::{
    BatchPut, Durability, DurabilityClass, Exchange, InDoubtPage, ListInDoubt, Purged, Put, Store,
    TrimOutcomes, Trimmed,
};
use oncekey::{Key, Prepared};
use parking_lot::Mutex;
use rusqlite::Connection;

use crate::clock::WallClock;
use crate::complete::complete_at;
use crate::connect::Place;
use crate::error::{CompleteError, SqliteError};
use crate::job::{Job, Write};
use crate::options::Synchronous;
use crate::queue::{Closed, Queue};
use crate::reader::{Desk, Question};
use crate::table::{self, OwnedPut};
use crate::threads::Threads;
use crate::trim::Found;
use crate::watch::Watch;

/// A store in one SQLite file: embedded, durable, shared by the processes of one machine.
///
/// One thread writes, and puts all that waits into one transaction: one flush to disk serves many callers. Others read,
/// and wait for no writer. A clone is another handle on the same store; the threads end with the last one.
///
/// **Durability:** with [`Synchronous::Full`], the default, what was acknowledged survives a power loss, as long as all
/// connections to the file are at FULL: one of your own with a weaker `synchronous`, or a store with
/// [`Synchronous::Normal`], may carry what was acknowledged over into the database unflushed. Expiry is judged
/// by the host's wall clock: a step forward ends leases early by as much (keep it below the engine's margin: let a daemon
/// slew the clock), a step back only delays.
///
/// **The file** must stay where it is. One that is deleted, moved or replaced while it is open, or whose `-wal` or `-shm` is,
/// is noticed before anything is granted, as [`SqliteError::Replaced`]; reads notice it within 20 ms. The README says what
/// else parts the processes that share a file.
///
/// Versions come from a counter in the file, which goes on rising when records go. Restoring an older copy of the file
/// loses what was acknowledged since, and the promise with it.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("orders.db");
/// use oncekey::{Deduplicator, Key};
/// use oncekey_sqlite::SqliteStore;
///
/// let dedup = Deduplicator::new(SqliteStore::open(&path)?);
/// # futures::executor::block_on(async {
/// let answer = dedup.request(Key::new("payments.charge", "7f3a-91")?)
///     .run(|attempt| async move { Ok::<_, std::io::Error>(format!("charged as {}", attempt.operation_id())) })
///     .await?;
/// # answer.into_value()?;
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SqliteStore {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    place: Place,
    watch: Arc<Watch>,
    clock: WallClock,
    writer: Desk,
    questions: Arc<Queue<Question>>,
    /// Connections for reads on the caller's thread; each is taken out while it is used.
    on_caller: Mutex<Vec<Connection>>,
    reads_on_caller: bool,
    /// They end when this is dropped.
    _threads: Threads,
}

impl Inner {
    pub(crate) fn new(
        place: Place,
        watch: Arc<Watch>,
        clock: WallClock,
        writer: Desk,
        questions: Arc<Queue<Question>>,
        on_caller: Vec<Connection>,
        threads: Threads,
    ) -> Self {
        let reads_on_caller = !on_caller.is_empty();
        Self {
            place,
            watch,
            clock,
            writer,
            questions,
            on_caller: Mutex::new(on_caller),
            reads_on_caller,
            _threads: threads,
        }
    }

    /// Reads on this thread; `None` if that would wait.
    fn load_here(&self, key: &Key) -> Option<Result<Option<Entry>, SqliteError>> {
        if !self.reads_on_caller {
            return None;
        }
        if let Err(replaced) = self.watch.check_now_and_then() {
            return Some(Err(replaced));
        }
        let connection = self.on_caller.lock().pop()?;
        let now = self.clock.now();
        let loaded = table::load(&connection, key, now);
        self.on_caller.lock().push(connection);
        match loaded {
            Err(SqliteError::Busy(_)) => None,
            loaded => Some(loaded),
        }
    }

    fn ask(&self, question: Question) -> Result<(), SqliteError> {
        self.writer.check_room(self.questions.len())?;
        // A question that is dropped drops the sender of its answer, and the receiver tells the caller.
        self.questions.push(question).map_err(|Closed(_)| SqliteError::Closed)
    }
}

impl SqliteStore {
    pub(crate) fn new(inner: Inner) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// The absolute path of the file.
    pub fn path(&self) -> &Path {
        &self.inner.place.path
    }

    /// Another connection to the same file, set up as the store's own: for transactions of yours that are to commit
    /// together with an outcome. See [`SqliteStore::complete_in`]. It waits for a lock as the
    /// [busy timeout](crate::SqliteStoreBuilder::busy_timeout) says.
    ///
    /// # Errors
    /// As for [`SqliteStoreBuilder::open`](crate::SqliteStoreBuilder::open).
    pub fn connect(&self) -> Result<Connection, SqliteError> {
        self.inner.watch.check()?;
        let connection = self.inner.place.connect(false)?;
        self.inner.watch.check()?;
        Ok(connection)
    }

    /// Writes a prepared completion in a transaction of the caller's, on the store's own file: it commits together with
    /// all else that the transaction wrote, or not at all.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let store = oncekey_sqlite::SqliteStore::open(directory.path().join("orders.db"))?;
    /// # store.connect()?.execute("CREATE TABLE orders (id TEXT)", [])?;
    /// # let dedup = oncekey::Deduplicator::new(store.clone());
    /// # futures::executor::block_on(async {
    /// use oncekey::{ClaimAnswer, Key};
    /// use oncekey_sqlite::rusqlite::TransactionBehavior;
    ///
    /// let mut connection = store.connect()?;
    /// if let ClaimAnswer::Granted(mut claim) = dedup.request(Key::new("orders.place", "7f3a-91")?).claim().await? {
    ///     let prepared = claim.prepare("order 42").await?;
    ///     let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    ///     transaction.execute("INSERT INTO orders (id) VALUES ('order 42')", [])?;
    ///     store.complete_in(&transaction, &prepared)?; // on an error `?` drops the transaction: rolled back
    ///     match transaction.commit() {
    ///         Ok(()) => claim.committed(&prepared)?,
    ///         Err(_) => { let settled = claim.settle(&prepared).await?; /* committed, or not */ }
    ///     }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
    /// # Ok(()) }
    /// ```
    ///
    /// SQLite has one writer at a time: while the transaction is open, every other claim, renewal and completion on the
    /// file waits for it. Keep it short, against leases and against the busy timeout, and begin it with `BEGIN IMMEDIATE`.
    /// It is as durable as its connection is set up to be; [`SqliteStore::connect`] gives one like the store's.
    ///
    /// # Errors
    /// [`CompleteError`]; nothing was written, and the transaction must be rolled back.
    pub fn complete_in(&self, transaction: &Connection, prepared: &Prepared) -> Result<(), CompleteError> {
        let path = transaction.path().map(Path::new).filter(|path| !path.as_os_str().is_empty());
        let same = path.is_some_and(|path| same_file(path, self.path()));
        if !same {
            return Err(CompleteError::OtherFile {
                transaction: path.map(Path::to_owned),
                store: self.path().to_owned(),
            });
        }
        self.inner.watch.check().map_err(CompleteError::Sqlite)?;
        complete_at(transaction, prepared, &self.inner.clock)
    }

    async fn answer<T>(answer: oneshot::Receiver<Result<T, SqliteError>>) -> Result<T, SqliteError> {
        answer.await.unwrap_or(Err(SqliteError::ThreadGone))
    }
}

fn same_file(one: &Path, other: &Path) -> bool {
    one == other || matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

#[async_trait]
impl Store for SqliteStore {
    type Error = SqliteError;

    /// # Cancel safety
    /// Reads only.
    async fn load(&self, key: &Key) -> Result<Option<Entry>, SqliteError> {
        if let Some(loaded) = self.inner.load_here(key) {
            return loaded;
        }
        let (sender, answer) = oneshot::channel();
        self.inner.ask(Question::Load(key.clone(), sender))?;
        Self::answer(answer).await
    }

    /// # Cancel safety
    /// If dropped, a put expecting a version is done all the same, and one expecting nothing there may be.
    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Expected,
        put: Put<'_>,
    ) -> Result<Exchange, SqliteError> {
        // A read answers where the key has a record, so that a replay never waits for a flush. Only the writer grants.
        let looked = if expected == Expected::Vacant { self.inner.load_here(key) } else { None };
        let is_seen = looked.is_some();
        if let Some(entry) = looked.transpose()?.flatten() {
            return Ok(Exchange::Conflict(Some(entry)));
        }
        let write = Write { key: key.clone(), expected, put: OwnedPut::new(put), unseen: false };
        let (sender, answer) = oneshot::channel();
        match expected {
            Expected::At(_) => self.inner.writer.hand_in(Job::Exchange(write, sender)),
            Expected::Vacant if is_seen => self.inner.writer.claim(write, sender),
            // A lone claim is spared a change of thread.
            Expected::Vacant => match self.inner.writer.claim_if_idle(write, sender) {
                Ok(()) => {}
                Err((write, sender)) => self.inner.ask(Question::Look(write, sender))?,
            },
        }
        Self::answer(answer).await
    }

    /// All in one transaction.
    ///
    /// # Cancel safety
    /// As for [`Store::compare_exchange`].
    async fn compare_exchange_many(&self, batch: &[BatchPut<'_>]) -> Vec<Result<Exchange, SqliteError>> {
        if batch.is_empty() {
            return Vec::new();
        }
        let write = |item: &BatchPut<'_>| Write {
            key: item.key.clone(),
            expected: item.expected,
            put: OwnedPut::new(item.put),
            unseen: false,
        };
        let claims_only = batch.iter().all(|item| item.expected == Expected::Vacant);
        let room = self.inner.writer.check_room(self.inner.writer.jobs.len());
        if let (true, Err(full)) = (claims_only, room) {
            return batch.iter().map(|_| Err(full.clone())).collect();
        }
        let (sender, answer) = oneshot::channel();
        self.inner.writer.hand_in(Job::Batch(batch.iter().map(write).collect(), sender));
        answer.await.unwrap_or_else(|_| batch.iter().map(|_| Err(SqliteError::ThreadGone)).collect())
    }

    /// In steps of a bounded number of rows, each in a transaction that it shares with whatever else waits.
    ///
    /// # Cancel safety
    /// If dropped, it removes the rows of one more step at most.
    async fn purge(&self, limit: usize) -> Result<Purged, SqliteError> {
        let (sender, answer) = oneshot::channel();
        self.inner.writer.hand_in(Job::Purge { limit, removed: 0, answer: sender });
        Self::answer(answer).await
    }

    fn lists(&self) -> Option<&dyn ListInDoubt<Error = Self::Error>> {
        Some(self)
    }

    fn trims(&self) -> Option<&dyn TrimOutcomes<Error = Self::Error>> {
        Some(self)
    }

    fn durability(&self) -> Durability {
        const CLOCK: &str = "Expiry is judged by the host's wall clock: a step forward ends leases early by as much, \
             a step back only delays. A restored backup loses what was acknowledged since. Each connection to the file \
             flushes as it is set to itself: one with a weaker `synchronous` can leave what this store acknowledged \
             unflushed.";
        match self.inner.place.synchronous {
            Synchronous::Full => Durability::new(
                DurabilityClass::Disk,
                format!(
                    "WAL with synchronous = FULL: each commit is flushed before it is acknowledged. {CLOCK}"
                ),
            ),
            Synchronous::Normal => Durability::new(
                DurabilityClass::Machine,
                format!("WAL with synchronous = NORMAL: a power loss can lose the latest commits. {CLOCK}"),
            ),
        }
    }
}

#[async_trait]
impl ListInDoubt for SqliteStore {
    /// A record that does not decode hides no other: the page ends before it, and the page that would begin with it is an
    /// error, [`SqliteError::Record`] or [`SqliteError::KeyDamaged`]. Its row, as the cursor, goes on behind it.
    ///
    /// # Cancel safety
    /// Reads only.
    async fn list_in_doubt(&self, cursor: Option<u64>, limit: usize) -> Result<InDoubtPage, SqliteError> {
        let (sender, answer) = oneshot::channel();
        self.inner.ask(Question::List { cursor, limit, answer: sender })?;
        Self::answer(answer).await
    }
}

#[async_trait]
impl TrimOutcomes for SqliteStore {
    /// A call looks at 2,000 rows at most, and writes up to 64 of them in one transaction.
    ///
    /// # Cancel safety
    /// If dropped, those that it looked at may be trimmed.
    async fn trim_outcomes(&self, cursor: Option<u64>, limit: usize) -> Result<Trimmed, SqliteError> {
        let (sender, answer) = oneshot::channel();
        self.inner.ask(Question::Trim { cursor, limit, answer: sender })?;
        let Found { shorter, next } = Self::answer(answer).await?;
        if shorter.is_empty() {
            return Ok(Trimmed { trimmed: 0, next });
        }
        let (sender, answer) = oneshot::channel();
        self.inner.writer.hand_in(Job::Trim(shorter, sender));
        Ok(Trimmed { trimmed: Self::answer(answer).await?, next })
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore")
            .field("path", &self.path())
            .field("synchronous", &self.inner.place.synchronous)
            .finish_non_exhaustive()
    }
}
