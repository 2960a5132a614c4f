//! Rows that somebody's transaction holds: nobody queues behind it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use oncekey::protocol::Expected;
use oncekey::store::{BatchPut, Exchange, Put, StoreError as _, StoreErrorKind};
use oncekey::{Deduplicator, Key, Store as _};
use oncekey_postgres::{Error, Inbox, PostgresStore, Schema, Wait, migrate};
use oncekey_store_testing::proxy::Proxy;
use oncekey_store_testing::server::Postgres;

use crate::statements::{claim, some_record};
use crate::support::{
    PATIENCE, Tables, block_on, connect, database, granted, in_time, key, number, pool_to, shared_pool, until,
};

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
        let behind =
            "SELECT count(*) FROM pg_stat_activity WHERE pg_backend_pid() = ANY (pg_blocking_pids(pid))";
        assert_eq!(number(transaction.client(), behind).await, 0, "nobody waits for this transaction");
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
        // No machine is so busy that it is over before the renewals.
        let (lease, margin) = (Duration::from_secs(600), Duration::from_secs(1));
        let dedup = Deduplicator::builder(tables.builder(shared_pool().clone()).lock_wait(LOCK_WAIT).build())
            .tokio()
            .lease(lease)
            .margin(margin)
            .renew_every(LOCK_WAIT * 2)
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
        // A renewal gives a whole lease from the moment at which it is sent.
        let is_renewed = |n: usize, since: Instant| claims[n].time_left() + margin + since.elapsed() > lease;
        let locked_at = Instant::now();
        for _round in 0..2 {
            let since = Instant::now();
            until("the others are renewed", async || {
                (0..10).filter(|&n| n != 4).all(|n| is_renewed(n, since))
            })
            .await;
        }
        assert!(!is_renewed(4, locked_at), "its row is held");
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
        let engine = || {
            Deduplicator::builder(tables.builder(shared_pool().clone()).lock_wait(LOCK_WAIT).build())
                .tokio()
                .store_timeout(PATIENCE)
                .call_timeout(Duration::from_secs(5))
                .build()
                .unwrap()
        };
        let dedup = engine();
        let mut claim = granted(&dedup, &key("completing")).await;
        let prepared = claim.prepare("\"slow\"").await.unwrap();
        tables.end_lease(&key("completing")).await;
        let mut client = connect(database().url()).await;
        let transaction = client.transaction().await.unwrap();
        let _version = dedup.store().complete_in(&transaction, &prepared).await.unwrap();
        let challenger = engine();
        let refused = in_time(challenger.request(key("completing")).claim()).await.unwrap_err();
        let text = format!("{refused:?}");
        assert!(text.contains("Locked"), "{text}");
        transaction.commit().await.unwrap();
        claim.committed(&prepared).unwrap();
        let replay = challenger.request(key("completing")).claim().await.unwrap();
        assert!(
            matches!(replay, oncekey::ClaimAnswer::Answered(oncekey::Earlier::Replayed { .. })),
            "{replay:?}"
        );
    });
}

/// Also where there is no time to wait at all: a row that was locked is looked at once more before that is said.
#[test]
fn a_locked_row_always_gets_another_look() {
    block_on(async {
        let tables = Tables::new().await;
        let (proxy, through) = Proxy::before(database().url());
        let store = tables.builder(pool_to(&through, 1)).lock_wait(Duration::ZERO).build();
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
        let store = tables.builder(pool_to(database().url(), 1)).lock_wait(LOCK_WAIT).build();
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
            batches.spawn(in_time(async move {
                let put = Put::new(&record, DAY, DAY);
                let mut answers: Vec<_> = keys.iter().map(|_| None).collect();
                // On a busy machine another batch may have the lock of a row for longer than `lock_wait`: it is asked again,
                // as the engine does.
                let is_open = |place: usize, answer: &Option<_>| match answer {
                    None => true,
                    Some(answer) => place != 42 && matches!(answer, Err(Error::Locked { .. })),
                };
                loop {
                    let open: Vec<usize> =
                        (0..keys.len()).filter(|&place| is_open(place, &answers[place])).collect();
                    if open.is_empty() {
                        return answers;
                    }
                    let batch: Vec<_> = open
                        .iter()
                        .map(|&place| BatchPut::new(&keys[place], Expected::Vacant, put))
                        .collect();
                    for (place, answer) in open.into_iter().zip(store.compare_exchange_many(&batch).await) {
                        answers[place] = Some(answer);
                    }
                }
            }));
        }
        let all = batches.join_all().await;
        for place in 0..keys.len() {
            let mut winners = Vec::new();
            for answers in &all {
                match answers[place].as_ref().expect("none is open") {
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

/// Many of a batch's keys are held by an inbox's transaction. The others are claimed, and the batch waits once and a little,
/// not once for each of them. The server logs each wait that is longer than three quarters of `lock_wait`.
#[test]
fn a_batch_of_claims_is_bounded_however_many_of_them_are_held() {
    let server = Postgres::start_with(&[("log_lock_waits", "on"), ("deadlock_timeout", "3s")]);
    block_on(async {
        let database = server.database();
        migrate(&mut connect(database.url()).await, &Schema::of_search_path()).await.unwrap();
        let lock_wait = Duration::from_secs(4);
        let store = PostgresStore::builder(pool_to(database.url(), 20))
            .lock_wait(lock_wait)
            .connection_wait(PATIENCE)
            .build();
        let record = some_record().await;
        let keys: Vec<Key> = (0..200).map(|n| key(&format!("many {n:03}"))).collect();
        let gone = Put::new(&record, Duration::ZERO, Duration::ZERO);
        let ended = store.compare_exchange(&keys[199], Expected::Vacant, gone).await.unwrap();
        let inbox = Inbox::new(Schema::of_search_path()).wait(Wait::Always);
        let mut client = connect(database.url()).await;
        let transaction = client.transaction().await.unwrap();
        for key in &keys[..160] {
            let _ticket = inbox.claim(&transaction, key, None).await.unwrap();
        }
        let put = Put::new(&record, DAY, DAY);
        let batch: Vec<_> = keys.iter().map(|key| BatchPut::new(key, Expected::Vacant, put)).collect();
        let began = Instant::now();
        let mut answers = in_time(store.compare_exchange_many(&batch)).await;
        assert!(began.elapsed() >= lock_wait, "it does wait");
        // One for all, and 160 if each had its own. A short one may be logged where the server waits for a processor for three
        // seconds.
        let log = server.log();
        let waits = log.lines().filter(|line| line.contains(" still waiting for ")).count();
        assert!((1..4).contains(&waits), "{waits} waits: {log}");
        // The batch is bounded by `lock_wait`. On a busy machine it may not come to all that is free: ask for that again.
        in_time(async {
            for place in 160..keys.len() {
                while let Err(Error::Locked { .. }) = answers[place] {
                    answers[place] = store.compare_exchange(&keys[place], Expected::Vacant, put).await;
                }
            }
        })
        .await;
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
        transaction.rollback().await.unwrap();
    });
}

fn told_key() -> &'static Key {
    static KEY: std::sync::OnceLock<Key> = std::sync::OnceLock::new();
    KEY.get_or_init(|| key("inbox"))
}
