//! The lock of another connection: waited for, told, in nobody's way who only reads.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use oncekey::RunError;
use oncekey::protocol::Expected;
use oncekey::store::{Exchange, Put, Store as _, StoreError as _, StoreErrorKind};
use oncekey_sqlite::rusqlite::Connection;
use oncekey_sqlite::{SqliteError, SqliteStore};

use super::{HOUR, MINUTE, completed, in_progress, key, look, open, patient, put, scratch, written};

#[test]
fn a_lock_that_is_held_is_told_and_runs_nothing() {
    let (_directory, path) = scratch();
    let store = SqliteStore::builder(&path).busy_timeout(Duration::from_millis(200)).open().unwrap();
    let dedup = patient(store.clone()).call_timeout(Duration::from_secs(3)).build().unwrap();
    let (before, during) = (key("before"), key("during"));
    let run = |key, answer: &str| {
        let answer = answer.to_owned();
        block_on(dedup.request(key).run(|_| async { Ok::<_, SqliteError>(answer) }))
    };
    assert!(run(before.clone(), "kept").unwrap().ran_now());

    let holder = Connection::open(&path).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let begun = Instant::now();
    let error = put(&store, &during, Expected::Vacant, &in_progress(1)).unwrap_err();
    assert!(begun.elapsed() >= Duration::from_millis(200), "it gave up before its time");
    assert!(matches!(error, SqliteError::Busy(_)), "{error:?}");
    assert_eq!((error.kind(), error.maybe_applied()), (StoreErrorKind::Unavailable, false));
    assert!(error.to_string().contains("holds the lock"), "{error}");
    // Reads, and so replays, wait for no writer.
    assert_eq!(*run(before, "again").unwrap().value().unwrap(), "kept");
    let ran = AtomicUsize::new(0);
    let refused = block_on(dedup.request(during.clone()).run(|_| async {
        ran.fetch_add(1, Ordering::Relaxed);
        Ok::<_, SqliteError>("ran".to_owned())
    }));
    assert!(
        matches!(&refused, Err(RunError::Claim { source: oncekey::Error::Store { .. }, .. })),
        "{refused:?}"
    );
    assert_eq!(ran.load(Ordering::Relaxed), 0, "it ran without a claim");
    assert!(block_on(store.load(&during)).unwrap().is_none());

    holder.execute_batch("ROLLBACK").unwrap();
    assert_eq!(*run(during, "now").unwrap().value().unwrap(), "now");
}

/// A replay is answered while another connection holds the lock, by an idle writer and beside one that waits for the lock.
#[test]
fn a_replay_waits_for_no_lock() {
    let (_directory, path) = scratch();
    let store = SqliteStore::builder(&path).readers(1).busy_timeout(HOUR).open().unwrap();
    let there = key("there");
    let version = written(put(&store, &there, Expected::Vacant, &completed(b"kept")));
    let holder = Connection::open(&path).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let replay = || {
        let (sender, answer) = mpsc::channel();
        let (store, there) = (store.clone(), there.clone());
        thread::spawn(move || sender.send(put(&store, &there, Expected::Vacant, &in_progress(2))));
        match answer.recv_timeout(MINUTE).expect("it waits for no lock") {
            Ok(Exchange::Conflict(Some(entry))) => assert_eq!(entry.version, version),
            other => panic!("it is completed, and a claim was answered {other:?}"),
        }
    };
    // The writer sleeps by one of these, if not by the first.
    for _ in 0..20 {
        replay();
        thread::sleep(Duration::from_millis(5));
    }
    let (waits, record) = (key("waits"), in_progress(1));
    let mut claim = store.compare_exchange(&waits, Expected::Vacant, Put::new(&record, HOUR, HOUR));
    assert!(look(&mut claim).is_pending());
    // The one reader has handed the claim to the writer when it comes to a replay.
    for _ in 0..20 {
        replay();
        thread::sleep(Duration::from_millis(5));
    }
    assert!(look(&mut claim).is_pending(), "it has the lock that another connection holds");
    holder.execute_batch("ROLLBACK").unwrap();
    written(block_on(claim));
}

/// A connection that has the lock nearly all the time leaves a short gap now and then. A call that waits finds a gap, in the
/// opening of the file and in a transaction of the user's. It finds one of
/// twelve, on average.
///
/// A busy machine wakes a sleeper late, so the gap is long, and SQLite's own waiting would find it too. The tests of
/// `pause_len` show that our pauses are shorter than that; here, `busy_timeout` shows that SQLite's waiting is not in use.
#[test]
fn a_short_gap_between_two_locks_is_found() {
    const WAITS: usize = 17;
    let (_directory, path) = scratch();
    drop(open(&path));
    let (ended, gaps) = (AtomicBool::new(false), AtomicUsize::new(0));
    let holder = Connection::open(&path).unwrap();
    holder.busy_timeout(Duration::ZERO).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let holder = holder;
            while !ended.load(Ordering::Relaxed) {
                // The one who waited may have the lock.
                if holder.execute_batch("BEGIN IMMEDIATE").is_err() {
                    thread::yield_now();
                    continue;
                }
                thread::sleep(Duration::from_millis(250));
                holder.execute_batch("ROLLBACK").unwrap();
                gaps.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(20));
            }
        });
        let _ended = EndOnDrop(&ended);
        let opened = || SqliteStore::builder(&path).busy_timeout(5 * MINUTE).open().unwrap();
        for _ in 0..8 {
            drop(opened());
        }
        let store = opened();
        for _ in 0..8 {
            let mine = store.connect().unwrap();
            let timeout = mine.query_row("PRAGMA busy_timeout", [], |row| row.get::<_, i64>(0)).unwrap();
            assert_eq!(timeout, 0, "SQLite's own waiting is not in use");
            mine.execute_batch("BEGIN IMMEDIATE; UPDATE oncekey_meta SET opened_ns = 0; COMMIT").unwrap();
        }
    });
    let gaps = gaps.into_inner();
    assert!(gaps <= WAITS * 12, "{WAITS} waits took {gaps} gaps");
}

/// However the test ends, the other thread does too.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
