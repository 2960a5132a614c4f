//! Lost answers, stalls, servers that are down, hang or are killed: what all stores must bear, on a Redis server.

use std::time::Duration;

use oncekey_redis::RedisStore;
use oncekey_store_testing::deployment::Deployment;
use oncekey_store_testing::server::Redis;
use oncekey_store_testing::{load, lost, outage};

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone)]
struct OnRedis;

impl Deployment for OnRedis {
    type Store = RedisStore;
    const CHILD: &'static str = "none: no check of these starts processes";

    async fn open(&self, url: &str) -> RedisStore {
        // A busy server may take longer than the timeouts of a service.
        let builder = RedisStore::builder().response_timeout(PATIENCE).connect_timeout(PATIENCE);
        builder.connect(url).await.expect("the server serves")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_answers_are_resolved_at_each_place_of_a_call() {
    let server = Redis::start();
    lost::replies(&OnRedis, server.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_past_the_lease_changes_nothing() {
    let server = Redis::start();
    lost::stalls(&OnRedis, server.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keeper_bears_lost_renewals() {
    let server = Redis::start();
    lost::renewals(&OnRedis, server.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_down_runs_nothing_and_loses_nothing() {
    let server = Redis::start_durable();
    outage::down(&OnRedis, server.url(), &server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_runs_nothing_and_loses_nothing() {
    let server = Redis::start_durable();
    outage::killed(&OnRedis, server.url(), &server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_runs_nothing_twice() {
    let server = Redis::start_durable();
    outage::hanging(&OnRedis, server.url(), &server).await;
}

/// What each write is flushed for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_under_load_a_server_that_flushes_each_write_loses_nothing() {
    let server = Redis::start_durable();
    load::killed_server(&OnRedis, server.url(), &server, 64, 4).await;
}

/// A kill is no power loss: what was written survives it, flushed or not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_under_load_a_server_that_flushes_at_its_leisure_loses_nothing() {
    let server = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "no"]);
    load::killed_server(&OnRedis, server.url(), &server, 64, 4).await;
}
