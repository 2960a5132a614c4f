//! The file is no longer the one at the path of the store: nothing is granted, and whoever asks is told.
#![cfg(unix)]

use std::fs;
use std::path::{Path, PathBuf};

use futures::executor::block_on;
use oncekey::Deduplicator;
use oncekey::protocol::Expected;
use oncekey::store::{
    BatchPut, ListInDoubt as _, Put, Store as _, StoreError as _, StoreErrorKind, TrimOutcomes as _,
};
use oncekey_sqlite::rusqlite::Connection;
use oncekey_sqlite::{CompleteError, Reads, SqliteError, SqliteStore};

use super::{HOUR, completed, granted, in_progress, key, open, patient, put, scratch, until, written};

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// Copies what the file holds, as a backup would, and puts it in its place.
fn restore(path: &Path) {
    let copy = beside(path, ".backup");
    let sql = format!("VACUUM INTO '{}'", copy.display());
    Connection::open(path).unwrap().execute_batch(&sql).unwrap();
    fs::rename(copy, path).unwrap();
}

fn delete(path: &Path) {
    for ending in ["", "-wal", "-shm"] {
        fs::remove_file(beside(path, ending)).unwrap();
    }
}

fn assert_replaced(error: &SqliteError) {
    assert!(matches!(error, SqliteError::Replaced { .. }), "{error:?}");
    assert_eq!((error.kind(), error.maybe_applied()), (StoreErrorKind::Rejected, false));
    assert!(error.to_string().contains("start again"), "{error}");
}

type Way = (&'static str, fn(&Path));

/// Each way in which the file can go.
const WAYS: [Way; 6] = [
    ("deleted", delete),
    ("replaced by a copy", restore),
    ("moved away", |path| fs::rename(path, beside(path, ".away")).unwrap()),
    ("its log is deleted", |path| fs::remove_file(beside(path, "-wal")).unwrap()),
    ("its shared memory is deleted", |path| fs::remove_file(beside(path, "-shm")).unwrap()),
    ("its directory is another", |path| {
        let directory = path.parent().unwrap();
        fs::rename(directory, beside(directory, ".away")).unwrap();
        fs::create_dir(directory).unwrap();
    }),
];

#[test]
fn a_store_whose_file_is_no_longer_at_its_path_grants_nothing() {
    for (way, change) in WAYS {
        for reads in [Reads::OnThreads, Reads::OnCaller] {
            let (outer, _) = scratch();
            fs::create_dir(outer.path().join("data")).unwrap();
            let path = outer.path().join("data").join("store.db");
            let store = SqliteStore::builder(&path).reads(reads).open().unwrap();
            let version = written(put(&store, &key("held"), Expected::Vacant, &in_progress(1)));
            written(put(&store, &key("done"), Expected::Vacant, &completed(b"outcome")));
            let mut transaction = store.connect().unwrap();
            let dedup = patient(store.clone()).build().unwrap();
            let mut claim = granted(block_on(dedup.request(key("prepared")).claim()).unwrap());
            let prepared = block_on(claim.prepare("receipt")).unwrap();
            change(&path);

            let record = in_progress(2);
            assert_replaced(&put(&store, &key("fresh"), Expected::Vacant, &record).unwrap_err());
            assert_replaced(&put(&store, &key("held"), Expected::At(version), &record).unwrap_err());
            let fresh = key("fresh");
            let batch = [BatchPut::new(&fresh, Expected::Vacant, Put::new(&record, HOUR, HOUR))];
            let batch = block_on(store.compare_exchange_many(&batch)).remove(0);
            assert_replaced(&batch.unwrap_err());
            assert_replaced(&block_on(store.purge(10)).unwrap_err());
            let transaction = transaction.transaction().unwrap();
            let refused = store.complete_in(&transaction, &prepared).unwrap_err();
            assert!(
                matches!(&refused, CompleteError::Sqlite(SqliteError::Replaced { .. })),
                "{way}: {refused:?}"
            );
            drop(transaction);
            claim.rolled_back();
            assert_replaced(&store.connect().unwrap_err());
            // Reads look now and then.
            until("a replay is refused, too", || block_on(store.load(&key("done"))).is_err());
            assert_replaced(&block_on(store.load(&key("done"))).unwrap_err());
            assert_replaced(&block_on(store.list_in_doubt(None, 10)).unwrap_err());
            assert_replaced(&block_on(store.trim_outcomes(None, 10)).unwrap_err());

            // Another process that opens the path has it for itself. What is left of the old log would not fit a copy.
            if matches!(way, "deleted" | "its directory is another") {
                let other = open(&path);
                written(put(&other, &key("fresh"), Expected::Vacant, &record));
            }
            drop((claim, dedup, store));
        }
    }
}

/// A file that comes back, as from a move that was a mistake, is the same file.
#[test]
fn a_file_that_comes_back_is_known_again() {
    let (_directory, path) = scratch();
    let store = open(&path);
    written(put(&store, &key("a"), Expected::Vacant, &in_progress(1)));
    let away = beside(&path, ".away");
    fs::rename(&path, &away).unwrap();
    assert_replaced(&put(&store, &key("b"), Expected::Vacant, &in_progress(1)).unwrap_err());
    fs::rename(&away, &path).unwrap();
    written(put(&store, &key("b"), Expected::Vacant, &in_progress(1)));
}

/// The path is a link, and is made to point to another file.
#[test]
fn a_link_that_points_elsewhere_is_another_file() {
    let (directory, path) = scratch();
    let (one, other) = (directory.path().join("one.db"), directory.path().join("other.db"));
    drop(open(&one));
    drop(open(&other));
    std::os::unix::fs::symlink(&one, &path).unwrap();
    let store = open(&path);
    written(put(&store, &key("a"), Expected::Vacant, &in_progress(1)));
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&other, &path).unwrap();
    assert_replaced(&put(&store, &key("b"), Expected::Vacant, &in_progress(1)).unwrap_err());
}

/// Two processes on one path, the file replaced between them: the operation runs in one.
#[test]
fn two_stores_on_one_path_do_not_run_one_key_twice() {
    let (_directory, path) = scratch();
    let old = open(&path);
    restore(&path);
    for ending in ["-wal", "-shm"] {
        fs::remove_file(beside(&path, ending)).unwrap();
    }
    let new = open(&path);
    let mut ran = 0;
    for store in [old, new] {
        let dedup = Deduplicator::new(store);
        let run = block_on(dedup.request(key("once")).run(|_| {
            ran += 1;
            async { Ok::<_, std::io::Error>(b"done".to_vec()) }
        }));
        drop(run);
    }
    assert_eq!(ran, 1);
}

/// What others do to a file that is in use does not make it another: checkpoints, backups, connections that come and go.
#[test]
fn a_file_in_use_stays_the_same() {
    let (_directory, path) = scratch();
    let store = open(&path);
    for round in 0..20 {
        written(put(&store, &key(format!("{round}")), Expected::Vacant, &in_progress(1)));
        let other = Connection::open(&path).unwrap();
        other.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); VACUUM").unwrap();
        drop(other);
        drop(open(&path));
        let copy = beside(&path, ".backup");
        let sql = format!("VACUUM INTO '{}'", copy.display());
        Connection::open(&path).unwrap().execute_batch(&sql).unwrap();
        fs::remove_file(copy).unwrap();
        assert!(block_on(store.load(&key("0"))).unwrap().is_some());
    }
}
