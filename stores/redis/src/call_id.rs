//! Ids of calls, for a connection that sends a call again by itself.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// Gives ids that no other call has, of this process or another.
#[derive(Debug)]
pub(crate) struct CallIds {
    random: [u64; 2],
    next: AtomicU64,
}

impl CallIds {
    pub(crate) fn new() -> Self {
        // Keys that the system drew at random, which is all that is wanted of it.
        let random = RandomState::new();
        Self { random: [random.hash_one(0), random.hash_one(1)], next: AtomicU64::new(0) }
    }

    pub(crate) fn next(&self) -> String {
        let [a, b] = self.random;
        format!("{a:x}.{b:x}.{:x}", self.next.fetch_add(1, Ordering::Relaxed))
    }
}
