//! A connection that comes back to the pool with a transaction open on it: nothing that the store acknowledged is lost with
//! that transaction, and nothing that was begun in it is committed.

use std::time::Duration;

use deadpool_postgres::Pool;
use oncekey::protocol::Expected;
use oncekey::store::{BatchPut, Exchange, Put, StoreError as _};
use oncekey::{Answer, Deduplicator, Key, Store as _};
use oncekey_postgres::PostgresStore;

use crate::statements::some_record;
use crate::support::{PATIENCE, Tables, block_on, connect, database, granted, key, number, pool_to};

const DAY: Duration = Duration::from_secs(86_400);

/// What somebody may leave on a connection. `{t}` is a table of theirs.
const LEFT: [&str; 9] = [
    "BEGIN",
    "BEGIN; SELECT 1",
    "BEGIN; INSERT INTO {t} VALUES ('left')",
    "BEGIN; INSERT INTO {t} VALUES ('left'); SAVEPOINT a; SELECT 1",
    "BEGIN; SAVEPOINT a",
    "BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO {t} VALUES ('left')",
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT count(*) FROM {t}",
    "BEGIN READ ONLY",
    "BEGIN; INSERT INTO {t} VALUES ('left'); DO $$ BEGIN RAISE 'as told'; END $$",
];

/// Borrows the pool's only connection, and gives it back with this on it.
async fn leave(pool: &Pool, left: &str) {
    let connection = pool.get().await.unwrap();
    let _may_fail = connection.batch_execute(left).await;
}

/// Ends whatever is open on the pool's only connection, as the server does when it is closed.
async fn roll_back(pool: &Pool) {
    pool.get().await.unwrap().batch_execute("ROLLBACK").await.unwrap();
}

#[test]
fn what_is_acknowledged_outlives_a_transaction_that_was_left_open() {
    block_on(async {
        let tables = Tables::new().await;
        let pool = pool_to(database().url(), 1);
        let observer = connect(database().url()).await;
        let table = format!("\"{}\".theirs", tables.name);
        observer.batch_execute(&format!("CREATE TABLE {table} (what text)")).await.unwrap();
        let dedup = Deduplicator::builder(tables.builder(pool.clone()).build()).tokio().build().unwrap();
        for (number_of, left) in LEFT.into_iter().enumerate() {
            let left = left.replace("{t}", &table);
            let id = key(&format!("left {number_of}"));
            leave(&pool, &left).await;
            let mut claim = granted(&dedup, &id).await;
            leave(&pool, &left).await;
            let _completed = claim.complete("receipt").await.unwrap();
            leave(&pool, &left).await;
            let run = dedup.request(id.clone()).run(|_| async { Ok::<_, std::io::Error>(b"again".to_vec()) });
            assert!(
                matches!(run.await.unwrap(), Answer::Earlier(oncekey::Earlier::Replayed { .. })),
                "{left}"
            );
            roll_back(&pool).await;
            let loaded = tables.store().load(&id).await.unwrap();
            assert!(loaded.is_some_and(|entry| entry.record.outcome().is_some()), "{left}: it is on record");
            assert_eq!(number(&observer, &format!("SELECT count(*) FROM {table}")).await, 0, "{left}");
        }
    });
}

/// Batches, too, and with prepared statements.
#[test]
fn nor_are_batches_lost_with_it() {
    block_on(async {
        let tables = Tables::new().await;
        let pool = pool_to(database().url(), 1);
        let record = some_record().await;
        let put = Put::new(&record, DAY, DAY);
        for named in [false, true] {
            let store = tables.builder(pool.clone()).named_statements(named).build();
            for (number_of, left) in LEFT.into_iter().enumerate().filter(|(_, left)| !left.contains("{t}")) {
                let keys: Vec<Key> = (0..10).map(|n| key(&format!("{named} {number_of} {n}"))).collect();
                let batch: Vec<_> =
                    keys.iter().map(|key| BatchPut::new(key, Expected::Vacant, put)).collect();
                leave(&pool, left).await;
                for answer in store.compare_exchange_many(&batch).await {
                    assert!(matches!(answer, Ok(Exchange::Done(_))), "{left}: {answer:?}");
                }
                roll_back(&pool).await;
                for key in &keys {
                    assert!(tables.store().load(key).await.unwrap().is_some(), "{left}: {key:?}");
                }
            }
        }
    });
}

/// A connection that only the store has had since it was made has no transaction on it: a call there is one statement. One
/// that somebody else had is looked at.
#[test]
fn only_what_others_had_is_looked_at() {
    let server = oncekey_store_testing::server::Postgres::start_with(&[("log_statement", "all")]);
    block_on(async {
        let database = server.database();
        let schema = oncekey_postgres::Schema::of_search_path();
        oncekey_postgres::migrate(&mut connect(database.url()).await, &schema).await.unwrap();
        let pool = pool_to(database.url(), 1);
        let store = PostgresStore::builder(pool.clone()).connection_wait(PATIENCE).build();
        let begun = || server.log().matches("BEGIN ISOLATION LEVEL READ COMMITTED").count();
        for _ in 0..3 {
            assert!(store.load(&key("a")).await.unwrap().is_none());
        }
        assert_eq!(begun(), 0);
        for round in 1..3 {
            drop(pool.get().await.unwrap());
            assert!(store.load(&key("a")).await.unwrap().is_none());
            assert_eq!(begun(), round);
            assert!(store.load(&key("a")).await.unwrap().is_none());
            assert_eq!(begun(), round);
        }
    });
}

/// A server that only reads is not taken for a transaction that was left open.
#[test]
fn a_server_that_only_reads_is_told() {
    block_on(async {
        let tables = Tables::new().await;
        let url = crate::errors::with_options("-c default_transaction_read_only=on");
        let pool = pool_to(&url, 1);
        let store = tables.builder(pool.clone()).build();
        drop(pool.get().await.unwrap());
        let record = some_record().await;
        let put = Put::new(&record, DAY, DAY);
        let refused = store.compare_exchange(&key("a"), Expected::Vacant, put).await.unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "25006", "{refused:?}");
        assert!(!refused.maybe_applied());
    });
}
