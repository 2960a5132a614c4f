//! Setting a store up.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

use crate::clock::WallClock;
use crate::connect::Place;
use crate::error::{BUSY_TIMEOUT, SqliteError, SqliteStep};
use crate::lock::{wait_by, wait_for_lock};
use crate::options::{Reads, Synchronous};
use crate::queue::Queue;
use crate::reader::{Desk, Reader, Shift};
use crate::schema;
use crate::store::{Inner, SqliteStore};
use crate::threads::Threads;
use crate::watch::Watch;
use crate::writer::Writer;

/// Sets a [`SqliteStore`] up.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it opens"]
pub struct SqliteStoreBuilder {
    path: PathBuf,
    synchronous: Synchronous,
    busy_timeout: Duration,
    group_max: usize,
    queue_max: usize,
    readers: usize,
    reads: Reads,
    records_max: u64,
    pages_max: Option<u32>,
    migrate: bool,
    clock: WallClock,
}

impl SqliteStore {
    /// Opens the file with the default options, creating it if there is none.
    ///
    /// # Errors
    /// As for [`SqliteStoreBuilder::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, SqliteError> {
        Self::builder(path).open()
    }

    /// Sets a store up.
    pub fn builder(path: impl AsRef<Path>) -> SqliteStoreBuilder {
        SqliteStoreBuilder::new(path.as_ref())
    }
}

impl SqliteStoreBuilder {
    fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            synchronous: Synchronous::Full,
            busy_timeout: BUSY_TIMEOUT,
            group_max: 256,
            queue_max: 10_000,
            readers: 2,
            reads: Reads::OnThreads,
            records_max: u64::MAX,
            pages_max: None,
            migrate: true,
            clock: WallClock::host(),
        }
    }

    /// When a commit is on disk: [`Synchronous::Full`] by default.
    pub fn synchronous(mut self, synchronous: Synchronous) -> Self {
        self.synchronous = synchronous;
        self
    }

    /// How long a transaction of the store waits for the lock of another connection; 4 s by default, which is less than
    /// the engine waits for a store, so that its callers are told the reason. Zero does not wait at
    /// all, and [`Duration::MAX`] waits forever. A claim may also wait behind calls that already
    /// wait for the lock.
    ///
    /// Opening waits this long at each of its few steps. A connection from [`connect`](SqliteStore::connect) waits this long
    /// at each statement that needs the lock, until you set a timeout or a handler of its own. The time is rounded up to one
    /// of 10, 20, 50, 100, 200, 300, 500, 750 ms, 1, 1.5, 2, 3, 4, 5, 7, 10, 20, 60, 600 s; **above 600 s the connection
    /// waits forever**.
    ///
    /// All of these ask for the lock every millisecond or so. A process that releases the lock and takes it again at once
    /// does not always get it first.
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout;
        self
    }

    /// Most writes of one transaction, and of one flush; 256 by default. A batch is never split.
    pub fn group_max(mut self, writes: usize) -> Self {
        self.group_max = writes;
        self
    }

    /// Most calls that wait for the writer, and most that wait for the readers; 10,000 by default. Claims above it are
    /// refused at once; writes of those who hold a claim are not.
    pub fn queue_max(mut self, calls: usize) -> Self {
        self.queue_max = calls;
        self
    }

    /// How many threads read; 2 by default.
    pub fn readers(mut self, threads: usize) -> Self {
        self.readers = threads;
        self
    }

    /// Where reads are done: [`Reads::OnThreads`] by default.
    pub fn reads(mut self, reads: Reads) -> Self {
        self.reads = reads;
        self
    }

    /// Most records in the file, whoever wrote them; without a bound by default. Claims of new keys above it are refused;
    /// writes to the keys that are there never are.
    pub fn records_max(mut self, records: u64) -> Self {
        self.records_max = records;
        self
    }

    /// Whether opening creates the schema, and brings an older one up to date: yes by default. With `false`, run
    /// [`MIGRATIONS`](crate::MIGRATIONS) first: a file without them is refused.
    pub fn migrate(mut self, migrate: bool) -> Self {
        self.migrate = migrate;
        self
    }

    /// The clock that expiry is judged by, as the time since the Unix epoch: for tests. All stores on the file must use
    /// the same clock.
    pub fn clock(mut self, since_epoch: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        self.clock = WallClock::new(since_epoch);
        self
    }

    /// Most pages of the file as this store's writer sees it, over which it finds the disk full: for tests.
    #[doc(hidden)]
    pub fn pages_max(mut self, pages: u32) -> Self {
        self.pages_max = Some(pages);
        self
    }

    /// Opens the file, creating it if there is none, and starts the threads of the store.
    ///
    /// Blocks for a few reads and, on a new file, a few flushes.
    ///
    /// # Errors
    /// [`SqliteError`]: a path that names no file, a file that is no database or has a later schema, missing rights, a
    /// lock that is held for longer than the busy timeout, an option of zero.
    ///
    /// # Panics
    /// If the system starts no more threads.
    pub fn open(self) -> Result<SqliteStore, SqliteError> {
        if self.group_max == 0 || self.queue_max == 0 || self.readers == 0 {
            return Err(SqliteError::Options {
                problem: "group_max, queue_max and readers must be at least 1",
            });
        }
        let place = Place::new(&self.path, self.synchronous, self.busy_timeout)?;
        let mut connection = place.connect(self.migrate)?;
        if self.migrate {
            schema::migrate(&mut connection)?;
        }
        schema::require(&connection)?;
        flush_what_was_recovered(&connection, &self.clock)
            .map_err(|error| SqliteError::of(error, SqliteStep::Open))?;
        let watch = Arc::new(Watch::over(&place.path));
        if let Some(pages) = self.pages_max {
            connection
                .pragma_update(None, "max_page_count", pages)
                .map_err(|error| SqliteError::of(error, SqliteStep::Open))?;
        }
        wait_by(wait_for_lock, &mut connection).map_err(|error| SqliteError::of(error, SqliteStep::Open))?;

        let writer = Desk { jobs: Arc::new(Queue::new()), queue_max: self.queue_max };
        let questions = Arc::new(Queue::new());
        let mut threads = Threads::new(Arc::clone(&writer.jobs), Arc::clone(&questions));
        let mut on_caller = Vec::new();
        for shift in Shift::of(self.readers, &questions) {
            let (clock, questions) = (self.clock.clone(), Arc::clone(&questions));
            let reader = Reader {
                connection: place.connect_reader()?,
                questions,
                _shift: shift,
                writer: writer.clone(),
                clock,
                watch: Arc::clone(&watch),
            };
            threads.start_reader(move || reader.run());
        }
        if self.reads == Reads::OnCaller {
            // As many callers as can read at once.
            let callers = std::thread::available_parallelism().map_or(1, usize::from);
            for _ in 0..callers.max(self.readers) {
                let connection = place.connect_reader()?;
                // The thread is the caller's: it must not wait for a lock.
                connection
                    .busy_timeout(Duration::ZERO)
                    .map_err(|error| SqliteError::of(error, SqliteStep::Open))?;
                on_caller.push(connection);
            }
        }
        // All connections are of the file that is watched.
        watch.check()?;
        let thread = Writer {
            connection,
            watch: Arc::clone(&watch),
            queue: Arc::clone(&writer.jobs),
            clock: self.clock.clone(),
            group_max: self.group_max,
            records_max: self.records_max,
            busy_timeout: self.busy_timeout,
        };
        threads.start_writer(move || thread.run());
        Ok(SqliteStore::new(Inner::new(place, watch, self.clock, writer, questions, on_caller, threads)))
    }
}

/// After a crash, SQLite finds commits in the write-ahead log again that may not have reached the disk. A commit of our own,
/// which flushes the log as far as it goes, comes before anything is answered by them.
fn flush_what_was_recovered(connection: &Connection, clock: &WallClock) -> rusqlite::Result<()> {
    let opened =
        connection.execute("UPDATE main.oncekey_meta SET opened_ns = ?1 WHERE one = 1", [clock.now()])?;
    if opened == 1 { Ok(()) } else { Err(rusqlite::Error::QueryReturnedNoRows) }
}
