//! A store as a third party would write it, by the contract alone: one table, one lock, one counter, a clock. It can
//! have one flaw, at the place where an author would err.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use oncekey::Key;
use oncekey::protocol::{DecodeError, Entry, Expected, Record, State, Version};
use oncekey::store::{
    AtOnce, BatchPut, Durability, DurabilityClass, Exchange, Purged, Put, Store, StoreError, StoreErrorKind,
};
use oncekey::time::{Clock as _, Moment};
use oncekey_conformance::Time;

use super::flaws::Flaw;
use super::gap::{self, Gap};
use super::mangle;

/// What outlives the store: its file, so to say.
#[derive(Debug)]
pub(crate) struct Data {
    table: Mutex<Table>,
    pub(crate) time: Time,
    /// Where flawed stores let another call in.
    pub(crate) gap: Gap,
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) rows: BTreeMap<Vec<u8>, Row>,
    /// The greatest version ever given: it outlives every row.
    pub(crate) last_version: u64,
    /// Versions of keys whose rows are gone, where each key counts for itself.
    pub(crate) tombs: BTreeMap<Vec<u8>, u64>,
    /// Only flawed stores use these: what a replica has not heard of, ends as they were queued, outcomes
    /// apart, calls, versions drawn, and inserts.
    behind: BTreeMap<Vec<u8>, Option<Row>>,
    pub(crate) ends: Vec<(Moment, Vec<u8>)>,
    outcomes: BTreeMap<Vec<u8>, Vec<u8>>,
    calls: u32,
    draws: u64,
    inserted: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) body: Vec<u8>,
    pub(crate) version: u64,
    pub(crate) written: Moment,
    pub(crate) live: Duration,
    pub(crate) linger: Duration,
}

/// Ways to be right.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Versions {
    /// One counter over all keys, that takes such steps.
    Counter { step: u64 },
    /// A counter for each key, kept when its entry goes.
    PerKey,
    /// `max(last + 1, microseconds now)`.
    Microseconds,
}

#[derive(Debug)]
pub(crate) struct Register {
    pub(crate) data: Arc<Data>,
    pub(crate) flaw: Option<Flaw>,
    pub(crate) bound: Option<usize>,
    pub(crate) versions: Versions,
    /// What ends of lives are rounded up to.
    pub(crate) resolution: Duration,
    pub(crate) purges: bool,
    /// How often an update asks its step.
    pub(crate) asks: usize,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error("the table is full")]
    Full,
    #[error("a row does not decode: {0}")]
    Damaged(#[from] DecodeError),
    #[error("no answer from the server")]
    NoAnswer,
}

impl StoreError for Trouble {
    fn maybe_applied(&self) -> bool {
        false
    }

    fn kind(&self) -> StoreErrorKind {
        match self {
            Self::Full => StoreErrorKind::Full,
            Self::Damaged(_) => StoreErrorKind::Corrupt,
            Self::NoAnswer => StoreErrorKind::TimedOut,
        }
    }
}

pub(crate) const MILLI: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

impl Data {
    pub(crate) fn new(time: Time, last_version: u64) -> Arc<Self> {
        let table = Table { last_version, ..Table::default() };
        Arc::new(Self { table: Mutex::new(table), time, gap: Gap::default() })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Row {
    pub(crate) fn age(&self, now: Moment, flaw: Option<Flaw>) -> Duration {
        let age = now.saturating_since(self.written);
        match flaw {
            Some(Flaw::JudgedByTheClient) => age + HOUR,
            Some(Flaw::AgeWrapsAround) => {
                Duration::from_nanos(u64::try_from(age.as_nanos() % (MILLI.as_nanos() << 32)).unwrap())
            }
            _ => age,
        }
    }

    pub(crate) fn is_gone(&self, now: Moment, flaw: Option<Flaw>) -> bool {
        let age = self.age(now, flaw);
        match flaw {
            Some(Flaw::LingerIgnored) => age >= self.live,
            _ => age >= self.live.saturating_add(self.linger),
        }
    }

    fn left(&self, now: Moment, flaw: Option<Flaw>) -> Duration {
        let age = self.age(now, flaw);
        match flaw {
            Some(Flaw::LeftIsNotCountedDown) if age < self.live => self.live,
            _ if self.live == Duration::MAX => Duration::MAX,
            _ => self.live.saturating_sub(age),
        }
    }
}

impl Register {
    pub(crate) fn new(data: Arc<Data>, flaw: Option<Flaw>, bound: Option<usize>) -> Self {
        let versions = Versions::Counter { step: 1 };
        Self { data, flaw, bound, versions, resolution: Duration::ZERO, purges: true, asks: 1 }
    }

    pub(crate) fn is(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Table> {
        if self.is(Flaw::PanicPoisonsTheLock) {
            return self.data.table.lock().unwrap();
        }
        self.data.lock()
    }

    pub(crate) fn id(&self, key: &Key) -> Vec<u8> {
        self.flaw.and_then(|flaw| mangle::key(flaw, key)).unwrap_or_else(|| key.as_bytes().to_vec())
    }

    pub(crate) fn now(&self, table: &mut Table) -> Moment {
        table.calls = table.calls.wrapping_add(1);
        let ahead = self.is(Flaw::StampedByTheClients) && table.calls % 2 == 0;
        self.data.time.now() + if ahead { HOUR } else { Duration::ZERO }
    }

    fn entry(&self, row: &Row, now: Moment) -> Result<Option<Entry>, Trouble> {
        if row.is_gone(now, self.flaw) {
            return Ok(None);
        }
        let record = Record::decode(&row.body[..])?;
        Ok(Some(Entry { record, version: Version::new(row.version), left: row.left(now, self.flaw) }))
    }

    pub(crate) fn read(&self, table: &Table, id: &[u8], now: Moment) -> Result<Option<Entry>, Trouble> {
        table.rows.get(id).map_or(Ok(None), |row| self.entry(row, now))
    }

    pub(crate) fn look(&self, key: &Key) -> Result<Option<Entry>, Trouble> {
        let id = self.id(key);
        let mut table = self.lock();
        let now = self.now(&mut table);
        if self.is(Flaw::LaggingReplica) {
            if let Some(row) = table.behind.remove(&id) {
                return row.map_or(Ok(None), |row| self.entry(&row, now));
            }
        }
        let found = self.read(&table, &id, now)?;
        if let Some(row) = table.rows.get_mut(&id).filter(|_| self.is(Flaw::ReadingRenews)) {
            row.written = now;
        }
        Ok(found)
    }

    pub(crate) fn exchange(&self, key: &Key, expected: Expected, put: Put<'_>) -> Result<Exchange, Trouble> {
        let id = self.id(key);
        let (mut before, mut drawn) = (None, None);
        match (self.flaw, expected) {
            (Some(Flaw::ClaimInTwoSteps), Expected::Vacant)
            | (Some(Flaw::TakeoverInTwoSteps | Flaw::VersionFromWhatWasRead), Expected::At(_))
            | (Some(Flaw::ConflictIsStale), _) => {
                before = Some(self.look(key)?);
                self.data.gap.meet();
            }
            (Some(Flaw::VersionDrawnBeforeTheLock), _) => {
                let mut table = self.lock();
                table.last_version += 1;
                let version = table.last_version;
                drop(table);
                drawn = Some(version);
                self.is_overtaken(&id, version, version);
            }
            (Some(Flaw::VersionCountedOutsideTheLock), _) => {
                let mut table = self.lock();
                let version = table.last_version + 1;
                table.draws += 1;
                let draw = table.draws;
                drop(table);
                drawn = Some(version);
                self.is_overtaken(&id, version, draw);
            }
            _ => {}
        }
        let mut table = self.lock();
        let now = self.now(&mut table);
        let current = self.read(&table, &id, now)?;
        let seen = before.as_ref().filter(|_| !self.is(Flaw::ConflictIsStale)).unwrap_or(&current);
        if let (Expected::At(version), true) = (expected, self.is(Flaw::VersionFromWhatWasRead)) {
            drawn = Some(version.get() + 1);
        }
        if !self.fits(&table, &id, expected, seen.as_ref()) {
            if self.is(Flaw::ConflictIsStale) {
                return Ok(Exchange::Conflict(before.expect("it was read")));
            }
            return Ok(self.conflict(&mut table, &id, current, put, now));
        }
        self.within_bound(&mut table, expected, now)?;
        let full = self.is(Flaw::FullButInserted)
            && expected == Expected::Vacant
            && self.bound.is_some_and(|bound| table.rows.len() >= bound);
        let version = self.put(&mut table, &id, expected, put, now, drawn);
        if full {
            return Err(Trouble::Full);
        }
        if self.is(Flaw::AppliedIsReportedAsNot) && table.calls % 16 == 0 {
            return Err(Trouble::NoAnswer);
        }
        Ok(Exchange::Done(Version::new(version)))
    }

    /// One call in a few, with a version that it has not written yet, waits for the row, until somebody with a version
    /// that is no smaller has had it and given it up.
    fn is_overtaken(&self, id: &[u8], version: u64, draw: u64) {
        if draw % 8 == 0 {
            gap::wait(|| {
                let table = self.lock();
                let now = self.data.time.now();
                table.rows.get(id).is_some_and(|row| row.version >= version && row.is_gone(now, None))
            });
        }
    }

    fn fits(&self, table: &Table, id: &[u8], expected: Expected, seen: Option<&Entry>) -> bool {
        match (expected, self.flaw) {
            (Expected::Vacant, Some(Flaw::ClaimOverwrites)) => true,
            (Expected::Vacant, Some(Flaw::GoneIsInTheWay)) => !table.rows.contains_key(id),
            (Expected::Vacant, _) => seen.is_none(),
            (Expected::At(_), Some(Flaw::VersionNotCompared)) => seen.is_some(),
            (Expected::At(version), Some(Flaw::GreaterVersionFits)) => {
                seen.is_some_and(|entry| entry.version <= version)
            }
            (Expected::At(version), Some(Flaw::ExchangeRevives)) => {
                table.rows.get(id).is_some_and(|row| row.version == version.get())
            }
            (Expected::At(version), Some(Flaw::ExchangeInserts)) => {
                seen.is_none_or(|entry| entry.version == version)
            }
            (Expected::At(version), Some(Flaw::ExpiredCannotBeExchanged)) => {
                seen.is_some_and(|entry| entry.version == version && !entry.left.is_zero())
            }
            (Expected::At(version), _) => seen.is_some_and(|entry| entry.version == version),
        }
    }

    fn conflict(
        &self,
        table: &mut Table,
        id: &[u8],
        current: Option<Entry>,
        put: Put<'_>,
        now: Moment,
    ) -> Exchange {
        let Some(mut entry) = current else { return Exchange::Conflict(None) };
        let row = table.rows.get_mut(id).expect("it was read");
        match self.flaw {
            Some(Flaw::ConflictIsEmpty) => return Exchange::Conflict(None),
            Some(Flaw::ConflictRestamps) => row.written = now,
            Some(Flaw::ConflictRaisesTheVersion) => {
                table.last_version += 1;
                row.version = table.last_version;
                entry.version = Version::new(row.version);
            }
            Some(Flaw::ConflictWrites) => row.body = put.record.as_bytes().to_vec(),
            Some(Flaw::ConflictHasNoTimeLeft) => entry.left = Duration::ZERO,
            Some(Flaw::RefusedIsDone) => return Exchange::Done(Version::new(table.last_version + 1)),
            _ => {}
        }
        Exchange::Conflict(Some(entry))
    }

    /// A claim needs room. What is gone is none of it: it is dropped first.
    pub(crate) fn within_bound(
        &self,
        table: &mut Table,
        expected: Expected,
        now: Moment,
    ) -> Result<(), Trouble> {
        let claims = expected == Expected::Vacant || self.is(Flaw::ExchangeRefusedAtTheBound);
        let Some(bound) = self.bound.filter(|_| claims) else { return Ok(()) };
        let held = if self.is(Flaw::FullForEver) {
            table.inserted
        } else {
            table.rows.retain(|_, row| !row.is_gone(now, self.flaw));
            table.rows.len()
        };
        if held < bound || self.is(Flaw::FullButInserted) || (self.is(Flaw::BoundOfOneMore) && held == bound)
        {
            return Ok(());
        }
        if self.is(Flaw::EvictsAtTheBound) {
            drop_oldest(table);
            return Ok(());
        }
        Err(Trouble::Full)
    }

    pub(crate) fn put(
        &self,
        table: &mut Table,
        id: &[u8],
        expected: Expected,
        put: Put<'_>,
        now: Moment,
        drawn: Option<u64>,
    ) -> u64 {
        let old = table.rows.get(id).cloned();
        let over = old.clone().filter(|row| !row.is_gone(now, self.flaw));
        let version = self.version(table, id, over.as_ref(), drawn);
        let (live, linger) = self.lives(put, now);
        let mut row = Row { body: self.body(put.record), version, written: now, live, linger };
        match (self.flaw, over, &old) {
            (Some(Flaw::EndKeptOnOverwrite), Some(over), _) => row = Row { body: row.body, version, ..over },
            (Some(Flaw::OutcomeWrittenOnce), ..) if matches!(put.record.state(), State::Completed(_)) => {
                row.body.clone_from(table.outcomes.entry(id.to_vec()).or_insert(row.body.clone()));
            }
            (Some(Flaw::ClaimKeepsTheOldBody), None, Some(old)) if expected == Expected::Vacant => {
                row.body.clone_from(&old.body);
            }
            _ => {}
        }
        table.inserted += usize::from(old.is_none());
        if self.is(Flaw::LaggingReplica) {
            table.behind.insert(id.to_vec(), old);
        }
        if self.is(Flaw::PurgesByOldEnds) {
            table.ends.push((now + row.live.saturating_add(row.linger), id.to_vec()));
        }
        table.rows.insert(id.to_vec(), row);
        if self.is(Flaw::EvictsWhenCrowded) && table.rows.len() > 100 {
            drop_oldest(table);
        }
        version
    }

    fn version(&self, table: &mut Table, id: &[u8], over: Option<&Row>, drawn: Option<u64>) -> u64 {
        let micros = self.data.time.unix(self.data.time.now()).0 * 1000;
        let calls = u64::from(table.calls);
        let version = match (self.flaw, self.versions) {
            (Some(Flaw::VersionOfTheTable), _) => {
                table.rows.values().map(|row| row.version).max().unwrap_or(0) + 1
            }
            (Some(Flaw::VersionsRestartWhenGone), _) => over.map_or(1, |row| row.version + 1),
            (Some(Flaw::VersionKeptOnOverwrite), _) => over.map_or(table.last_version + 1, |row| row.version),
            (Some(Flaw::VersionsFromSteppingClock), _) => {
                let back = if calls % 16 < 2 { 500 } else { 0 };
                (1 << 40) + micros + calls * 10 - back
            }
            (Some(Flaw::VersionsFromCoarseClock), _) => micros / 1000 + 1,
            _ if drawn.is_some() => drawn.expect("it was"),
            (_, Versions::Counter { step }) => table.last_version + step,
            (_, Versions::PerKey) => {
                let last = table.tombs.entry(id.to_vec()).or_default();
                *last += 1;
                return *last;
            }
            (_, Versions::Microseconds) => micros.max(table.last_version + 1),
        };
        let counts_back = self.is(Flaw::VersionCountedOutsideTheLock);
        table.last_version = if counts_back { version } else { version.max(table.last_version) };
        version
    }

    fn lives(&self, put: Put<'_>, now: Moment) -> (Duration, Duration) {
        let Put { live, linger, .. } = put;
        let wrapped = |life: Duration| {
            Duration::from_millis(u64::try_from(life.as_millis() % (1 << 32)).expect("less than 2^32"))
        };
        match self.flaw {
            Some(Flaw::ExpiresEarly) => (live.saturating_sub(MILLI), linger.saturating_add(MILLI)),
            Some(Flaw::ExpiresLate) => (live.saturating_add(MILLI), linger.saturating_sub(MILLI)),
            Some(Flaw::GoneEarly) => (live, linger.saturating_sub(MILLI)),
            Some(Flaw::GoneLate) => (live, linger.saturating_add(MILLI)),
            Some(Flaw::LongLivesWrap) => (wrapped(live), wrapped(linger)),
            Some(Flaw::ForEverIsUnset) if live == Duration::MAX => (Duration::ZERO, linger),
            _ => self.rounded(live, linger, now),
        }
    }

    /// Ends are rounded up. Nothing is nothing, though: what is to end at once does.
    fn rounded(&self, live: Duration, linger: Duration, now: Moment) -> (Duration, Duration) {
        let Some(unit) = u64::try_from(self.resolution.as_nanos()).ok().filter(|unit| *unit > 0) else {
            return (live, linger);
        };
        let life = |life: Duration| {
            let end = now + life;
            if life.is_zero() || end == Moment::NEVER {
                return life;
            }
            Moment::from_nanos(end.as_nanos().div_ceil(unit) * unit).saturating_since(now)
        };
        let rounded = life(live);
        (rounded, life(live.saturating_add(linger)).saturating_sub(rounded))
    }

    fn body(&self, record: &Record) -> Vec<u8> {
        self.flaw.and_then(|flaw| mangle::body(flaw, record)).unwrap_or_else(|| record.as_bytes().to_vec())
    }
}

pub(crate) fn drop_oldest(table: &mut Table) {
    let oldest = table.rows.iter().min_by_key(|(_, row)| row.version).map(|(id, _)| id.clone());
    oldest.and_then(|id| table.rows.remove(&id));
}

#[async_trait]
impl Store for Register {
    type Error = Trouble;

    async fn load(&self, key: &Key) -> Result<Option<Entry>, Trouble> {
        self.look(key)
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Expected,
        put: Put<'_>,
    ) -> Result<Exchange, Trouble> {
        match self.flaw {
            Some(Flaw::DroppedBeforeTheBody | Flaw::DroppedBeforeTheLifetimes) => {
                self.exchange_by_two(key, expected, put).await
            }
            Some(Flaw::ClaimAwaitsBetween) if expected == Expected::Vacant => {
                let found = self.look(key)?;
                super::unusual::pending_once().await;
                Ok(if found.is_some() { Exchange::Conflict(found) } else { self.write(key, expected, put) })
            }
            _ => self.exchange(key, expected, put),
        }
    }

    async fn compare_exchange_many(&self, batch: &[BatchPut<'_>]) -> Vec<Result<Exchange, Trouble>> {
        if !self.is(Flaw::DroppedBatchIsTorn) {
            return self.write_all(batch);
        }
        let mut answers = Vec::new();
        for item in batch {
            answers.push(self.exchange_by_two(item.key, item.expected, item.put).await);
        }
        answers
    }

    async fn purge(&self, limit: usize) -> Result<Purged, Trouble> {
        if !self.purges {
            return Ok(Purged { removed: 0, more: false });
        }
        Ok(self.purge_some(limit))
    }

    fn at_once(&self) -> Option<&dyn AtOnce<Error = Trouble>> {
        Some(self)
    }

    fn durability(&self) -> Durability {
        Durability::new(DurabilityClass::Machine, "the table outlives the store; its clock does not step")
    }
}
