//! A store of one's own, whole, with its clock, its harness and its certificate.
//!
//! `cargo run -p oncekey-conformance --example own_store`

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use oncekey::Key;
use oncekey::protocol::{DecodeError, Entry, Expected, Record, Version};
use oncekey::store::{Exchange, Purged, Put, Store, StoreError, StoreErrorKind};
use oncekey::time::{Clock, ManualClock, Moment};
use oncekey_conformance::{Abilities, Effort, Harness, Subject, Time, certify};

/// One table, one lock, and a counter that outlives the rows.
struct TableStore {
    table: Mutex<Table>,
    /// A database has a clock of its own, and this field is not there. Then the harness says `Time::real`.
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct Table {
    rows: BTreeMap<Vec<u8>, Row>,
    last_version: u64,
}

struct Row {
    body: Vec<u8>,
    version: u64,
    written: Moment,
    live: Duration,
    linger: Duration,
}

#[derive(Debug, thiserror::Error)]
#[error("a row does not decode; look at it in the table")]
struct TableError(#[from] DecodeError);

/// Both methods have careful defaults. This store only fails on reading, and says so.
impl StoreError for TableError {
    fn kind(&self) -> StoreErrorKind {
        StoreErrorKind::Corrupt
    }

    fn maybe_applied(&self) -> bool {
        false
    }
}

impl Row {
    fn is_gone(&self, now: Moment) -> bool {
        now.saturating_since(self.written) >= self.live.saturating_add(self.linger)
    }
}

impl Table {
    /// Nothing past live + linger (clause S3); with nothing left once it has expired (S7).
    fn read(&self, key: &Key, now: Moment) -> Result<Option<Entry>, TableError> {
        let Some(row) = self.rows.get(key.as_bytes()).filter(|row| !row.is_gone(now)) else {
            return Ok(None);
        };
        let left = match row.live {
            Duration::MAX => Duration::MAX, // forever stays forever
            live => live.saturating_sub(now.saturating_since(row.written)),
        };
        Ok(Some(Entry { record: Record::decode(&row.body[..])?, version: Version::new(row.version), left }))
    }
}

#[async_trait]
impl Store for TableStore {
    type Error = TableError;

    async fn load(&self, key: &Key) -> Result<Option<Entry>, TableError> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).read(key, self.clock.now())
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Expected,
        put: Put<'_>,
    ) -> Result<Exchange, TableError> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner); // one step (S1)
        let now = self.clock.now();
        let current = table.read(key, now)?;
        let fits = match expected {
            Expected::Vacant => current.is_none(),
            Expected::At(version) => current.as_ref().is_some_and(|entry| entry.version == version),
        };
        if !fits {
            return Ok(Exchange::Conflict(current));
        }
        table.last_version += 1; // it never repeats, also after a row is gone (S2)
        let version = table.last_version;
        let body = put.record.as_bytes().to_vec();
        let row = Row { body, version, written: now, live: put.live, linger: put.linger };
        table.rows.insert(key.as_bytes().to_vec(), row);
        Ok(Exchange::Done(Version::new(version)))
    }

    async fn purge(&self, limit: usize) -> Result<Purged, TableError> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        let gone = table.rows.iter().filter(|(_, row)| row.is_gone(now)).map(|(key, _)| key.clone());
        let gone: Vec<_> = gone.take(limit.saturating_add(1)).collect();
        let more = gone.len() > limit;
        let removed = gone.iter().take(limit).filter(|key| table.rows.remove(*key).is_some()).count();
        Ok(Purged { removed, more })
    }
}

/// How the kit makes a store, and lets its time pass.
struct TableHarness;

impl Harness for TableHarness {
    type Store = TableStore;
    type Guard = ();

    fn fresh(&self) -> Subject<TableStore> {
        let clock = ManualClock::new();
        let store = TableStore { table: Mutex::default(), clock: Arc::new(clock.clone()) };
        Subject::new(store, Time::manual(clock)) // the kit moves the clock: no case waits
    }

    fn abilities(&self) -> Abilities {
        Abilities::default().purging()
    }

    fn effort(&self) -> Effort {
        Effort::modest()
    }
}

/// In the tests of a crate, `oncekey_conformance::conformance_tests!(TableHarness);` makes each case a test.
fn main() -> io::Result<()> {
    let certificate = certify(&TableHarness);
    writeln!(io::stdout(), "{certificate}")?;
    if certificate.holds() { Ok(()) } else { Err(io::Error::other("the store does not conform")) }
}
