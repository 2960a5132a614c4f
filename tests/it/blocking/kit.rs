//! The conformance kit and the simulation over a store whose calls block.

use std::collections::BTreeMap;
use std::sync::Mutex;

use oncekey::blocking::{Blocking, BlockingStore};
use oncekey::protocol::{DecodeError, Entry, Expected, Record, Version};
use oncekey::store::{Durability, DurabilityClass, Exchange, Purged, Put, StoreError, StoreErrorKind};
use oncekey::time::{Clock as _, Moment};
use oncekey::{Key, Payload};
use oncekey_conformance::{Abilities, Clause, Effort, Harness, Subject, Time, certify, check, simulate};

use super::*;
use gap::Gap;

#[path = "../../../conformance/tests/sabotage/gap.rs"]
mod gap;

/// A table under one lock, by the clock of its harness.
struct Table {
    rows: Mutex<Rows>,
    time: Time,
    records_max: usize,
    /// Reads, and writes in a second step: between them, others come.
    split: bool,
    gap: Gap,
}

#[derive(Default)]
struct Rows {
    rows: BTreeMap<Vec<u8>, Row>,
    last_version: u64,
}

struct Row {
    body: Vec<u8>,
    version: u64,
    expires: Moment,
    gone: Moment,
}

#[derive(Debug, thiserror::Error)]
enum TableError {
    #[error("row does not decode: {0}")]
    Corrupt(#[from] DecodeError),
    #[error("the table is full")]
    Full,
}

impl StoreError for TableError {
    fn kind(&self) -> StoreErrorKind {
        match self {
            Self::Corrupt(_) => StoreErrorKind::Corrupt,
            Self::Full => StoreErrorKind::Full,
        }
    }

    fn maybe_applied(&self) -> bool {
        false
    }
}

impl Rows {
    fn read(&self, key: &Key, now: Moment) -> Result<Option<Entry>, TableError> {
        let Some(row) = self.rows.get(key.as_bytes()).filter(|row| now < row.gone) else { return Ok(None) };
        let record = Record::decode(&Payload::from(&row.body[..]))?;
        Ok(Some(Entry {
            record,
            version: Version::new(row.version),
            left: row.expires.saturating_since(now),
        }))
    }
}

impl BlockingStore for Table {
    type Error = TableError;

    fn load(&self, key: &Key) -> Result<Option<Entry>, TableError> {
        let rows = self.rows.lock().unwrap();
        rows.read(key, self.time.now())
    }

    fn compare_exchange(&self, key: &Key, expected: Expected, put: Put<'_>) -> Result<Exchange, TableError> {
        let mut rows = self.rows.lock().unwrap();
        let now = self.time.now();
        let current = rows.read(key, now)?;
        let fits = match expected {
            Expected::Vacant => current.is_none(),
            Expected::At(version) => current.as_ref().is_some_and(|entry| entry.version == version),
        };
        if !fits {
            return Ok(Exchange::Conflict(current));
        }
        if self.split {
            drop(rows);
            self.gap.meet();
            rows = self.rows.lock().unwrap();
        }
        if expected == Expected::Vacant {
            rows.rows.retain(|_, row| now < row.gone);
            if rows.rows.len() >= self.records_max {
                return Err(TableError::Full);
            }
        }
        rows.last_version += 1;
        let version = rows.last_version;
        let (expires, body) = (now + put.live, put.record.encode());
        rows.rows.insert(key.as_bytes().to_vec(), Row { body, version, expires, gone: expires + put.linger });
        Ok(Exchange::Done(Version::new(version)))
    }

    fn purge(&self, limit: usize) -> Result<Purged, TableError> {
        let mut rows = self.rows.lock().unwrap();
        let now = self.time.now();
        let gone: Vec<_> =
            rows.rows.iter().filter(|(_, row)| row.gone <= now).map(|(key, _)| key.clone()).collect();
        for key in gone.iter().take(limit) {
            rows.rows.remove(key);
        }
        Ok(Purged { removed: gone.len().min(limit), more: gone.len() > limit })
    }

    fn durability(&self) -> Durability {
        Durability::new(DurabilityClass::Process, "a table in memory")
    }
}

/// The table on a clock moved by hand, or on this machine's.
#[derive(Clone, Copy)]
struct Tables {
    manual: bool,
    split: bool,
}

const BY_HAND: Tables = Tables { manual: true, split: false };
const ON_REAL_TIME: Tables = Tables { manual: false, split: false };

impl Tables {
    fn subject(self, records_max: usize) -> Subject<Blocking<Table>> {
        let time = match self.manual {
            true => Time::manual(ManualClock::new()),
            false => Time::real(Duration::from_millis(50), Duration::ZERO),
        };
        let (rows, gap) = (Mutex::default(), Gap::default());
        let table = Table { rows, time: time.clone(), records_max, split: self.split, gap };
        Subject::new(Blocking::new(table), time)
    }
}

impl Harness for Tables {
    type Store = Blocking<Table>;
    type Guard = ();

    fn fresh(&self) -> Subject<Blocking<Table>> {
        self.subject(usize::MAX)
    }

    fn fresh_bounded(&self, records_max: usize) -> Option<Subject<Blocking<Table>>> {
        Some(self.subject(records_max))
    }

    fn abilities(&self) -> Abilities {
        Abilities::default().purging()
    }

    fn effort(&self) -> Effort {
        Effort::modest()
    }
}

mod by_hand {
    oncekey_conformance::conformance_tests!(super::BY_HAND);
}

mod on_real_time {
    oncekey_conformance::conformance_tests!(super::ON_REAL_TIME);
}

#[test]
fn it_gets_its_certificate() {
    let certificate = certify(&BY_HAND);
    assert!(certificate.holds(), "{certificate}");
}

#[test]
fn one_that_checks_and_then_writes_is_caught() {
    let wrong = Tables { split: true, ..BY_HAND };
    let violation =
        check(&wrong, "s1_of_racing_claims_one_is_done").expect_err("two claims of one key were done");
    assert_eq!(violation.clause, Clause::S1);
}

/// The engine over it, with everything between them going wrong.
#[test]
fn the_promises_hold_over_it_whatever_goes_wrong() {
    let mut met = BTreeMap::new();
    for seed in 0..200 {
        let played = simulate(&BY_HAND, seed).unwrap_or_else(|violation| panic!("\n{violation}\n"));
        for (what, times) in played.met {
            *met.entry(what).or_insert(0) += times;
        }
    }
    for what in [
        "executed",
        "replay",
        "takeover",
        "superseded, possibly applied",
        "lease lost",
        "crash in the middle",
    ] {
        assert!(met.contains_key(what), "never met: {what}; {met:#?}");
    }
}
