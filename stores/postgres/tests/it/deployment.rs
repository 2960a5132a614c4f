//! What all stores have in common: races of clients and of processes, processes that are killed, answers that are lost, and
//! servers that are away.

use deadpool_postgres::Pool;
use oncekey::Policy;
use oncekey_postgres::{PostgresStore, Schema, migrate};
use oncekey_store_testing::deployment::Deployment;
use oncekey_store_testing::server::{Database, Postgres};
use oncekey_store_testing::{child, crash, load, lost, outage, races};

use crate::support::{LOCK_WAIT, block_on, connect, pool_to};

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
        // A busy server may take longer than a service waits.
        let builder = PostgresStore::builder(pool_to(url, 8)).named_statements(true);
        builder.lock_wait(LOCK_WAIT).connection_wait(LOCK_WAIT).build()
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

#[test]
fn a_process_frozen_past_its_lease() {
    let database = database();
    block_on(crash::frozen(&Service, database.url()));
}

#[test]
fn lost_answers_and_resets_at_each_place_of_a_call() {
    let database = database();
    block_on(lost::replies(&Service, database.url()));
}

#[test]
fn requests_and_answers_held_past_the_lease() {
    let database = database();
    block_on(lost::stalls(&Service, database.url()));
}

#[test]
fn lost_renewals_of_a_keeper() {
    let database = database();
    block_on(lost::renewals(&Service, database.url()));
}

#[test]
fn a_server_that_is_down() {
    let server = Postgres::start();
    let database = server.database();
    block_on(outage::down(&Service, database.url(), &server));
}

#[test]
fn a_server_that_is_killed() {
    let server = Postgres::start();
    let database = server.database();
    block_on(outage::killed(&Service, database.url(), &server));
}

#[test]
fn a_server_that_hangs() {
    let server = Postgres::start();
    let database = server.database();
    block_on(outage::hanging(&Service, database.url(), &server));
}

#[test]
fn a_server_killed_under_load() {
    let server = Postgres::start();
    let database = server.database();
    block_on(load::killed_server(&Service, database.url(), &server, 64, 2));
}
