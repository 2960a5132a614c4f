//! The latency of a claim before, during and after a purge of very many rows.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use oncekey::Key;
use oncekey::protocol::Expected;
use oncekey::store::{Exchange, Put, Store as _};
use oncekey_sqlite::SqliteStore;
use oncekey_sqlite::rusqlite::Connection;

use oncekey_store_testing::bench::{HOUR, completed, in_progress};

/// Threads that claim, one after the other each.
const CLIENTS: usize = 4;

/// Purges for at most so long. With a `path`, a file there is filled, or taken as an earlier run left it.
pub(crate) fn measure(rows: u64, at_most: Duration, path: Option<PathBuf>) {
    let directory = tempfile::tempdir().expect("a directory is made");
    let path = path.unwrap_or_else(|| directory.path().join("purge.db"));
    let is_filled = path.exists();
    drop(SqliteStore::open(&path).expect("it opens"));
    if !is_filled {
        fill(&path, rows);
    }
    let size = std::fs::metadata(&path).expect("it is there").len();
    println!("{rows} rows that are gone, {} MB", size >> 20);

    let store = SqliteStore::open(&path).expect("it opens");
    println!("| claims, {CLIENTS} clients | claims /s | p50 | p99 | greatest |\n|---|--:|--:|--:|--:|");
    report("before", &claims(&store, "before", || thread::sleep(Duration::from_secs(15))));
    let (mut removed, mut took, mut all) = (0, Duration::ZERO, false);
    let during = claims(&store, "during", || {
        let begun = Instant::now();
        loop {
            let purged = block_on(store.purge(1_000)).expect("the store answers");
            removed += purged.removed as u64;
            if !purged.more || begun.elapsed() >= at_most {
                all = !purged.more;
                break;
            }
        }
        took = begun.elapsed();
    });
    report("during the purge", &during);
    report("after", &claims(&store, "after", || thread::sleep(Duration::from_secs(15))));
    assert!(
        !all || is_filled || removed == rows,
        "all that was gone is removed, and nothing else: {removed}"
    );
    println!("purged {removed} rows in {took:.0?}: {:.0} a second", removed as f64 / took.as_secs_f64());
}

/// Rows as completed operations leave them, their keys in no order, their times over.
fn fill(path: &Path, rows: u64) {
    let connection = Connection::open(path).expect("it opens");
    connection.pragma_update(None, "synchronous", "OFF").expect("it is set");
    connection.pragma_update(None, "cache_size", -1_000_000).expect("it is set");
    let body = completed(100).as_bytes().to_vec();
    for from in (0..rows).step_by(1_000_000) {
        let count = (rows - from).min(1_000_000);
        connection
            .execute(
                "WITH RECURSIVE number (n) AS (SELECT ?1 UNION ALL SELECT n + 1 FROM number WHERE n + 1 < ?1 + ?2),
                      id (n, text) AS MATERIALIZED (SELECT n, lower(hex(randomblob(8))) FROM number)
                 INSERT INTO oncekey_records (key, version, written_ns, live_until_ns, gone_at_ns, state, policy, attempt,
                     operation_id, created_ms, scope, id, body)
                 SELECT CAST(char(15) || 'payments.charge' || char(16) || text AS BLOB), n + 1, n, n, n, 'completed',
                     'reclaim', 1, randomblob(16), 0, 'payments.charge', text, ?3 FROM id",
                (i64::try_from(from).expect("it is small"), i64::try_from(count).expect("it is small"), &body),
            )
            .expect("it is filled");
    }
    connection
        .execute(
            "UPDATE oncekey_meta SET last_version = ?1, records = ?1",
            [i64::try_from(rows).expect("it is small")],
        )
        .expect("it is counted");
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("it is copied");
}

/// The latencies of fresh claims, sorted, while `what` lasts; and how long it lasted.
fn claims(store: &SqliteStore, phase: &str, what: impl FnOnce()) -> (Vec<Duration>, Duration) {
    let (ended, begun, process) = (AtomicBool::new(false), Instant::now(), std::process::id());
    let record = in_progress();
    let one_client = |client: usize| {
        let mut latencies = Vec::new();
        while !ended.load(Ordering::Relaxed) {
            let key = Key::new("bench", format!("{process}-{phase}-{client}-{}", latencies.len()))
                .expect("it is short");
            let begun = Instant::now();
            let put = Put::new(&record, HOUR, HOUR);
            let answer = block_on(store.compare_exchange(&key, Expected::Vacant, put));
            latencies.push(begun.elapsed());
            assert!(matches!(answer, Ok(Exchange::Done(_))), "the key is new: {answer:?}");
        }
        latencies
    };
    let mut latencies: Vec<_> = thread::scope(|scope| {
        let one_client = &one_client;
        let clients: Vec<_> = (0..CLIENTS).map(|client| scope.spawn(move || one_client(client))).collect();
        what();
        ended.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|client| client.join().expect("it does not panic")).collect()
    });
    latencies.sort();
    (latencies, begun.elapsed())
}

fn report(phase: &str, (latencies, took): &(Vec<Duration>, Duration)) {
    let at = |share: usize| latencies[(latencies.len() - 1) * share / 1000].as_secs_f64() * 1e3;
    let rate = latencies.len() as f64 / took.as_secs_f64();
    println!("| {phase} | {rate:.0} | {:.2} ms | {:.2} ms | {:.1} ms |", at(500), at(990), at(1000));
}
