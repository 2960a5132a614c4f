//! Stores that are wrong in one way each: the histories must find it, name the clause, and shrink it.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::{Clause, Harness, Subject, Time, Violation, check};
use oncekey::memory::{MemoryError, MemoryStore};
use oncekey::protocol::{Entry, Expected, Key, State, Version};
use oncekey::store::{BatchPut, CachedStore, Exchange, Purged, Put, Store};
use oncekey::time::{Clock as _, ManualClock, Moment};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wrong {
    Not,
    /// An expired entry can be claimed as if nothing were there.
    ExpiredIsVacant,
    /// A put expecting a version is done over any.
    VersionIgnored,
    /// An entry is gone a millisecond early.
    LingersLess,
    /// An entry has half a second more to live than asked for.
    LivesMore,
    /// Conflicts carry nothing.
    ConflictIsEmpty,
    /// Versions begin again when an entry is gone.
    VersionsRestart,
    /// Answers to a batch of three come in the wrong order.
    BatchReversed,
    /// A record reads as one that is in doubt.
    ChangedRecord,
    /// The first entry read stays what is read, for five seconds.
    Remembers,
    /// A purge removes an expired entry that lingers.
    PurgesExpired,
    /// Keys are compared without regard to case.
    FoldsCase,
    /// At its bound it refuses everything.
    RefusesAllWhenFull,
    /// At its bound it takes one more.
    TakesOneMore,
}

struct Bent {
    store: MemoryStore,
    clock: ManualClock,
    wrong: Wrong,
    bound: Option<usize>,
    state: Mutex<Remembered>,
}

#[derive(Default)]
struct Remembered {
    versions: HashMap<Key, (u64, u64)>,
    entries: HashMap<Key, (Entry, Moment)>,
    hidden: HashMap<Key, Version>,
    keys: Vec<Key>,
}

impl Bent {
    fn key(&self, key: &Key) -> Key {
        match self.wrong {
            Wrong::FoldsCase => Key::new("folded", key.id().to_lowercase()).unwrap(),
            _ => key.clone(),
        }
    }

    fn seen(&self, key: &Key, entry: Option<Entry>) -> Option<Entry> {
        let mut entry = entry?;
        let state = self.state.lock();
        match self.wrong {
            Wrong::VersionsRestart => {
                entry.version = Version::new(state.versions.get(key)?.1);
            }
            Wrong::ChangedRecord if entry.record.doubt() && entry.record.checkpoint().len() == 8 => {
                entry.record = crate::samples::in_progress(4);
            }
            Wrong::PurgesExpired if state.hidden.get(key) == Some(&entry.version) => return None,
            _ => {}
        }
        Some(entry)
    }
}

#[async_trait]
impl Store for Bent {
    type Error = MemoryError;

    async fn load(&self, key: &Key) -> Result<Option<Entry>, MemoryError> {
        let key = &self.key(key);
        if self.wrong == Wrong::Remembers {
            let now = self.clock.now();
            let found = self.store.load(key).await?;
            let mut state = self.state.lock();
            if let Some((entry, at)) = state.entries.get(key) {
                if now.saturating_since(*at) < Duration::from_secs(5) {
                    let left = entry.left.saturating_sub(now.saturating_since(*at));
                    return Ok(Some(Entry { left, ..entry.clone() }));
                }
            }
            if let Some(entry) =
                found.clone().filter(|entry| matches!(entry.record.state(), State::Completed(_)))
            {
                state.entries.insert(key.clone(), (entry, now));
            }
            return Ok(found);
        }
        Ok(self.seen(key, self.store.load(key).await?))
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Expected,
        put: Put<'_>,
    ) -> Result<Exchange, MemoryError> {
        let key = &self.key(key);
        let current = self.store.load(key).await?;
        let full = self.bound.is_some_and(|bound| self.store.usage().records >= bound);
        if self.wrong == Wrong::RefusesAllWhenFull && full {
            return Err(MemoryError::Full { unit: "records", used: 0, bound: 0 });
        }
        let (mut expected, mut put) = (expected, put);
        match (self.wrong, &current) {
            (Wrong::ExpiredIsVacant, Some(entry)) if entry.left.is_zero() && expected == Expected::Vacant => {
                expected = Expected::At(entry.version);
            }
            (Wrong::VersionIgnored, Some(entry)) if expected != Expected::Vacant => {
                expected = Expected::At(entry.version);
            }
            (Wrong::VersionsRestart, Some(entry)) => {
                let (inner, outer) = self.state.lock().versions[key];
                assert_eq!(inner, entry.version.get());
                if expected == Expected::At(Version::new(outer)) {
                    expected = Expected::At(entry.version);
                } else if expected != Expected::Vacant {
                    expected = Expected::At(Version::new(u64::MAX));
                }
            }
            (Wrong::LingersLess, _) => put.linger = put.linger.saturating_sub(Duration::from_millis(1)),
            (Wrong::LivesMore, _) if put.live > Duration::ZERO => {
                put.live = put.live.saturating_add(Duration::from_millis(500));
            }
            _ => {}
        }
        let answer = self.store.compare_exchange(key, expected, put).await?;
        let mut state = self.state.lock();
        if !state.keys.contains(key) {
            state.keys.push(key.clone());
        }
        if let Exchange::Done(version) = answer {
            let before = state.versions.get(key).filter(|_| current.is_some()).map_or(0, |(_, outer)| *outer);
            state.versions.insert(key.clone(), (version.get(), before + 1));
            if self.wrong == Wrong::VersionsRestart {
                return Ok(Exchange::Done(Version::new(before + 1)));
            }
        }
        drop(state);
        Ok(match answer {
            Exchange::Conflict(_) if self.wrong == Wrong::ConflictIsEmpty => Exchange::Conflict(None),
            Exchange::Conflict(found) => Exchange::Conflict(self.seen(key, found)),
            done => done,
        })
    }

    async fn compare_exchange_many(&self, batch: &[BatchPut<'_>]) -> Vec<Result<Exchange, MemoryError>> {
        let mut answers = Vec::new();
        for item in batch {
            answers.push(self.compare_exchange(item.key, item.expected, item.put).await);
        }
        if self.wrong == Wrong::BatchReversed && batch.len() == 3 {
            answers.reverse();
        }
        answers
    }

    async fn purge(&self, limit: usize) -> Result<Purged, MemoryError> {
        if self.wrong == Wrong::PurgesExpired {
            let keys = self.state.lock().keys.clone();
            for key in keys {
                if let Some(entry) = self.store.load(&key).await?.filter(|entry| entry.left.is_zero()) {
                    self.state.lock().hidden.insert(key, entry.version);
                }
            }
        }
        self.store.purge(limit).await
    }
}

struct Kit(Wrong);

impl Kit {
    fn subject(&self, bound: Option<usize>) -> Subject<Bent> {
        let clock = ManualClock::new();
        let more = usize::from(self.0 == Wrong::TakesOneMore);
        // One shard, so that a version does not depend on where a key is hashed to.
        let store = MemoryStore::builder().clock(clock.clone()).shards(NonZeroUsize::MIN);
        let store = store.records_max(bound.map_or(1 << 20, |bound| bound + more)).build();
        let bent = Bent { store, clock: clock.clone(), wrong: self.0, bound, state: Mutex::default() };
        Subject::new(bent, Time::manual(clock))
    }
}

impl Harness for Kit {
    type Store = Bent;
    type Guard = ();

    fn fresh(&self) -> Subject<Bent> {
        self.subject(None)
    }

    fn fresh_bounded(&self, records_max: usize) -> Option<Subject<Bent>> {
        Some(self.subject(Some(records_max)))
    }
}

const WATCHED: &str = "s1_random_histories_of_one_caller";
const RARELY: &str = "s1_random_histories_that_look_rarely";
const BOUND: &str = "s8_random_histories_at_the_bound";

/// How many steps are told.
fn steps(violation: &Violation) -> usize {
    let numbered = |line: &&str| line.trim_start().starts_with(|first: char| first.is_ascii_digit());
    violation.what.lines().filter(numbered).count()
}

fn refused(case: &str, wrong: Wrong, clause: Clause, steps_max: usize) {
    let violation = check(&Kit(wrong), case).expect_err("the store is wrong");
    assert_eq!(violation.clause, clause, "{wrong:?}: {violation}");
    assert!(steps(&violation) <= steps_max, "{wrong:?} could be shown in {steps_max} steps: {violation}");
    let again = check(&Kit(wrong), case).expect_err("the store is still wrong");
    assert_eq!(violation, again, "a history is the same each time");
}

#[test]
fn a_right_store_holds_in_every_history() {
    for case in [WATCHED, RARELY, BOUND] {
        let held = check(&Kit(Wrong::Not), case).unwrap_or_else(|violation| panic!("{violation}"));
        assert_eq!((held.histories, held.not_shown), (256, None));
    }
}

#[test]
fn each_wrong_store_is_refused_by_its_clause_in_few_steps() {
    refused(WATCHED, Wrong::ExpiredIsVacant, Clause::S3, 4);
    refused(WATCHED, Wrong::VersionIgnored, Clause::S4, 4);
    refused(WATCHED, Wrong::LingersLess, Clause::S8, 4);
    refused(WATCHED, Wrong::LivesMore, Clause::S7, 4);
    refused(WATCHED, Wrong::ConflictIsEmpty, Clause::S5, 4);
    refused(WATCHED, Wrong::VersionsRestart, Clause::S2, 4);
    refused(WATCHED, Wrong::BatchReversed, Clause::S1, 4);
    refused(WATCHED, Wrong::ChangedRecord, Clause::S6, 4);
    refused(WATCHED, Wrong::PurgesExpired, Clause::S8, 4);
    refused(WATCHED, Wrong::FoldsCase, Clause::S6, 4);
}

#[test]
fn what_is_remembered_too_long_is_found_where_a_history_looks_rarely() {
    refused(RARELY, Wrong::Remembers, Clause::S1, 4);
}

#[test]
fn a_wrong_bound_is_refused_in_few_steps() {
    refused(BOUND, Wrong::RefusesAllWhenFull, Clause::S8, 4);
    refused(BOUND, Wrong::TakesOneMore, Clause::S8, 4);
}

struct Careless;

impl Harness for Careless {
    type Store = CachedStore<MemoryStore>;
    type Guard = ();

    /// A cache whose clock stands still keeps what it has forever.
    fn fresh(&self) -> Subject<Self::Store> {
        let clock = ManualClock::new();
        let store = MemoryStore::builder().clock(clock.clone()).build();
        let cached = CachedStore::new(store, 100, Duration::from_secs(1)).with_clock(ManualClock::new());
        Subject::new(cached, Time::manual(clock))
    }
}

#[test]
fn a_cache_on_another_clock_than_its_store_is_refused() {
    let violation = check(&Careless, RARELY).expect_err("the clocks differ");
    assert_eq!(violation.clause, Clause::S7, "{violation}");
}
