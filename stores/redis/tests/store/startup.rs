//! Which servers are taken, and what they are declared to be.

use std::time::Duration;

use oncekey::Store as _;
use oncekey::protocol::Expected;
use oncekey::store::{DurabilityClass, StoreError as _, StoreErrorKind};
use oncekey_redis::{Persistence, RedisStore, RedisStoreBuilder, RedisStoreError};
use oncekey_store_testing::server::Redis;

use crate::support::*;

/// Each policy but `noeviction` can drop claims, those that look at a time to live included: claims have one.
#[test]
fn a_server_that_can_drop_claims_is_refused_unless_that_is_accepted() {
    block_on(async {
        let server = Redis::start();
        for policy in [
            "allkeys-lru",
            "allkeys-lfu",
            "allkeys-random",
            "volatile-lru",
            "volatile-lfu",
            "volatile-random",
            "volatile-ttl",
        ] {
            let _: () = ask(&server, &["CONFIG", "SET", "maxmemory-policy", policy]).await;
            let error = builder().connect(server.url()).await.unwrap_err();
            assert!(
                matches!(&error, RedisStoreError::Evicts { policy: found } if found == policy),
                "{error}"
            );
            assert_eq!(error.kind(), StoreErrorKind::Rejected);
            let accepted = builder().accept_eviction(true).connect(server.url()).await.unwrap();
            assert_eq!(accepted.servers()[0].eviction, policy);
        }
        let _: () = ask(&server, &["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
        until("it is taken", || async { RedisStore::connect(server.url()).await.is_ok() }).await;
    });
}

/// Each duration at its extremes: a store that serves, or a refusal by name.
#[test]
fn each_duration_at_its_extremes_works_or_is_refused_by_its_name() {
    type Set = fn(RedisStoreBuilder, Duration) -> RedisStoreBuilder;
    let cases: [(&str, Set, [bool; 3]); 3] = [
        ("response_timeout", |b, d| b.response_timeout(d), [false, false, true]),
        ("connect_timeout", |b, d| b.connect_timeout(d), [false, false, true]),
        // No replica is asked for: there is none.
        ("wait_replicas", |b, d| b.wait_replicas(0, d), [true; 3]),
    ];
    block_on(async {
        let server = Redis::start();
        for (option, set, works) in cases {
            for (duration, works) in [NOTHING, Duration::from_nanos(1), FOR_EVER].into_iter().zip(works) {
                match set(builder().prefix(prefix()), duration).connect(server.url()).await {
                    Ok(store) => {
                        assert!(works, "{option} of {duration:?} is taken");
                        write(&store, &key("1"), Expected::Vacant, &in_progress(1), (HOUR, HOUR)).await;
                        assert!(store.load(&key("1")).await.unwrap().is_some(), "{option} of {duration:?}");
                    }
                    Err(error) => {
                        let named =
                            matches!(&error, RedisStoreError::Settings { what } if what.contains(option));
                        assert!(named && !works, "{option} of {duration:?}: {error:?}");
                    }
                }
            }
        }
        // A wait that no replica ends, though the server has none, is one that the server can
        // count.
        let mut lonely = connection(&server).await;
        let answer: i64 = words(&["WAIT", "0", "31622400000"]).query_async(&mut lonely).await.unwrap();
        assert_eq!(answer, 0);
    });
}

#[test]
fn a_replica_is_refused() {
    block_on(async {
        let server = Redis::start();
        let _: () = ask(&server, &["REPLICAOF", "127.0.0.1", "1"]).await;
        assert!(matches!(builder().connect(server.url()).await.unwrap_err(), RedisStoreError::Replica));
    });
}

#[test]
fn a_server_that_is_not_there_is_unreachable() {
    block_on(async {
        let server = Redis::start();
        server.kill();
        let error = builder().connect(server.url()).await.unwrap_err();
        assert!(matches!(error, RedisStoreError::Unreachable { .. }), "{error:?}");
        assert_eq!((error.kind(), error.maybe_applied()), (StoreErrorKind::Unavailable, false));
    });
}

#[test]
fn a_user_needs_few_rights_and_is_told_which_are_missing() {
    block_on(async {
        let server = Redis::start();
        let user = |name: &str, rights: &[&str]| {
            let mut command = vec!["ACL".to_owned(), "SETUSER".to_owned(), name.to_owned()];
            command.extend(rights.iter().map(|right| (*right).to_owned()));
            command
        };
        // The rights that the README names.
        let rights = "on >secret ~oncekey:* +info +config|get +evalsha +eval +hmget +exists +time +hset +pexpireat +persist";
        let rights: Vec<&str> = rights.split(' ').collect();
        let mut admin = connection(&server).await;
        words(&user("app", &rights)).exec_async(&mut admin).await.unwrap();
        let url = |name: &str| server.url().replace("redis://", &format!("redis://{name}:secret@"));
        let store = builder().connect(url("app")).await.unwrap();
        let version = write(&store, &key("1"), Expected::Vacant, &in_progress(1), (HOUR, HOUR)).await;
        write(&store, &key("1"), Expected::At(version), &in_progress(1), (HOUR, FOR_EVER)).await;
        assert!(store.load(&key("1")).await.unwrap().is_some());

        // Without CONFIG, all but the flushing is known.
        words(&user("hosted", &rights)).exec_async(&mut admin).await.unwrap();
        words(&["ACL", "SETUSER", "hosted", "-config|get"]).exec_async(&mut admin).await.unwrap();
        let _: () = ask(&server, &["CONFIG", "SET", "appendonly", "yes"]).await;
        let hosted = builder().connect(url("hosted")).await.unwrap();
        assert_eq!(hosted.servers()[0].persistence, Persistence::AppendUnknown);
        assert_eq!(hosted.durability().class, DurabilityClass::Undeclared);

        for (name, missing) in
            [("blind", "-info"), ("mute", "-evalsha"), ("numb", "-hset"), ("stranger", "resetkeys")]
        {
            words(&user(name, &rights)).exec_async(&mut admin).await.unwrap();
            words(&["ACL", "SETUSER", name, missing]).exec_async(&mut admin).await.unwrap();
            let error = match builder().connect(url(name)).await {
                Err(error) => error,
                Ok(store) => claim(&store, &key("2"), 1).await.unwrap_err(),
            };
            assert!(matches!(&error, RedisStoreError::Refused { .. }), "{name}: {error:?}");
            assert_eq!(error.kind(), StoreErrorKind::Rejected);
        }
        let wrong = server.url().replace("redis://", "redis://app:wrong@");
        let error = builder().connect(wrong).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Rejected, "{error:?}");
    });
}

#[test]
fn durability_is_what_the_server_is_set_to() {
    block_on(async {
        let server = Redis::start();
        let declared = || async {
            let store = builder().connect(server.url()).await.unwrap();
            (store.servers()[0].persistence, store.durability())
        };
        let set = |name: &'static str, value: &'static str| {
            let server = &server;
            async move { ask::<()>(server, &["CONFIG", "SET", name, value]).await }
        };
        let (persistence, durability) = declared().await;
        assert_eq!((persistence, durability.class), (Persistence::Snapshots, DurabilityClass::Process));
        assert!(
            durability.about.contains("last snapshot") && durability.about.contains("clock"),
            "{durability}"
        );
        set("appendonly", "yes").await;
        for (flush, persistence, class, about) in [
            ("everysec", Persistence::AppendEverySecond, DurabilityClass::Process, "a second or two"),
            ("no", Persistence::AppendNo, DurabilityClass::Machine, "power loss"),
            ("always", Persistence::AppendAlways, DurabilityClass::Disk, "flushed before"),
        ] {
            set("appendfsync", flush).await;
            let (found, durability) = declared().await;
            assert_eq!((found, durability.class), (persistence, class), "{flush}");
            assert!(durability.about.contains(about), "{durability}");
        }
        set("no-appendfsync-on-rewrite", "yes").await;
        assert_eq!(
            declared().await.1.class,
            DurabilityClass::Machine,
            "a rewrite may leave writes unflushed"
        );
    });
}
