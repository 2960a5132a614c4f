//! Servers that are down, hang, load, are busy, or lost their disk: what the errors say, and that all goes on after.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use oncekey::protocol::Expected;
use oncekey::store::{BatchPut, Exchange, Put, Store as _, StoreError as _, StoreErrorKind};
use oncekey::{Deduplicator, Key};
use oncekey_redis::{RedisStore, RedisStoreBuilder, RedisStoreError};
use oncekey_store_testing::proxy::{Mode, Proxy};
use oncekey_store_testing::server::Redis;

use crate::support::*;

pub(crate) fn assert_not_now(error: &RedisStoreError, due: &str) {
    assert!(matches!(error, RedisStoreError::NotNow { code, .. } if code == due), "{due} is due: {error:?}");
    assert_eq!((error.kind(), error.maybe_applied()), (StoreErrorKind::Unavailable, false));
}

/// Whether the key is claimed by this owner, now or by an earlier try whose answer was late.
async fn is_claimed(store: &RedisStore, key: &Key, owner: u8) -> bool {
    match claim(store, key, owner).await {
        Ok(Exchange::Done(_)) => true,
        Ok(Exchange::Conflict(Some(entry))) => entry.record == in_progress(owner),
        _ => false,
    }
}

/// A store with the builder's timeouts or its defaults: a busy server may take longer to connect, and is asked again.
async fn connected(builder: RedisStoreBuilder, server: &Redis) -> RedisStore {
    let begun = Instant::now();
    loop {
        match builder.clone().connect(server.url()).await {
            Ok(store) => return store,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error:?}"),
        }
    }
}

#[test]
fn a_server_that_is_down_is_reported_meanwhile_and_used_again_when_it_is_back() {
    block_on(async {
        let server = Redis::start_durable();
        let prefix = prefix();
        let patient = builder().prefix(prefix.clone()).connect(server.url()).await.unwrap();
        let kept = write(&patient, &key("kept"), Expected::Vacant, &in_progress(1), (HOUR, HOUR)).await;
        // By default two tries of two seconds to connect: ten times that, for a busy machine.
        let soon = Duration::from_secs(2) * 2 * 10;
        let store = connected(RedisStore::builder().prefix(prefix), &server).await;
        server.kill();
        // The first may find out by its own connection, and cannot know what became of it.
        let broke = claim(&store, &key("1"), 1).await.unwrap_err();
        assert_eq!(broke.kind(), StoreErrorKind::Unavailable, "{broke:?}");
        for _ in 0..3 {
            let begun = Instant::now();
            let down = in_time(claim(&store, &key("1"), 1)).await.unwrap_err();
            assert!(begun.elapsed() < soon, "it was told after {:?}", begun.elapsed());
            assert!(matches!(down, RedisStoreError::Unreachable { .. }), "{down:?}");
            assert_eq!((down.kind(), down.maybe_applied()), (StoreErrorKind::Unavailable, false));
        }
        let record = in_progress(1);
        let batch = [key("1"), key("2")];
        let batch: Vec<_> = batch
            .iter()
            .map(|key| BatchPut::new(key, Expected::Vacant, Put::new(&record, HOUR, HOUR)))
            .collect();
        let begun = Instant::now();
        let answers = in_time(store.compare_exchange_many(&batch)).await;
        assert!(begun.elapsed() < soon, "it was told after {:?}", begun.elapsed());
        assert_eq!(answers.len(), 2);
        assert!(
            answers.iter().all(|answer| matches!(answer, Err(error) if !error.maybe_applied())),
            "{answers:?}"
        );

        server.start_again();
        until("the store finds the server again", || async {
            store.load(&key("kept")).await.is_ok_and(|entry| entry.is_some_and(|entry| entry.version == kept))
        })
        .await;
        until("the other store finds it too", || async { patient.load(&key("kept")).await.is_ok() }).await;
        let found = patient.load(&key("1")).await.unwrap();
        assert_eq!(found, None, "no call was applied");
        until("claims are taken again", || async { is_claimed(&store, &key("1"), 1).await }).await;
    });
}

/// Through the engine, with the server down: the operation does not run; when it is back, it does.
#[test]
fn an_operation_waits_for_a_server_that_is_down() {
    block_on(async {
        let server = Redis::start_durable();
        let dedup = Deduplicator::builder(store(&server).await)
            .tokio()
            .call_timeout(Duration::from_secs(5))
            .build()
            .unwrap();
        server.stop();
        let ran = AtomicU32::new(0);
        let run = || {
            dedup.request(key("1")).run(|_| async {
                ran.fetch_add(1, Ordering::SeqCst);
                Ok::<_, std::io::Error>(b"ran".to_vec())
            })
        };
        run().await.unwrap_err();
        assert_eq!(ran.load(Ordering::SeqCst), 0);
        server.start_again();
        until("the operation runs", || async { run().await.is_ok_and(|answer| answer.value().is_some()) })
            .await;
        assert_eq!(ran.load(Ordering::SeqCst), 1);
    });
}

/// A connection that breaks before the answer: the write may have been done, or not, and the error says so of both.
#[test]
fn a_connection_that_breaks_leaves_it_open_what_was_done() {
    block_on(async {
        let server = Redis::start();
        let proxy = Proxy::start(server.addr());
        let store = builder().prefix(prefix()).connect(proxy.url(server.url())).await.unwrap();
        claim(&store, &key("0"), 1).await.unwrap();
        for (id, mode, applied) in [("1", Mode::DropAnswers, true), ("2", Mode::Reset, false)] {
            proxy.only_next(1, mode);
            let error = claim(&store, &key(id), 1).await.unwrap_err();
            assert!(matches!(error, RedisStoreError::Disconnected { .. }), "{error:?}");
            assert_eq!((error.kind(), error.maybe_applied()), (StoreErrorKind::Unavailable, true));
            assert_eq!(store.load(&key(id)).await.unwrap().is_some(), applied, "connected again, at once");
        }
    });
}

/// A server that hangs: the error says that the write may come, and it does.
#[test]
fn a_server_that_hangs_is_a_timeout_whose_write_may_come() {
    block_on(async {
        let server = Redis::start();
        let hasty = builder().prefix(prefix()).response_timeout(Duration::from_secs(1));
        let store = hasty.connect(server.url()).await.unwrap();
        // The script is there then: one that comes with its text takes two round trips, and the first writes nothing. Where
        // a busy server takes longer than the timeout, the claim is tried again, and is there.
        until("the script is there", || async { is_claimed(&store, &key("0"), 1).await }).await;
        server.hang();
        let error = claim(&store, &key("1"), 1).await.unwrap_err();
        server.go_on();
        assert!(matches!(error, RedisStoreError::TimedOut { .. }), "{error:?}");
        assert_eq!((error.kind(), error.maybe_applied()), (StoreErrorKind::TimedOut, true));
        until("the late write is there", || async { matches!(store.load(&key("1")).await, Ok(Some(_))) })
            .await;
        until("claims are taken again", || async { is_claimed(&store, &key("2"), 1).await }).await;
    });
}

/// A server that another replaced (READONLY), one that lost replicas (NOREPLICAS), one that runs somebody's endless
/// script (BUSY): nothing is applied, and it may be tried again.
#[test]
fn a_server_that_refuses_for_now_applied_nothing() {
    block_on(async {
        let server = Redis::start();
        let store = store(&server).await;
        let version = write(&store, &key("1"), Expected::Vacant, &in_progress(1), (HOUR, HOUR)).await;
        let record = completed(1, b"late");
        let refused = async |due: &str| {
            assert_not_now(&claim(&store, &key("2"), 1).await.unwrap_err(), due);
            let put = Put::new(&record, HOUR, HOUR);
            let answer = store.compare_exchange(&key("1"), Expected::At(version), put).await;
            assert_not_now(&answer.unwrap_err(), due);
        };
        let _: () = ask(&server, &["REPLICAOF", "127.0.0.1", "1"]).await;
        refused("READONLY").await;
        let _: () = ask(&server, &["REPLICAOF", "NO", "ONE"]).await;

        let _: () = ask(&server, &["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
        refused("NOREPLICAS").await;
        let _: () = ask(&server, &["CONFIG", "SET", "min-replicas-to-write", "0"]).await;

        let _: () = ask(&server, &["CONFIG", "SET", "busy-reply-threshold", "10"]).await;
        let mut other = connection(&server).await;
        let endless =
            tokio::spawn(
                async move { words(&["EVAL", "while true do end", "0"]).exec_async(&mut other).await },
            );
        until("the script is noticed", || async {
            matches!(store.load(&key("1")).await, Err(RedisStoreError::NotNow { .. }))
        })
        .await;
        refused("BUSY").await;
        let _: () = ask(&server, &["SCRIPT", "KILL"]).await;
        endless.await.unwrap().unwrap_err();

        assert_eq!(store.load(&key("2")).await.unwrap(), None);
        let entry = store.load(&key("1")).await.unwrap().unwrap();
        assert_eq!((entry.version, entry.record), (version, in_progress(1)));
        assert!(matches!(claim(&store, &key("2"), 1).await, Ok(Exchange::Done(_))));
    });
}

/// While a connection is made again, a call waits for two tries and no more: less than the engine waits for the store.
#[test]
fn a_call_waits_for_two_tries_to_connect() {
    // On one thread: between the end of a call and the count of its tries, no task of the client's begins a further one.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(in_time(async {
        let server = Redis::start();
        let limit = Duration::from_millis(500);
        let store = connected(builder().connect_timeout(limit), &server).await;
        server.kill();
        // Something takes connections in its place, and says nothing: the system, which has them wait to be accepted.
        let listener = TcpListener::bind(server.addr()).unwrap();
        listener.set_nonblocking(true).unwrap();
        let taken = || {
            let mut taken = Vec::new();
            loop {
                match listener.accept() {
                    Ok(connection) => taken.push(connection),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return taken,
                    Err(error) => panic!("{error}"),
                }
            }
        };
        // The first call may find the old connection broken, and is told so at once. The next finds it gone already.
        loop {
            let error = claim(&store, &key("1"), 1).await.unwrap_err();
            assert!(error.kind().is_transient(), "{error:?}");
            if matches!(error, RedisStoreError::TimedOut { .. }) {
                break;
            }
        }
        let _tries_of_those = taken();
        let error = claim(&store, &key("1"), 1).await.unwrap_err();
        assert!(matches!(error, RedisStoreError::TimedOut { .. }), "{error:?}");
        assert_eq!(taken().len(), 2);
    }));
}

/// A server whose snapshot could not be written refuses writes, if it is set so (the default).
#[test]
fn a_server_that_cannot_write_its_disk_refuses_writes() {
    block_on(async {
        let server = Redis::start();
        let store = store(&server).await;
        let version = write(&store, &key("1"), Expected::Vacant, &in_progress(1), (HOUR, HOUR)).await;
        let _: () = ask(&server, &["CONFIG", "SET", "save", "3600 1"]).await;
        // A directory of that name is where no file can be.
        std::fs::create_dir_all(server.dir().join("dump.rdb/in-the-way")).unwrap();
        let _: String = ask(&server, &["BGSAVE"]).await;
        until("the snapshot fails", || async {
            let info: String = ask(&server, &["INFO", "persistence"]).await;
            info.contains("rdb_last_bgsave_status:err")
        })
        .await;
        assert_not_now(&claim(&store, &key("2"), 1).await.unwrap_err(), "MISCONF");
        let record = completed(1, b"done");
        let put = Put::new(&record, HOUR, HOUR);
        let answer = store.compare_exchange(&key("1"), Expected::At(version), put).await;
        assert_not_now(&answer.unwrap_err(), "MISCONF");
        assert!(
            matches!(claim(&store, &key("1"), 2).await, Ok(Exchange::Conflict(Some(_)))),
            "replays go on"
        );
        std::fs::remove_dir_all(server.dir().join("dump.rdb")).unwrap();
        let _: String = ask(&server, &["BGSAVE"]).await;
        until("writes are taken again", || async { is_claimed(&store, &key("2"), 1).await }).await;
    });
}
