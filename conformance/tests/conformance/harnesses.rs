//! Harnesses of the memory store.

use std::time::Duration;

use oncekey::MemoryStore;
use oncekey::memory::MemoryStoreBuilder;
use oncekey::time::ManualClock;
use oncekey_conformance::{Abilities, Effort, Harness, Subject, Time};

/// On a clock moved by hand.
#[derive(Debug)]
pub(crate) struct Memory;

impl Memory {
    fn subject(change: impl FnOnce(MemoryStoreBuilder) -> MemoryStoreBuilder) -> Subject<MemoryStore> {
        let clock = ManualClock::new();
        let store = change(MemoryStore::builder().clock(clock.clone())).build();
        Subject::new(store, Time::manual(clock))
    }
}

impl Harness for Memory {
    type Store = MemoryStore;
    type Guard = ();

    fn fresh(&self) -> Subject<MemoryStore> {
        Self::subject(|builder| builder)
    }

    fn fresh_bounded(&self, records_max: usize) -> Option<Subject<MemoryStore>> {
        Some(Self::subject(|builder| builder.records_max(records_max)))
    }

    fn abilities(&self) -> Abilities {
        Abilities::default().purging()
    }
}

/// The same with one shard: where a key goes does not depend on the process.
#[derive(Debug)]
#[allow(dead_code, reason = "not every test binary uses it")]
pub(crate) struct OneShard;

impl Harness for OneShard {
    type Store = MemoryStore;
    type Guard = ();

    fn fresh(&self) -> Subject<MemoryStore> {
        Memory::subject(|builder| builder.shards(std::num::NonZeroUsize::MIN))
    }
}

/// On the clock of this machine, as a database is.
#[derive(Debug)]
pub(crate) struct MemoryOnRealTime;

impl MemoryOnRealTime {
    fn subject(store: MemoryStore) -> Subject<MemoryStore> {
        Subject::new(store, Time::real(Duration::from_millis(50), Duration::ZERO))
    }
}

impl Harness for MemoryOnRealTime {
    type Store = MemoryStore;
    type Guard = ();

    fn fresh(&self) -> Subject<MemoryStore> {
        Self::subject(MemoryStore::new())
    }

    fn fresh_bounded(&self, records_max: usize) -> Option<Subject<MemoryStore>> {
        Some(Self::subject(MemoryStore::builder().records_max(records_max).build()))
    }

    fn abilities(&self) -> Abilities {
        Abilities::default().purging()
    }

    fn effort(&self) -> Effort {
        Effort::modest()
    }
}
