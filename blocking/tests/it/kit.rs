//! The conformance kit and the simulation over a store whose calls block.

use std::collections::BTreeMap;

use oncekey::memory::MemoryError;
use oncekey::protocol::{Entry, Expected};
use oncekey::store::{Durability, DurabilityClass, Exchange, Purged, Put};
use oncekey::{Key, MemoryStore, Store as _};
use oncekey_blocking::{Blocking, BlockingStore};
use oncekey_conformance::{Abilities, Clause, Effort, Harness, Subject, Time, certify, check, simulate};

use super::*;
use gap::Gap;

#[path = "../../../conformance/tests/sabotage/gap.rs"]
mod gap;

/// A memory store asked by calls that block.
struct Table {
    inner: MemoryStore,
    /// Reads, and writes in a second step: between them, others come.
    split: bool,
    gap: Gap,
}

impl Table {
    /// Writes, whatever is there by now.
    fn write(&self, key: &Key, put: Put<'_>) -> Result<Exchange, MemoryError> {
        loop {
            let found = self.load(key)?;
            let expected = found.map_or(Expected::Vacant, |entry| Expected::At(entry.version));
            if let done @ Exchange::Done(_) = ready(self.inner.compare_exchange(key, expected, put))? {
                return Ok(done);
            }
        }
    }
}

impl BlockingStore for Table {
    type Error = MemoryError;

    fn load(&self, key: &Key) -> Result<Option<Entry>, MemoryError> {
        ready(self.inner.load(key))
    }

    fn compare_exchange(&self, key: &Key, expected: Expected, put: Put<'_>) -> Result<Exchange, MemoryError> {
        if !self.split {
            return ready(self.inner.compare_exchange(key, expected, put));
        }
        let found = self.load(key)?;
        let seen = found.as_ref().map_or(Expected::Vacant, |entry| Expected::At(entry.version));
        if seen != expected {
            return Ok(Exchange::Conflict(found));
        }
        self.gap.meet();
        self.write(key, put)
    }

    fn purge(&self, limit: usize) -> Result<Purged, MemoryError> {
        ready(self.inner.purge(limit))
    }

    fn durability(&self) -> Durability {
        Durability::new(DurabilityClass::Process, "a table in memory")
    }
}

/// The table on a clock moved by hand, or on this machine's.
#[derive(Clone, Copy)]
struct Tables {
    manual: bool,
    split: bool,
}

const BY_HAND: Tables = Tables { manual: true, split: false };
const ON_REAL_TIME: Tables = Tables { manual: false, split: false };

impl Tables {
    fn subject(self, records_max: Option<usize>) -> Subject<Blocking<Table>> {
        let builder = MemoryStore::builder();
        let builder = match records_max {
            Some(most) => builder.records_max(most),
            None => builder,
        };
        let (builder, time) = if self.manual {
            let clock = ManualClock::new();
            (builder.clock(clock.clone()), Time::manual(clock))
        } else {
            (builder, Time::real(Duration::from_millis(50), Duration::ZERO))
        };
        let table = Table { inner: builder.build(), split: self.split, gap: Gap::default() };
        Subject::new(Blocking::new(table), time)
    }
}

impl Harness for Tables {
    type Store = Blocking<Table>;
    type Guard = ();

    fn fresh(&self) -> Subject<Blocking<Table>> {
        self.subject(None)
    }

    fn fresh_bounded(&self, records_max: usize) -> Option<Subject<Blocking<Table>>> {
        Some(self.subject(Some(records_max)))
    }

    fn abilities(&self) -> Abilities {
        Abilities::default().purging()
    }

    fn effort(&self) -> Effort {
        Effort::modest()
    }
}

mod by_hand {
    oncekey_conformance::conformance_tests!(super::BY_HAND);
}

mod on_real_time {
    oncekey_conformance::conformance_tests!(super::ON_REAL_TIME);
}

#[test]
fn it_gets_its_certificate() {
    let certificate = certify(&BY_HAND);
    assert!(certificate.holds(), "{certificate}");
}

#[test]
fn one_that_checks_and_then_writes_is_caught() {
    let wrong = Tables { split: true, ..BY_HAND };
    let violation =
        check(&wrong, "s1_of_racing_claims_one_is_done").expect_err("two claims of one key were done");
    assert_eq!(violation.clause, Clause::S1);
}

/// The engine over it, with everything between them going wrong.
#[test]
fn the_promises_hold_over_it_whatever_goes_wrong() {
    let mut met = BTreeMap::new();
    for seed in 0..200 {
        let played = simulate(&BY_HAND, seed).unwrap_or_else(|violation| panic!("\n{violation}\n"));
        for (what, times) in played.met {
            *met.entry(what).or_insert(0) += times;
        }
    }
    for what in [
        "executed",
        "replay",
        "takeover",
        "superseded, possibly applied",
        "lease lost",
        "crash in the middle",
    ] {
        assert!(met.contains_key(what), "never met: {what}; {met:#?}");
    }
}
