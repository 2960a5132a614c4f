//! What the tests share: one runtime, one server, one database, a schema for each store.

use std::future::Future;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use oncekey::{Claim, ClaimAnswer, Deduplicator, Key, Store};
use oncekey_postgres::{Builder, Connections, PostgresStore, Schema, migrate};
use oncekey_store_testing::server::{Database, Postgres};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

/// The runtime that all connections live on.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap()
    })
}

pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    runtime().block_on(future)
}

/// The database of this test process.
pub(crate) fn database() -> &'static Database {
    static DATABASE: OnceLock<Database> = OnceLock::new();
    DATABASE.get_or_init(|| Postgres::shared().database())
}

pub(crate) async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(async move {
        let _ended = connection.await;
    });
    client
}

pub(crate) fn pool_to(url: &str, size: usize) -> Pool {
    let config: tokio_postgres::Config = url.parse().unwrap();
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    Pool::builder(Manager::from_config(config, NoTls, recycling)).max_size(size).build().unwrap()
}

/// A store whose calls wait for a connection as long as the tests do: a busy server may take long to make one.
pub(crate) fn store_over<C: Connections>(connections: C) -> PostgresStore<C> {
    PostgresStore::builder(connections).connection_wait(PATIENCE).build()
}

/// The pool that stores share: each has a schema of its own.
pub(crate) fn shared_pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| pool_to(database().url(), 16))
}

/// Long: where eight race on one row of a busy machine, each flush of it can take a tenth of a second.
pub(crate) const LOCK_WAIT: Duration = Duration::from_secs(20);

/// A schema with the tables, dropped with this.
#[derive(Debug)]
pub(crate) struct Tables {
    pub(crate) schema: Schema,
    pub(crate) name: String,
}

impl Tables {
    pub(crate) async fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("s{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let schema = Schema::named(name.clone()).unwrap();
        let mut client = shared_pool().get().await.unwrap();
        migrate(&mut client, &schema).await.unwrap();
        Self { schema, name }
    }

    pub(crate) fn builder<C: Connections>(&self, connections: C) -> Builder<C> {
        PostgresStore::builder(connections)
            .schema(self.schema.clone())
            .purge_grace(Duration::ZERO)
            .lock_wait(LOCK_WAIT)
            .connection_wait(PATIENCE)
    }

    pub(crate) fn store(&self) -> PostgresStore<Pool> {
        self.builder(shared_pool().clone()).build()
    }

    /// Ends the lease of a claim: by the server's clock it was over a moment ago. Nothing else of the record changes.
    pub(crate) async fn end_lease(&self, key: &Key) {
        end_lease(&connect(database().url()).await, &self.records(), key).await;
    }

    /// The name of the table of records, quoted.
    pub(crate) fn records(&self) -> String {
        format!("\"{}\".oncekey_records", self.name)
    }
}

impl Drop for Tables {
    fn drop(&mut self) {
        let drop = format!(
            "SET lock_timeout = '20s'; DROP SCHEMA IF EXISTS \"{}\" CASCADE; RESET lock_timeout",
            self.name
        );
        let run = async move {
            // A server that was killed takes it along.
            if let Ok(client) = shared_pool().get().await {
                let _dropped = client.batch_execute(&drop).await;
            }
        };
        // Also where a future is running on this thread.
        std::thread::scope(|scope| {
            scope.spawn(|| block_on(run));
        });
    }
}

/// As [`Tables::end_lease`], in any table.
pub(crate) async fn end_lease(client: &Client, records: &str, key: &Key) {
    let sql = format!(
        "UPDATE {records} SET live_until = statement_timestamp() - interval '1 second' \
         WHERE key = $1 AND live_until > statement_timestamp()"
    );
    assert_eq!(client.execute(&sql, &[&key.as_bytes()]).await.unwrap(), 1, "{key:?} has no lease to end");
}

/// A claim of a fresh key in the hands of a test.
pub(crate) async fn granted<S: Store + 'static>(dedup: &Deduplicator<S>, key: &Key) -> Claim<S> {
    match dedup.request(key.clone()).claim().await.unwrap() {
        ClaimAnswer::Granted(claim) => claim,
        other => panic!("not granted: {other:?}"),
    }
}

pub(crate) fn key(id: &str) -> Key {
    Key::new("test", id).unwrap()
}

/// A number that the database answers.
pub(crate) async fn number(client: &Client, sql: &str) -> i64 {
    client.query_one(&format!("SELECT ({sql})::bigint"), &[]).await.unwrap().get(0)
}

/// The server's process behind a connection.
pub(crate) async fn pid(client: &Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0)
}

/// Waits until this session, of which [`pid`] tells, waits for a lock.
pub(crate) async fn until_waiting(observer: &Client, pid: i32) {
    let waiting =
        format!("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND pid = {pid}");
    until("the session waits for a lock", async || number(observer, &waiting).await > 0).await;
}

/// The longest that anything is waited for, on a machine that does much else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// What must not wait forever: for somebody's transaction, say.
pub(crate) async fn in_time<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("no end within {PATIENCE:?}"))
}

/// Looks again and again until it holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn psql_program() -> PathBuf {
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&in_path).collect();
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        places.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    let found = places.into_iter().map(|place| place.join("psql")).find(|psql| psql.exists());
    found.expect("this test runs psql, and there is none in PATH: `apt-get install postgresql-client`, or your system's like")
}

/// What psql prints for some SQL, unaligned, with these tables on its path; or what it complains about.
pub(crate) fn psql(tables: &Tables, sql: &str) -> Result<String, String> {
    let output = Command::new(psql_program())
        .args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql, database().url()])
        .env("PGOPTIONS", format!("-c search_path={}", tables.name))
        .output()
        .unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// What psql prints for some SQL that must not fail.
pub(crate) fn psql_prints(tables: &Tables, sql: &str) -> String {
    psql(tables, sql).unwrap_or_else(|error| panic!("{sql}\n{error}"))
}
