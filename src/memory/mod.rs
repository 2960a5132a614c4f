//! The embedded store: records in this process's memory.

mod shard;

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;

use async_trait::async_trait;

use crate::protocol::{Entry, Expected, Key, Payload, Record};
use crate::store::{
    AtOnce, Durability, DurabilityClass, Exchange, InDoubtPage, ListInDoubt, Purged, Put, Step, Store,
    StoreError, StoreErrorKind, TrimOutcomes, Trimmed, exchange_at_once, load_at_once,
};
use crate::sync::{AtomicUsize, Mutex, Ordering};
use crate::time::{Clock, Moment, SystemClock, Timeline};
use shard::{Found, Lives, Shard};

/// The embedded store: a sharded table in this process's memory, bounded by records and by bytes.
///
/// **Durability: none.** Everything is gone when the process ends. Use it where retries come to the process that
/// served the first call, and in tests.
///
/// Keys are hashed by SipHash-1-3 under a secret of the process, so nobody who chooses keys can
/// make them collide. Expiry is judged by the store's own [`Clock`]: an entry past its time is
/// invisible at once. Its memory is reclaimed by later writes to the same shard, a few entries
/// each, by [`Store::purge`], and by a claim that would be refused for want of room; none of these
/// looks at entries that are not due. Growing a shard's table moves that one shard.
///
/// When a bound is reached, claims of new keys are refused with [`MemoryError::Full`]. Writes of the holder of a claim
/// (renewal, checkpoint, completion, release) are never refused, so bytes can exceed the bound by what is in flight.
///
/// Versions come from one counter a shard (a key stays in its shard), which goes on rising when entries go.
///
/// ```
/// use oncekey::MemoryStore;
/// let store = MemoryStore::builder().records_max(100_000).bytes_max(64 << 20).build();
/// assert_eq!(store.usage().records, 0);
/// ```
pub struct MemoryStore {
    shards: Box<[Padded<Mutex<Shard>>]>,
    clock: Arc<dyn Clock>,
    bounds: Bounds,
    usage: Padded<Counters>,
}

#[derive(Clone, Copy, Debug)]
struct Bounds {
    records: usize,
    bytes: usize,
}

struct Counters {
    records: AtomicUsize,
    bytes: AtomicUsize,
}

/// Two shards never share a cache line.
#[repr(align(128))]
struct Padded<T>(T);

/// Sets up a [`MemoryStore`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it builds"]
pub struct MemoryStoreBuilder {
    shards: NonZeroUsize,
    bounds: Bounds,
    clock: Option<Arc<dyn Clock>>,
}

/// How much a [`MemoryStore`] holds, entries that are gone but not reclaimed included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct MemoryUsage {
    /// Entries.
    pub records: usize,
    /// Their bytes, with an estimate of what the table and the allocator add.
    pub bytes: usize,
}

/// What goes wrong in a [`MemoryStore`]. Nothing was applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The store is at a bound, and refuses new claims.
    #[error(
        "the memory store holds {used} {unit}, its bound is {bound}; raise it, or keep outcomes for less time"
    )]
    Full {
        /// What the bound counts: `records` or `bytes`.
        unit: &'static str,
        /// How many there are.
        used: usize,
        /// How many there may be.
        bound: usize,
    },
    /// The record is over [`Payload::LEN_MAX`].
    #[error(
        "the record has {len} bytes, over the 1 GiB that the memory store can hold in one; keep a reference to the outcome"
    )]
    TooLarge {
        /// Its length in bytes.
        len: usize,
    },
}

impl StoreError for MemoryError {
    fn maybe_applied(&self) -> bool {
        false
    }

    fn kind(&self) -> StoreErrorKind {
        match self {
            Self::Full { .. } => StoreErrorKind::Full,
            Self::TooLarge { .. } => StoreErrorKind::Rejected,
        }
    }
}

impl MemoryStoreBuilder {
    /// Most entries; 4,194,304 by default.
    pub fn records_max(mut self, records: usize) -> Self {
        self.bounds.records = records;
        self
    }

    /// Most bytes, by the estimate of [`MemoryUsage::bytes`]; 2 GiB by default.
    pub fn bytes_max(mut self, bytes: usize) -> Self {
        self.bounds.bytes = bytes;
        self
    }

    /// How many locks the table is parted among, rounded up to a power of two; 64 by default.
    pub fn shards(mut self, shards: NonZeroUsize) -> Self {
        self.shards = shards;
        self
    }

    /// The clock that expiry is judged by; a [`SystemClock`] of its own by default.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Builds the store.
    pub fn build(self) -> MemoryStore {
        let shards = self.shards.get().min(1 << 16).next_power_of_two();
        MemoryStore {
            shards: (0..shards).map(|_| Padded(Mutex::new(Shard::new()))).collect(),
            clock: self.clock.unwrap_or_else(|| Arc::new(SystemClock::new())),
            bounds: self.bounds,
            usage: Padded(Counters { records: AtomicUsize::new(0), bytes: AtomicUsize::new(0) }),
        }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// A store with the default bounds.
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Sets a store up.
    /// # Example
    /// ```
    /// use oncekey::{Deduplicator, MemoryStore};
    ///
    /// let store = MemoryStore::builder()
    ///     .records_max(100_000) // new keys are refused beyond this; completions never are
    ///     .bytes_max(256 * 1024 * 1024)
    ///     .build();
    /// let dedup = Deduplicator::new(store);
    /// assert_eq!(dedup.store().usage().records, 0);
    /// ```
    pub fn builder() -> MemoryStoreBuilder {
        MemoryStoreBuilder {
            shards: NonZeroUsize::new(64).expect("64 is not zero"),
            bounds: Bounds { records: 4 << 20, bytes: 2 << 30 },
            clock: None,
        }
    }

    /// How much it holds.
    pub fn usage(&self) -> MemoryUsage {
        MemoryUsage {
            records: self.usage.0.records.load(Ordering::Relaxed),
            bytes: self.usage.0.bytes.load(Ordering::Relaxed),
        }
    }

    /// Of the key's hash, the lower half goes into the shard's table; the upper half chooses the shard.
    fn place(&self, key: &Key) -> (u32, &Mutex<Shard>) {
        let [a, b, c, d, upper @ ..] = key.hash64().to_le_bytes();
        let (lower, upper) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes(upper));
        (lower, &self.shards[upper as usize & (self.shards.len() - 1)].0)
    }

    fn check_bounds(&self) -> Result<(), MemoryError> {
        let usage = self.usage();
        if usage.records >= self.bounds.records {
            return Err(MemoryError::Full {
                unit: "records",
                used: usage.records,
                bound: self.bounds.records,
            });
        }
        if usage.bytes >= self.bounds.bytes {
            return Err(MemoryError::Full { unit: "bytes", used: usage.bytes, bound: self.bounds.bytes });
        }
        Ok(())
    }

    /// At a bound: looks at a bounded number of due entries of every shard, and takes out those that are gone.
    fn make_room(&self) {
        for shard in &self.shards {
            let now = self.clock.now();
            shard.0.lock().reclaim(now, 256, self);
        }
    }

    fn purge_now(&self, limit: usize) -> Purged {
        let mut purged = Purged { removed: 0, more: false };
        // An entry that is due to be looked at may live on; looking is bounded too.
        let mut steps = limit.saturating_mul(4).saturating_add(256);
        for shard in &self.shards {
            let now = self.clock.now();
            let mut shard = shard.0.lock();
            while purged.removed < limit && steps > 0 && shard.is_due(now) {
                steps -= 1;
                purged.removed += shard.reclaim(now, 1, self);
            }
            purged.more |= shard.is_due(now);
        }
        purged
    }

    fn page_in_doubt(&self, cursor: Option<u64>, limit: usize) -> Result<InDoubtPage, MemoryError> {
        let (mut index, mut slot) =
            cursor.map_or((0, 0), |c| ((c >> 32) as usize, (c & 0xffff_ffff) as usize));
        let mut page = InDoubtPage::new(Vec::new(), None);
        let limit = limit.max(1);
        let mut looks = limit.saturating_mul(16).saturating_add(1024);
        while let Some(shard) = self.shards.get(index) {
            let now = self.clock.now();
            let found = shard.0.lock().scan_expired(slot, now, 0, &mut looks, limit - page.entries.len());
            for (key, found) in found.entries {
                let entry = found.into_entry(now);
                if entry.status()
                    == crate::protocol::Status::Expired(crate::protocol::ExpiredBecause::Abandoned)
                {
                    let key = Key::from_bytes(&key).expect("the store holds keys");
                    page.entries.push((key, entry));
                }
            }
            match found.next {
                Some(next) if looks == 0 || page.entries.len() >= limit => {
                    page.next = Some((index as u64) << 32 | next as u64);
                    return Ok(page);
                }
                Some(next) => slot = next,
                None => (index, slot) = (index + 1, 0),
            }
        }
        Ok(page)
    }
}

/// Shorter records are not worth the trim.
const TRIMMED_MIN: usize = 192;

impl MemoryStore {
    /// Looks at a bounded number of slots, and decodes outside of the lock.
    fn trim(&self, cursor: Option<u64>, limit: usize) -> Result<Trimmed, MemoryError> {
        let (mut index, mut slot) =
            cursor.map_or((0, 0), |c| ((c >> 32) as usize, (c & 0xffff_ffff) as usize));
        let mut trimmed = 0;
        let mut looks = limit.saturating_mul(16).saturating_add(1024);
        while let Some(shard) = self.shards.get(index) {
            let place = |slot: usize| Some((index as u64) << 32 | slot as u64);
            if trimmed >= limit || looks == 0 {
                return Ok(Trimmed { trimmed, next: place(slot) });
            }
            let now = self.clock.now();
            let scan = shard.0.lock().scan_expired(slot, now, TRIMMED_MIN, &mut looks, limit - trimmed);
            for (key, found) in scan.entries {
                let entry = found.clone().into_entry(now);
                if let Some(shorter) = entry.record.without_outcome() {
                    trimmed += usize::from(shard.0.lock().replace(&key, &found, &shorter, self));
                }
            }
            match scan.next {
                Some(next) => slot = next,
                None => (index, slot) = (index + 1, 0),
            }
        }
        Ok(Trimmed { trimmed, next: None })
    }
}

#[async_trait]
impl TrimOutcomes for MemoryStore {
    async fn trim_outcomes(&self, cursor: Option<u64>, limit: usize) -> Result<Trimmed, MemoryError> {
        self.trim(cursor, limit)
    }
}

/// Shards report what they add and remove.
impl shard::Account for MemoryStore {
    fn added(&self, records: usize, bytes: usize) {
        if records > 0 {
            self.usage.0.records.fetch_add(records, Ordering::Relaxed);
        }
        self.usage.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn removed(&self, records: usize, bytes: usize) {
        if records > 0 {
            self.usage.0.records.fetch_sub(records, Ordering::Relaxed);
        }
        self.usage.0.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Found {
    fn into_entry(self, now: Moment) -> Entry {
        let left = self.live_until.saturating_since(now);
        Entry { record: record_in(self.body), version: self.version, left }
    }
}

/// The record in the body of a slot. It shares the slot's buffer.
fn record_in(body: Arc<[u8]>) -> Record {
    Record::from_own(Payload::window(body, shard::record_at))
}

impl AtOnce for MemoryStore {
    type Error = MemoryError;

    fn timeline(&self) -> Option<Timeline> {
        self.clock.timeline()
    }

    fn update(&self, key: &Key, step: &mut (dyn Step + Send)) -> Result<Option<Entry>, MemoryError> {
        let (hash, mutex) = self.place(key);
        let name = (hash, key.as_bytes());
        let mut refused_before = false;
        loop {
            let mut shard = mutex.lock();
            // Read under the lock, or two calls could see the key's times in another order than its writes.
            let now = self.clock.now();
            let place = shard.place(hash, key.as_bytes(), now);
            let found = shard.found(place).map(|found| found.into_entry(now));
            let vacant = found.is_none();
            step.read_at(now);
            let Some(put) = step.next(found) else { return Ok(None) };
            let len = key.as_bytes().len() + put.record.byte_len();
            if len > Payload::LEN_MAX {
                return Err(MemoryError::TooLarge { len });
            }
            if vacant {
                match self.check_bounds() {
                    Ok(()) => {}
                    Err(full) if refused_before => return Err(full),
                    Err(_) => {
                        drop(shard);
                        self.make_room();
                        refused_before = true;
                        continue;
                    }
                }
            }
            let (version, body) =
                shard.put(place, name, &put.record, Lives::new(now, put.live, put.linger), self);
            shard.reclaim(now, if vacant { 3 } else { 1 }, self);
            return Ok(Some(Entry { record: record_in(body), version, left: put.live }));
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    type Error = MemoryError;

    /// # Cancel safety
    /// Never pending: what was polled once is done.
    async fn load(&self, key: &Key) -> Result<Option<Entry>, MemoryError> {
        load_at_once(self, key)
    }

    /// # Cancel safety
    /// Never pending: what was polled once is done.
    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Expected,
        put: Put<'_>,
    ) -> Result<Exchange, MemoryError> {
        exchange_at_once(self, key, expected, put)
    }

    async fn purge(&self, limit: usize) -> Result<Purged, MemoryError> {
        Ok(self.purge_now(limit))
    }

    fn at_once(&self) -> Option<&dyn AtOnce<Error = MemoryError>> {
        Some(self)
    }

    fn lists(&self) -> Option<&dyn ListInDoubt<Error = Self::Error>> {
        Some(self)
    }

    fn trims(&self) -> Option<&dyn TrimOutcomes<Error = Self::Error>> {
        Some(self)
    }

    fn durability(&self) -> Durability {
        Durability::new(
            DurabilityClass::Process,
            "records are in this process's memory; the clock is the process's own and does not step",
        )
    }
}

#[async_trait]
impl ListInDoubt for MemoryStore {
    async fn list_in_doubt(&self, cursor: Option<u64>, limit: usize) -> Result<InDoubtPage, MemoryError> {
        self.page_in_doubt(cursor, limit)
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("shards", &self.shards.len())
            .field("bounds", &self.bounds)
            .field("usage", &self.usage())
            .finish_non_exhaustive()
    }
}
