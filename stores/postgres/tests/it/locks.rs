//! Rows that somebody's transaction holds: nobody queues behind it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use oncekey::store::{BatchPut, Exchange, Put, StoreError as _, StoreErrorKind};
use oncekey::{Deduplicator, Expected, Key, Store as _};
use oncekey_postgres::{Error, Inbox, Wait};
use oncekey_store_testing::proxy::Proxy;

use crate::statements::{claim, some_record};
use crate::support::{Tables, block_on, connect, database, granted, in_time, key, number, shared_pool};

const DAY: Duration = Duration::from_secs(86_400);
const LOCK_WAIT: Duration = Duration::from_millis(300);

/// One of a batch is locked by a completion under way: the others are renewed, and it is told apart, not waited for.
#[test]
fn a_batch_does_not_queue_behind_a_transaction() {
    block_on(async {
        let tables = Tables::new().await;
        let store = tables.builder(shared_pool().clone()).lock_wait(LOCK_WAIT).build();
        let record = some_record().await;
        let keys: Vec<Key> = (0..20).map(|n| key(&format!("batch {n:02}"))).collect();
        let mut versions = Vec::new();
        for key in &keys {
            versions.push(claim(&store, key, &record).await);
        }
        let mut client = connect(database().url()).await;
        let transaction = client.transaction().await.unwrap();
        let lock = format!("SELECT 1 FROM {} WHERE key = $1 FOR UPDATE", tables.records());
        transaction.query_one(&lock, &[&keys[7].as_bytes()]).await.unwrap();

        let put = Put::new(&record, DAY, DAY);
        let batch: Vec<_> = keys
            .iter()
            .zip(&versions)
            .map(|(key, version)| BatchPut::new(key, Expected::At(*version), put))
            .collect();
        let began = Instant::now();
        let answers = in_time(store.compare_exchange_many(&batch)).await;
        assert!(began.elapsed() >= LOCK_WAIT, "the locked one was tried again");
        for (place, answer) in answers.iter().enumerate() {
            match answer {
                Ok(Exchange::Done(version)) if place != 7 => assert!(*version > versions[place]),
                Err(error @ Error::Locked { .. }) if place == 7 => {
                    assert_eq!((error.kind(), error.maybe_applied()), (StoreErrorKind::Unavailable, false));
                    assert!(error.to_string().contains("locked by a transaction"), "{error}");
                }
                other => panic!("item {place}: {other:?}"),
            }
        }
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype IN ('tuple', 'transactionid') \
                       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        assert_eq!(number(transaction.client(), waiting).await, 0);
        transaction.rollback().await.unwrap();
        let again = store.compare_exchange(&keys[7], Expected::At(versions[7]), put).await.unwrap();
        assert!(matches!(again, Exchange::Done(_)), "nothing had been applied: {again:?}");
    });
}

/// The engine's keeper, with the row of one of its claims held by somebody's transaction: the others are renewed all the
/// same.
#[test]
fn the_keeper_renews_the_others_while_a_transaction_holds_a_row() {
    block_on(async {
        let tables = Tables::new().await;
        let lease = Duration::from_secs(9);
        let dedup = Deduplicator::builder(tables.builder(shared_pool().clone()).lock_wait(LOCK_WAIT).build())
            .tokio()
            .lease(lease)
            .build()
            .unwrap();
        let keeper = tokio::spawn(dedup.keeper());
        let mut claims = Vec::new();
        for n in 0..10 {
            claims.push(granted(&dedup, &key(&format!("kept {n}"))).await);
        }
        // By hand, so that the keeper does not know: it asks for this row among the others.
        let mut client = connect(database().url()).await;
        let transaction = client.transaction().await.unwrap();
        let lock = format!("SELECT 1 FROM {} WHERE key = $1 FOR UPDATE", tables.records());
        transaction.query_one(&lock, &[&key("kept 4").as_bytes()]).await.unwrap();
        // Past their second renewals, and within the lease of the one that is held.
        tokio::time::sleep(lease * 7 / 9).await;
        // Each renewal is a third of a lease more. Beside the one that was not renewed: the machine may have been busy.
        let held = claims[4].time_left();
        for (n, claim) in claims.iter().enumerate().filter(|(n, _)| *n != 4) {
            let left = claim.time_left();
            assert!(left > held + lease / 6, "claim {n} has {left:?}, and the one that is held {held:?}");
        }
        transaction.rollback().await.unwrap();
        keeper.abort();
    });
}

/// A claim whose completion is open in a transaction past its lease: nobody can take it over before the transaction has
/// ended, and then it is done.
#[test]
fn a_completion_that_is_open_past_its_lease_is_not_taken_over() {
    block_on(async {
        let tables = Tables::new().await;
        let engine = |lease| {
            Deduplicator::builder(tables.builder(shared_pool().clone()).lock_wait(LOCK_WAIT).build())
                .tokio()
                .lease(lease)
                .store_timeout(Duration::from_secs(2))
                .claim_tries(1)
                .build()
                .unwrap()
        };
        let lease = Duration::from_secs(2);
        let dedup = engine(lease);
        let mut claim = granted(&dedup, &key("completing")).await;
        let prepared = claim.prepare("\"slow\"").await.unwrap();
        let mut client = connect(database().url()).await;
        let transaction = client.transaction().await.unwrap();
        let _version = dedup.store().complete_in(&transaction, &prepared).await.unwrap();
        tokio::time::sleep(lease + Duration::from_millis(200)).await;
        let challenger = engine(lease * 10);
        let refused = in_time(challenger.request(key("completing")).claim()).await.unwrap_err();
        let text = format!("{refused:?}");
        assert!(text.contains("Locked"), "{text}");
        transaction.commit().await.unwrap();
        claim.committed(&prepared).unwrap();
        let replay = challenger.request(key("completing")).claim().await.unwrap();
        assert!(matches!(replay, oncekey::ClaimAnswer::Replay(_)), "{replay:?}");
    });
}

/// Also where there is no time to wait at all: a row that was locked is looked at once more before that is said.
#[test]
fn a_locked_row_always_gets_another_look() {
    block_on(async {
        let tables = Tables::new().await;
        let (proxy, through) = Proxy::before(database().url());
        let store = tables.builder(crate::support::pool_to(&through, 1)).lock_wait(Duration::ZERO).build();
        let record = some_record().await;
        let version = claim(&store, &key("held"), &record).await;
        let mut client = connect(database().url()).await;
        let transaction = client.transaction().await.unwrap();
        let lock = format!("SELECT 1 FROM {} WHERE key = $1 FOR UPDATE", tables.records());
        transaction.query_one(&lock, &[&key("held").as_bytes()]).await.unwrap();
        let put = Put::new(&record, DAY, DAY);
        let held = key("held");
        let before = proxy.round_trips();
        let refused = store.compare_exchange(&held, Expected::At(version), put).await.unwrap_err();
        assert!(matches!(refused, Error::Locked { .. }), "{refused:?}");
        assert_eq!(proxy.round_trips() - before, 4, "two writes, each with a look at what is there");
        let before = proxy.round_trips();
        let batch = [BatchPut::new(&held, Expected::At(version), put)];
        let refused = store.compare_exchange_many(&batch).await.remove(0).unwrap_err();
        assert!(matches!(refused, Error::Locked { .. }), "{refused:?}");
        assert_eq!(proxy.round_trips() - before, 4, "in a batch too");
        transaction.rollback().await.unwrap();
    });
}

/// A claim of a key that an inbox has claimed, uncommitted, waits for `lock_wait` and is told; the connection is as before.
#[test]
fn a_claim_is_told_of_an_inbox_that_holds_its_key() {
    block_on(async {
        let tables = Tables::new().await;
        let store = tables.builder(crate::support::pool_to(database().url(), 1)).lock_wait(LOCK_WAIT).build();
        let record = some_record().await;
        let inbox = Inbox::new(tables.schema.clone()).wait(Wait::Always);
        let mut client = connect(database().url()).await;
        let transaction = client.transaction().await.unwrap();
        let _ticket = inbox.claim(&transaction, &key("inbox"), None).await.unwrap();

        let put = Put::new(&record, DAY, DAY);
        let began = Instant::now();
        let told = in_time(store.compare_exchange(&key("inbox"), Expected::Vacant, put)).await.unwrap_err();
        assert!(matches!(told, Error::Locked { .. }), "{told:?}");
        assert!(began.elapsed() >= LOCK_WAIT);
        let other = key("beside it");
        let batch =
            [BatchPut::new(&other, Expected::Vacant, put), BatchPut::new(told_key(), Expected::Vacant, put)];
        let answers = in_time(store.compare_exchange_many(&batch)).await;
        assert!(matches!(answers[..], [Ok(Exchange::Done(_)), Err(Error::Locked { .. })]), "{answers:?}");
        let setting =
            store.connections().get().await.unwrap().query_one("SHOW lock_timeout", &[]).await.unwrap();
        assert_eq!(setting.get::<_, String>(0), "0", "nothing is left on the connection");

        transaction.rollback().await.unwrap();
        let _version = claim(&store, &key("inbox"), &record).await;
    });
}

/// Batches that claim what is gone, all at once: one of them has each key, and a row that is held is told apart.
#[test]
fn batches_that_claim_what_is_gone() {
    block_on(async {
        let tables = Tables::new().await;
        let store = Arc::new(tables.builder(shared_pool().clone()).lock_wait(LOCK_WAIT).build());
        let record = Arc::new(some_record().await);
        let keys: Arc<Vec<Key>> = Arc::new((0..100).map(|n| key(&format!("gone {n:02}"))).collect());
        let gone = Put::new(&record, Duration::ZERO, Duration::ZERO);
        let batch: Vec<_> = keys.iter().map(|key| BatchPut::new(key, Expected::Vacant, gone)).collect();
        let ended = store.compare_exchange_many(&batch).await;

        let mut client = connect(database().url()).await;
        let transaction = client.transaction().await.unwrap();
        let lock = format!("SELECT 1 FROM {} WHERE key = $1 FOR UPDATE", tables.records());
        transaction.query_one(&lock, &[&keys[42].as_bytes()]).await.unwrap();
        let mut batches = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (store, record, keys) = (Arc::clone(&store), Arc::clone(&record), Arc::clone(&keys));
            batches.spawn(async move {
                let put = Put::new(&record, DAY, DAY);
                let batch: Vec<_> =
                    keys.iter().map(|key| BatchPut::new(key, Expected::Vacant, put)).collect();
                in_time(store.compare_exchange_many(&batch)).await
            });
        }
        let all = batches.join_all().await;
        for place in 0..keys.len() {
            let mut winners = Vec::new();
            for answers in &all {
                match &answers[place] {
                    Ok(Exchange::Done(version)) => winners.push(*version),
                    Ok(Exchange::Conflict(Some(entry))) if place != 42 => assert!(entry.left > DAY / 2),
                    Err(Error::Locked { .. }) if place == 42 => {}
                    other => panic!("item {place}: {other:?}"),
                }
            }
            assert_eq!(winners.len(), usize::from(place != 42), "item {place}: one has it");
            let Ok(Exchange::Done(before)) = ended[place] else { panic!("{:?}", ended[place]) };
            assert!(winners.iter().all(|version| *version > before), "item {place}: versions rise");
        }
        transaction.rollback().await.unwrap();
    });
}

/// Many of a batch's keys are held by an inbox's transaction: the others are claimed, and all of it takes as long as one wait
/// and a little, not a wait for each sixteen of them.
#[test]
fn a_batch_of_claims_is_bounded_however_many_of_them_are_held() {
    block_on(async {
        let tables = Tables::new().await;
        let lock_wait = Duration::from_secs(2);
        let store = tables.builder(shared_pool().clone()).lock_wait(lock_wait).build();
        let record = some_record().await;
        let keys: Vec<Key> = (0..200).map(|n| key(&format!("many {n:03}"))).collect();
        let gone = Put::new(&record, Duration::ZERO, Duration::ZERO);
        let ended = store.compare_exchange(&keys[199], Expected::Vacant, gone).await.unwrap();
        let inbox = Inbox::new(tables.schema.clone()).wait(Wait::Always);
        let mut client = connect(database().url()).await;
        let transaction = client.transaction().await.unwrap();
        for key in &keys[..160] {
            let _ticket = inbox.claim(&transaction, key, None).await.unwrap();
        }
        let put = Put::new(&record, DAY, DAY);
        let batch: Vec<_> = keys.iter().map(|key| BatchPut::new(key, Expected::Vacant, put)).collect();
        let began = Instant::now();
        let answers = in_time(store.compare_exchange_many(&batch)).await;
        let took = began.elapsed();
        for (place, answer) in answers.iter().enumerate() {
            match answer {
                Err(Error::Locked { .. }) if place < 160 => {}
                Ok(Exchange::Done(version)) if place >= 160 => {
                    let Exchange::Done(ended) = ended else { panic!("{ended:?}") };
                    assert!(place < 199 || *version > ended, "versions rise");
                }
                other => panic!("item {place}: {other:?}"),
            }
        }
        // Ten times sixteen of them, each for as long as one waits, would be eleven waits.
        assert!(took >= lock_wait && took < lock_wait * 5, "{took:?}");
        transaction.rollback().await.unwrap();
    });
}

fn told_key() -> &'static Key {
    static KEY: std::sync::OnceLock<Key> = std::sync::OnceLock::new();
    KEY.get_or_init(|| key("inbox"))
}
