//! Completion inside the user's own transaction: effect and outcome together, or neither.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::executor::block_on;
use oncekey::time::ManualClock;
use oncekey::{Claim, ClaimAnswer, Deduplicator, Earlier, Key, Policy, Settled};
use oncekey_sqlite::rusqlite::{Connection, TransactionBehavior};
use oncekey_sqlite::{CompleteError, SqliteStore, complete_in};

use super::{granted, key, open, patient, scratch};

fn shop(path: &Path) -> (SqliteStore, Connection) {
    let store = open(path);
    let connection = store.connect().unwrap();
    connection.execute_batch("CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY)").unwrap();
    (store, connection)
}

/// The same with a clock that counts these seconds.
fn shop_by_hand(path: &Path) -> (SqliteStore, Arc<AtomicU64>) {
    drop(shop(path));
    let now = Arc::new(AtomicU64::new(1_000));
    let clock = Arc::clone(&now);
    let since_epoch = move || Duration::from_secs(clock.load(Ordering::Relaxed));
    (SqliteStore::builder(path).clock(since_epoch).open().unwrap(), now)
}

fn orders(path: &Path) -> i64 {
    Connection::open(path).unwrap().query_row("SELECT count(*) FROM orders", [], |row| row.get(0)).unwrap()
}

fn claim(dedup: &Deduplicator<SqliteStore>, key: &Key) -> Claim<SqliteStore> {
    granted(block_on(dedup.request(key.clone()).claim()).unwrap())
}

fn replay(dedup: &Deduplicator<SqliteStore>, key: &Key) -> Option<Vec<u8>> {
    match block_on(dedup.request(key.clone()).claim()).unwrap() {
        ClaimAnswer::Answered(Earlier::Replayed { value, .. }) => Some(value.to_vec()),
        ClaimAnswer::Answered(Earlier::Done { .. } | Earlier::FailedBefore { .. }) => None,
        other => panic!("a replay is due, and the claim answered {other:?}"),
    }
}

const INSERT: &str = "INSERT INTO orders (id) VALUES ('order 42')";

#[test]
fn effect_and_outcome_are_committed_together() {
    let (_directory, path) = scratch();
    let (store, mut connection) = shop(&path);
    let dedup = patient(store.clone()).build().unwrap();
    let key = key("order");
    let mut claim = claim(&dedup, &key);

    // Rolled back: neither, and the claim goes on.
    let prepared = block_on(claim.prepare("order 42")).unwrap();
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    transaction.execute(INSERT, []).unwrap();
    store.complete_in(&transaction, &prepared).unwrap();
    transaction.rollback().unwrap();
    claim.rolled_back();
    assert_eq!(orders(&path), 0);
    assert!(matches!(
        block_on(dedup.request(key.clone()).claim()).unwrap(),
        ClaimAnswer::Answered(Earlier::InProgress { .. })
    ));

    // Committed: both.
    let prepared = block_on(claim.prepare("order 42")).unwrap();
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    transaction.execute(INSERT, []).unwrap();
    complete_in(&transaction, &prepared).unwrap();
    transaction.commit().unwrap();
    claim.committed(&prepared).unwrap();
    assert_eq!(orders(&path), 1);
    assert_eq!(replay(&dedup, &key).as_deref(), Some(&b"order 42"[..]));
}

/// The reply to a COMMIT that is lost: the claim learns what became of it.
#[test]
fn a_commit_of_unknown_outcome_is_settled() {
    let (_directory, path) = scratch();
    let (store, mut connection) = shop(&path);
    let dedup = patient(store.clone()).build().unwrap();
    for commits in [false, true] {
        let key = key(format!("order {commits}"));
        let mut claim = claim(&dedup, &key);
        let prepared = block_on(claim.prepare("placed")).unwrap();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        store.complete_in(&transaction, &prepared).unwrap();
        let due = if commits {
            transaction.commit().unwrap();
            Settled::Committed
        } else {
            transaction.rollback().unwrap();
            Settled::NotCommitted
        };
        assert_eq!(block_on(claim.settle(&prepared)).unwrap(), due);
        if !commits {
            // That moved the version on, so the same completion can no longer come.
            let late = connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
            assert!(matches!(store.complete_in(&late, &prepared), Err(CompleteError::Superseded)));
            drop(late);
            block_on(claim.complete("placed")).unwrap();
        }
        assert_eq!(replay(&dedup, &key).as_deref(), Some(&b"placed"[..]));
    }
}

#[test]
fn the_transaction_of_an_attempt_that_was_taken_over_fails() {
    let (_directory, path) = scratch();
    let (store, now) = shop_by_hand(&path);
    let slow = patient(store.clone()).clock(ManualClock::new()).build().unwrap();
    let quick = patient(store.clone()).build().unwrap();
    let key = key("order");
    let mut first = claim(&slow, &key);
    let prepared = block_on(first.prepare("first")).unwrap();
    now.fetch_add(2 * 3_600, Ordering::Relaxed);
    let mut second = claim(&quick, &key);

    let mut connection = store.connect().unwrap();
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    transaction.execute(INSERT, []).unwrap();
    let error = store.complete_in(&transaction, &prepared).unwrap_err();
    assert!(matches!(error, CompleteError::Superseded), "{error:?}");
    drop(transaction);
    assert!(block_on(first.settle(&prepared)).is_err());
    block_on(second.complete("second")).unwrap();
    assert_eq!(orders(&path), 0);
    assert_eq!(replay(&quick, &key).as_deref(), Some(&b"second"[..]));
}

/// A version that is still there, of a record that is not: past live and linger nothing can be completed.
#[test]
fn the_transaction_of_an_attempt_that_is_gone_fails() {
    let (_directory, path) = scratch();
    let (store, now) = shop_by_hand(&path);
    let dedup = patient(store.clone()).policy(Policy::Reclaim).clock(ManualClock::new()).build().unwrap();
    let mut claim = claim(&dedup, &key("order"));
    let prepared = block_on(claim.prepare("late")).unwrap();
    now.fetch_add(3_600 * 24 * 365 * 10, Ordering::Relaxed);
    let mut connection = store.connect().unwrap();
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    assert!(matches!(store.complete_in(&transaction, &prepared), Err(CompleteError::Superseded)));
}

#[test]
fn a_transaction_elsewhere_or_none_is_refused() {
    let (directory, path) = scratch();
    let (store, connection) = shop(&path);
    let dedup = patient(store.clone()).build().unwrap();
    let mut claim = claim(&dedup, &key("order"));
    let prepared = block_on(claim.prepare("placed")).unwrap();
    assert!(matches!(store.complete_in(&connection, &prepared), Err(CompleteError::NoTransaction)));

    let elsewhere = directory.path().join("elsewhere.db");
    drop(SqliteStore::open(&elsewhere).unwrap());
    for mut other in [Connection::open(&elsewhere).unwrap(), Connection::open_in_memory().unwrap()] {
        let transaction = other.transaction().unwrap();
        let error = store.complete_in(&transaction, &prepared).unwrap_err();
        assert!(matches!(error, CompleteError::OtherFile { .. }), "{error:?}");
    }

    // The same file by another name.
    let link = directory.path().join("link.db");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let mut linked = Connection::open(&link).unwrap();
    store.complete_in(&linked.transaction().unwrap(), &prepared).unwrap();
}

#[test]
fn a_transaction_that_began_by_reading_is_told_what_to_do() {
    let (_directory, path) = scratch();
    let (store, mut connection) = shop(&path);
    let dedup = patient(store.clone()).build().unwrap();
    let mut claim = claim(&dedup, &key("order"));
    let prepared = block_on(claim.prepare("placed")).unwrap();
    let transaction = connection.transaction().unwrap();
    transaction.query_row("SELECT count(*) FROM orders", [], |row| row.get::<_, i64>(0)).unwrap();
    // Somebody else writes.
    super::written(super::put(
        &store,
        &key("other"),
        oncekey::protocol::Expected::Vacant,
        &super::in_progress(1),
    ));
    let error = store.complete_in(&transaction, &prepared).unwrap_err();
    assert!(matches!(error, CompleteError::NotImmediate(_)), "{error:?}");
    assert!(error.to_string().contains("BEGIN IMMEDIATE"), "{error}");
}

/// In a child: completes an order in a transaction, and stops there until it is killed.
pub(crate) fn crash(path: &Path, committed: bool) {
    let (store, mut connection) = shop(path);
    let dedup = patient(store.clone()).policy(Policy::Hold).build().unwrap();
    let mut claim = claim(&dedup, &key("order"));
    let prepared = block_on(claim.prepare("placed")).unwrap();
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    transaction.execute(INSERT, []).unwrap();
    store.complete_in(&transaction, &prepared).unwrap();
    if committed {
        transaction.commit().unwrap();
        stop();
    } else {
        stop();
        drop(transaction);
    }
}

fn stop() {
    println!("STOPPED");
    std::io::stdout().flush().unwrap();
    // Until the end of the process; should the parent be gone, until its end of the pipe is closed.
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
fn a_crash_leaves_both_or_neither() {
    for (work, committed) in
        [("complete, crash before the commit", false), ("complete, crash after the commit", true)]
    {
        let (_directory, path) = scratch();
        let mut child = super::child::start(work, &path, &[]);
        let mut said = String::new();
        let mut stdout = child.stdout.take().unwrap();
        while !said.contains("STOPPED") {
            let mut some = [0; 256];
            let count = stdout.read(&mut some).unwrap();
            assert!(count > 0, "the child ended by itself: {said}");
            said.push_str(&String::from_utf8_lossy(&some[..count]));
        }
        child.kill().unwrap();
        child.wait().unwrap();

        let (store, _) = shop(&path);
        let dedup = patient(store).policy(Policy::Hold).build().unwrap();
        let key = key("order");
        if committed {
            assert_eq!(orders(&path), 1);
            assert_eq!(replay(&dedup, &key).as_deref(), Some(&b"placed"[..]));
            continue;
        }
        assert_eq!(orders(&path), 0);
        let claim = || block_on(dedup.request(key.clone()).claim()).unwrap();
        assert!(matches!(claim(), ClaimAnswer::Answered(Earlier::InProgress { .. })));
        // The end of its lease.
        let connection = dedup.store().connect().unwrap();
        let expired = "UPDATE oncekey_records SET live_until_ns = written_ns";
        assert_eq!(connection.execute(expired, []).unwrap(), 1);
        let answer = claim();
        assert!(
            matches!(answer, ClaimAnswer::Answered(Earlier::InDoubt { .. })),
            "a claim answered {answer:?}"
        );
    }
}

/// One transaction that completes a claim twice is told at the second time; another claim can be completed in it.
#[test]
fn what_is_completed_twice_in_one_transaction_is_refused() {
    let (_directory, path) = scratch();
    let (store, mut connection) = shop(&path);
    let dedup = patient(store.clone()).build().unwrap();
    let (mut twice, mut beside) = (claim(&dedup, &key("twice")), claim(&dedup, &key("beside")));
    let prepared = block_on(twice.prepare("receipt")).unwrap();
    let other = block_on(beside.prepare("other")).unwrap();
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    store.complete_in(&transaction, &prepared).unwrap();
    store.complete_in(&transaction, &other).unwrap();
    for prepared in [&prepared, &other] {
        let refused = store.complete_in(&transaction, prepared).unwrap_err();
        assert!(matches!(refused, CompleteError::Superseded), "{refused:?}");
    }
    transaction.rollback().unwrap();
    twice.rolled_back();
    beside.rolled_back();
}
