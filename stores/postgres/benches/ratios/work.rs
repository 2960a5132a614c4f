//! What both sides work on.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use oncekey_postgres::{PostgresStore, Schema, migrate};
use oncekey_store_testing::bench::Sides;
use oncekey_store_testing::server::Postgres;
use tokio_postgres::NoTls;

pub(crate) const OUTCOME_LEN: usize = 200;

#[derive(Clone)]
pub(crate) struct Work {
    pub(crate) pool: Pool,
    pub(crate) store: Arc<PostgresStore<Pool>>,
    pub(crate) named: bool,
    pub(crate) sides: Arc<Sides<PostgresStore<Pool>>>,
}

pub(crate) fn pool(url: &str, size: usize) -> Pool {
    let config: tokio_postgres::Config = url.parse().unwrap();
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    Pool::builder(Manager::from_config(config, NoTls, recycling)).max_size(size).build().unwrap()
}

impl Work {
    pub(crate) async fn new(server: &Postgres, named: bool) -> Self {
        let schema = Schema::named(if named { "named" } else { "unnamed" }).unwrap();
        let pool = pool(server.url(), 16);
        let _ran = migrate(&mut pool.get().await.unwrap(), &schema).await.unwrap();
        // 64 clients wait for 16 connections, as the raw side does, and a batch takes its time.
        let store = PostgresStore::builder(pool.clone()).schema(schema).named_statements(named);
        let store = Arc::new(store.connection_wait(Duration::from_secs(60)).build());
        let sides = Sides::new(Arc::clone(&store), Arc::clone(&store), OUTCOME_LEN).await;
        Self { pool, store, named, sides }
    }
}
