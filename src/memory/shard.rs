//! One shard: a hash table of slots, and the order in which slots are due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashTable;

use crate::protocol::{Record, Unwritten, Version, filled, put};
use crate::time::Moment;

/// What a record costs besides its bytes: its slot, its places in table and queue, and what the allocator adds.
const OVERHEAD: usize = 96;
/// No slot, or no time: the end of the list of free slots, and a slot that nothing is scheduled for.
const NONE: u32 = u32::MAX;

/// Where a shard reports what it holds.
pub(super) trait Account {
    fn added(&self, records: usize, bytes: usize);
    fn removed(&self, records: usize, bytes: usize);
}

pub(super) struct Shard {
    table: HashTable<u32>,
    slots: Vec<Slot>,
    first_free: u32,
    /// Slots with the tick at which to look at them. A slot that lives longer by then is put back, so a renewal or a
    /// completion, which makes it live longer, need not touch the queue.
    due: BinaryHeap<Reverse<(u32, u32)>>,
    version: u64,
}

struct Slot {
    version: Version,
    live_until: Moment,
    gone_at: Moment,
    /// What [`body`] makes; `None` in a free slot.
    body: Option<Arc<[u8]>>,
    /// The tick of the one entry in the queue that counts for this slot; in a free slot, the next free one.
    scheduled: u32,
    /// Half of the key's hash, so that a table that grows need not hash every key anew.
    hash: u32,
}

/// A readable entry, taken out of the lock to be decoded.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) slot: u32,
    pub(super) version: Version,
    pub(super) live_until: Moment,
    pub(super) body: Arc<[u8]>,
}

/// Until when a write is live, and readable.
#[derive(Clone, Copy)]
pub(super) struct Lives {
    live_until: Moment,
    gone_at: Moment,
}

impl Lives {
    pub(super) fn new(now: Moment, live: Duration, linger: Duration) -> Self {
        let live_until = now + live;
        Self { live_until, gone_at: live_until + linger }
    }
}

/// Where a key is in a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In no slot.
    None,
    /// In a slot that is gone, and not reclaimed.
    Gone(u32),
    /// In this slot, readable.
    Taken(u32),
}

pub(super) struct Scan {
    pub(super) entries: Vec<(Vec<u8>, Found)>,
    /// The slot to go on from; `None` at the end of the shard.
    pub(super) next: Option<usize>,
}

impl Shard {
    pub(super) fn new() -> Self {
        Self {
            table: HashTable::new(),
            slots: Vec::new(),
            first_free: NONE,
            due: BinaryHeap::new(),
            version: 0,
        }
    }

    /// Where `key` is, or would be.
    #[inline]
    pub(super) fn place(&self, hash: u32, key: &[u8], now: Moment) -> Place {
        match self.table.find(spread(hash), |&index| self.slots[index as usize].is(hash, key)) {
            Some(&index) if self.slots[index as usize].gone_at > now => Place::Taken(index),
            Some(&index) => Place::Gone(index),
            None => Place::None,
        }
    }

    /// What is readable there.
    #[inline]
    pub(super) fn found(&self, place: Place) -> Option<Found> {
        match place {
            Place::Taken(index) => Some(self.slots[index as usize].found(index)),
            Place::Gone(_) | Place::None => None,
        }
    }

    /// Puts a record in the place of `key`. A slot that is gone and not reclaimed is used again.
    pub(super) fn put(
        &mut self,
        place: Place,
        (hash, key): (u32, &[u8]),
        record: &Unwritten<'_>,
        lives: Lives,
        account: &impl Account,
    ) -> (Version, Arc<[u8]>) {
        let (body, version) = (body(key, record), self.next_version());
        match place {
            Place::Taken(index) | Place::Gone(index) => {
                self.put_again(index, version, Arc::clone(&body), lives, account);
            }
            Place::None => self.put_first(hash, version, Arc::clone(&body), lives, account),
        }
        (version, body)
    }

    fn put_first(
        &mut self,
        hash: u32,
        version: Version,
        body: Arc<[u8]>,
        lives: Lives,
        account: &impl Account,
    ) {
        account.added(1, body.len() + OVERHEAD);
        let slot = Slot {
            version,
            live_until: lives.live_until,
            gone_at: lives.gone_at,
            body: Some(body),
            scheduled: NONE,
            hash,
        };
        let index = if self.first_free == NONE {
            self.slots.push(slot);
            u32::try_from(self.slots.len() - 1).expect("a shard holds less than 2^32 records")
        } else {
            let index = self.first_free;
            let place = &mut self.slots[index as usize];
            self.first_free = place.scheduled;
            *place = slot;
            index
        };
        let Self { table, slots, .. } = self;
        table.insert_unique(spread(hash), index, |&index| spread(slots[index as usize].hash));
        // A record in progress is looked at when its lease is over; by then it is completed as a rule, lives on, and
        // is put back in the queue once.
        self.schedule(index, tick(lives.live_until));
    }

    fn put_again(
        &mut self,
        index: u32,
        version: Version,
        body: Arc<[u8]>,
        lives: Lives,
        account: &impl Account,
    ) {
        let slot = &mut self.slots[index as usize];
        let len_before = slot.body.as_ref().map_or(0, |body| body.len());
        if body.len() >= len_before {
            account.added(0, body.len() - len_before);
        } else {
            account.removed(0, len_before - body.len());
        }
        slot.version = version;
        slot.live_until = lives.live_until;
        slot.gone_at = lives.gone_at;
        slot.body = Some(body);
        if slot.scheduled > tick(lives.gone_at) {
            self.schedule(index, tick(lives.gone_at));
        }
    }

    /// Whether some slot is due to be looked at.
    pub(super) fn is_due(&self, now: Moment) -> bool {
        match self.due.peek() {
            Some(&Reverse((at, _))) if at < tick(now) => true,
            // Within the current tick only what is really gone counts.
            Some(&Reverse((at, index))) if at == tick(now) => {
                let slot = &self.slots[index as usize];
                slot.body.is_none() || slot.scheduled != at || slot.gone_at <= now || tick(slot.gone_at) != at
            }
            _ => false,
        }
    }

    /// Looks at up to `steps` slots that are due, and frees those that are gone. Answers how many it freed.
    pub(super) fn reclaim(&mut self, now: Moment, steps: usize, account: &impl Account) -> usize {
        let mut freed = 0;
        for _ in 0..steps {
            if !self.is_due(now) {
                break;
            }
            let Some(Reverse((at, index))) = self.due.pop() else {
                break;
            };
            let slot = &mut self.slots[index as usize];
            if slot.body.is_none() || slot.scheduled != at {
                continue; // an entry that no longer counts
            }
            if slot.gone_at > now {
                slot.scheduled = NONE;
                let next = tick(slot.gone_at);
                self.schedule(index, next);
                continue;
            }
            self.free(index, account);
            freed += 1;
        }
        freed
    }

    /// Readable entries with nothing left to live and more than `len` bytes, from slot `from` on.
    pub(super) fn scan_expired(
        &self,
        from: usize,
        now: Moment,
        len: usize,
        looks: &mut usize,
        limit: usize,
    ) -> Scan {
        let mut scan = Scan { entries: Vec::new(), next: None };
        for (index, slot) in self.slots.iter().enumerate().skip(from) {
            if *looks == 0 || scan.entries.len() >= limit {
                scan.next = Some(index);
                return scan;
            }
            *looks -= 1;
            let large = slot.body.as_ref().is_some_and(|body| body.len() > len);
            if large && slot.live_until <= now && slot.gone_at > now {
                let index = u32::try_from(index).expect("slots are numbered in 32 bits");
                scan.entries.push((slot.key().to_vec(), slot.found(index)));
            }
        }
        scan
    }

    /// Puts a shorter record at the same version, if what was found is still there.
    pub(super) fn replace(
        &mut self,
        key: &[u8],
        found: &Found,
        record: &Record,
        account: &impl Account,
    ) -> bool {
        let body = body(key, &record.clone().into());
        let slot = &mut self.slots[found.slot as usize];
        match &mut slot.body {
            Some(there) if Arc::ptr_eq(there, &found.body) => {
                account.removed(0, there.len().saturating_sub(body.len()));
                *there = body;
                true
            }
            _ => false,
        }
    }

    fn free(&mut self, index: u32, account: &impl Account) {
        let hash = self.slots[index as usize].hash;
        self.table
            .find_entry(spread(hash), |&other| other == index)
            .expect("a slot in use is in the table")
            .remove();
        let slot = &mut self.slots[index as usize];
        let body = slot.body.take().expect("a slot in use has a body");
        account.removed(1, body.len() + OVERHEAD);
        slot.scheduled = self.first_free;
        self.first_free = index;
    }

    fn schedule(&mut self, index: u32, at: u32) {
        self.slots[index as usize].scheduled = at;
        if at != NONE {
            self.due.push(Reverse((at, index)));
        }
    }

    fn next_version(&mut self) -> Version {
        self.version += 1;
        Version::new(self.version)
    }
}

/// What a slot keeps: the key's length in two bytes, the key, and the record.
#[inline]
fn body(key: &[u8], record: &Unwritten<'_>) -> Arc<[u8]> {
    let key_len = u16::try_from(key.len()).expect("a key is at most Key::LEN_MAX bytes");
    filled(2 + key.len() + record.byte_len(), |bytes| {
        record.write_to(put(put(bytes, &key_len.to_le_bytes()), key));
    })
}

impl Slot {
    #[inline]
    fn key(&self) -> &[u8] {
        self.body.as_ref().map_or(&[], |body| &body[2..record_at(body)])
    }

    #[inline]
    fn is(&self, hash: u32, key: &[u8]) -> bool {
        self.hash == hash && self.key() == key
    }

    fn found(&self, slot: u32) -> Found {
        Found {
            slot,
            version: self.version,
            live_until: self.live_until,
            body: self.body.clone().expect("a slot that was found is in use"),
        }
    }
}

/// Where the record begins in the body of a slot.
#[inline]
pub(super) fn record_at(body: &[u8]) -> usize {
    2 + usize::from(u16::from_le_bytes([body[0], body[1]]))
}

/// Half a hash as the table wants it: it looks at the lowest bits and the seven highest.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

/// Due times are kept in steps of 2^26 ns (67 ms), which 32 bits count for nine years; what is due later is looked at
/// then and put back. Never: not scheduled.
fn tick(moment: Moment) -> u32 {
    if moment == Moment::NEVER {
        return NONE;
    }
    u32::try_from(moment.as_nanos() >> 26).unwrap_or(NONE - 1).min(NONE - 1)
}

#[cfg(test)]
#[cfg(not(oncekey_loom))]
mod tests {
    use super::*;
    use crate::protocol::{
        ClaimCommand, Decision, Entry, Lifetimes, OnDoubt, OperationId, OperatorCommand, Order, Outcome,
        Owner, Policy, Resolution, UnixMillis, decide,
    };

    const SECOND: Duration = Duration::from_secs(1);

    struct Uncounted;

    impl Account for Uncounted {
        fn added(&self, _records: usize, _bytes: usize) {}
        fn removed(&self, _records: usize, _bytes: usize) {}
    }

    /// A completed record with an outcome of so many bytes.
    fn record(outcome_len: usize) -> Record {
        let lifetimes = Lifetimes { lease: SECOND, retention: SECOND, tail: SECOND };
        let claim = ClaimCommand {
            owner: Owner::from_bytes([1; 16]),
            operation_id: OperationId::from_bytes([1; 16]),
            fingerprint: None,
            policy: Policy::Reclaim,
            attempts_max: None,
            on_doubt: OnDoubt::GoByPolicy,
            now: UnixMillis(0),
        };
        let Decision::Write(granted) = decide(None, &claim, &lifetimes) else { unreachable!("it is vacant") };
        let abandoned = Entry { record: granted.record, version: Version::new(1), left: Duration::ZERO };
        let resolution = Resolution::Completed(Outcome::success(vec![7; outcome_len]));
        let command = OperatorCommand { at: None, order: Order::Resolve(&resolution, UnixMillis(0)) };
        let Decision::Write(write) = decide(Some(&abandoned), &command, &lifetimes) else {
            unreachable!("it is in doubt")
        };
        write.record
    }

    fn at(seconds: u64) -> Moment {
        Moment::ORIGIN + SECOND * u32::try_from(seconds).unwrap()
    }

    fn put_record(shard: &mut Shard, hash: u32, key: &[u8], record: &Record, lives: Lives) -> Version {
        let place = shard.place(hash, key, at(0));
        shard.put(place, (hash, key), &record.clone().into(), lives, &Uncounted).0
    }

    fn find(shard: &Shard, hash: u32, key: &[u8], now: Moment) -> Option<Found> {
        shard.found(shard.place(hash, key, now))
    }

    /// Puts under a vacant key; gone after `seconds`.
    fn put(shard: &mut Shard, hash: u32, key: &[u8], seconds: u64) {
        let lives = Lives::new(Moment::ORIGIN, SECOND * u32::try_from(seconds).unwrap(), Duration::ZERO);
        let _version = put_record(shard, hash, key, &record(0), lives);
    }

    /// S6: what the table compares is the key.
    #[test]
    fn keys_whose_hashes_are_equal_are_distinct() {
        let mut shard = Shard::new();
        put(&mut shard, 5, b"one", 10);
        assert!(find(&shard, 5, b"other", at(0)).is_none());
        put(&mut shard, 5, b"other", 10);
        let slot = |key: &[u8]| find(&shard, 5, key, at(0)).map(|found| found.slot);
        assert_eq!((slot(b"one"), slot(b"other")), (Some(0), Some(1)));
    }

    /// The table looks at the lowest bits and the seven highest.
    #[test]
    fn a_spread_hash_has_all_its_bits_at_both_ends() {
        for hash in [0, 1, 0x7f, 0xdead_beef, u32::MAX] {
            assert_eq!(spread(hash) & u64::from(u32::MAX), u64::from(hash));
            assert_eq!(spread(hash) >> 32, u64::from(hash));
        }
    }

    #[test]
    fn every_time_but_never_has_a_tick_and_they_are_in_order() {
        assert_eq!(tick(Moment::NEVER), NONE, "never: not scheduled");
        let step = 1_u64 << 26;
        assert_eq!([0, step - 1, step, 7 * step].map(|nanos| tick(Moment::from_nanos(nanos))), [0, 0, 1, 7]);
        for far in [u64::from(NONE - 1) * step, u64::from(NONE) * step, u64::MAX - 1] {
            assert_eq!(tick(Moment::from_nanos(far)), NONE - 1, "looked at then, and put back");
        }
    }

    /// What ends early goes first, whatever was put first.
    #[test]
    fn what_is_gone_is_reclaimed_past_what_was_put_before_it_and_lives_on() {
        let mut shard = Shard::new();
        for i in 0..100_u32 {
            put(&mut shard, i, &i.to_le_bytes(), if i % 2 == 0 { 1000 } else { 1 });
        }
        assert_eq!(shard.reclaim(at(2), 100, &Uncounted), 50);
        assert!(!shard.is_due(at(2)));
        assert_eq!(shard.reclaim(at(1001), 100, &Uncounted), 50);
    }

    /// A write that ends earlier than the one before it (a release) is looked at when it ends.
    #[test]
    fn what_now_ends_earlier_is_reclaimed_when_it_ends() {
        let mut shard = Shard::new();
        put(&mut shard, 1, b"key", 1000);
        let lives = Lives::new(at(0), Duration::ZERO, SECOND);
        let _version = put_record(&mut shard, 1, b"key", &record(0), lives);
        assert_eq!(shard.reclaim(at(2), 10, &Uncounted), 1);
    }

    /// What a trim found, and somebody wrote over meanwhile, is theirs: in the same slot, under the same key or another.
    #[test]
    fn a_shorter_record_takes_the_place_of_what_was_found_and_of_nothing_else() {
        let mut shard = Shard::new();
        let lives = Lives::new(at(0), Duration::ZERO, 100 * SECOND);
        let short = record(1000).without_outcome().unwrap();
        let version = put_record(&mut shard, 1, b"key", &record(1000), lives);
        let found = find(&shard, 1, b"key", at(1)).unwrap();
        assert!(shard.replace(b"key", &found, &short, &Uncounted));
        let shorter = find(&shard, 1, b"key", at(1)).unwrap();
        assert_eq!((shorter.version, shorter.live_until), (version, found.live_until));
        assert!(shorter.body.len() < found.body.len() - 900);

        assert!(!shard.replace(b"key", &found, &short, &Uncounted), "it was replaced already");
        let found = shorter;
        let version = put_record(&mut shard, 1, b"key", &record(500), lives);
        assert!(!shard.replace(b"key", &found, &short, &Uncounted), "it was written over");
        let there = find(&shard, 1, b"key", at(1)).unwrap();
        assert_eq!((there.version, there.body.len() > 500), (version, true));
        assert_eq!(shard.reclaim(at(200), 10, &Uncounted), 1);
        assert!(!shard.replace(b"key", &there, &short, &Uncounted), "it is gone");
    }

    /// Looking again and again at what ends later in this very tick would never come to an end.
    #[test]
    fn what_ends_later_in_this_tick_is_not_due() {
        let mut shard = Shard::new();
        let milli = Duration::from_millis(1);
        let _version = put_record(&mut shard, 1, b"key", &record(0), Lives::new(at(0), milli, milli * 9));
        assert!(!shard.is_due(at(0)) && !shard.is_due(at(0) + milli * 9));
        assert!(shard.is_due(at(0) + milli * 10));
        assert_eq!(shard.reclaim(at(0) + milli * 10, 1, &Uncounted), 1);
    }

    /// A free slot keeps the number of the next one where a slot in use keeps its time. Here the number is also the
    /// tick of a queue entry that counts no longer.
    #[test]
    fn the_next_free_slot_is_not_taken_for_a_time() {
        let mut shard = Shard::new();
        let late = u64::from(tick(at(100)));
        for i in 0..=u32::try_from(late).unwrap() {
            put(&mut shard, i, &i.to_le_bytes(), if i == 0 { 100 } else { 5000 });
        }
        // The last one goes first, then the first one, whose time is moved up.
        for i in [u32::try_from(late).unwrap(), 0] {
            let slot = find(&shard, i, &i.to_le_bytes(), at(0)).unwrap().slot;
            assert_eq!(slot, i);
            let lives = Lives::new(at(0), SECOND * if i == 0 { 2 } else { 1 }, Duration::ZERO);
            let _version = put_record(&mut shard, i, &i.to_le_bytes(), &record(0), lives);
        }
        assert_eq!(shard.reclaim(at(3), 10, &Uncounted), 2);
        assert_eq!(u64::from(shard.slots[0].scheduled), late, "the link has the number of that tick");
        assert_eq!(shard.reclaim(at(101), 10, &Uncounted), 0);
    }
}
