//! What is in the hash.

use std::collections::HashMap;
use std::time::Duration;

use oncekey::protocol::{Expected, Record, Version};
use oncekey::store::{Exchange, Put, Store as _, StoreError as _, StoreErrorKind};
use oncekey_redis::{RedisStore, RedisStoreError};
use oncekey_store_testing::server::Redis;

use crate::support::*;

async fn raw<T: redis::FromRedisValue>(store: &RedisStore, command: &str, id: &str, further: &[&str]) -> T {
    let mut cmd = words(&[command]);
    cmd.arg(store.redis_key(&key(id))).arg(further);
    cmd.query_async(&mut connection(Redis::shared()).await).await.unwrap()
}

#[test]
fn a_person_can_read_the_hash() {
    block_on(async {
        let store = store(Redis::shared()).await;
        let record = completed(0xab, b"receipt");
        let version = write(&store, &key("7f3a"), Expected::Vacant, &record, (HOUR, HOUR)).await;
        let hash: HashMap<String, Vec<u8>> = raw(&store, "HGETALL", "7f3a", &[]).await;
        let text = |field: &str| String::from_utf8(hash[field].clone()).unwrap();
        let number = |field: &str| text(field).parse::<u64>().unwrap();
        assert_eq!(number("version"), version.get());
        assert_eq!(number("gone_at") - number("live_until"), 3_600_000_000);
        assert_eq!(hash["body"], record.as_bytes());
        assert_eq!(text("state"), "completed");
        assert_eq!(
            text("about"),
            "attempt=1 policy=reclaim operation_id=abababababababababababababababab created=1970-01-01T00:00:00.007Z \
             finished=1970-01-01T00:00:00.009Z succeeded outcome_bytes=7"
        );
        assert_eq!(hash.len(), 6, "{:?}", hash.keys());
        let name = store.redis_key(&key("7f3a"));
        assert!(name.ends_with(b":\x0fpayments.charge\x047f3a"), "{:?}", String::from_utf8_lossy(&name));
    });
}

#[test]
fn the_hash_outlives_its_record_by_a_minute_and_for_ever_if_that_is_asked_for() {
    block_on(async {
        let store = store(Redis::shared()).await;
        let record = in_progress(1);
        let ends = |id: &'static str| raw::<i64>(&store, "PEXPIRETIME", id, &[]);
        for (id, lives) in [("hours", (HOUR, HOUR)), ("gone", (NOTHING, NOTHING))] {
            write(&store, &key(id), Expected::Vacant, &record, lives).await;
            let gone_at_us: i64 = raw(&store, "HGET", id, &["gone_at"]).await;
            // In whole milliseconds, rounded up.
            assert_eq!(ends(id).await, (gone_at_us + 999) / 1000 + 60_000, "{id}");
        }
        let first = write(&store, &key("kept"), Expected::Vacant, &record, (HOUR, NOTHING)).await;
        write(&store, &key("kept"), Expected::At(first), &record, (HOUR, FOR_EVER)).await;
        assert_eq!(ends("kept").await, -1, "it had a time to live, and shall have none");
        write(&store, &key("ever"), Expected::Vacant, &record, (FOR_EVER, NOTHING)).await;
        assert_eq!(ends("ever").await, -1);
    });
}

/// What a cluster's client wrote has an id, by which a late copy of its call is known. Once something else is written, that
/// copy is nobody's any more.
#[test]
fn a_write_without_an_id_takes_the_place_of_one_with() {
    block_on(async {
        let store = store(Redis::shared()).await;
        let (here, record) = (key("id"), in_progress(1));
        let id = || raw::<Option<String>>(&store, "HGET", "id", &["call"]);
        let mut version = write(&store, &here, Expected::Vacant, &record, (HOUR, HOUR)).await;
        assert_eq!(id().await, None);
        for lives in [(HOUR, HOUR), (NOTHING, NOTHING)] {
            let _: i64 = raw(&store, "HSET", "id", &["call", "a-client-7"]).await;
            version = write(&store, &here, Expected::At(version), &record, lives).await;
            assert_eq!(id().await.as_deref(), Some(""));
        }
        // Also where it is a claim, of what is gone.
        let _: i64 = raw(&store, "HSET", "id", &["call", "a-client-8"]).await;
        write(&store, &here, Expected::Vacant, &record, (HOUR, HOUR)).await;
        assert_eq!(id().await.as_deref(), Some(""));
        assert!(store.load(&here).await.unwrap().is_some());
    });
}

/// As after a step back of the server's clock: versions go on, and what is live stays so.
#[test]
fn versions_rise_over_one_that_is_ahead_of_the_clock() {
    block_on(async {
        let store = store(Redis::shared()).await;
        let (here, record) = (key("ahead"), in_progress(1));
        let now = write(&store, &here, Expected::Vacant, &record, (NOTHING, NOTHING)).await;
        // The server would delete it in a minute, and this machine may be busy.
        let _: i64 = raw(&store, "PERSIST", "ahead", &[]).await;
        let ahead = now.get() + 3_600_000_000;
        let _: i64 = raw(&store, "HSET", "ahead", &["version", &ahead.to_string()]).await;
        let next = write(&store, &here, Expected::Vacant, &record, (HOUR, HOUR)).await;
        assert_eq!(next, Version::new(ahead + 1));
        assert_eq!(
            write(&store, &here, Expected::At(next), &record, (HOUR, HOUR)).await,
            Version::new(ahead + 2)
        );
    });
}

/// Versions that differ beyond what a double tells apart are different.
#[test]
fn versions_are_compared_exactly() {
    block_on(async {
        let store = store(Redis::shared()).await;
        write(&store, &key("exact"), Expected::Vacant, &in_progress(1), (HOUR, HOUR)).await;
        let greatest = (1_u64 << 53) - 2;
        let _: i64 = raw(&store, "HSET", "exact", &["version", &greatest.to_string()]).await;
        let record = in_progress(2);
        for other in [greatest - 1, greatest + 1, u64::MAX, 0] {
            let put = Put::new(&record, HOUR, HOUR);
            let answer = store.compare_exchange(&key("exact"), Expected::At(Version::new(other)), put).await;
            let Ok(Exchange::Conflict(Some(entry))) = answer else { panic!("{other}: {answer:?}") };
            assert_eq!(entry.version, Version::new(greatest));
        }
    });
}

/// Each way that a hash can be wrong is an error of its kind, by a load and by both puts; and nothing is changed.
#[test]
fn what_is_no_record_is_corrupt_and_never_absent() {
    block_on(async {
        let store = store(Redis::shared()).await;
        let (here, record) = (key("wrong"), in_progress(1));
        let whole = 9_007_199_254_740_991_u64.to_string();
        let tampered: [(&[&str], &str); 9] = [
            (&["HDEL", "version"], "version"),
            (&["HDEL", "live_until"], "live_until or gone_at"),
            (&["HDEL", "gone_at"], "live_until or gone_at"),
            (&["HDEL", "body"], "body"),
            (&["HSET", "version", "soon"], "version"),
            (&["HSET", "version", &whole], "version"),
            (&["HSET", "live_until", "later"], "live_until or gone_at"),
            (&["HSET", "gone_at", ""], "live_until or gone_at"),
            (&["HSET", "body", "\u{1}what?"], "does not decode"),
        ];
        for (how, what) in tampered {
            let version = write(&store, &here, Expected::Vacant, &record, (HOUR, HOUR)).await;
            let _: i64 = raw(&store, how[0], "wrong", &how[1..]).await;
            let before: HashMap<String, Vec<u8>> = raw(&store, "HGETALL", "wrong", &[]).await;
            assert_corrupt(&store.load(&here).await.unwrap_err(), what, how);
            assert_corrupt(&claim(&store, &here, 2).await.unwrap_err(), what, how);
            if !how.contains(&"body") || how[0] == "HDEL" {
                let put = Put::new(&record, HOUR, HOUR);
                let answer = store.compare_exchange(&here, Expected::At(version), put).await;
                assert_corrupt(&answer.unwrap_err(), what, how);
            }
            let after: HashMap<String, Vec<u8>> = raw(&store, "HGETALL", "wrong", &[]).await;
            assert_eq!(before, after, "{how:?}");
            let _: i64 = raw(&store, "DEL", "wrong", &[]).await;
        }
        let _: () = raw(&store, "SET", "wrong", &["a string"]).await;
        assert_corrupt(&store.load(&here).await.unwrap_err(), "not a hash", &["SET"]);
        assert_corrupt(&claim(&store, &here, 2).await.unwrap_err(), "not a hash", &["SET"]);
    });
}

fn assert_corrupt(error: &RedisStoreError, what: &str, how: &[&str]) {
    assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{how:?}: {error}");
    assert!(!error.maybe_applied(), "{how:?}: {error}");
    assert!(error.to_string().contains(what), "{how:?}: {error}");
}

#[test]
fn a_record_of_a_later_format_is_newer() {
    block_on(async {
        let store = store(Redis::shared()).await;
        write(&store, &key("newer"), Expected::Vacant, &in_progress(1), (HOUR, HOUR)).await;
        let _: i64 = raw(&store, "HSET", "newer", &["body", "\u{2}later"]).await;
        let error = store.load(&key("newer")).await.unwrap_err();
        assert_eq!((error.kind(), error.maybe_applied()), (StoreErrorKind::Newer, false));
        assert_eq!(claim(&store, &key("newer"), 1).await.unwrap_err().kind(), StoreErrorKind::Newer);
    });
}

/// A hash as this release writes it, with all that a later one may add beside it: it is read for ever.
#[test]
fn the_first_layout_reads_for_ever() {
    block_on(async {
        let store = store(Redis::shared()).await;
        let body = first_attempt(0x80, 0xaa, 0, &[]);
        let mut cmd = words(&["HSET"]);
        cmd.arg(store.redis_key(&key("old"))).arg("body").arg(&body);
        for (field, value) in [
            ("version", "1795527214382227"),
            ("live_until", "never"),
            ("gone_at", "never"),
            ("later", "field"),
        ] {
            cmd.arg(field).arg(value);
        }
        let _: i64 = cmd.query_async(&mut connection(Redis::shared()).await).await.unwrap();
        let entry = store.load(&key("old")).await.unwrap().unwrap();
        assert_eq!(entry.version, Version::new(1_795_527_214_382_227));
        assert_eq!(entry.left, Duration::MAX);
        assert_eq!(entry.record, Record::decode(body).unwrap());
        let next =
            write(&store, &key("old"), Expected::At(entry.version), &in_progress(2), (HOUR, HOUR)).await;
        assert!(next > entry.version);
    });
}
