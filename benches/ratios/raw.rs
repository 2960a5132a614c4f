//! The raw limit: what a service would write by hand if it needed nothing but "insert if absent, update, look up".
//!
//! 64 shards, each a `parking_lot::Mutex` around a `hashbrown` map with its default hasher. One call hashes the key
//! once, takes the shard by high bits of that hash, and looks the map up by the same hash. It has no expiry, no owner,
//! no versions, no clock and no bounds, so nothing that keeps a promise; it is here to be fast.

use std::hash::BuildHasher as _;

use hashbrown::DefaultHashBuilder;
use hashbrown::hash_map::{HashMap, RawEntryMut};
use parking_lot::Mutex;
use smallvec::SmallVec;

const SHARDS: usize = 64;

/// A composed key on the stack, as the engine's `Key` is; only an insert makes a heap copy of it.
pub(crate) type RawKey = SmallVec<[u8; 64]>;

/// What a key holds: the marker, or the outcome.
#[derive(Clone)]
pub(crate) enum Slot<T> {
    InProgress,
    Completed(T),
}

type Shard<T> = HashMap<Box<[u8]>, Slot<T>, DefaultHashBuilder>;

/// Shards do not share a cache line, as in the engine's store.
#[repr(align(128))]
struct Padded<T>(T);

pub(crate) struct RawStore<T> {
    shards: Box<[Padded<Mutex<Shard<T>>>]>,
    hasher: DefaultHashBuilder,
}

/// Scope and id in one buffer, each after its length: two copies into a buffer on the stack, if they fit.
pub(crate) fn compose(scope: &str, id: &str) -> RawKey {
    let (scope, id) = (scope.as_bytes(), id.as_bytes());
    let len = scope.len() + id.len() + 2;
    let mut buffer = [0; 64];
    let Some(key) = buffer.get_mut(..len) else {
        return [&[scope.len() as u8], scope, &[id.len() as u8], id].concat().into();
    };
    key[0] = scope.len() as u8;
    let (first, second) = key[1..].split_at_mut(scope.len());
    first.copy_from_slice(scope);
    second[0] = id.len() as u8;
    second[1..].copy_from_slice(id);
    RawKey::from_buf_and_len(buffer, len)
}

impl<T: Clone> RawStore<T> {
    pub(crate) fn new() -> Self {
        let hasher = DefaultHashBuilder::default();
        let shards = (0..SHARDS).map(|_| Padded(Mutex::new(HashMap::with_hasher(hasher.clone())))).collect();
        Self { shards, hasher }
    }

    fn place(&self, key: &[u8]) -> (u64, &Mutex<Shard<T>>) {
        let hash = self.hasher.hash_one(key);
        (hash, &self.shards[(hash >> 48) as usize % SHARDS].0)
    }

    /// Marks the key as in progress if it is absent; else answers a copy of what is there.
    pub(crate) fn insert_if_absent(&self, key: &[u8]) -> Option<Slot<T>> {
        let (hash, shard) = self.place(key);
        match shard.lock().raw_entry_mut().from_key_hashed_nocheck(hash, key) {
            RawEntryMut::Occupied(there) => Some(there.get().clone()),
            RawEntryMut::Vacant(place) => {
                place.insert_with_hasher(hash, Box::from(key), Slot::InProgress, |other| {
                    self.hasher.hash_one(&**other)
                });
                None
            }
        }
    }

    /// Puts the outcome in place of the marker.
    pub(crate) fn update(&self, key: &[u8], outcome: T) {
        let (hash, shard) = self.place(key);
        match shard.lock().raw_entry_mut().from_key_hashed_nocheck(hash, key) {
            RawEntryMut::Occupied(mut there) => *there.get_mut() = Slot::Completed(outcome),
            RawEntryMut::Vacant(_) => unreachable!("only a key that was inserted is updated"),
        }
    }

    /// A copy of what is there, as the engine's answer is a value of the caller's own.
    pub(crate) fn look_up(&self, key: &[u8]) -> Option<Slot<T>> {
        let (hash, shard) = self.place(key);
        let shard = shard.lock();
        shard.raw_entry().from_key_hashed_nocheck(hash, key).map(|(_, slot)| slot.clone())
    }
}
