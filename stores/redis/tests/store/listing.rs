//! Listing what is in doubt.

use std::collections::BTreeSet;

use oncekey::Key;
use oncekey::protocol::Expected;
use oncekey::store::{ListInDoubt as _, Put, Store as _, StoreError as _};
use oncekey_redis::RedisStore;
use oncekey_store_testing::server::Redis;

use crate::support::*;

async fn in_doubt(store: &RedisStore, limit: usize) -> (BTreeSet<Vec<u8>>, usize) {
    let (mut keys, mut pages, mut cursor) = (BTreeSet::new(), 0, None);
    loop {
        let page = store.list_in_doubt(cursor, limit).await.unwrap();
        for (key, entry) in &page.entries {
            assert!(entry.left.is_zero());
            assert!(keys.insert(key.as_bytes().to_vec()), "{key:?} is listed twice");
        }
        pages += 1;
        cursor = page.next;
        if cursor.is_none() {
            return (keys, pages);
        }
        assert!(pages < 100_000, "the listing has no end");
    }
}

/// All that are in doubt are listed, each once, and nothing else, in pages of any size; among them keys of other stores
/// and other programs, with prefixes that look like patterns.
#[test]
fn what_is_in_doubt_is_listed_and_nothing_else() {
    block_on(async {
        let server = Redis::start();
        let open = |prefix: &str| builder().prefix(prefix).connect(server.url());
        let store = open("once[*]?\\-^:").await.unwrap();
        let others = [open("oncea").await.unwrap(), open("once*").await.unwrap()];
        let mut due = BTreeSet::new();
        for index in 0..300 {
            let doubt = key(&format!("in doubt-{index}"));
            write(&store, &doubt, Expected::Vacant, &in_progress(1), (NOTHING, HOUR)).await;
            due.insert(doubt.as_bytes().to_vec());
            let id = format!("other-{index}");
            let (record, lives) = match index % 5 {
                0 => (in_progress(1), (HOUR, HOUR)),
                1 => (in_progress(1), (NOTHING, NOTHING)),
                2 => (completed(1, b"done"), (NOTHING, HOUR)),
                3 => (completed(1, b"done"), (FOR_EVER, NOTHING)),
                _ => (in_progress(1), (FOR_EVER, NOTHING)),
            };
            write(&store, &key(&id), Expected::Vacant, &record, lives).await;
            for other in &others {
                write(other, &key(&id), Expected::Vacant, &in_progress(1), (NOTHING, HOUR)).await;
            }
        }
        let mut foreign = connection(&server).await;
        words(&["SET", "once[*]?\\-^:settings", "not a record"]).exec_async(&mut foreign).await.unwrap();

        for limit in [1, 2, 7, 100, 1000] {
            let (found, pages) = in_doubt(&store, limit).await;
            assert_eq!(found, due, "in pages of {limit}");
            // Buckets of Redis's table that hold several are few.
            assert!(pages >= 300 / limit / 4, "{pages} pages of {limit}");
        }
        let page = store.list_in_doubt(None, 0).await.unwrap();
        assert!(page.entries.is_empty() && page.next.is_some());
    });
}

/// One record that cannot be read does not hide behind a listing that looks complete.
#[test]
fn a_corrupt_record_fails_the_listing() {
    block_on(async {
        let server = Redis::start();
        let store = store(&server).await;
        let (here, record) = (Key::new("s", "1").unwrap(), in_progress(1));
        store.compare_exchange(&here, Expected::Vacant, Put::new(&record, NOTHING, HOUR)).await.unwrap();
        let mut cmd = words(&["HSET"]);
        cmd.arg(store.redis_key(&here)).arg("body").arg("\u{1}damaged");
        cmd.exec_async(&mut connection(&server).await).await.unwrap();
        let error = store.list_in_doubt(None, 10).await.unwrap_err();
        assert_eq!(error.kind(), oncekey::store::StoreErrorKind::Corrupt);
    });
}
