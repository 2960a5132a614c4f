//! Claims before, during and after a purge of a large table.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use oncekey::protocol::{Expected, Record};
use oncekey::store::{Exchange, Put};
use oncekey::{Key, Store as _};
use oncekey_postgres::{PostgresStore, Schema, migrate};
use oncekey_store_testing::bench::{HOUR, completed, in_progress};
use oncekey_store_testing::server::Postgres;

use crate::work::{OUTCOME_LEN, pool};

const CLIENTS: usize = 4;
/// What one call of purge may remove.
const LIMIT: usize = 5_000;

pub(crate) fn rows_asked_for() -> Option<usize> {
    let mut args = std::env::args().skip_while(|arg| arg != "--purge").skip(1);
    args.next().map(|rows| rows.parse().expect("--purge has a number after it"))
}

/// Half of the rows are gone, every other one; the rest lives on.
pub(crate) fn measure(server: &Postgres, rows: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let pool = pool(server.url(), CLIENTS + 2);
        let _ran = migrate(&mut pool.get().await.unwrap(), &Schema::of_search_path()).await.unwrap();
        let (record, completed) = (in_progress(), completed(OUTCOME_LEN));
        let began = Instant::now();
        let client = pool.get().await.unwrap();
        client.batch_execute("SET synchronous_commit = off").await.unwrap();
        let body = completed.as_bytes().to_vec();
        let mut filled = 0;
        while filled < rows {
            let chunk = (rows - filled).min(200_000);
            let insert = format!(
                "INSERT INTO oncekey_records (key, version, live_until, gone_at, updated_at, created_at, finished_at, attempt, state, scope, id, operation_id, policy, body) \
                 SELECT oncekey_key('payments.charge', 'filled-' || n), nextval('oncekey_versions'), \
                 CASE n % 2 WHEN 0 THEN now() - interval '1 hour' ELSE now() + interval '1 day' END, \
                 CASE n % 2 WHEN 0 THEN now() - interval '1 hour' ELSE now() + interval '1 day' END, \
                 now() - interval '1 day', now(), now(), 1, 'completed', 'payments.charge', 'filled-' || n, \
                 decode(md5(n::text), 'hex'), 'reclaim', $1 \
                 FROM generate_series({filled}, {filled} + {chunk} - 1) AS n"
            );
            client.execute(&insert, &[&body]).await.unwrap();
            filled += chunk;
        }
        // Each in a transaction of its own.
        for command in ["RESET synchronous_commit", "VACUUM (ANALYZE) oncekey_records", "CHECKPOINT"] {
            client.batch_execute(command).await.unwrap();
        }
        println!("{rows} rows made in {:?}", began.elapsed());
        size(&client).await;
        let store = Arc::new(PostgresStore::builder(pool.clone()).purge_grace(Duration::ZERO).build());
        report("before", claims(&store, &record, "before", &deadline(20)).await);

        let over = Arc::new(AtomicBool::new(false));
        let purging = tokio::spawn({
            let (store, over) = (Arc::clone(&store), Arc::clone(&over));
            async move {
                let (mut removed, mut calls, mut slowest) = (0, 0, Duration::ZERO);
                let began = Instant::now();
                loop {
                    let call = Instant::now();
                    let purged = store.purge(LIMIT).await.unwrap();
                    slowest = slowest.max(call.elapsed());
                    (removed, calls) = (removed + purged.removed, calls + 1);
                    if !purged.more {
                        break;
                    }
                }
                over.store(true, Ordering::SeqCst);
                (removed, calls, began.elapsed(), slowest)
            }
        });
        report("during", claims(&store, &record, "during", &over).await);
        let (removed, calls, took, slowest) = purging.await.unwrap();
        println!("purged {removed} rows in {calls} calls of {LIMIT}, in {took:?}; the slowest call took {slowest:?}");
        let (removed, again) = {
            let again = Instant::now();
            let mut removed = 0;
            loop {
                let purged = store.purge(LIMIT).await.unwrap();
                removed += purged.removed;
                if !purged.more {
                    break (removed, again.elapsed());
                }
            }
        };
        println!("another round, with nothing to remove: {removed} rows in {again:?}");
        report("after", claims(&store, &record, "after", &deadline(20)).await);
        size(&client).await;
    });
}

async fn size(client: &tokio_postgres::Client) {
    let size = "SELECT pg_size_pretty(pg_total_relation_size('oncekey_records'))";
    let size: String = client.query_one(size, &[]).await.unwrap().get(0);
    println!("table and indexes: {size}");
}

fn deadline(seconds: u64) -> Arc<AtomicBool> {
    let over = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&over);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        ends.store(true, Ordering::SeqCst);
    });
    over
}

/// Fresh claims by several clients until it is over: how long each took.
async fn claims(
    store: &Arc<PostgresStore<deadpool_postgres::Pool>>,
    record: &Record,
    phase: &'static str,
    over: &Arc<AtomicBool>,
) -> Vec<Duration> {
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let (store, record, over) = (Arc::clone(store), record.clone(), Arc::clone(over));
        clients.spawn(async move {
            let mut took = Vec::new();
            while !over.load(Ordering::SeqCst) {
                let key = Key::new("payments.charge", format!("{phase}-{client}-{}", took.len())).unwrap();
                let began = Instant::now();
                let done =
                    store.compare_exchange(&key, Expected::Vacant, Put::new(&record, HOUR, HOUR)).await;
                assert!(matches!(done, Ok(Exchange::Done(_))), "{done:?}");
                took.push(began.elapsed());
            }
            took
        });
    }
    clients.join_all().await.concat()
}

fn report(phase: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let at = |share: f64| {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
        let index = ((took.len() - 1) as f64 * share) as usize;
        took[index]
    };
    println!(
        "{phase}: {} claims by {CLIENTS} clients, p50 {:?}, p99 {:?}, most {:?}",
        took.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}
