//! The store contract as a program: per key a register with a version, a lifetime, and nothing else. `play` puts a
//! history to the memory store and compares each answer, clause by clause.
//!
//! Time is in milliseconds here, since the memory store keeps its queue of due entries in coarse steps.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use oncekey::memory::MemoryError;
use oncekey::protocol::{Entry, Expected, Record, Version};
use oncekey::store::{BatchPut, Exchange, Put, Store as _};
use oncekey::time::ManualClock;
use oncekey::{Key, MemoryStore};

const NEVER: u64 = u64::MAX;
const KEYS: usize = 4;
/// Fewer than keys, so that the bound is met.
const RECORDS_MAX: usize = 3;
/// An entry may count against the bound this long after it is gone: the store's steps are 67 ms.
const COARSE: u64 = 68;

/// What a put expects to find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    Vacant,
    /// The version of the last write to the key, readable or not.
    Last,
    /// The version before that.
    Stale,
    /// A version that was never given.
    Future,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    pub key: usize,
    pub expect: Expect,
    pub record: u8,
    pub live: u64,
    pub linger: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    Load {
        key: usize,
    },
    Write(Write),
    /// The same write to two keys in one batch.
    Batch {
        write: Write,
        other: usize,
    },
    Advance {
        millis: u64,
    },
    Purge {
        limit: usize,
    },
}

const MILLIS: [u64; 16] =
    [0, 1, 10, 50, 66, 67, 68, 100, 134, 200, 1000, 1001, 5000, 60_000, 3_600_000, NEVER];

impl Step {
    /// Any four bytes are a step; zeros are the plainest.
    pub fn from_bytes([kind, a, b, c]: [u8; 4]) -> Self {
        let key = usize::from(a) % KEYS;
        let expect = match (a >> 2) % 8 {
            0..=2 => Expect::Vacant,
            3..=5 => Expect::Last,
            6 => Expect::Stale,
            _ => Expect::Future,
        };
        let lifetime = |index: u8| MILLIS[usize::from(index) % 16];
        let write = Write { key, expect, record: c, live: lifetime(b), linger: lifetime(b >> 4) };
        match kind % 16 {
            0..=2 => Self::Load { key },
            3..=8 => Self::Write(write),
            9..=10 => Self::Batch { write, other: (key + 1 + usize::from(a >> 5) % (KEYS - 1)) % KEYS },
            11..=13 => Self::Advance { millis: MILLIS[usize::from(b) % 15] },
            _ => Self::Purge { limit: usize::from(c) % 6 },
        }
    }
}

/// A record of which every byte that can vary depends on `tag`, made from its stored form.
pub fn record(tag: u8) -> Record {
    let last = if tag % 3 == 0 { Vec::new() } else { vec![tag; usize::from(tag % 100) + 1] };
    let mut bytes = vec![1, tag & 0b0011_0000, 0];
    bytes.extend([tag; 16]);
    bytes.extend([0, 0, 0, tag % 100 + 1, 0, 0, 0, 0, 0, tag]);
    bytes.extend([0; 14]);
    bytes.extend(u32::try_from(last.len()).expect("a short one").to_be_bytes());
    bytes.extend([!tag; 16]);
    bytes.extend(last);
    Record::decode(bytes).expect("the stored form of a record in progress")
}

/// NUL, case and a trailing space tell keys apart (S6).
fn key(index: usize) -> Key {
    Key::new("register", ["k", "K", "k ", "k\0"][index]).expect("a short key")
}

fn duration(millis: u64) -> Duration {
    if millis == NEVER { Duration::MAX } else { Duration::from_millis(millis) }
}

struct Cell {
    record: Record,
    version: u64,
    live_until: u64,
    gone_at: u64,
}

struct Register {
    store: MemoryStore,
    clock: ManualClock,
    now: u64,
    cells: BTreeMap<usize, Cell>,
    /// Per key, all versions it ever had.
    versions: BTreeMap<usize, Vec<u64>>,
}

/// Plays a whole history; the first difference, with the step that showed it.
pub fn play(steps: &[Step]) -> Result<(), String> {
    let clock = ManualClock::new();
    let store = MemoryStore::builder()
        .clock(clock.clone())
        .shards(NonZeroUsize::MIN)
        .records_max(RECORDS_MAX)
        .build();
    let mut register = Register { store, clock, now: 0, cells: BTreeMap::new(), versions: BTreeMap::new() };
    for (index, step) in steps.iter().enumerate() {
        let checked = register.step(step).and_then(|()| register.check());
        checked.map_err(|difference| format!("step {index}, {step:?}: {difference}"))?;
    }
    Ok(())
}

fn ready<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the memory store is never pending"),
    }
}

impl Register {
    fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Load { key } => self.check_key(*key),
            Step::Write(write) => {
                let expected = self.expected(write);
                let record = record(write.record);
                let put = Put::new(&record, duration(write.live), duration(write.linger));
                let answer = ready(self.store.compare_exchange(&key(write.key), expected, put));
                self.written(write, expected, answer)
            }
            Step::Batch { write, other } => {
                let second = Write { key: *other, ..write.clone() };
                let both = [write, &second];
                let expected = both.map(|write| self.expected(write));
                let (record, keys) = (record(write.record), both.map(|write| key(write.key)));
                let put = Put::new(&record, duration(write.live), duration(write.linger));
                let batch =
                    [BatchPut::new(&keys[0], expected[0], put), BatchPut::new(&keys[1], expected[1], put)];
                let answers = ready(self.store.compare_exchange_many(&batch));
                if answers.len() != 2 {
                    return Err(format!("{} answers to a batch of 2", answers.len()));
                }
                for ((write, expected), answer) in both.into_iter().zip(expected).zip(answers) {
                    self.written(write, expected, answer)?;
                }
                Ok(())
            }
            Step::Advance { millis } => {
                self.clock.advance(duration(*millis));
                self.now += millis;
                Ok(())
            }
            Step::Purge { limit } => self.purge(*limit),
        }
    }

    fn read(&self, key: usize) -> Option<&Cell> {
        self.cells.get(&key).filter(|cell| cell.gone_at > self.now)
    }

    fn entry(&self, key: usize) -> Option<Entry> {
        self.read(key).map(|cell| Entry {
            record: cell.record.clone(),
            version: Version::new(cell.version),
            left: match cell.live_until {
                NEVER => Duration::MAX,
                until => duration(until.saturating_sub(self.now)),
            },
        })
    }

    fn expected(&self, write: &Write) -> Expected {
        let nth_last = |n: usize| {
            let versions = self.versions.get(&write.key)?;
            Some(versions[versions.len().checked_sub(n)?])
        };
        match write.expect {
            Expect::Vacant => Expected::Vacant,
            Expect::Last => Expected::At(Version::new(nth_last(1).unwrap_or(0))),
            Expect::Stale => Expected::At(Version::new(nth_last(2).unwrap_or(0))),
            Expect::Future => Expected::At(Version::new(u64::MAX)),
        }
    }

    fn count(&self, is: impl Fn(&Cell) -> bool) -> usize {
        self.cells.values().filter(|cell| is(cell)).count()
    }

    fn written(
        &mut self,
        write: &Write,
        expected: Expected,
        answer: Result<Exchange, MemoryError>,
    ) -> Result<(), String> {
        let fits = match (expected, self.read(write.key)) {
            (Expected::Vacant, cell) => cell.is_none(),
            (Expected::At(version), cell) => cell.is_some_and(|cell| cell.version == version.get()),
        };
        let readable = self.count(|cell| cell.gone_at > self.now);
        match answer {
            Ok(Exchange::Done(_)) if !fits => Err(format!("S3, S4: done, though {expected:?} does not hold")),
            Ok(Exchange::Done(_)) if expected == Expected::Vacant && readable >= RECORDS_MAX => {
                Err(format!("S8: a claim was let in over {readable} entries"))
            }
            Ok(Exchange::Done(version)) => self.put(write, version.get()),
            Ok(Exchange::Conflict(found)) if !fits => match self.entry(write.key) {
                entry if entry == found => Ok(()),
                entry => Err(format!("S5: the conflict carries {found:?}, and must carry {entry:?}")),
            },
            Ok(Exchange::Conflict(found)) => Err(format!("S3, S4: a conflict with {found:?}")),
            Err(MemoryError::Full { .. }) => {
                let counting = self.count(|cell| cell.gone_at.saturating_add(COARSE) > self.now);
                if expected == Expected::Vacant && fits && counting >= RECORDS_MAX {
                    return Ok(());
                }
                Err(format!("S8: full, with {counting} entries and {expected:?} (holds: {fits})"))
            }
            Err(other) => Err(format!("no legal error: {other}")),
        }
    }

    fn put(&mut self, write: &Write, version: u64) -> Result<(), String> {
        let versions = self.versions.entry(write.key).or_default();
        if let Some(last) = versions.last().filter(|last| **last >= version) {
            return Err(format!("S2: version {version} after {last}"));
        }
        versions.push(version);
        let live_until = self.now.saturating_add(write.live);
        let gone_at = live_until.saturating_add(write.linger);
        let cell = Cell { record: record(write.record), version, live_until, gone_at };
        self.cells.insert(write.key, cell);
        Ok(())
    }

    fn purge(&mut self, limit: usize) -> Result<(), String> {
        let before = self.store.usage().records;
        let purged = ready(self.store.purge(limit)).map_err(|error| error.to_string())?;
        let after = self.store.usage().records;
        if purged.removed > limit || before - after != purged.removed {
            return Err(format!("{purged:?} of at most {limit}, from {before} entries to {after}"));
        }
        let counting = self.count(|cell| cell.gone_at.saturating_add(COARSE) > self.now);
        if !purged.more && after > counting {
            return Err(format!("nothing more to purge, and {after} entries where {counting} count"));
        }
        Ok(())
    }

    /// After each step, every key reads as the register has it (S6, S7), and nothing was dropped early (S8).
    fn check(&self) -> Result<(), String> {
        (0..KEYS).try_for_each(|key| self.check_key(key))?;
        let (used, readable) = (self.store.usage().records, self.count(|cell| cell.gone_at > self.now));
        if used < readable {
            return Err(format!("S8: {used} entries are held, and {readable} are readable"));
        }
        Ok(())
    }

    fn check_key(&self, at: usize) -> Result<(), String> {
        let found = ready(self.store.load(&key(at))).map_err(|error| error.to_string())?;
        let entry = self.entry(at);
        if found == entry {
            return Ok(());
        }
        Err(format!("S6, S7: key {at} reads {found:?}, and must read {entry:?}"))
    }
}
