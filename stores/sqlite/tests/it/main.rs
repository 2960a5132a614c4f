//! What this store adds to the contract, and what goes wrong.
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
mod resolve;
mod stuck_key;
mod trouble;

use std::time::Duration;

use futures::executor::block_on;
use oncekey::protocol::{ClaimCommand, Command, Decision, Lifetimes, decide};
use oncekey::store::{Exchange, Put, Store as _};
use oncekey::{Expected, Key, OperationId, Outcome, Owner, Policy, Record, UnixMillis, Version};
use oncekey_sqlite::{SqliteError, SqliteStore};
use tempfile::TempDir;

const HOUR: Duration = Duration::from_secs(3600);
const LIFETIMES: Lifetimes = Lifetimes { lease: HOUR, retention: HOUR, tail: Duration::ZERO };

fn scratch() -> (TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    (directory, path)
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
        now: UnixMillis(1_795_478_400_000),
    };
    match decide(None, &Command::Claim(&command), &LIFETIMES) {
        Decision::Write(write) => write.record,
        Decision::Answer(verdict) => panic!("a claim of a vacant key writes, and this answered {verdict:?}"),
    }
}

/// A record with this outcome.
fn completed(outcome: &[u8]) -> Record {
    let record = in_progress(1);
    let entry = oncekey::Entry { record, version: Version::new(1), left: HOUR };
    let holder = oncekey::protocol::Holder {
        owner: entry.record.owner(),
        token: entry.fencing_token(),
        attempt: entry.record.attempt(),
    };
    let outcome = Outcome::success(outcome);
    match decide(
        Some(&entry),
        &Command::Complete(holder, &outcome, UnixMillis(1_795_478_400_001)),
        &LIFETIMES,
    ) {
        Decision::Write(write) => write.record,
        Decision::Answer(verdict) => panic!("a completion writes, and this answered {verdict:?}"),
    }
}

fn put(store: &SqliteStore, key: &Key, expected: Expected, record: &Record) -> Result<Exchange, SqliteError> {
    block_on(store.compare_exchange(key, expected, Put::new(record, HOUR, HOUR)))
}

fn written(answer: Result<Exchange, SqliteError>) -> Version {
    match answer {
        Ok(Exchange::Done(version)) => version,
        other => panic!("a write that is due was answered {other:?}"),
    }
}
