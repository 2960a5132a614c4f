//! The floor: the least that a claim and a completion can cost if they are to keep the engine's promises over a table in
//! this process. Written by hand for this one case: one reading of the clock a step, an id, versions and times, one shared
//! attempt, key and outcome in one body. It has no futures, no policies, no other stores, no observer, and it is no engine.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use hashbrown::HashTable;
use parking_lot::Mutex;

use crate::raw::RawKey;

const SHARDS: usize = 64;
/// Bytes kept besides key and outcome.
const HEAD: usize = 50;
const LEASE: u64 = 30_000_000_000;
const MARGIN: u64 = 3_000_000_000;
const RETENTION: u64 = 86_400_000_000_000;

#[derive(Default)]
struct Shard {
    table: HashTable<u32>,
    slots: Vec<Slot>,
    /// When to look at a slot again.
    due: Vec<(u64, u32)>,
    version: u64,
    /// How long the last body was, with its outcome: the next one gets as much room.
    room: usize,
    scratch: Vec<u8>,
}

struct Slot {
    hash: u64,
    version: u64,
    live_until: u64,
    gone_at: u64,
    body: Arc<[u8]>,
}

impl Slot {
    fn is(&self, hash: u64, key: &[u8]) -> bool {
        self.hash == hash && &self.body[1..1 + usize::from(self.body[0])] == key
    }
}

#[repr(align(128))]
struct Padded<T>(T);

/// The table, and the clock that it reads.
pub(crate) struct FloorStore {
    shards: Box<[Padded<Mutex<Shard>>]>,
    origin: Instant,
}

/// A granted attempt: the operation is given it, and the completion checks it.
pub(crate) struct Attempt {
    key: RawKey,
    hash: u64,
    pub(crate) id: [u8; 16],
    pub(crate) version: u64,
    deadline: u64,
    is_over: Mutex<bool>,
}

impl Attempt {
    pub(crate) fn may_act(&self, now: u64) -> bool {
        now < self.deadline && !*self.is_over.lock()
    }
}

impl FloorStore {
    pub(crate) fn new() -> Arc<Self> {
        let shards = (0..SHARDS).map(|_| Padded(Mutex::new(Shard::default()))).collect();
        Arc::new(Self { shards, origin: Instant::now() })
    }

    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).expect("a bench is over sooner")
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        &self.shards[(hash >> 57) as usize % SHARDS].0
    }

    /// The attempt, or what is on record.
    #[inline(never)]
    pub(crate) fn claim(&self, key: &RawKey, hash: u64) -> Result<Arc<Attempt>, Arc<[u8]>> {
        let mut guard = self.shard(hash).lock();
        let now = self.now();
        let Shard { table, slots, due, version, room, scratch } = &mut *guard;
        if let Some(&at) = table.find(hash, |&at| slots[at as usize].is(hash, key)) {
            let slot = &slots[at as usize];
            assert!(slot.gone_at > now, "a bench is over sooner");
            return Err(Arc::clone(&slot.body));
        }
        let id = id(now);
        *version += 1;
        scratch.clear();
        scratch.push(u8::try_from(key.len()).expect("keys are short here"));
        scratch.extend_from_slice(key);
        let mut head = [0; HEAD];
        head[2..18].copy_from_slice(&id);
        head[18..26].copy_from_slice(&version.to_le_bytes());
        head[34..42].copy_from_slice(&now.to_le_bytes());
        scratch.extend_from_slice(&head);
        if scratch.len() < *room {
            scratch.resize(*room, 0);
        }
        let at = slots.len() as u32;
        let (live_until, gone_at) = (now + LEASE, now + LEASE + RETENTION);
        slots.push(Slot { hash, version: *version, live_until, gone_at, body: Arc::from(&scratch[..]) });
        table.insert_unique(hash, at, |&at| slots[at as usize].hash);
        due.push((live_until, at));
        let version = *version;
        drop(guard);
        let (key, deadline) = (key.clone(), now + LEASE - MARGIN);
        Ok(Arc::new(Attempt { key, hash, id, version, deadline, is_over: Mutex::new(false) }))
    }

    /// Keeps the outcome; when that was.
    #[inline(never)]
    pub(crate) fn complete(&self, attempt: &Attempt, outcome: &[u8]) -> u64 {
        let Attempt { key, hash, .. } = attempt;
        let mut guard = self.shard(*hash).lock();
        let now = self.now();
        let Shard { table, slots, version, room, scratch, .. } = &mut *guard;
        let at = *table.find(*hash, |&at| slots[at as usize].is(*hash, key)).expect("it was claimed");
        let slot = &mut slots[at as usize];
        let head = 1 + key.len();
        let end = head + HEAD + outcome.len();
        assert!(slot.version == attempt.version && slot.live_until > now, "nobody took it over");
        *room = end;
        match Arc::get_mut(&mut slot.body) {
            Some(body) if body.len() == end => {
                body[head] = 1;
                body[head + 42..head + HEAD].copy_from_slice(&now.to_le_bytes());
                body[head + HEAD..].copy_from_slice(outcome);
            }
            _ => {
                scratch.clear();
                scratch.extend_from_slice(&slot.body[..head + HEAD]);
                scratch[head] = 1;
                scratch[head + 42..].copy_from_slice(&now.to_le_bytes());
                scratch.extend_from_slice(outcome);
                slot.body = Arc::from(&scratch[..]);
            }
        }
        *version += 1;
        slot.version = *version;
        (slot.live_until, slot.gone_at) = (now + RETENTION, now + RETENTION);
        drop(guard);
        *attempt.is_over.lock() = true;
        now
    }
}

/// The outcome in a body.
pub(crate) fn outcome(body: &[u8]) -> &[u8] {
    &body[1 + usize::from(body[0]) + HEAD..]
}

/// Bytes made ahead, as the engine's are; not random, which costs nothing here.
fn id(salt: u64) -> [u8; 16] {
    const AHEAD: usize = 1024;
    thread_local! {
        static MADE: RefCell<([u8; AHEAD], usize, u64)> = const { RefCell::new(([0; AHEAD], AHEAD, 0)) };
    }
    MADE.with_borrow_mut(|(bytes, used, round)| {
        if *used == AHEAD {
            *round += 1;
            for (place, chunk) in (0_u64..).zip(bytes.chunks_exact_mut(8)) {
                let mixed =
                    (*round ^ place.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xd134_2543_de82_ef95);
                chunk.copy_from_slice(&mixed.to_le_bytes());
            }
            *used = 0;
        }
        let made = u128::from_le_bytes(bytes[*used..*used + 16].try_into().expect("sixteen bytes"));
        *used += 16;
        (made ^ u128::from(salt)).to_le_bytes()
    })
}
