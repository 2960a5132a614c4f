//! Killed processes over a right store, and over wrong ones.

use oncekey::Policy;
use oncekey_store_testing::crash;
use oncekey_store_testing::server::Redis;

use crate::toy::{Flaw, OnRedis, assert_refused, with_flaw};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_store_passes() {
    let url = Redis::shared().url();
    crash::check(&OnRedis, url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_store_passes_a_storm() {
    let url = Redis::shared().url();
    crash::storm(&OnRedis, url, Policy::Reclaim, 40, 20).await;
    crash::storm(&OnRedis, url, Policy::Hold, 40, 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_stores_are_refused() {
    for (flaw, because) in [
        (Flaw::CompletionForgotten, "AfterCompletion"),
        (Flaw::NoLease, "killed"),
        (Flaw::NoLinger, "killed"),
    ] {
        let url = with_flaw(Redis::shared().url(), flaw);
        assert_refused(async move { crash::check(&OnRedis, &url).await }, &[because]).await;
    }
}
