//! Batches, and scripts that the server forgets.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use oncekey::Key;
use oncekey::protocol::Expected;
use oncekey::store::{BatchPut, Exchange, Put, Store as _};
use oncekey_store_testing::server::Redis;

use crate::support::*;

/// A server that lost its scripts between any two calls is given them again, in a pipeline too, and each write is done
/// once.
#[test]
fn scripts_that_the_server_forgot_come_with_the_next_call() {
    block_on(async {
        let server = Redis::start();
        let store = store(&server).await;
        let forget = || async { ask::<()>(&server, &["SCRIPT", "FLUSH"]).await };
        let first = write(&store, &key("1"), Expected::Vacant, &in_progress(1), (HOUR, HOUR)).await;
        forget().await;
        let second = write(&store, &key("1"), Expected::At(first), &in_progress(1), (HOUR, HOUR)).await;
        forget().await;
        assert_eq!(store.load(&key("1")).await.unwrap().unwrap().version, second);
        forget().await;
        // Of both kinds of puts, in turn: each brings its script, once.
        let keys: Vec<Key> = (0..40).map(|index| key(&format!("batch-{index}"))).collect();
        let record = in_progress(2);
        let mut expected = Vec::new();
        for (index, key) in keys.iter().enumerate() {
            expected.push(match index % 2 {
                0 => Expected::Vacant,
                _ => Expected::At(write(&store, key, Expected::Vacant, &record, (HOUR, HOUR)).await),
            });
        }
        forget().await;
        let put = Put::new(&record, HOUR, HOUR);
        let batch: Vec<_> =
            keys.iter().zip(&expected).map(|(key, expected)| BatchPut::new(key, *expected, put)).collect();
        let answers = store.compare_exchange_many(&batch).await;
        for (index, (key, answer)) in keys.iter().zip(answers).enumerate() {
            let Ok(Exchange::Done(version)) = answer else { panic!("{index}: {answer:?}") };
            assert_eq!(store.load(key).await.unwrap().unwrap().version, version, "{index}");
        }
    });
}

/// Under load, with a server that forgets all the while: nothing but answers. The work goes on until the server has forgotten
/// often enough in its midst, and the server forgets until the work is done.
#[test]
fn forgetting_under_load_fails_nobody() {
    block_on(async {
        let server = Redis::start();
        let store = store(&server).await;
        let begun = Instant::now();
        let (forgotten, is_done) = (&AtomicUsize::new(0), &AtomicBool::new(false));
        let forgetting = async {
            let mut connection = connection(&server).await;
            while !is_done.load(Ordering::SeqCst) {
                words(&["SCRIPT", "FLUSH"]).exec_async(&mut connection).await.unwrap();
                forgotten.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        };
        let working = futures::future::join_all((0..16).map(|client| {
            let store = store.clone();
            async move {
                for round in 0.. {
                    let forgotten = forgotten.load(Ordering::SeqCst);
                    if round >= 100 && forgotten >= 100 {
                        break;
                    }
                    assert!(begun.elapsed() < PATIENCE, "forgotten {forgotten} times in {PATIENCE:?}");
                    let key = key(&format!("{client}-{round}"));
                    let version =
                        write(&store, &key, Expected::Vacant, &in_progress(client), (HOUR, HOUR)).await;
                    write(&store, &key, Expected::At(version), &completed(client, b"x"), (HOUR, HOUR)).await;
                }
            }
        }));
        let working = async {
            working.await;
            is_done.store(true, Ordering::SeqCst);
        };
        futures::future::join(forgetting, working).await;
    });
}
