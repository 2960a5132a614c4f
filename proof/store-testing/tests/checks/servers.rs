//! Servers that are killed, down or hang, with a right store, and with wrong ones.

use oncekey_store_testing::server::Redis;
use oncekey_store_testing::{load, outage};

use crate::toy::{Flaw, OnRedis, assert_refused, with_flaw};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_store_passes_a_kill_under_load() {
    let server = Redis::start_durable();
    load::killed_server(&OnRedis, server.url(), &server, 16, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_forgets_is_refused() {
    let server = Redis::start();
    let check = async move { load::killed_server(&OnRedis, server.url(), &server, 16, 1).await };
    assert_refused(check, &["an acknowledged completion is lost", "acknowledged claim was forgotten"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_store_passes_outages() {
    let server = Redis::start_durable();
    outage::down(&OnRedis, server.url(), &server).await;
    outage::killed(&OnRedis, server.url(), &server).await;
    outage::hanging(&OnRedis, server.url(), &server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_stores_are_refused() {
    for (flaw, because) in [
        (Flaw::GrantsWhenDown, ["does not say so", "not on record"]),
        (Flaw::SaysOther, ["of kind Other", "of kind Other"]),
        (Flaw::CompletionForgotten, ["is lost", "not one effect"]),
    ] {
        let server = Redis::start_durable();
        let url = with_flaw(server.url(), flaw);
        assert_refused(async move { outage::down(&OnRedis, &url, &server).await }, &because).await;
    }
}
