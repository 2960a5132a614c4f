//! Polls of 500 messages through a consumer, over memory, SQLite and PostgreSQL: beside the same messages one by one, and
//! beside what somebody would write by hand, one statement or transaction that marks 500 ids and one that sets them done.
//!
//! ```text
//! cargo bench -p replay_log --features stores --bench polls              # minutes
//! cargo bench -p replay_log --features stores --bench polls -- --quick   # a smoke test
//! ```
//!
//! All commits are flushed. PostgreSQL is a server started for it. An operation is a whole poll: times 500 for messages.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::collections::HashMap;
use std::future::ready;
use std::sync::{Arc, Mutex};

use oncekey::{Attempt, Deduplicator, Failure, Key, MemoryStore, Store};
use oncekey_consume::{Consumer, DeliveryAction, Message};
use oncekey_sqlite::SqliteStore;
use oncekey_sqlite::rusqlite::{Connection, params};
use oncekey_store_testing::bench::{Bench, Operation, Place, Section, operation};
use oncekey_store_testing::server::Postgres;

const POLL: usize = 500;
/// What a handler returns.
const RECEIPT: &str = "shipped: receipt 7f3a-91, 3 parcels";

fn main() {
    let mut bench = Bench::from_args("A poll of 500 messages");
    let memory = consumer(MemoryStore::new());
    beside(&mut bench, "memory", 40, &memory, || raw_map(Arc::default()));

    let folder = tempfile::tempdir().unwrap();
    let sqlite = SqliteStore::open(folder.path().join("store.db")).unwrap();
    let by_hand = Arc::new(Mutex::new(raw_file(&folder.path().join("raw.db"))));
    beside(&mut bench, "SQLite", 20, &consumer(sqlite), || raw_sqlite(Arc::clone(&by_hand)));

    let server = Postgres::start();
    let pool = bench.block_on(pool(&server));
    let store = oncekey_postgres::PostgresStore::builder(pool.clone()).named_statements(true).build();
    beside(&mut bench, "PostgreSQL", 20, &consumer(store), || raw_postgres(pool.clone()));
    println!("{}", bench.table());
}

fn consumer<S: Store + 'static>(store: S) -> Consumer<S> {
    Consumer::new(Deduplicator::builder(store).tokio().build().unwrap())
}

/// A store's sections: by hand, and one by one.
fn beside<S: Store + 'static>(
    bench: &mut Bench,
    name: &str,
    polls: usize,
    consumer: &Consumer<S>,
    raw: impl Fn() -> Operation,
) {
    let poll = |_| ready(polled(consumer));
    let section = bench.compare(&format!("by hand, {name}"), 1, polls, |_| ready(raw()), poll);
    say(section, "by hand");
    let section =
        bench.compare(&format!("one by one, {name}"), 1, polls / 4, |_| ready(one_by_one(consumer)), poll);
    say(section, "one by one");
}

fn say(section: Option<&Section>, other: &str) {
    if let Some(Section { raw_per_s, our_per_s, .. }) = section {
        let messages = |polls: &f64| polls * 500.0;
        eprintln!(
            "messages a second: {:.0} {other}, {:.0} in polls",
            messages(raw_per_s),
            messages(our_per_s)
        );
    }
}

fn ids(place: Place) -> impl Iterator<Item = String> {
    (0..POLL).map(move |index| format!("{:04}-{:06}-{index:03}", place.round, place.number))
}

fn message(id: String) -> Message {
    Message::new(Key::new("orders.ship", id).unwrap())
}

async fn handle(_: Attempt) -> Result<String, Failure<String>> {
    Ok(RECEIPT.to_owned())
}

fn polled<S: Store + 'static>(consumer: &Consumer<S>) -> Operation {
    let consumer = consumer.clone();
    operation(move |place| {
        let consumer = consumer.clone();
        async move {
            let told = consumer.consume_many(ids(place).map(|id| (message(id), handle))).await;
            assert!(told.len() == POLL && told.iter().all(|told| told.reason() == "executed"));
        }
    })
}

fn one_by_one<S: Store + 'static>(consumer: &Consumer<S>) -> Operation {
    let consumer = consumer.clone();
    operation(move |place| {
        let consumer = consumer.clone();
        async move {
            for id in ids(place) {
                let told: DeliveryAction<String, String> = consumer.consume(message(id), handle).await;
                assert_eq!(told.reason(), "executed");
            }
        }
    })
}

/// A map behind a lock.
fn raw_map(map: Arc<Mutex<HashMap<String, Option<String>>>>) -> Operation {
    operation(move |place| {
        let map = Arc::clone(&map);
        async move {
            let ids: Vec<_> = ids(place).collect();
            let mut fresh = 0;
            {
                let mut map = map.lock().unwrap();
                for id in &ids {
                    fresh += usize::from(map.insert(id.clone(), None).is_none());
                }
            }
            assert_eq!(fresh, POLL);
            let mut map = map.lock().unwrap();
            for id in &ids {
                map.insert(id.clone(), Some(RECEIPT.to_owned()));
            }
        }
    })
}

fn raw_file(path: &std::path::Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    let _mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).unwrap();
    connection.pragma_update(None, "synchronous", "FULL").unwrap();
    let table = "CREATE TABLE messages (id TEXT PRIMARY KEY, done TEXT) WITHOUT ROWID";
    connection.execute(table, []).unwrap();
    connection
}

fn raw_sqlite(connection: Arc<Mutex<Connection>>) -> Operation {
    let mark = "INSERT INTO messages (id) VALUES (?1) ON CONFLICT DO NOTHING";
    let done = "UPDATE messages SET done = ?2 WHERE id = ?1 AND done IS NULL";
    operation(move |place| {
        let connection = Arc::clone(&connection);
        async move {
            let ids: Vec<_> = ids(place).collect();
            for marks in [true, false] {
                let (connection, ids) = (Arc::clone(&connection), ids.clone());
                // As anybody calls it from async code.
                let written = tokio::task::spawn_blocking(move || {
                    let mut connection = connection.lock().unwrap();
                    let transaction = connection.transaction().unwrap();
                    let mut written = 0;
                    for id in &ids {
                        written += if marks {
                            transaction.prepare_cached(mark).unwrap().execute(params![id]).unwrap()
                        } else {
                            transaction.prepare_cached(done).unwrap().execute(params![id, RECEIPT]).unwrap()
                        };
                    }
                    transaction.commit().unwrap();
                    written
                });
                assert_eq!(written.await.unwrap(), POLL);
            }
        }
    })
}

async fn pool(server: &Postgres) -> deadpool_postgres::Pool {
    let manager = deadpool_postgres::Manager::new(server.url().parse().unwrap(), tokio_postgres::NoTls);
    let pool = deadpool_postgres::Pool::builder(manager).max_size(4).build().unwrap();
    let mut client = pool.get().await.unwrap();
    let _ran = oncekey_postgres::migrate(&mut client, &oncekey_postgres::Schema::default()).await.unwrap();
    client
        .batch_execute("CREATE TABLE messages (id text PRIMARY KEY, done text) WITH (fillfactor = 50)")
        .await
        .unwrap();
    drop(client);
    pool
}

fn raw_postgres(pool: deadpool_postgres::Pool) -> Operation {
    let mark = "INSERT INTO messages (id) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING";
    let done = "UPDATE messages SET done = $2 WHERE id = ANY($1::text[]) AND done IS NULL";
    operation(move |place| {
        let pool = pool.clone();
        async move {
            let ids: Vec<_> = ids(place).collect();
            let client = pool.get().await.unwrap();
            let prepared = client.prepare_cached(mark).await.unwrap();
            assert_eq!(client.execute(&prepared, &[&ids]).await.unwrap(), POLL as u64);
            drop(client);
            let client = pool.get().await.unwrap();
            let prepared = client.prepare_cached(done).await.unwrap();
            assert_eq!(client.execute(&prepared, &[&ids, &RECEIPT]).await.unwrap(), POLL as u64);
        }
    })
}
