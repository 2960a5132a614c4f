//! Many clients and processes at once, and processes that are killed: what all stores must bear, on a Redis server.

use std::time::Duration;

use oncekey::Policy;
use oncekey_redis::RedisStore;
use oncekey_store_testing::deployment::Deployment;
use oncekey_store_testing::server::Redis;
use oncekey_store_testing::{child, crash, races};

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone)]
struct OnRedis;

impl Deployment for OnRedis {
    type Store = RedisStore;
    const CHILD: &'static str = "child";

    async fn open(&self, url: &str) -> RedisStore {
        // A busy server may take longer than the timeouts of a service.
        let builder = RedisStore::builder().response_timeout(PATIENCE).connect_timeout(PATIENCE);
        builder.connect(url).await.expect("the server serves")
    }
}

#[test]
#[ignore = "run by other tests, in processes of their own"]
fn child() {
    child::run(&OnRedis);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_64_clients_on_each_of_1000_keys_one_wins() {
    races::one_winner(&OnRedis, Redis::shared().url(), 64, 1000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_64_clients_on_one_connection_one_wins() {
    races::one_winner_sharing(&OnRedis, Redis::shared().url(), 1, 64, 300).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_64_clients_one_takes_over() {
    races::one_takeover(&OnRedis, Redis::shared().url(), 8, 64, 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_racing_processes_one_wins() {
    races::processes(&OnRedis, Redis::shared().url(), 4, 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_killed_at_each_step_leaves_what_is_promised() {
    crash::check(&OnRedis, Redis::shared().url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_killed_at_any_moment_repeat_only_what_may_be_repeated() {
    crash::storm(&OnRedis, Redis::shared().url(), Policy::Reclaim, 40, 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_killed_at_any_moment_repeat_nothing_under_hold() {
    crash::storm(&OnRedis, Redis::shared().url(), Policy::Hold, 40, 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_frozen_past_its_lease_does_nothing_more() {
    crash::frozen(&OnRedis, Redis::shared().url()).await;
}
