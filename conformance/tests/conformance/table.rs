//! The worked example of the `Store` docs, as a store author would put it to the test: written by the contract alone, on
//! the clock of this machine, with no purge and no bound. What the kit demands beyond the contract would show here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use oncekey::Key;
use oncekey::protocol::{DecodeError, Entry, Expected, Record, Version};
use oncekey::store::{Durability, DurabilityClass, Exchange, Put, Store, StoreError, StoreErrorKind};
use oncekey_conformance::{Effort, Harness, Subject, Time};

/// The table outlives the store, as a file would: the kit opens it again.
#[derive(Clone, Debug, Default)]
pub(crate) struct TableStore(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    rows: BTreeMap<Vec<u8>, Row>,
    last_version: u64,
}

#[derive(Debug)]
struct Row {
    body: Vec<u8>,
    version: u64,
    written: Instant,
    live: Duration,
    linger: Duration,
}

#[derive(Debug, thiserror::Error)]
#[error("row does not decode: {0}")]
pub(crate) struct TableError(#[from] DecodeError);

impl StoreError for TableError {
    fn kind(&self) -> StoreErrorKind {
        StoreErrorKind::Corrupt
    }

    fn maybe_applied(&self) -> bool {
        false
    }
}

impl Table {
    fn read(&self, key: &Key, now: Instant) -> Result<Option<Entry>, TableError> {
        let Some(row) = self.rows.get(key.as_bytes()) else { return Ok(None) };
        let age = now - row.written;
        if age >= row.live.saturating_add(row.linger) {
            return Ok(None);
        }
        let record = Record::decode(&row.body[..])?;
        let left = match row.live {
            Duration::MAX => Duration::MAX,
            live => live.saturating_sub(age),
        };
        Ok(Some(Entry { record, version: Version::new(row.version), left }))
    }
}

#[async_trait::async_trait]
impl Store for TableStore {
    type Error = TableError;

    async fn load(&self, key: &Key) -> Result<Option<Entry>, TableError> {
        self.0.lock().unwrap().read(key, Instant::now())
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Expected,
        put: Put<'_>,
    ) -> Result<Exchange, TableError> {
        let mut table = self.0.lock().unwrap();
        let now = Instant::now();
        let current = table.read(key, now)?;
        if match expected {
            Expected::Vacant => current.is_some(),
            Expected::At(version) => current.as_ref().map(|entry| entry.version) != Some(version),
        } {
            return Ok(Exchange::Conflict(current));
        }
        table.last_version += 1;
        let version = table.last_version;
        let body = put.record.as_bytes().to_vec();
        let row = Row { body, version, written: now, live: put.live, linger: put.linger };
        table.rows.insert(key.as_bytes().to_vec(), row);
        Ok(Exchange::Done(Version::new(version)))
    }

    fn durability(&self) -> Durability {
        Durability::new(DurabilityClass::Machine, "the table outlives the store, in memory")
    }
}

/// The table store on real time.
#[derive(Debug)]
pub(crate) struct TableHarness;

impl TableHarness {
    fn open(table: TableStore) -> Subject<TableStore, TableStore> {
        let time = Time::real(Duration::from_millis(50), Duration::ZERO);
        Subject::guarded(table.clone(), time, table)
    }
}

impl Harness for TableHarness {
    type Store = TableStore;
    type Guard = TableStore;

    fn fresh(&self) -> Subject<TableStore, TableStore> {
        Self::open(TableStore::default())
    }

    fn reopen(&self, guard: TableStore) -> Option<Subject<TableStore, TableStore>> {
        Some(Self::open(guard))
    }

    fn effort(&self) -> Effort {
        Effort::modest()
    }
}
