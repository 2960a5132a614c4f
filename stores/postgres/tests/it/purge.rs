//! Purging and listing.

use std::time::Duration;

use oncekey::protocol::Expected;
use oncekey::store::{ListInDoubt as _, Put};
use oncekey::{Deduplicator, Policy, Store as _};

use crate::statements::{claim, some_record};
use crate::support::{Tables, block_on, connect, database, granted, key, number, shared_pool};

/// `count` rows that live for ever or are gone since an hour, put there by SQL.
async fn fill(tables: &Tables, prefix: &str, count: usize, gone: bool) {
    let gone_at = if gone { "now() - interval '1 hour'" } else { "'infinity'" };
    let body = some_record().await.as_bytes().to_vec();
    let insert = format!(
        "INSERT INTO {} (key, version, live_until, gone_at, updated_at, created_at, attempt, state, scope, id, \
         operation_id, policy, body) \
         SELECT \"{}\".oncekey_key('fill', '{prefix}' || n), n, {gone_at}, {gone_at}, now() - interval '2 hours', now(), 1, \
         'completed', 'fill', '{prefix}' || n, decode(md5(n::text), 'hex'), 'reclaim', $1 FROM generate_series(1, {count}) AS n",
        tables.records(),
        tables.name
    );
    connect(database().url()).await.execute(&insert, &[&body]).await.unwrap();
}

#[test]
fn a_purge_goes_through_the_table_in_bounded_steps() {
    block_on(async {
        let tables = Tables::new().await;
        fill(&tables, "live", 3000, false).await;
        fill(&tables, "gone", 2500, true).await;
        fill(&tables, "more live", 3000, false).await;
        let store = tables.store();
        let (mut removed, mut calls) = (0, 0);
        loop {
            let purged = store.purge(1000).await.unwrap();
            assert!(purged.removed <= 1000);
            (removed, calls) = (removed + purged.removed, calls + 1);
            if !purged.more {
                break;
            }
            assert!(calls < 20, "no end");
        }
        assert_eq!(removed, 2500);
        let client = connect(database().url()).await;
        assert_eq!(number(&client, &format!("SELECT count(*) FROM {}", tables.records())).await, 6000);
        // What is gone later, before the place where it stopped, is found too.
        fill(&tables, "late", 10, true).await;
        let late = store.purge(1000).await.unwrap();
        assert_eq!((late.removed, late.more), (10, false));
    });
}

/// Two purgers skip each other's rows, and a row that a transaction holds.
#[test]
fn two_purgers_count_each_row_once() {
    block_on(async {
        let tables = Tables::new().await;
        fill(&tables, "gone", 4000, true).await;
        let mut client = connect(database().url()).await;
        let transaction = client.transaction().await.unwrap();
        let held = format!("SELECT 1 FROM {} WHERE version = 17 FOR UPDATE", tables.records());
        transaction.batch_execute(&held).await.unwrap();
        let purge_all = async |store: oncekey_postgres::PostgresStore<_>| {
            let mut removed = 0;
            loop {
                let purged = store.purge(100).await.unwrap();
                removed += purged.removed;
                if !purged.more {
                    return removed;
                }
            }
        };
        let (one, other) = tokio::join!(purge_all(tables.store()), purge_all(tables.store()));
        assert_eq!(one + other, 3999, "{one} and {other}");
        transaction.rollback().await.unwrap();
        assert_eq!(purge_all(tables.store()).await, 1);
    });
}

/// Rows that are claimed anew while a purge is deciding about them stay: what it saw as gone it looks at again once it has
/// the row.
#[test]
fn a_purge_leaves_what_is_claimed_while_it_runs() {
    const ROWS: usize = 4000;
    block_on(async {
        for round in 0..3 {
            let tables = Tables::new().await;
            fill(&tables, "gone", ROWS, true).await;
            let record = some_record().await;
            let store = std::sync::Arc::new(tables.store());
            let mut claimers = tokio::task::JoinSet::new();
            for claimer in 0..4 {
                let (store, record) = (std::sync::Arc::clone(&store), record.clone());
                claimers.spawn(async move {
                    let mut claimed = Vec::new();
                    // From the end, where the purge comes last.
                    for n in (1..=ROWS).rev().skip(claimer).step_by(4).take(400) {
                        let key = oncekey::Key::new("fill", format!("gone{n}")).unwrap();
                        claimed.push((claim(&store, &key, &record).await, key));
                    }
                    claimed
                });
            }
            let purger = tokio::spawn({
                let store = tables.store();
                async move { while store.purge(ROWS).await.unwrap().more {} }
            });
            let claimed = claimers.join_all().await.concat();
            purger.await.unwrap();
            for (version, key) in claimed {
                let entry = store.load(&key).await.unwrap();
                let entry = entry.unwrap_or_else(|| panic!("round {round}: {} was purged alive", key.id()));
                assert_eq!(entry.version, version);
            }
        }
    });
}

/// Within the grace a row stays, so that its key's versions go on from it.
#[test]
fn what_is_just_gone_stays_for_the_grace() {
    block_on(async {
        let tables = Tables::new().await;
        let store = tables.builder(shared_pool().clone()).purge_grace(Duration::from_secs(3600)).build();
        let record = some_record().await;
        let put = Put::new(&record, Duration::ZERO, Duration::ZERO);
        let _done = store.compare_exchange(&key("just gone"), Expected::Vacant, put).await.unwrap();
        assert_eq!(store.load(&key("just gone")).await.unwrap(), None);
        let purged = store.purge(10).await.unwrap();
        assert_eq!((purged.removed, purged.more), (0, false));
        let client = connect(database().url()).await;
        let back = format!("ALTER SEQUENCE \"{}\".oncekey_versions RESTART 1", tables.name);
        client.batch_execute(&back).await.unwrap();
        // Even with a sequence that was set back, as by a restore of the table alone.
        let first = number(&client, &format!("SELECT max(version) FROM {}", tables.records())).await;
        let version = claim(&store, &key("just gone"), &record).await;
        assert!(version.get() > u64::try_from(first).unwrap());
    });
}

#[test]
fn what_is_in_doubt_is_listed_page_by_page() {
    block_on(async {
        let tables = Tables::new().await;
        let dedup = Deduplicator::builder(tables.store()).tokio().policy(Policy::Hold).build().unwrap();
        for n in 0..7 {
            let key = key(&format!("doubt {n}"));
            drop(granted(&dedup, &key).await);
            tables.end_lease(&key).await;
        }
        let mut done = granted(&dedup, &key("done")).await;
        done.complete("1").await.unwrap();
        let long = Deduplicator::builder(tables.store()).tokio().lease(Duration::from_secs(3600));
        let _live = granted(&long.build().unwrap(), &key("live")).await;
        let (mut cursor, mut ids, mut pages) = (None, Vec::new(), 0);
        loop {
            let page = dedup.store().list_in_doubt(cursor, 3).await.unwrap();
            ids.extend(page.entries.iter().map(|(key, entry)| {
                assert!(entry.left.is_zero());
                key.id().to_owned()
            }));
            pages += 1;
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(pages, 3);
        assert_eq!(ids, (0..7).map(|n| format!("doubt {n}")).collect::<Vec<_>>());
    });
}

/// A listing of a large table with little in doubt looks at so many rows a call, and says where to go on.
#[test]
fn a_listing_looks_at_so_many_rows_a_call() {
    block_on(async {
        let tables = Tables::new().await;
        let store = tables.store();
        let record = some_record().await;
        fill(&tables, "before", 60_000, false).await;
        let put = Put::new(&record, Duration::ZERO, Duration::from_secs(3600));
        let _done = store.compare_exchange(&key("in doubt"), Expected::Vacant, put).await.unwrap();
        fill(&tables, "after", 100, false).await;
        let first = store.list_in_doubt(None, 10).await.unwrap();
        assert!(first.entries.is_empty(), "{first:?}");
        let rows = number(
            &connect(database().url()).await,
            &format!("SELECT count(*) FROM {} WHERE row_id <= {}", tables.records(), first.next.unwrap()),
        )
        .await;
        assert_eq!(rows, 50_000, "looked at");
        let second = store.list_in_doubt(first.next, 10).await.unwrap();
        assert_eq!(second.entries.len(), 1);
        assert_eq!((&second.entries[0].0, second.next), (&key("in doubt"), None));
        // As many as were asked for are a page, with the rest to come.
        let page = store.list_in_doubt(None, 0).await.unwrap();
        assert!(page.entries.is_empty());
        let one = store.list_in_doubt(first.next, 1).await.unwrap();
        assert_eq!(one.entries.len(), 1);
        let rest = store.list_in_doubt(one.next, 1).await.unwrap();
        assert_eq!((rest.entries.len(), rest.next), (0, None));
    });
}
