//! The abilities that this store adds to the contract, and its failures.
#![allow(clippy::unwrap_used)]

mod acknowledged;
mod child;
mod complete;
mod group;
mod locks;
mod old_records;
mod open;
mod processes;
mod purge;
mod readers;
mod replaced;
mod resolve;
mod stuck_key;
mod trouble;

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use oncekey::protocol::{Act, ClaimCommand, Decision, HolderCommand, Lifetimes, OnDoubt, decide};
use oncekey::protocol::{Expected, Owner, Record, UnixMillis, Version};
use oncekey::store::{Exchange, Put, Store as _};
use oncekey::{Claim, ClaimAnswer, Deduplicator, DeduplicatorBuilder, Key, OperationId, Outcome, Policy};
use oncekey_sqlite::{SqliteError, SqliteStore};
use tempfile::TempDir;

const HOUR: Duration = Duration::from_secs(3600);
/// Longer than any call takes on a busy machine. A bound of a minute ends a hang; it is never what a test shows.
const MINUTE: Duration = Duration::from_secs(60);
const LIFETIMES: Lifetimes = Lifetimes { lease: HOUR, retention: HOUR, tail: Duration::ZERO };

fn scratch() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    (directory, path)
}

/// A store whose calls wait for the lock of another connection as long as a test may hold it.
fn open(path: &Path) -> SqliteStore {
    SqliteStore::builder(path).busy_timeout(MINUTE).open().unwrap()
}

/// An engine whose leases last, and whose calls are answered, however busy the machine is.
fn patient(store: SqliteStore) -> DeduplicatorBuilder<SqliteStore> {
    Deduplicator::builder(store).store_timeout(MINUTE).lease(HOUR)
}

/// Waits until this holds.
fn until(what: &str, holds: impl FnMut() -> bool) {
    let mut holds = holds;
    let end = Instant::now() + MINUTE;
    while !holds() {
        assert!(Instant::now() < end, "not within a minute: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Looks at a future once: its answer, if it has one.
fn look<F: Future + ?Sized>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

fn key(id: impl AsRef<str>) -> Key {
    Key::new("tests", id).unwrap()
}

/// A record as a first claim writes it.
fn in_progress(owner: u8) -> Record {
    let command = ClaimCommand {
        owner: Owner::from_bytes([owner; 16]),
        operation_id: OperationId::from_bytes([owner; 16]),
        fingerprint: None,
        policy: Policy::Reclaim,
        attempts_max: None,
        on_doubt: OnDoubt::GoByPolicy,
        now: UnixMillis(1_795_478_400_000),
    };
    match decide(None, &command, &LIFETIMES) {
        Decision::Write(write) => write.record,
        Decision::Answer(verdict) => panic!("a claim of a vacant key writes, and this answered {verdict:?}"),
    }
}

/// A record with this outcome.
fn completed(outcome: &[u8]) -> Record {
    let record = in_progress(1);
    let entry = oncekey::protocol::Entry { record, version: Version::new(1), left: HOUR };
    let holder = oncekey::protocol::Holder {
        owner: entry.record.owner(),
        token: entry.fencing_token(),
        attempt: entry.record.attempt(),
    };
    let outcome = Outcome::success(outcome);
    match decide(
        Some(&entry),
        &HolderCommand { holder, act: Act::Complete(outcome.borrowed(), UnixMillis(1_795_478_400_001)) },
        &LIFETIMES,
    ) {
        Decision::Write(write) => write.record,
        Decision::Answer(verdict) => panic!("a completion writes, and this answered {verdict:?}"),
    }
}

fn put(store: &SqliteStore, key: &Key, expected: Expected, record: &Record) -> Result<Exchange, SqliteError> {
    block_on(store.compare_exchange(key, expected, Put::new(record, HOUR, HOUR)))
}

/// The claim of a call that is due to get one.
fn granted(answer: ClaimAnswer<Claim<SqliteStore>>) -> Claim<SqliteStore> {
    match answer {
        ClaimAnswer::Granted(claim) => claim,
        other => panic!("a claim that is due answered {other:?}"),
    }
}

fn written(answer: Result<Exchange, SqliteError>) -> Version {
    match answer {
        Ok(Exchange::Done(version)) => version,
        other => panic!("a write that is due was answered {other:?}"),
    }
}
