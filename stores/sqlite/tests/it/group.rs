//! Group commit: writes that wait together are committed together, and judged one by one.

use std::path::Path;

use futures::executor::block_on;
use oncekey::protocol::{Expected, Record};
use oncekey::store::{BatchPut, Exchange, Put, Store as _};
use oncekey_sqlite::rusqlite::Connection;
use oncekey_sqlite::{SqliteError, SqliteStore, SqliteStoreBuilder};

use super::{HOUR, MINUTE, completed, in_progress, key, look, open, scratch, written};

/// Commits in the write-ahead log since its beginning: frames that say how large the database is afterwards.
fn commits(path: &Path) -> usize {
    let log = std::fs::read(path.with_extension("db-wal")).unwrap();
    let number = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().unwrap());
    let page = number(8) as usize;
    let salt = &log[16..24];
    let frames = (32..).step_by(24 + page).take_while(|at| at + 24 + page <= log.len());
    frames.take_while(|at| &log[at + 8..at + 16] == salt).filter(|at| number(at + 4) != 0).count()
}

/// A store with one thread that reads, which comes to one call after the other.
fn one_reader(path: &Path) -> SqliteStoreBuilder {
    SqliteStore::builder(path).readers(1).busy_timeout(MINUTE)
}

/// Claims a key for each record. All claims wait for the writer, which waits for a lock, before the lock is released. The
/// store is of [`one_reader`].
fn at_once(store: &SqliteStore, path: &Path, records: &[Record]) -> Vec<Result<Exchange, SqliteError>> {
    let holder = Connection::open(path).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let keys: Vec<_> = (0..records.len()).map(|index| key(format!("at once {index}"))).collect();
    let claim = |(key, record)| store.compare_exchange(key, Expected::Vacant, Put::new(record, HOUR, HOUR));
    let mut claims: Vec<_> = keys.iter().zip(records).map(claim).collect();
    for claim in &mut claims {
        assert!(look(claim).is_pending(), "the lock is held");
    }
    // The reader hands each claim to the writer, and comes to this afterwards.
    assert!(block_on(store.load(&key("never written"))).unwrap().is_none());
    holder.execute_batch("ROLLBACK").unwrap();
    claims.into_iter().map(block_on).collect()
}

#[test]
fn writes_that_wait_together_are_committed_together() {
    let (_directory, path) = scratch();
    let store = one_reader(&path).open().unwrap();
    let records: Vec<_> = (0..64).map(in_progress).collect();
    let before = commits(&path);
    let answers = at_once(&store, &path, &records);
    let mut versions: Vec<_> = answers.into_iter().map(written).collect();
    versions.sort_unstable();
    versions.dedup();
    assert_eq!(versions.len(), 64);
    assert_eq!(commits(&path) - before, 1);
}

#[test]
fn a_batch_is_one_commit() {
    let (_directory, path) = scratch();
    let store = SqliteStore::builder(&path).group_max(16).open().unwrap();
    let (record, keys) = (in_progress(1), (0..500).map(|index| key(format!("{index}"))).collect::<Vec<_>>());
    let put = Put::new(&record, HOUR, HOUR);
    let batch: Vec<_> = keys.iter().map(|key| BatchPut::new(key, Expected::Vacant, put)).collect();
    let before = commits(&path);
    block_on(store.compare_exchange_many(&batch)).into_iter().for_each(|answer| _ = written(answer));
    assert_eq!(commits(&path) - before, 1);
    // Nothing changes, nothing is flushed.
    let again = block_on(store.compare_exchange_many(&batch));
    assert!(again.iter().all(|answer| matches!(answer, Ok(Exchange::Conflict(Some(_))))));
    assert_eq!(commits(&path) - before, 1);
}

/// A commit that SQLite recovers after a crash may not be on disk. A commit of the store's own flushes it.
#[test]
fn opening_a_file_makes_a_commit() {
    let (_directory, path) = scratch();
    let _keeps_the_log = open(&path);
    let before = commits(&path);
    drop(open(&path));
    assert_eq!(commits(&path) - before, 1);
}

#[test]
fn a_group_is_no_larger_than_it_may_be() {
    let (_directory, path) = scratch();
    let store = one_reader(&path).group_max(1).open().unwrap();
    let records: Vec<_> = (0..16).map(in_progress).collect();
    let before = commits(&path);
    at_once(&store, &path, &records).into_iter().for_each(|answer| _ = written(answer));
    assert_eq!(commits(&path) - before, 16);
}

/// One that does not fit makes SQLite give up the whole transaction; its neighbours are written all the same.
#[test]
fn one_write_that_fails_is_not_its_neighbours_failure() {
    let (_directory, path) = scratch();
    let store = one_reader(&path).pages_max(120).open().unwrap();
    let mut records: Vec<_> = (0..16).map(in_progress).collect();
    records[7] = completed(&vec![7; 1_000_000]);
    for (index, answer) in at_once(&store, &path, &records).into_iter().enumerate() {
        match answer {
            Err(error) => {
                assert!(index == 7 && matches!(error, SqliteError::DiskFull(_)), "{index}: {error:?}");
            }
            answer => _ = written(answer),
        }
    }
}
