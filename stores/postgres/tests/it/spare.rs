//! One pool for the handlers of a service and the store: whoever holds a claim can renew and complete it though the handlers
//! have every connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::{Object, Pool};
use oncekey::protocol::Expected;
use oncekey::store::{BatchPut, Exchange, Put, StoreError as _, StoreErrorKind};
use oncekey::{Answer, Deduplicator, Key, Store as _};
use oncekey_postgres::{Error, PostgresStore, Schema, migrate};
use oncekey_store_testing::proxy::Proxy;
use oncekey_store_testing::server::Postgres;

use crate::statements::{claim, some_record};
use crate::support::{PATIENCE, Tables, block_on, connect, database, granted, key, pool_to, until};

const DAY: Duration = Duration::from_secs(86_400);
const SIZE: usize = 4;

async fn take_all(pool: &Pool) -> Vec<Object> {
    let mut all = Vec::new();
    for _ in 0..SIZE {
        all.push(pool.get().await.unwrap());
    }
    all
}

/// All four connections are in the handlers' hands across their work.
#[test]
fn claims_are_renewed_and_completed_while_handlers_hold_the_whole_pool() {
    block_on(async {
        let tables = Tables::new().await;
        let pool = pool_to(database().url(), SIZE);
        // No machine is so busy that it is over before the renewals.
        let (lease, margin) = (Duration::from_secs(600), Duration::from_secs(1));
        let dedup = Deduplicator::builder(tables.builder(pool.clone()).build())
            .tokio()
            .lease(lease)
            .margin(margin)
            .renew_every(Duration::from_millis(300))
            .store_timeout(PATIENCE)
            .build()
            .unwrap();
        let keeper = tokio::spawn(dedup.keeper());
        let mut claims = Vec::new();
        for n in 0..SIZE {
            claims.push(granted(&dedup, &key(&format!("held {n}"))).await);
        }
        let all = take_all(&pool).await;
        for _round in 0..2 {
            let since = Instant::now();
            until("all are renewed", async || {
                claims.iter().all(|claim| claim.time_left() + margin + since.elapsed() > lease)
            })
            .await;
        }
        for mut claim in claims {
            let _completed = claim.complete("done").await.unwrap();
        }
        drop(all);
        keeper.abort();
        for n in 0..SIZE {
            let request = dedup.request(key(&format!("held {n}")));
            let answer = request.run(|_| async { Ok::<_, std::io::Error>(b"again".to_vec()) }).await;
            assert!(matches!(answer.unwrap(), Answer::Earlier(oncekey::Earlier::Replayed { .. })));
        }
    });
}

/// They share one connection beside the pool. A call that gets none is told who has them.
#[test]
fn one_connection_is_spare_for_all_who_hold_a_claim() {
    let server = Postgres::start();
    block_on(async {
        let database = server.database();
        migrate(&mut connect(database.url()).await, &Schema::of_search_path()).await.unwrap();
        let proxy = Proxy::start(server.addr());
        let pool = pool_to(&proxy.url(database.url()), SIZE);
        let store = |wait| Arc::new(PostgresStore::builder(pool.clone()).connection_wait(wait).build());
        let (store, hasty) = (store(PATIENCE), store(Duration::from_millis(400)));
        let record = some_record().await;
        let put = Put::new(&record, DAY, DAY);
        let keys: Vec<Key> = (0..20).map(|n| key(&format!("held {n:02}"))).collect();
        let mut versions = Vec::new();
        for key in &keys {
            versions.push(claim(&store, key, &record).await);
        }
        let all = take_all(&pool).await;
        assert_eq!(proxy.connections(), SIZE);

        let single = keys.iter().zip(&versions).map(|(key, version)| {
            let store = &store;
            async move { store.compare_exchange(key, Expected::At(*version), put).await }
        });
        let mut renewed = Vec::new();
        for done in futures::future::join_all(single).await {
            let Ok(Exchange::Done(version)) = done else { panic!("{done:?}") };
            renewed.push(version);
        }
        let batch: Vec<_> = keys
            .iter()
            .zip(&renewed)
            .map(|(key, version)| BatchPut::new(key, Expected::At(*version), put))
            .collect();
        let done = store.compare_exchange_many(&batch).await;
        assert!(done.iter().all(|done| matches!(done, Ok(Exchange::Done(_)))), "{done:?}");
        // Those that have lost theirs are told.
        let lost = store.compare_exchange(&keys[0], Expected::At(versions[0]), put).await;
        assert!(matches!(lost, Ok(Exchange::Conflict(Some(_)))), "{lost:?}");
        let lost = store.compare_exchange_many(&batch).await;
        assert!(lost.iter().all(|lost| matches!(lost, Ok(Exchange::Conflict(Some(_))))), "{lost:?}");
        assert_eq!(proxy.connections(), SIZE + 1, "one for all of them");

        // Whoever holds nothing yet waits for the pool, and then is told.
        let fresh = hasty.compare_exchange(&key("fresh"), Expected::Vacant, put).await.unwrap_err();
        assert!(matches!(fresh, Error::PoolExhausted { .. }), "{fresh:?}");
        assert_eq!((fresh.kind(), fresh.maybe_applied()), (StoreErrorKind::Unavailable, false));
        let text = fresh.to_string();
        assert!(
            text.contains("the pool of 4 has lent all 4, none of them to a call of this store"),
            "{text}"
        );

        // It is closed when it is no good any more, and made again.
        connect(database.url())
            .await
            .batch_execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()",
            )
            .await
            .unwrap();
        until("it is made again", async || {
            let again = store.compare_exchange(&keys[0], Expected::At(versions[0]), put).await;
            matches!(again, Ok(Exchange::Conflict(Some(_))))
        })
        .await;
        drop(all);
        assert!(pool.status().size <= SIZE);
    });
}

/// The server takes no more connections: who holds a claim waits for one of the pool, as everybody does.
#[test]
fn where_no_spare_one_can_be_made_the_pool_is_waited_for() {
    let server = Postgres::start_with(&[("max_connections", "8"), ("superuser_reserved_connections", "0")]);
    block_on(async {
        migrate(&mut connect(server.url()).await, &Schema::of_search_path()).await.unwrap();
        let pool = pool_to(server.url(), SIZE);
        let store = PostgresStore::builder(pool.clone()).connection_wait(PATIENCE).build();
        let record = some_record().await;
        let put = Put::new(&record, DAY, DAY);
        let version = claim(&store, &key("held"), &record).await;
        let mut all = take_all(&pool).await;
        let mut others = Vec::new();
        while let Ok((client, connection)) =
            tokio_postgres::connect(server.url(), tokio_postgres::NoTls).await
        {
            others.push((client, tokio::spawn(connection)));
        }
        let brief = PostgresStore::builder(pool.clone()).connection_wait(Duration::from_millis(400)).build();
        let refused = brief.compare_exchange(&key("held"), Expected::At(version), put).await.unwrap_err();
        assert!(matches!(refused, Error::PoolExhausted { .. }), "{refused:?}");
        let waits = tokio::spawn(async move {
            store.compare_exchange(&key("held"), Expected::At(version), Put::new(&record, DAY, DAY)).await
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(all.pop());
        assert!(matches!(waits.await.unwrap(), Ok(Exchange::Done(_))));
    });
}
