//! Answers that are about the connection: another one is made, to the server that has the address by then, and no outage lasts
//! until a restart of the service.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use oncekey::protocol::Expected;
use oncekey::store::{BatchPut, Exchange, Put, Store as _, StoreError as _, StoreErrorKind};
use oncekey_redis::{RedisStore, RedisStoreError};
use oncekey_store_testing::server::Redis;
use tokio::net::{TcpListener, TcpStream};

use crate::outages::assert_not_now;
use crate::support::*;

/// An address behind which one server is, and later another: new connections go to that, those that are there stay.
pub(crate) struct Address {
    pub(crate) url: String,
    port: Arc<AtomicU16>,
    connections: Arc<AtomicUsize>,
}

impl Address {
    pub(crate) async fn of(server: &Redis) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}/", listener.local_addr().unwrap());
        let port = Arc::new(AtomicU16::new(server.port()));
        let connections = Arc::new(AtomicUsize::new(0));
        let (to, count) = (Arc::clone(&port), Arc::clone(&connections));
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let port = to.load(Ordering::SeqCst);
                tokio::spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await {
                        let _ended = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Self { url, port, connections }
    }

    /// How many connections were made to it.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn is_now_of(&self, server: &Redis) {
        self.port.store(server.port(), Ordering::SeqCst);
    }
}

pub(crate) async fn is_done(store: &RedisStore, id: &str) -> bool {
    match claim(store, &key(id), 1).await {
        Ok(Exchange::Done(_)) => true,
        // Its own, of a try whose answer was late.
        Ok(Exchange::Conflict(_)) => true,
        Err(error) => {
            assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error:?}");
            false
        }
    }
}

/// A planned failover: the server that the store is connected to becomes a replica, and the address is the new primary's. The
/// old one keeps its connections.
#[test]
fn a_server_that_was_demoted_is_left_for_the_one_that_has_its_address() {
    block_on(async {
        // It refuses as a replica, and, told so, as one that has lost its primary.
        for (stale, code) in [("yes", "READONLY"), ("no", "MASTERDOWN")] {
            let (before, after) = (Redis::start(), Redis::start());
            let address = Address::of(&before).await;
            let store = builder().prefix(prefix()).connect(address.url.as_str()).await.unwrap();
            assert!(is_done(&store, "before").await);
            let _: () = ask(&before, &["CONFIG", "SET", "replica-serve-stale-data", stale]).await;
            let _: () = ask(&before, &["REPLICAOF", "127.0.0.1", "1"]).await;
            address.is_now_of(&after);
            assert_not_now(&claim(&store, &key("refused"), 1).await.unwrap_err(), code);
            until("the other is found", || is_done(&store, "found")).await;

            // By a batch, too.
            let _: () = ask(&after, &["REPLICAOF", "127.0.0.1", "1"]).await;
            address.is_now_of(&before);
            let _: () = ask(&before, &["REPLICAOF", "NO", "ONE"]).await;
            let (again, record) = (key("again"), in_progress(1));
            let batch = [BatchPut::new(&again, Expected::Vacant, Put::new(&record, HOUR, HOUR))];
            let refused = store.compare_exchange_many(&batch).await.remove(0);
            assert_not_now(&refused.unwrap_err(), "READONLY");
            until("the first is found again", || async {
                store.compare_exchange_many(&batch).await.remove(0).is_ok()
            })
            .await;
        }
    });
}

/// A server that refuses each call is not connected to by each.
#[test]
fn a_server_that_stays_a_replica_is_not_flooded_with_connections() {
    block_on(async {
        let server = Redis::start();
        let address = Address::of(&server).await;
        let store = builder().prefix(prefix()).connect(address.url.as_str()).await.unwrap();
        let _: () = ask(&server, &["REPLICAOF", "127.0.0.1", "1"]).await;
        let began = std::time::Instant::now();
        let mut calls = 0;
        while calls < 1000 {
            assert_not_now(&store.load(&key("a")).await.unwrap_err(), "READONLY");
            calls += 1;
        }
        let most = usize::try_from(began.elapsed().as_millis() / 100).unwrap() + 2;
        let made = address.connections();
        assert!(made <= most, "{made} connections of {calls} calls in {:?}", began.elapsed());
    });
}

/// A user that is not let in for a while: the client alone would stay with that refusal.
#[test]
fn a_password_that_does_not_fit_for_a_while() {
    block_on(async {
        let server = Redis::start();
        let rights = ["ACL", "SETUSER", "app", "reset", "on", "~*", "+@all"];
        let with = async |password: &str| {
            let _: () = ask(&server, &[&rights[..], &[password]].concat()).await;
        };
        with(">secret").await;
        let url = server.url().replace("redis://", "redis://app:secret@");
        let store = builder().prefix(prefix()).connect(url).await.unwrap();
        assert!(is_done(&store, "before").await);
        with(">other").await;
        let _: () = ask(&server, &["CLIENT", "KILL", "USER", "app"]).await;
        until("it is not let in", || async {
            matches!(claim(&store, &key("refused"), 1).await, Err(RedisStoreError::Refused { .. }))
        })
        .await;
        with(">secret").await;
        until("it is let in", || async { claim(&store, &key("after"), 1).await.is_ok() }).await;
    });
}
