//! Killed processes over a right store, and over wrong ones.

use oncekey::Policy;
use oncekey_store_testing::crash;
use oncekey_store_testing::server::Redis;

use crate::toy::{Flaw, OnRedis, assert_refused, with_flaw};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_store_passes() {
    let url = Redis::shared().url();
    tokio::join!(crash::check(&OnRedis, url), crash::frozen(&OnRedis, url));
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_finds_a_completion_that_is_forgotten() {
    let url = with_flaw(Redis::shared().url(), Flaw::CompletionForgotten);
    let check = async move { crash::storm(&OnRedis, &url, Policy::Reclaim, 20, 5).await };
    assert_refused(check, &["an acknowledged completion is lost", "two completions were acknowledged"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_completion_that_does_not_compare_is_refused() {
    let url = with_flaw(Redis::shared().url(), Flaw::VersionIgnored);
    let check = async move { crash::frozen(&OnRedis, &url).await };
    // The housekeeping of the process may renew its lapsed lease, which such a store lets it.
    let because = ["a completion after another took over", "a process that was frozen past its lease"];
    assert_refused(check, &because).await;
}
