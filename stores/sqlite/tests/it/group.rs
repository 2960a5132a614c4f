//! Group commit: what waits together is committed together, and judged one by one.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use oncekey::store::{BatchPut, Exchange, Put, Store as _};
use oncekey::{Expected, Record};
use oncekey_sqlite::rusqlite::Connection;
use oncekey_sqlite::{SqliteError, SqliteStore};

use super::{HOUR, completed, in_progress, key, put, scratch, written};

/// Commits in the write-ahead log since its beginning: frames that say how large the database is afterwards.
fn commits(path: &Path) -> usize {
    let log = std::fs::read(path.with_extension("db-wal")).unwrap();
    let number = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().unwrap());
    let page = number(8) as usize;
    let salt = &log[16..24];
    let frames = (32..).step_by(24 + page).take_while(|at| at + 24 + page <= log.len());
    frames.take_while(|at| &log[at + 8..at + 16] == salt).filter(|at| number(at + 4) != 0).count()
}

/// Has all of these written at once: they wait for a lock that is held until all of them do.
fn at_once(store: &SqliteStore, path: &Path, records: &[Record]) -> Vec<Result<Exchange, SqliteError>> {
    let holder = Connection::open(path).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    thread::scope(|scope| {
        let writes: Vec<_> = records
            .iter()
            .enumerate()
            .map(|(index, record)| {
                scope.spawn(move || put(store, &key(format!("at once {index}")), Expected::Vacant, record))
            })
            .collect();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(500) {
            thread::sleep(Duration::from_millis(10));
        }
        holder.execute_batch("ROLLBACK").unwrap();
        writes.into_iter().map(|write| write.join().unwrap()).collect()
    })
}

#[test]
fn what_waits_together_is_committed_together() {
    let (_directory, path) = scratch();
    let store = SqliteStore::builder(&path).busy_timeout(Duration::from_secs(60)).open().unwrap();
    let records: Vec<_> = (0..64).map(in_progress).collect();
    let before = commits(&path);
    let answers = at_once(&store, &path, &records);
    let mut versions: Vec<_> = answers.into_iter().map(written).collect();
    versions.sort_unstable();
    versions.dedup();
    assert_eq!(versions.len(), 64);
    // One for whoever came first, one for the others; a thread that was late makes one more.
    let commits = commits(&path) - before;
    assert!((1..=8).contains(&commits), "64 writes that waited together took {commits} commits");
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

/// What SQLite recovered after a crash may not be on disk; a commit of the store's own flushes it.
#[test]
fn opening_a_file_makes_a_commit() {
    let (_directory, path) = scratch();
    let _keeps_the_log = SqliteStore::open(&path).unwrap();
    let before = commits(&path);
    drop(SqliteStore::open(&path).unwrap());
    assert_eq!(commits(&path) - before, 1);
}

#[test]
fn a_group_is_no_larger_than_it_may_be() {
    let (_directory, path) = scratch();
    let store =
        SqliteStore::builder(&path).group_max(1).busy_timeout(Duration::from_secs(60)).open().unwrap();
    let records: Vec<_> = (0..16).map(in_progress).collect();
    let before = commits(&path);
    at_once(&store, &path, &records).into_iter().for_each(|answer| _ = written(answer));
    assert_eq!(commits(&path) - before, 16);
}

/// One that does not fit makes SQLite give up the whole transaction; its neighbours are written all the same.
#[test]
fn one_write_that_fails_is_not_its_neighbours_failure() {
    let (_directory, path) = scratch();
    let store =
        SqliteStore::builder(&path).pages_max(120).busy_timeout(Duration::from_secs(60)).open().unwrap();
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
