//! What the tests share: one runtime, stores on it, a connection to look behind them, and records.

use std::future::Future;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use oncekey::Key;
use oncekey::protocol::{Expected, Record, Version};
use oncekey::store::{Exchange, Put, Store};
use oncekey_redis::{RedisStore, RedisStoreBuilder};
use oncekey_store_testing::server::{Redis, unique_name};
use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, ToRedisArgs};
use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime can be built")
});

/// Runs a future on the runtime that all connections live on.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    RUNTIME.block_on(future)
}

/// A prefix that no other store has.
pub(crate) fn prefix() -> String {
    format!("{}:", unique_name("t"))
}

/// A builder whose store waits as long as the tests do: a busy server may take longer than the timeouts of a service.
pub(crate) fn builder() -> RedisStoreBuilder {
    RedisStore::builder().response_timeout(PATIENCE).connect_timeout(PATIENCE)
}

/// A store on this server, with keys of its own.
pub(crate) async fn store(server: &Redis) -> RedisStore {
    builder().prefix(prefix()).connect(server.url()).await.expect("the server serves")
}

/// A connection of the test's own.
pub(crate) async fn connection(server: &Redis) -> MultiplexedConnection {
    let client = redis::Client::open(server.url()).unwrap();
    let config =
        redis::AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENCE)).set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
}

/// A command by its words.
pub(crate) fn words<A: ToRedisArgs>(words: &[A]) -> redis::Cmd {
    let mut cmd = redis::Cmd::new();
    for word in words {
        cmd.arg(word);
    }
    cmd
}

/// Asks the server itself.
pub(crate) async fn ask<T: FromRedisValue>(server: &Redis, command: &[&str]) -> T {
    let mut connection = connection(server).await;
    let answer = words(command).query_async(&mut connection).await;
    answer.unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Live and lingering for ever, for an hour, and not at all.
pub(crate) const FOR_EVER: Duration = Duration::MAX;
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const NOTHING: Duration = Duration::ZERO;

pub(crate) fn key(id: &str) -> Key {
    Key::new("payments.charge", id).unwrap()
}

/// A first attempt in progress, in the stored form.
pub(crate) fn in_progress(owner: u8) -> Record {
    Record::decode(first_attempt(0x80, owner, 0, &[])).unwrap()
}

/// A first attempt completed with this outcome, of less than 256 bytes, in the stored form.
pub(crate) fn completed(owner: u8, outcome: &[u8]) -> Record {
    Record::decode(first_attempt(0x84, owner, 9, outcome)).unwrap()
}

/// The stored form: flags, owner, when it finished, and what comes last, of less than 256 bytes.
pub(crate) fn first_attempt(flags: u8, owner: u8, finished: u8, last: &[u8]) -> Vec<u8> {
    let len = u8::try_from(last.len()).unwrap();
    let numbers =
        [&[0, 0, 0, 1][..], &[0, 0, 0, 0, 0, 7], &[0; 8], &[0, 0, 0, 0, 0, finished], &[0, 0, 0, len]];
    [&[1, flags, 0][..], &[owner; 16], &numbers.concat(), last].concat()
}

/// A put that must be done.
pub(crate) async fn write<S: Store>(
    store: &S,
    key: &Key,
    expected: Expected,
    record: &Record,
    (live, linger): (Duration, Duration),
) -> Version {
    match store.compare_exchange(key, expected, Put::new(record, live, linger)).await {
        Ok(Exchange::Done(version)) => version,
        other => panic!("a put expecting {expected:?} answered {other:?}"),
    }
}

/// A claim for an hour.
pub(crate) async fn claim<S: Store>(store: &S, key: &Key, owner: u8) -> Result<Exchange, S::Error> {
    let record = in_progress(owner);
    store.compare_exchange(key, Expected::Vacant, Put::new(&record, HOUR, HOUR)).await
}

/// The longest that anything is waited for, on a machine that does much else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Tries until it holds; for what a server does on its own time.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Ends a hang.
pub(crate) async fn in_time<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("no end within {PATIENCE:?}"))
}
