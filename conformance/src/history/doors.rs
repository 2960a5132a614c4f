//! A caller that goes by the store's methods and by its short way in turn.

use std::cell::Cell;

use super::play::{Answer, Caller, Refusal, refusal};
use crate::harness::{Harness, Time};
use crate::lab::{Bench, Checked, Stop};
use oncekey::protocol::{Entry, Expected, Key};
use oncekey::store::{BatchPut, Purged, Put};

/// A store with two doors.
pub(super) struct Doors<'b, H: Harness> {
    bench: &'b Bench<'b, H>,
    /// Calls so far: a history that is played again takes the same doors.
    calls: Cell<u64>,
}

impl<'b, H: Harness> Doors<'b, H> {
    pub(super) fn new(bench: &'b Bench<'b, H>) -> Self {
        Self { bench, calls: Cell::new(0) }
    }

    /// Whether the next call takes the short way: by the bits of its number, or each key would always be read by the
    /// same door.
    fn at_once(&self) -> bool {
        self.calls.set(self.calls.get() + 1);
        self.calls.get().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 63 == 1
    }
}

impl<H: Harness> Caller for Doors<'_, H> {
    fn time(&self) -> &Time {
        &self.bench.time
    }

    fn load(&self, key: &Key) -> Checked<Option<Entry>> {
        if self.at_once() { self.bench.load_at_once(key) } else { self.bench.load(key) }
    }

    fn purge(&self, limit: usize) -> Checked<Purged> {
        self.bench.purge(limit)
    }

    fn put(&self, key: &Key, expected: Expected, put: Put<'_>) -> Checked<Answer> {
        if self.at_once() {
            let answer = self.bench.exchange_at_once(key, expected, put)?;
            Ok(answer.map_err(|error| refusal(&error)))
        } else {
            Caller::put(self.bench, key, expected, put)
        }
    }

    fn put_many(&self, batch: &[BatchPut<'_>]) -> Vec<Answer> {
        Caller::put_many(self.bench, batch)
    }

    fn failed(&self, error: &Refusal) -> Stop {
        Caller::failed(self.bench, error)
    }
}
