//! Lost and late requests over a right store, and over wrong ones.

use oncekey_store_testing::lost;
use oncekey_store_testing::server::Redis;

use crate::toy::{Flaw, OnRedis, assert_refused, with_flaw};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_store_passes() {
    let url = Redis::shared().url();
    lost::replies(&OnRedis, url).await;
    tokio::join!(lost::stalls(&OnRedis, url), lost::renewals(&OnRedis, url));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_reply_that_counts_as_refused_is_refused() {
    let url = with_flaw(Redis::shared().url(), Flaw::ErrorIsRefusal);
    assert_refused(async move { lost::replies(&OnRedis, &url).await }, &["DropAnswers", "Reset"]).await;
}

/// The engine bears it: the check asks the store itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_reply_that_is_said_not_to_be_applied_is_refused() {
    let url = with_flaw(Redis::shared().url(), Flaw::SaysNotApplied);
    assert_refused(async move { lost::replies(&OnRedis, &url).await }, &["its error says that it was not"])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_write_that_does_not_compare_is_refused() {
    let url = with_flaw(Redis::shared().url(), Flaw::VersionIgnored);
    assert_refused(async move { lost::stalls(&OnRedis, &url).await }, &["Stall"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_claim_that_does_not_compare_is_refused() {
    let url = with_flaw(Redis::shared().url(), Flaw::NoLease);
    assert_refused(async move { lost::stalls(&OnRedis, &url).await }, &["Stall", "two operations"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_renewal_that_counts_as_refused_is_refused() {
    let url = with_flaw(Redis::shared().url(), Flaw::ErrorIsRefusal);
    assert_refused(async move { lost::renewals(&OnRedis, &url).await }, &["that is kept was"]).await;
}
