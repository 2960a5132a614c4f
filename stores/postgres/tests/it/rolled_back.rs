//! What the server rolls back to keep order (SQLSTATE class 40) is sent again by the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use oncekey::observe::Event;
use oncekey::protocol::Expected;
use oncekey::store::{BatchPut, Exchange, Put, StoreError as _, StoreErrorKind};
use oncekey::{Deduplicator, Key, Store as _};
use oncekey_postgres::{Connections, Error, OneConnection, PostgresStore};
use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::errors::with_options;
use crate::statements::some_record;
use crate::support::{PATIENCE, Tables, block_on, connect, database, key, number, pool_to, shared_pool};

const DAY: Duration = Duration::from_secs(86_400);
const STRICT: [&str; 2] = ["serializable", "repeatable read"];

fn url_at(isolation: &str) -> String {
    // The blank within a value is escaped for the server.
    with_options(&format!("-c default_transaction_isolation={}", isolation.replace(' ', "\\ ")))
}

/// An engine that tries each call of its store once, and how many of them failed.
fn engine<C: Connections>(store: PostgresStore<C>) -> (Deduplicator<PostgresStore<C>>, Arc<AtomicUsize>) {
    let failed = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&failed);
    let dedup = Deduplicator::builder(store).tokio().store_timeout(PATIENCE).call_timeout(PATIENCE);
    let observed = dedup.observer(move |_: &Key, event: &Event<'_>| {
        if matches!(event, Event::StoreFailed { .. }) {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    (observed.build().unwrap(), failed)
}

/// Keys that lie beside each other in an index are in one another's way there, though no two calls are of one key.
#[test]
fn calls_on_keys_of_their_own_do_not_fail_where_all_transactions_are_serializable() {
    block_on(async {
        for isolation in STRICT {
            let tables = Tables::new().await;
            let (dedup, failed) = engine(tables.builder(pool_to(&url_at(isolation), 16)).build());
            let mut calls = JoinSet::new();
            for n in 0..400 {
                let dedup = dedup.clone();
                calls.spawn(async move {
                    let request = dedup.request(key(&format!("own {n}"))).json();
                    request.run(|_| async move { Ok::<_, std::io::Error>(n) }).await
                });
            }
            let refused: Vec<_> = calls.join_all().await.into_iter().filter_map(Result::err).collect();
            assert!(refused.is_empty(), "{isolation}: {} of 400, such as {:?}", refused.len(), refused[0]);
            assert_eq!(failed.load(Ordering::SeqCst), 0, "{isolation}");
        }
    });
}

/// Over connections that are shared, where a call cannot have a transaction of its own.
#[test]
fn nor_over_connections_that_are_shared() {
    block_on(async {
        for isolation in STRICT {
            let tables = Tables::new().await;
            let mut calls = JoinSet::new();
            for connection in 0..8 {
                let client = connect(&url_at(isolation)).await;
                let (dedup, failed) = engine(tables.builder(OneConnection::new(client)).build());
                for n in 0..50 {
                    let (dedup, failed) = (dedup.clone(), Arc::clone(&failed));
                    calls.spawn(async move {
                        let request = dedup.request(key(&format!("own {connection} {n}"))).json();
                        assert!(
                            request
                                .run(|_| async move { Ok::<_, std::io::Error>(n) })
                                .await
                                .unwrap()
                                .ran_now()
                        );
                        assert_eq!(failed.load(Ordering::SeqCst), 0);
                    });
                }
            }
            assert_eq!(calls.join_all().await.len(), 400);
        }
    });
}

/// Of calls that meet on a key, too, none fails: one runs, and the others get its outcome.
#[test]
fn racing_calls_where_all_transactions_are_serializable() {
    block_on(async {
        for isolation in STRICT {
            let tables = Tables::new().await;
            let (dedup, failed) = engine(tables.builder(pool_to(&url_at(isolation), 8)).build());
            let effects = Arc::new(AtomicUsize::new(0));
            for round in 0..10 {
                let mut calls = JoinSet::new();
                for _ in 0..8 {
                    let (dedup, effects) = (dedup.clone(), Arc::clone(&effects));
                    calls.spawn(async move {
                        let request = dedup.request(key(&format!("strict {round}"))).json().wait(DAY);
                        let ran = request.run(|_| async move {
                            effects.fetch_add(1, Ordering::SeqCst);
                            Ok::<_, std::io::Error>(round)
                        });
                        ran.await.unwrap().into_value().unwrap()
                    });
                }
                assert_eq!(calls.join_all().await, [round; 8]);
                assert_eq!(effects.load(Ordering::SeqCst), round + 1);
            }
            assert_eq!(failed.load(Ordering::SeqCst), 0, "{isolation}");
        }
    });
}

/// Batches of claims, of keys that mix with those of others in the index.
#[test]
fn batches_where_all_transactions_are_serializable() {
    block_on(async {
        let tables = Tables::new().await;
        let store = Arc::new(tables.builder(pool_to(&url_at("serializable"), 8)).build());
        let record = Arc::new(some_record().await);
        let mut batches = JoinSet::new();
        for batch in 0..16 {
            let (store, record) = (Arc::clone(&store), Arc::clone(&record));
            batches.spawn(async move {
                let keys: Vec<Key> = (0..20).map(|n| key(&format!("batch {n} {batch}"))).collect();
                let put = Put::new(&record, DAY, DAY);
                let puts: Vec<_> = keys.iter().map(|key| BatchPut::new(key, Expected::Vacant, put)).collect();
                for answer in store.compare_exchange_many(&puts).await {
                    assert!(matches!(answer, Ok(Exchange::Done(_))), "{answer:?}");
                }
            });
        }
        assert_eq!(batches.join_all().await.len(), 16);
    });
}

/// A trigger that raises this code at the first `times` inserts of a key. A sequence counts them, which no rollback undoes.
async fn raise(client: &Client, tables: &Tables, code: &str, times: u32) {
    let (schema, records) = (&tables.name, tables.records());
    let sql = format!(
        "DROP SEQUENCE IF EXISTS \"{schema}\".raised; CREATE SEQUENCE \"{schema}\".raised; \
         CREATE OR REPLACE FUNCTION \"{schema}\".raise() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF nextval('\"{schema}\".raised') <= {times} THEN RAISE 'as told' USING ERRCODE = '{code}'; END IF; \
             RETURN NEW; \
         END $$; \
         DROP TRIGGER IF EXISTS raise ON {records}; \
         CREATE TRIGGER raise BEFORE INSERT ON {records} FOR EACH ROW EXECUTE FUNCTION \"{schema}\".raise()"
    );
    client.batch_execute(&sql).await.unwrap();
}

/// Each of the class is tried again, but for the one that says that nobody knows; and not without an end.
#[test]
fn what_was_rolled_back_is_tried_again_for_a_while() {
    block_on(async {
        let tables = Tables::new().await;
        let client = Arc::new(connect(database().url()).await);
        let patient = tables.store();
        let shared = tables.builder(Arc::new(connect(database().url()).await)).build();
        let hasty = tables.builder(shared_pool().clone()).lock_wait(Duration::from_millis(50)).build();
        let record = some_record().await;
        let put = Put::new(&record, DAY, DAY);
        let raised = format!("SELECT last_value FROM \"{}\".raised", tables.name);
        for code in ["40000", "40001", "40002", "40P01"] {
            for (id, shared_one) in [("pool", false), ("shared", true)] {
                raise(&client, &tables, code, 3).await;
                let key = key(&format!("{code} {id}"));
                let done = if shared_one {
                    shared.compare_exchange(&key, Expected::Vacant, put).await
                } else {
                    patient.compare_exchange(&key, Expected::Vacant, put).await
                };
                assert!(matches!(done, Ok(Exchange::Done(_))), "{code} {id}: {done:?}");
                assert_eq!(number(&client, &raised).await, 4, "{code} {id}");
                assert!(patient.load(&key).await.unwrap().is_some(), "{code} {id}: it is committed");
            }
            raise(&client, &tables, code, u32::MAX).await;
            let key = key(&format!("{code} without end"));
            let refused = hasty.compare_exchange(&key, Expected::Vacant, put).await.unwrap_err();
            assert_eq!(refused.code().unwrap().code(), code, "{refused:?}");
            assert_eq!((refused.kind(), refused.maybe_applied()), (StoreErrorKind::Unavailable, false));
            assert!(number(&client, &raised).await >= 2, "{code}: it is tried again");
            assert!(patient.load(&key).await.unwrap().is_none());
        }
        raise(&client, &tables, "40003", 3).await;
        let unknown = patient.compare_exchange(&key("unknown"), Expected::Vacant, put).await.unwrap_err();
        assert!(matches!(unknown, Error::Broken { .. }) && unknown.maybe_applied(), "{unknown:?}");
        assert_eq!(number(&client, &raised).await, 1, "nobody knows whether it was applied");
    });
}
