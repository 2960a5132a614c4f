//! The raw client: rusqlite with the same statements on the same schema, as somebody would write them for one table of
//! their own.

use std::path::Path;
use std::sync::{Arc, Mutex};

use oncekey::Key;
use oncekey::protocol::{Record, Version};
use oncekey_sqlite::rusqlite::{Connection, OptionalExtension as _, Result, params};
use oncekey_store_testing::bench::Raw;
use tokio::sync::Semaphore;

/// One connection that writes, behind a lock, and some that read; called from tokio's blocking threads.
#[derive(Clone)]
pub(crate) struct Connections {
    writer: Arc<Mutex<Connection>>,
    readers: Arc<Mutex<Vec<Connection>>>,
    turns: Arc<Semaphore>,
}

const FIND: &str =
    "SELECT row, version, written_ns, live_until_ns, gone_at_ns FROM oncekey_records WHERE key = ?1";
const READ: &str =
    "SELECT row, version, written_ns, live_until_ns, gone_at_ns, body FROM oncekey_records WHERE key = ?1";
const META: &str = "SELECT last_version, records FROM oncekey_meta WHERE one = 1";
const COUNT: &str = "UPDATE oncekey_meta SET last_version = ?1, records = ?2 WHERE one = 1";
const INSERT: &str = "INSERT INTO oncekey_records (key, version, written_ns, live_until_ns, gone_at_ns, state, policy, \
     attempt, operation_id, created_ms, scope, id, body) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'reclaim', ?7, ?8, ?9, ?10, ?11, ?12)";
const UPDATE: &str = "UPDATE oncekey_records SET version = ?1, written_ns = ?2, live_until_ns = ?3, gone_at_ns = ?4, \
     state = ?5, policy = 'reclaim', attempt = ?6, operation_id = ?7, created_ms = ?8, body = ?9 WHERE row = ?10";
const HOUR_NS: i64 = 3_600_000_000_000;

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(since.expect("it is after 1970").as_nanos()).expect("it is before 2262")
}

impl Connections {
    /// On a file that has the schema.
    pub(crate) fn open(path: &Path) -> Self {
        let connect = || {
            let connection = Connection::open(path).expect("the file opens");
            connection.pragma_update(None, "synchronous", "FULL").expect("it is set");
            connection.set_prepared_statement_cache_capacity(32);
            connection
        };
        let readers = (0..2).map(|_| connect()).collect();
        Self {
            writer: Arc::new(Mutex::new(connect())),
            readers: Arc::new(Mutex::new(readers)),
            turns: Arc::new(Semaphore::new(2)),
        }
    }

    /// In a transaction of its own.
    async fn in_transaction(&self, write: impl FnOnce(&Connection) -> Result<()> + Send + 'static) {
        let writer = Arc::clone(&self.writer);
        let done = tokio::task::spawn_blocking(move || {
            let connection = writer.lock().expect("nobody panicked");
            let say = |what| connection.prepare_cached(what)?.execute([]);
            say("BEGIN IMMEDIATE")?;
            write(&connection)?;
            say("COMMIT").map(drop)
        });
        done.await.expect("it does not panic").expect("it is written");
    }

    /// Writes new keys, all in one transaction.
    async fn insert(&self, keys: Vec<Key>, record: Record) {
        self.in_transaction(move |connection| {
            let (mut version, mut records) = meta(connection)?;
            for key in keys {
                let found = connection
                    .prepare_cached(FIND)?
                    .query_one([key.as_bytes()], |row| row.get(0))
                    .optional()?;
                assert_eq!(found, None::<i64>, "the key is new");
                (version, records) = (version + 1, records + 1);
                let written = now();
                connection.prepare_cached(INSERT)?.execute(params![
                    key.as_bytes(),
                    version,
                    written,
                    written + HOUR_NS,
                    written + 2 * HOUR_NS,
                    state(&record),
                    record.attempt(),
                    record.operation_id().to_bytes(),
                    i64::try_from(record.created_at().0).expect("it is small"),
                    key.scope_label(),
                    key.id(),
                    record.as_bytes()
                ])?;
            }
            count(connection, version, records)
        })
        .await;
    }

    /// Writes keys that are there at these versions, all in one transaction.
    async fn update(&self, keys: Vec<(Key, Version)>, record: Record) {
        self.in_transaction(move |connection| {
            let (mut version, records) = meta(connection)?;
            for (key, expected) in keys {
                let (row, found): (i64, i64) = connection
                    .prepare_cached(FIND)?
                    .query_one([key.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))?;
                assert_eq!(u64::try_from(found), Ok(expected.get()), "nobody else writes it");
                version += 1;
                let written = now();
                connection.prepare_cached(UPDATE)?.execute(params![
                    version,
                    written,
                    written + HOUR_NS,
                    written + 2 * HOUR_NS,
                    state(&record),
                    record.attempt(),
                    record.operation_id().to_bytes(),
                    i64::try_from(record.created_at().0).expect("it is small"),
                    record.as_bytes(),
                    row
                ])?;
            }
            count(connection, version, records)
        })
        .await;
    }

    /// Reads what is there, on this thread.
    fn read_here(&self, key: &Key) -> Vec<u8> {
        let connection = self.readers.lock().expect("nobody panicked").pop();
        let connection = connection.expect("there are as many as threads");
        let read = connection.prepare_cached(READ).and_then(|mut statement| {
            statement.query_one([key.as_bytes()], |row| {
                let gone_at: Option<i64> = row.get(4)?;
                assert!(gone_at.is_none_or(|gone_at| gone_at > now()), "it is readable");
                row.get(5)
            })
        });
        self.readers.lock().expect("nobody panicked").push(connection);
        read.expect("it is there")
    }

    /// The same on a blocking thread; two at a time, as there are connections.
    async fn read(&self, key: Key) -> Vec<u8> {
        let _turn = self.turns.acquire().await.expect("it is not closed");
        let raw = self.clone();
        tokio::task::spawn_blocking(move || raw.read_here(&key)).await.expect("it does not panic")
    }
}

impl Raw for Connections {
    async fn claim(&self, keys: &[Key], record: &Record) {
        self.insert(keys.to_vec(), record.clone()).await;
    }

    async fn exchange(&self, keys: &[(Key, Version)], record: &Record) {
        self.update(keys.to_vec(), record.clone()).await;
    }

    async fn replay(&self, key: &Key) {
        assert!(self.read(key.clone()).await.len() > 100);
    }

    async fn take_over(&self, key: &Key, version: Version, record: &Record) {
        let _body = self.read(key.clone()).await;
        self.update(vec![(key.clone(), version)], record.clone()).await;
    }
}

/// As [`Connections`], but replays are read on the thread that asks.
#[derive(Clone)]
pub(crate) struct InPlace(pub(crate) Connections);

impl Raw for InPlace {
    async fn claim(&self, keys: &[Key], record: &Record) {
        self.0.claim(keys, record).await;
    }

    async fn exchange(&self, keys: &[(Key, Version)], record: &Record) {
        self.0.exchange(keys, record).await;
    }

    async fn replay(&self, key: &Key) {
        assert!(self.0.read_here(key).len() > 100);
    }

    async fn take_over(&self, key: &Key, version: Version, record: &Record) {
        self.0.take_over(key, version, record).await;
    }
}

fn meta(connection: &Connection) -> Result<(i64, i64)> {
    connection.prepare_cached(META)?.query_one([], |row| Ok((row.get(0)?, row.get(1)?)))
}

fn count(connection: &Connection, version: i64, records: i64) -> Result<()> {
    connection.prepare_cached(COUNT)?.execute([version, records]).map(drop)
}

fn state(record: &Record) -> &'static str {
    match record.outcome() {
        Some(_) => "completed",
        None => "in_progress",
    }
}
