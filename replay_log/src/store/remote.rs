//! Stores behind a connection, and the runtime that their clients need.

use std::error::Error;
use std::io;

use super::super::job::Drive;

/// tokio's runtime, driven from the workers' threads.
pub(crate) struct Runtime(tokio::runtime::Runtime);

impl Runtime {
    pub(crate) fn new() -> io::Result<Self> {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map(Self)
    }
}

impl Drive for Runtime {
    fn drive<F: Future>(&self, future: F) -> F::Output {
        self.0.block_on(future)
    }
}

type Opened<S> = Result<S, Box<dyn Error + Send + Sync>>;

/// The schema, or the prefix of keys, that is this program's own: no records of another's are in it.
const OWN: &str = "oncekey_replay_log";

/// Makes the tables if they are not there.
#[cfg(feature = "postgres")]
pub(super) async fn postgres(
    url: &str,
    workers: usize,
) -> Opened<oncekey_postgres::PostgresStore<deadpool_postgres::Pool>> {
    use oncekey_postgres::{PostgresStore, Schema, migrate};
    let manager = deadpool_postgres::Manager::new(url.parse()?, tokio_postgres::NoTls);
    let pool = deadpool_postgres::Pool::builder(manager).max_size(workers.clamp(1, 16)).build()?;
    let schema = Schema::named(OWN)?;
    migrate(&mut **pool.get().await?, &schema).await?;
    Ok(PostgresStore::builder(pool).schema(schema).build())
}

#[cfg(feature = "redis")]
pub(super) async fn redis(url: &str) -> Opened<oncekey_redis::RedisStore> {
    Ok(oncekey_redis::RedisStore::builder().prefix(format!("{OWN}:")).connect(url).await?)
}
