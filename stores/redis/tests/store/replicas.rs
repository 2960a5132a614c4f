//! Replicas: what waiting for them gives, and what a failover forgets.

use std::collections::BTreeMap;
use std::time::Duration;

use oncekey::Deduplicator;
use oncekey::protocol::Expected;
use oncekey::store::{
    BatchPut, DurabilityClass, Exchange, ListInDoubt as _, Put, Store as _, StoreError as _, StoreErrorKind,
};
use oncekey_redis::{RedisStore, RedisStoreError};
use oncekey_store_testing::server::Redis;

use crate::outages::assert_not_now;
use crate::support::*;

async fn replica_of(primary: &Redis) -> Redis {
    let replica = Redis::start();
    let _: () = ask(&replica, &["REPLICAOF", "127.0.0.1", &primary.port().to_string()]).await;
    until("the replica is in step", || async {
        let info: String = ask(&replica, &["INFO", "replication"]).await;
        info.contains("master_link_status:up")
    })
    .await;
    replica
}

async fn waiting_for(replicas: u32, at_most: Duration, server: &Redis) -> RedisStore {
    let builder = builder().prefix(prefix()).wait_replicas(replicas, at_most);
    builder.connect(server.url()).await.unwrap()
}

#[test]
fn a_write_waits_for_its_replicas() {
    block_on(async {
        let primary = Redis::start();
        let replica = replica_of(&primary).await;
        let store = waiting_for(1, PATIENCE, &primary).await;
        for round in 0..20 {
            let here = key(&format!("{round}"));
            let version = write(&store, &here, Expected::Vacant, &in_progress(1), (HOUR, HOUR)).await;
            // Acknowledged is there: asked at the replica itself, at once.
            let mut cmd = words(&["HGET"]);
            cmd.arg(store.redis_key(&here)).arg("version");
            let found: Option<u64> = cmd.query_async(&mut connection(&replica).await).await.unwrap();
            assert_eq!(found, Some(version.get()));
        }
        assert!(matches!(claim(&store, &key("0"), 2).await, Ok(Exchange::Conflict(Some(_)))));
    });
}

/// Fewer than asked for: the answer says so, and that the write may stand; which it does.
#[test]
fn too_few_replicas_are_an_error_that_may_be_applied() {
    block_on(async {
        let primary = Redis::start();
        let replica = replica_of(&primary).await;
        let store = waiting_for(1, Duration::from_millis(50), &primary).await;
        replica.hang();
        let error = claim(&store, &key("1"), 1).await.unwrap_err();
        assert!(matches!(error, RedisStoreError::TooFewReplicas { confirmed: 0, wanted: 1 }), "{error:?}");
        assert_eq!((error.kind(), error.maybe_applied()), (StoreErrorKind::Unavailable, true));
        assert!(store.load(&key("1")).await.unwrap().is_some());
        // A conflict wrote nothing, and needs nobody.
        assert!(matches!(claim(&store, &key("1"), 2).await, Ok(Exchange::Conflict(Some(_)))));

        let (known, new, record) = (key("1"), key("2"), in_progress(3));
        let put = Put::new(&record, HOUR, HOUR);
        let batch =
            [BatchPut::new(&known, Expected::Vacant, put), BatchPut::new(&new, Expected::Vacant, put)];
        // With the scripts forgotten, the waiting is for the round that wrote.
        let _: () = ask(&primary, &["SCRIPT", "FLUSH"]).await;
        let answers = store.compare_exchange_many(&batch).await;
        let [Ok(Exchange::Conflict(Some(_))), Err(RedisStoreError::TooFewReplicas { .. })] = &answers[..]
        else {
            panic!("{answers:?}")
        };
        replica.go_on();
        let _: () = ask(&primary, &["SCRIPT", "FLUSH"]).await;
        until("the replica keeps up again", || async {
            claim(&store, &key(&oncekey_store_testing::server::unique_name("k")), 1).await.is_ok()
        })
        .await;
    });
}

/// A WAIT that fails is no word on the writes before it: they stand, and conflicts need nobody.
#[test]
fn a_wait_that_fails_does_not_undo_what_was_written() {
    block_on(async {
        let server = Redis::start();
        let store = waiting_for(1, Duration::from_millis(50), &server).await;
        let _: () = ask(&server, &["ACL", "SETUSER", "default", "-wait"]).await;
        let error = claim(&store, &key("1"), 1).await.unwrap_err();
        assert!(error.maybe_applied(), "{error:?}");
        assert!(store.load(&key("1")).await.unwrap().is_some(), "it was applied");
        assert!(matches!(claim(&store, &key("1"), 2).await, Ok(Exchange::Conflict(Some(_)))));
    });
}

/// What is declared of a server that another may replace.
#[test]
fn a_server_with_replicas_declares_what_a_failover_forgets() {
    block_on(async {
        let primary = Redis::start_durable();
        let _replica = replica_of(&primary).await;
        until("the primary counts its replica", || async {
            builder().connect(primary.url()).await.unwrap().servers()[0].replicas == 1
        })
        .await;
        let durability = builder().connect(primary.url()).await.unwrap().durability();
        assert_eq!(
            durability.class,
            DurabilityClass::Machine,
            "another server may not have what this one flushed"
        );
        assert!(durability.about.contains("failover"), "{durability}");
    });
}

/// Not a promise but the lack of one, shown: a replica that is promoted without an acknowledged completion has never
/// heard of it, and the operation runs again. What is left is that fencing tokens go on rising.
#[test]
fn a_failover_forgets_what_had_not_reached_the_replica() {
    block_on(async {
        let primary = Redis::start_durable();
        let replica = replica_of(&primary).await;
        let prefix = prefix();
        let engine = async |server: &Redis| {
            let store = builder().prefix(prefix.clone()).connect(server.url()).await.unwrap();
            Deduplicator::builder(store).tokio().build().unwrap()
        };
        let before = engine(&primary).await;
        // Cut off from its primary, as by a network: what it has, it keeps.
        let _: () = ask(&replica, &["REPLICAOF", "127.0.0.1", "1"]).await;
        let run = async |dedup: &Deduplicator<RedisStore>| {
            let answer = dedup.request(key("1")).run(|attempt| async move {
                Ok::<_, std::io::Error>(attempt.fence().get().to_string().into_bytes())
            });
            let token = answer.await.unwrap().into_value().unwrap();
            String::from_utf8(token).unwrap().parse::<u64>().unwrap()
        };
        let first = run(&before).await;
        assert_eq!(run(&before).await, first, "it is on record, and replayed");
        primary.kill();
        let _: () = ask(&replica, &["REPLICAOF", "NO", "ONE"]).await;
        let after = engine(&replica).await;
        let second = run(&after).await;
        assert_ne!(second, first, "the new primary knows nothing of it: this is what the README says");
        assert!(second > first, "a resource that compares fencing tokens refuses the older");
    });
}

/// A server that was demoted, and hears nothing of the primary, answers nothing from what it has: no replay, no "in
/// progress", no look, no list.
#[test]
fn a_demoted_server_answers_nothing_from_old_data() {
    block_on(async {
        let server = Redis::start();
        let store = store(&server).await;
        let version = write(&store, &key("held"), Expected::Vacant, &in_progress(1), (HOUR, HOUR)).await;
        write(&store, &key("done"), Expected::Vacant, &completed(1, b"outcome"), (HOUR, HOUR)).await;
        let _: () = ask(&server, &["REPLICAOF", "127.0.0.1", "1"]).await;
        let record = in_progress(2);
        let put = Put::new(&record, HOUR, HOUR);
        for id in ["held", "done", "fresh"] {
            let key = key(id);
            assert_not_now(&store.load(&key).await.unwrap_err(), "READONLY");
            assert_not_now(&claim(&store, &key, 2).await.unwrap_err(), "READONLY");
            let exchanged = store.compare_exchange(&key, Expected::At(version), put).await;
            assert_not_now(&exchanged.unwrap_err(), "READONLY");
            let batch =
                [BatchPut::new(&key, Expected::Vacant, put), BatchPut::new(&key, Expected::At(version), put)];
            for answer in store.compare_exchange_many(&batch).await {
                assert_not_now(&answer.unwrap_err(), "READONLY");
            }
        }
        assert_not_now(&store.list_in_doubt(None, 10).await.unwrap_err(), "READONLY");
        let _: () = ask(&server, &["REPLICAOF", "NO", "ONE"]).await;
        until("the store is served again", || async { store.load(&key("done")).await.is_ok() }).await;
        assert_eq!(store.load(&key("held")).await.unwrap().unwrap().version, version);
    });
}

/// What keeps a primary from writing keeps nobody from an outcome that is there.
#[test]
fn a_primary_that_may_not_write_still_replays() {
    block_on(async {
        let server = Redis::start();
        let store = store(&server).await;
        write(&store, &key("done"), Expected::Vacant, &completed(1, b"outcome"), (HOUR, HOUR)).await;
        let _: () = ask(&server, &["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
        assert_not_now(&claim(&store, &key("fresh"), 1).await.unwrap_err(), "NOREPLICAS");
        assert!(matches!(claim(&store, &key("done"), 2).await, Ok(Exchange::Conflict(Some(_)))));
        assert!(store.load(&key("done")).await.unwrap().is_some());
    });
}

/// The look at the server's role leaves a record as it was: its fields, and when it goes.
#[test]
fn a_look_changes_nothing() {
    block_on(async {
        let server = Redis::start();
        let store = store(&server).await;
        let forever = Duration::MAX;
        for (id, live) in [("ends", HOUR), ("stays", forever)] {
            write(&store, &key(id), Expected::Vacant, &in_progress(1), (live, live)).await;
            let name = store.redis_key(&key(id));
            let mut connection = connection(&server).await;
            let mut state = async || {
                let mut ends = words(&["PEXPIRETIME"]);
                ends.arg(&name);
                let mut fields = words(&["HGETALL"]);
                fields.arg(&name);
                let ends: i64 = ends.query_async(&mut connection).await.unwrap();
                let fields: BTreeMap<Vec<u8>, Vec<u8>> = fields.query_async(&mut connection).await.unwrap();
                (ends, fields)
            };
            let before = state().await;
            assert_eq!(before.0 == -1, live == forever);
            assert!(store.load(&key(id)).await.unwrap().is_some());
            assert!(matches!(claim(&store, &key(id), 2).await, Ok(Exchange::Conflict(Some(_)))));
            assert_eq!(state().await, before);
        }
        assert_eq!(store.load(&key("nothing")).await.unwrap(), None);
        let keys: Vec<Vec<u8>> = ask(&server, &["KEYS", "*"]).await;
        assert_eq!(keys.len(), 2);
    });
}
