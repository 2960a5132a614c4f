//! Which claims an engine holds.

use std::sync::{Arc, Weak};
use std::time::Duration;

use hashbrown::HashTable;

use crate::protocol::{Entry, Holder, Key, Write};
use crate::store::{Exchange, StoreFailure};
use crate::sync::Mutex;
use crate::time::Moment;

/// Under how many locks claims are registered.
const SHARDS: usize = 16;

/// A claim, as it is registered: without its store's type.
pub(in crate::engine) trait Registered: Send + Sync {
    fn key(&self) -> &Key;

    fn holder(&self) -> &Holder;

    /// Its deadline, if it is to be renewed now without being asked.
    fn due_for_renewal(&self, now: Moment) -> Option<Moment>;

    /// Takes the claim's turn for a renewal in a batch, if that is free and the claim still wants one.
    fn begin_renewal(self: Arc<Self>) -> Option<Box<dyn Renewing>>;
}

/// A renewal as a part of a batch. It has the claim's turn.
pub(in crate::engine) trait Renewing: Send {
    fn key(&self) -> &Key;

    fn write(&self) -> &Write;

    /// It is sent. Should the batch be dropped before the answers, its claim is unsure of what is on record.
    fn sending(&self);

    /// How long the call may take for this claim; `None` if its deadline has passed.
    fn patience(&self, sent: Moment) -> Option<Duration>;

    fn answered(self: Box<Self>, answer: Result<Exchange, StoreFailure>, sent: Moment);
}

/// The claims that an engine holds.
pub(crate) struct Leases {
    /// By the hash of its key. One key may have several claims: of all but one the lease is lost.
    shards: [Mutex<HashTable<Entered>>; SHARDS],
}

type Entered = (u64, Weak<dyn Registered>);

impl Leases {
    pub(crate) fn new() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::new(HashTable::new())) }
    }

    /// Whether this engine holds the claim of `entry`, under `key`.
    pub(in crate::engine) fn holds(&self, key: &Key, entry: &Entry) -> bool {
        self.any(key, |lease| entry.is_held_by(lease.holder()) && lease.key() == key)
    }

    /// Whether a claim is one that is looked for. Only those are asked about whose keys have the hash of `key`.
    fn any(&self, key: &Key, mut is_it: impl FnMut(&dyn Registered) -> bool) -> bool {
        let hash = key.hash64();
        let claims = self.shard(hash).lock();
        claims.find(hash, |(_, lease)| lease.upgrade().is_some_and(|lease| is_it(&*lease))).is_some()
    }

    fn shard(&self, hash: u64) -> &Mutex<HashTable<Entered>> {
        // A table goes by the other bits.
        &self.shards[usize::try_from((hash >> 32) % SHARDS as u64).expect("less than SHARDS")]
    }

    /// Registers a claim.
    pub(crate) fn add(&self, hash: u64, lease: Weak<dyn Registered>) {
        self.shard(hash).lock().insert_unique(hash, (hash, lease), |(hash, _)| *hash);
    }

    /// Removes the claim at this address.
    pub(crate) fn remove(&self, hash: u64, lease: *const ()) {
        let claim = {
            let mut claims = self.shard(hash).lock();
            let found = claims.find_entry(hash, |(_, claim)| claim.as_ptr().cast::<()>() == lease);
            found.ok().map(|found| found.remove().0)
        };
        debug_assert!(claim.is_some(), "a claim is removed once, by its guard");
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// What is to be renewed, each with its deadline: the most urgent first.
    pub(in crate::engine) fn due(&self, now: Moment) -> Vec<(Moment, Arc<dyn Registered>)> {
        let mut due = Vec::new();
        for shard in &self.shards {
            let claims: Vec<_> = shard.lock().iter().filter_map(|(_, lease)| lease.upgrade()).collect();
            due.extend(claims.into_iter().filter_map(|lease| Some((lease.due_for_renewal(now)?, lease))));
        }
        // By their keys too, so that the order does not depend on the secret of their hashes.
        due.sort_unstable_by(|(deadline, lease), (other, than)| {
            (deadline, lease.key(), lease.holder().token).cmp(&(other, than.key(), than.holder().token))
        });
        due
    }
}

#[cfg(test)]
#[cfg(not(oncekey_loom))]
mod tests {
    use crate::{ClaimAnswer, Deduplicator, Key, MemoryStore};
    use futures::FutureExt as _;

    /// How many claims are held makes no difference to the answer whether one is.
    #[test]
    fn few_claims_are_compared_however_many_are_held() {
        let dedup = Deduplicator::new(MemoryStore::new());
        let key = |id: usize| Key::new("orders.ship", id.to_string()).unwrap();
        let claim = |id| dedup.request(key(id)).claim().now_or_never().expect("the store answers at once");
        let claims: Vec<_> = (0..10_000).map(claim).collect();
        assert_eq!(dedup.held(), 10_000);
        let lease = &dedup.inner.leases;
        let mut compared = 0;
        for id in 0..20_000 {
            let mut is_it = |key: &Key, other: &Key| {
                compared += 1;
                key == other
            };
            assert_eq!(lease.any(&key(id), |claim| is_it(&key(id), claim.key())), id < 10_000);
        }
        // A table looks at seven bits of a hash, and at what has them in the same group.
        assert!(compared < 40_000, "{compared} comparisons");
        assert!(claims.iter().all(|claim| matches!(claim, Ok(ClaimAnswer::Granted(_)))));
        drop(claims);
        assert_eq!(dedup.held(), 0);
    }
}
