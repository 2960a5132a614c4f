//! A server at its maxmemory.

use oncekey::Deduplicator;
use oncekey::protocol::Expected;
use oncekey::store::{BatchPut, Exchange, Put, Store as _, StoreError as _, StoreErrorKind};
use oncekey_store_testing::server::Redis;

use crate::support::*;

/// New claims are refused, and said not to be applied; whoever holds a claim can renew and conclude it, and whoever asks
/// for an outcome gets it. When there is room again, claims are granted.
#[test]
fn a_full_server_refuses_new_claims_only() {
    block_on(async {
        let server = Redis::start();
        let store = store(&server).await;
        let held = write(&store, &key("held"), Expected::Vacant, &in_progress(1), (HOUR, HOUR)).await;
        let expired =
            write(&store, &key("expired"), Expected::Vacant, &in_progress(2), (NOTHING, HOUR)).await;
        // Both scripts are known, and the one that a full server must run is not: it comes with its text.
        let _: () = ask(&server, &["SCRIPT", "FLUSH"]).await;
        let _: () = ask(&server, &["CONFIG", "SET", "maxmemory", "1"]).await;

        let refused = claim(&store, &key("new"), 3).await.unwrap_err();
        assert_eq!((refused.kind(), refused.maybe_applied()), (StoreErrorKind::Full, false), "{refused:?}");
        assert_eq!(store.load(&key("new")).await.unwrap(), None);

        let done =
            write(&store, &key("held"), Expected::At(held), &completed(1, b"done"), (HOUR, HOUR)).await;
        write(&store, &key("expired"), Expected::At(expired), &in_progress(3), (HOUR, HOUR)).await;
        let Ok(Exchange::Conflict(Some(replay))) = claim(&store, &key("held"), 4).await else {
            panic!("a replay is answered by a full server too")
        };
        assert_eq!((replay.version, replay.record), (done, completed(1, b"done")));
        assert!(store.load(&key("held")).await.unwrap().is_some());

        let (known, new, record) = (key("held"), key("new"), in_progress(5));
        let put = Put::new(&record, HOUR, HOUR);
        let answers = store
            .compare_exchange_many(&[
                BatchPut::new(&new, Expected::Vacant, put),
                BatchPut::new(&known, Expected::At(done), put),
            ])
            .await;
        let [Err(full), Ok(Exchange::Done(_))] = &answers[..] else { panic!("{answers:?}") };
        assert_eq!((full.kind(), full.maybe_applied()), (StoreErrorKind::Full, false));

        let _: () = ask(&server, &["CONFIG", "SET", "maxmemory", "0"]).await;
        assert!(matches!(claim(&store, &key("new"), 3).await, Ok(Exchange::Done(_))));
    });
}

/// Through the engine: the operation that cannot be claimed does not run, and the error says why.
#[test]
fn an_operation_that_a_full_server_refuses_does_not_run() {
    block_on(async {
        let server = Redis::start();
        let dedup = Deduplicator::builder(store(&server).await)
            .tokio()
            .call_timeout(std::time::Duration::from_secs(5))
            .build()
            .unwrap();
        let run =
            |id: &str| dedup.request(key(id)).run(|_| async { Ok::<_, std::io::Error>(b"ran".to_vec()) });
        assert_eq!(run("before").await.unwrap().value(), Some(&b"ran".to_vec()));
        let _: () = ask(&server, &["CONFIG", "SET", "maxmemory", "1"]).await;
        let refused = dedup
            .request(key("after"))
            .run(|_| async {
                if true {
                    panic!("it runs without a claim");
                }
                Ok::<Vec<u8>, std::io::Error>(Vec::new())
            })
            .await
            .unwrap_err();
        assert!(format!("{refused:?}").contains("Full"), "{refused:?}");
        assert_eq!(run("before").await.unwrap().value(), Some(&b"ran".to_vec()), "replays go on");
    });
}
