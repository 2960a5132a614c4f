//! Races over a right store, and over one whose claim reads and then writes.

use oncekey_store_testing::races;
use oncekey_store_testing::server::Redis;

use crate::toy::{Flaw, OnRedis, assert_refused, with_flaw};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_store_passes() {
    let url = Redis::shared().url();
    races::one_winner(&OnRedis, url, 64, 100).await;
    races::one_winner_sharing(&OnRedis, url, 2, 16, 50).await;
    races::one_takeover(&OnRedis, url, 16, 16, 50).await;
    races::processes(&OnRedis, url, 3, 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_reads_and_then_writes_is_refused() {
    let url = with_flaw(Redis::shared().url(), Flaw::CheckThenWrite);
    assert_refused(async move { races::one_winner(&OnRedis, &url, 16, 3).await }, &["one effect per key"])
        .await;
    let url = with_flaw(Redis::shared().url(), Flaw::CheckThenWrite);
    assert_refused(async move { races::processes(&OnRedis, &url, 3, 3).await }, &["not one effect"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_that_does_not_compare_is_refused() {
    let url = with_flaw(Redis::shared().url(), Flaw::VersionIgnored);
    let check = async move { races::one_takeover(&OnRedis, &url, 16, 16, 100).await };
    assert_refused(check, &["one effect per key"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_that_end_at_once_are_refused() {
    let url = with_flaw(Redis::shared().url(), Flaw::NoLease);
    let check = async move { races::one_winner(&OnRedis, &url, 16, 20).await };
    assert_refused(check, &["one effect per key", "rests on another attempt", "neither executed"]).await;
}
