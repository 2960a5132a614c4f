//! What all stores have in common: races of clients and of processes, and processes that are killed.

use deadpool_postgres::Pool;
use oncekey::Policy;
use oncekey_postgres::{PostgresStore, Schema, migrate};
use oncekey_store_testing::deployment::Deployment;
use oncekey_store_testing::server::{Database, Postgres};
use oncekey_store_testing::{child, crash, races};

use crate::support::{block_on, connect, pool_to};

/// The store over a pool, as a service has it.
#[derive(Clone)]
pub(crate) struct Service;

impl Deployment for Service {
    type Store = PostgresStore<Pool>;
    const CHILD: &'static str = "deployment::child";

    async fn open(&self, url: &str) -> Self::Store {
        // As at the start of a service; several at once wait for each other.
        let ran = migrate(&mut connect(url).await, &Schema::of_search_path()).await;
        let _ran = ran.expect("the tables can be made");
        PostgresStore::builder(pool_to(url, 8)).named_statements(true).build()
    }
}

#[test]
#[ignore = "run by other tests, in processes of their own"]
fn child() {
    child::run(&Service);
}

fn database() -> Database {
    Postgres::shared().database()
}

#[test]
fn one_winner_of_64_clients_on_1000_keys() {
    let database = database();
    block_on(races::one_winner_sharing(&Service, database.url(), 4, 64, 1000));
}

#[test]
fn one_takeover_by_64_clients_on_100_keys() {
    let database = database();
    block_on(races::one_takeover(&Service, database.url(), 4, 64, 100));
}

#[test]
fn one_winner_of_several_processes() {
    let database = database();
    block_on(races::processes(&Service, database.url(), 4, 300));
}

#[test]
fn a_process_killed_at_each_step() {
    let database = database();
    block_on(crash::check(&Service, database.url()));
}

#[test]
fn processes_killed_at_any_moment_reclaim() {
    let database = database();
    block_on(crash::storm(&Service, database.url(), Policy::Reclaim, 200, 6));
}

#[test]
fn processes_killed_at_any_moment_hold() {
    let database = database();
    block_on(crash::storm(&Service, database.url(), Policy::Hold, 200, 6));
}
