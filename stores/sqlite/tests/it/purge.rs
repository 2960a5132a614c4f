//! Purging: in bounded steps, beside other purgers and other writes.

use std::thread;
use std::time::Duration;

use futures::executor::block_on;
use oncekey::protocol::Expected;
use oncekey::store::{BatchPut, Purged, Put, Store as _};
use oncekey_sqlite::SqliteStore;
use oncekey_sqlite::rusqlite::Connection;

use super::{HOUR, in_progress, key, look, open, put, scratch, written};

const GONE: usize = 2_000;

fn filled(path: &std::path::Path) -> SqliteStore {
    let store = open(path);
    let record = in_progress(1);
    let keys: Vec<_> = (0..GONE).map(|index| key(format!("gone {index}"))).collect();
    let put = Put::new(&record, Duration::ZERO, Duration::ZERO);
    let batch: Vec<_> = keys.iter().map(|key| BatchPut::new(key, Expected::Vacant, put)).collect();
    block_on(store.compare_exchange_many(&batch)).into_iter().for_each(|answer| _ = written(answer));
    store
}

fn records(path: &std::path::Path) -> (i64, i64) {
    let connection = Connection::open(path).unwrap();
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get(0)).unwrap();
    (number("SELECT records FROM oncekey_meta"), number("SELECT count(*) FROM oncekey_records"))
}

#[test]
fn a_purge_removes_what_it_may_and_says_whether_there_is_more() {
    let (_directory, path) = scratch();
    let store = filled(&path);
    written(put(&store, &key("kept"), Expected::Vacant, &in_progress(1)));
    let purge = |limit| block_on(store.purge(limit)).unwrap();
    assert_eq!(purge(0), Purged { removed: 0, more: true });
    assert_eq!(purge(500), Purged { removed: 500, more: true });
    assert_eq!(purge(GONE), Purged { removed: GONE - 500, more: false });
    assert_eq!(purge(10), Purged { removed: 0, more: false });
    assert_eq!(records(&path), (1, 1));
}

/// Two stores on one file, as two processes would have, and claims meanwhile.
#[test]
fn two_purgers_remove_each_record_once() {
    let (_directory, path) = scratch();
    let (one, other) = (filled(&path), open(&path));
    let all = |store: &SqliteStore| {
        let mut removed = 0;
        loop {
            let purged = block_on(store.purge(100)).unwrap();
            removed += purged.removed;
            if !purged.more {
                return removed;
            }
        }
    };
    let removed: usize = thread::scope(|scope| {
        let purgers = [scope.spawn(|| all(&one)), scope.spawn(|| all(&other))];
        for index in 0..50 {
            written(put(&one, &key(format!("kept {index}")), Expected::Vacant, &in_progress(1)));
        }
        purgers.into_iter().map(|purger| purger.join().unwrap()).sum()
    });
    assert_eq!(removed, GONE);
    assert_eq!(records(&path), (50, 50));
}

/// Even a purge that has the writer to itself: who comes meanwhile waits for one of its transactions.
#[test]
fn a_purge_goes_in_small_steps() {
    let (_directory, path) = scratch();
    let store = filled(&path);
    let hand = Connection::open(&path).unwrap();
    hand.execute_batch(
        "CREATE TABLE steps (step INTEGER PRIMARY KEY, removed INTEGER);
         CREATE TRIGGER step AFTER UPDATE ON oncekey_meta
         BEGIN INSERT INTO steps (removed) VALUES (old.records - new.records); END;",
    )
    .unwrap();
    assert_eq!(block_on(store.purge(GONE)).unwrap(), Purged { removed: GONE, more: false });
    let (most, all): (usize, usize) = hand
        .query_row("SELECT max(removed), sum(removed) FROM steps", [], |row| {
            Ok((row.get::<_, u32>(0)? as usize, row.get::<_, u32>(1)? as usize))
        })
        .unwrap();
    assert_eq!(all, GONE, "each transaction is counted");
    assert!(most <= 64, "{most} in one transaction");
}

/// A purge of much does not keep a claim waiting until it is done: nearly all is still there when the claim is written.
#[test]
fn a_claim_does_not_wait_for_the_whole_purge() {
    let (_directory, path) = scratch();
    let store = filled(&path);
    let hand = Connection::open(&path).unwrap();
    hand.execute_batch(
        "CREATE TABLE seen (gone INTEGER);
         CREATE TRIGGER meanwhile AFTER INSERT ON oncekey_records
         BEGIN INSERT INTO seen SELECT count(*) FROM oncekey_records WHERE gone_at_ns <= written_ns; END;
         BEGIN IMMEDIATE;",
    )
    .unwrap();
    // Both wait for the writer, the purge before the claim.
    let (record, key) = (in_progress(1), key("meanwhile"));
    let batch = [BatchPut::new(&key, Expected::Vacant, Put::new(&record, HOUR, HOUR))];
    let mut purge = store.purge(GONE);
    assert!(look(&mut purge).is_pending());
    let mut claim = store.compare_exchange_many(&batch);
    assert!(look(&mut claim).is_pending());
    hand.execute_batch("COMMIT").unwrap();
    written(block_on(claim).pop().unwrap());
    let seen: i64 = hand.query_row("SELECT gone FROM seen", [], |row| row.get(0)).unwrap();
    assert!(
        (GONE - 200..GONE).contains(&usize::try_from(seen).unwrap()),
        "when the claim was written, {seen} of {GONE} were still to be purged"
    );
    assert_eq!(block_on(purge).unwrap(), Purged { removed: GONE, more: false });
    assert_eq!(records(&path), (1, 1));
}
