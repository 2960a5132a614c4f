//! How many round trips each step takes, counted at the server and by a proxy.

use oncekey::protocol::Expected;
use oncekey::store::{BatchPut, Put, Store as _};
use oncekey::{ClaimAnswer, Deduplicator, Earlier, Key};
use oncekey_store_testing::proxy::Proxy;
use oncekey_store_testing::server::Redis;

use crate::support::*;

/// How many scripts the server ran.
async fn calls(server: &Redis) -> u64 {
    let stats: String = ask(server, &["INFO", "commandstats"]).await;
    let calls = stats.lines().filter_map(|line| {
        let (_, rest) = line.split_once("cmdstat_eval")?;
        rest.split_once("calls=")?.1.split(',').next()?.parse::<u64>().ok()
    });
    calls.sum()
}

#[test]
fn each_step_takes_as_many_round_trips_as_it_must() {
    block_on(async {
        let server = Redis::start();
        let proxy = Proxy::start(server.addr());
        let store = builder().prefix(prefix()).connect(proxy.url(server.url())).await.unwrap();
        let dedup = Deduplicator::builder(store.clone()).tokio().lease(HOUR).build().unwrap();
        // The scripts are there from here on.
        let version = write(&store, &key("warm"), Expected::Vacant, &in_progress(1), (HOUR, HOUR)).await;
        write(&store, &key("warm"), Expected::At(version), &in_progress(1), (HOUR, HOUR)).await;
        store.load(&key("warm")).await.unwrap();

        let mut before = (calls(&server).await, proxy.round_trips());
        let mut took = async |step: &str, due: (u64, usize)| {
            let after = (calls(&server).await, proxy.round_trips());
            assert_eq!((after.0 - before.0, after.1 - before.1), due, "{step}: scripts run, and round trips");
            before = after;
        };
        let ClaimAnswer::Granted(mut claim) = dedup.request(key("1")).claim().await.unwrap() else {
            panic!("a fresh claim is granted")
        };
        took("a fresh claim", (1, 1)).await;
        claim.renew().await.unwrap();
        took("a renewal", (1, 1)).await;
        claim.complete("done").await.unwrap();
        took("a completion", (1, 1)).await;
        let ClaimAnswer::Answered(Earlier::Replayed { .. }) = dedup.request(key("1")).claim().await.unwrap()
        else {
            panic!("it was completed")
        };
        took("a replay", (1, 1)).await;
        dedup.inspect(&key("1")).await.unwrap();
        took("a look", (1, 1)).await;

        let ClaimAnswer::Granted(mut abandoned) = dedup.request(key("2")).claim().await.unwrap() else {
            panic!("a fresh claim is granted")
        };
        took("another fresh claim", (1, 1)).await;
        abandoned.abandon().await.unwrap();
        took("the end of its lease", (1, 1)).await;
        let ClaimAnswer::Granted(_taken) = dedup.request(key("2")).claim().await.unwrap() else {
            panic!("its lease is over")
        };
        took("a takeover", (2, 2)).await;

        let keys: Vec<Key> = (0..500).map(|index| key(&format!("batch-{index}"))).collect();
        let record = in_progress(1);
        let batch: Vec<_> = keys
            .iter()
            .map(|key| BatchPut::new(key, Expected::Vacant, Put::new(&record, HOUR, HOUR)))
            .collect();
        assert!(store.compare_exchange_many(&batch).await.iter().all(Result::is_ok));
        // The server may begin to answer before it has read all: the proxy then sees turns.
        let after = (calls(&server).await, proxy.round_trips());
        assert_eq!(after.0 - before.0, 500, "a batch runs one script a key");
    });
}
