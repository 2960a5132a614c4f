//! What a case works with: fresh stores, calls whose failures are told, threads that race, and a tally of it all.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use futures::future::{BoxFuture, poll_fn};

use super::clause::{Clause, Violation};
use super::env::env_number;
use super::harness::{Abilities, Effort, Harness, Subject, Time};
use oncekey::protocol::{Entry, Expected, Key, Record, Version};
use oncekey::store::{BatchPut, Exchange, Purged, Put, Store, StoreError as _};
use oncekey::time::{Clock as _, Moment, SystemClock};

/// Why a case ended early.
#[derive(Debug)]
pub(super) enum Stop {
    Violated(Violation),
    /// The harness offers nothing to show it on.
    NotShown(&'static str),
}

impl From<Violation> for Stop {
    fn from(violation: Violation) -> Self {
        Self::Violated(violation)
    }
}

impl Stop {
    /// The same, with a way to see it again.
    pub(super) fn again(self, how: impl FnOnce() -> String) -> Self {
        match self {
            Self::Violated(violation) => Self::Violated(violation.replayed_by(how())),
            Self::NotShown(why) => Self::NotShown(why),
        }
    }

    /// The same, about this.
    pub(super) fn about(self, what: &str) -> Self {
        match self {
            Self::Violated(mut violation) => {
                violation.what = format!("{what}: {}", violation.what);
                Self::Violated(violation)
            }
            Self::NotShown(why) => Self::NotShown(why),
        }
    }
}

pub(super) type Checked<T = ()> = Result<T, Stop>;

/// Refuses with a violation of `clause` unless `holds`.
pub(super) fn demand(holds: bool, clause: Clause, what: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(Violation::new(clause, what()).into()) }
}

/// One case's view of the harness.
pub(super) struct Lab<'h, H> {
    pub(super) harness: &'h H,
    pub(super) effort: Effort,
    pub(super) abilities: Abilities,
    /// What all that is random in this case comes from.
    pub(super) seed: u64,
    /// Blamed when the store answers an error where none was due, or nothing at all.
    pub(super) clause: Clause,
    /// How long a call may wait, by the clock of this machine, until it is taken for hung.
    pub(super) patience: Duration,
    pub(super) tally: Tally,
}

/// What was tried.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) calls: AtomicU64,
    pub(super) histories: AtomicU64,
    pub(super) races: AtomicU64,
    pub(super) seeds: AtomicU64,
}

impl Tally {
    pub(super) fn count(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Ordering::Relaxed);
    }
}

/// The seed of a kit that nobody gave another.
const SEED: u64 = 0x006f_6e63_656b_6579;

/// The seed of this process's kit.
pub(super) fn seed() -> u64 {
    env_number("ONCEKEY_KIT_SEED").unwrap_or(SEED)
}

impl<'h, H: Harness> Lab<'h, H> {
    pub(super) fn new(harness: &'h H, clause: Clause) -> Self {
        Self {
            harness,
            effort: harness.effort().times_env(),
            abilities: harness.abilities(),
            seed: seed(),
            clause,
            patience: Duration::from_secs(60),
            tally: Tally::default(),
        }
    }

    /// A fresh, empty store.
    pub(super) fn fresh(&self) -> Bench<'_, H> {
        self.bench(self.harness.fresh())
    }

    pub(super) fn fresh_bounded(&self, records_max: usize) -> Checked<Bench<'_, H>> {
        match self.harness.fresh_bounded(records_max) {
            Some(subject) => Ok(self.bench(subject)),
            None => Err(Stop::NotShown("the harness has no bounded store")),
        }
    }

    pub(super) fn bench(&self, subject: Subject<H::Store, H::Guard>) -> Bench<'_, H> {
        Bench { lab: self, store: Arc::new(subject.store), time: subject.time, guard: subject.guard }
    }

    /// The line that plays the same again.
    pub(super) fn replay(&self) -> String {
        format!("ONCEKEY_KIT_SEED={:#x}, with the same effort", self.seed)
    }

    pub(super) fn failed(&self, call: &str, error: &impl std::fmt::Display) -> Stop {
        Violation::new(self.clause, format!("{call} answered an error where none was due: {error}")).into()
    }
}

/// A fresh store in a case. Fields are dropped in this order: the store before what cleans up after it.
pub(super) struct Bench<'l, H: Harness> {
    pub(super) lab: &'l Lab<'l, H>,
    pub(super) store: Arc<H::Store>,
    pub(super) time: Time,
    pub(super) guard: H::Guard,
}

/// No time at all: a write that is live for it is expired at once.
pub(super) const NOTHING: Duration = Duration::ZERO;
/// A lifetime that never ends.
pub(super) const FOR_EVER: Duration = Duration::MAX;

/// An entry that was read, and when.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) entry: Entry,
    pub(super) at: Span,
}

/// When a call was made: the store applied it between these two moments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) sent: Moment,
    pub(super) answered: Moment,
}

/// A key that no other call of this function names.
pub(super) fn key(id: impl AsRef<str>) -> Key {
    Key::new("conformance", id).expect("ids of the kit are short and not empty")
}

impl<H: Harness> Bench<'_, H> {
    pub(super) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.lab.harness.block_on(future)
    }

    /// Waits for the answer of a call, and not forever: calls that wait for each other must not hang the kit.
    pub(super) fn answer<F: Future>(&self, what: &str, call: F) -> Checked<F::Output> {
        Tally::count(&self.lab.tally.calls, 1);
        let patience = self.lab.patience;
        let answered = self.block_on(async {
            let mut call = pin!(call);
            // Made only for a call that waits at all.
            let mut end: Option<BoxFuture<'static, ()>> = None;
            poll_fn(|cx| match call.as_mut().poll(cx) {
                Poll::Ready(answer) => Poll::Ready(Some(answer)),
                Poll::Pending => {
                    let end = end.get_or_insert_with(|| {
                        let clock = SystemClock::new();
                        clock.sleep_until(clock.now() + patience)
                    });
                    end.as_mut().poll(cx).map(|()| None)
                }
            })
            .await
        });
        let hung = || format!("{what} has no answer after {patience:?}; a failure would be an answer");
        answered.ok_or_else(|| Violation::new(self.lab.clause, hung()).into())
    }

    /// So many of the harness's steps.
    pub(super) fn steps(&self, count: u32) -> Duration {
        self.time.step() * count
    }

    /// A lifetime that ends, and not while a case runs, however busy the machine is: more than an hour by the shortest
    /// of steps in use.
    pub(super) fn long(&self) -> Duration {
        self.steps(100_000)
    }

    /// Lets so many steps pass, and a little more if the store rounds times.
    pub(super) fn pass(&self, steps: u32) {
        self.time.pass(self.steps(steps) + self.time.resolution());
    }

    /// The store again over the same data, as after a restart; `None` if the harness has no such thing.
    pub(super) fn reopened(self) -> Option<Self> {
        let Self { lab, store, guard, time } = self;
        drop(store);
        lab.harness.reopen(guard).map(|mut subject| {
            if time.manual_clock().is_none() {
                // The clock of this machine as it was read before: another reading begins anew.
                subject.time = time;
            }
            lab.bench(subject)
        })
    }

    /// This case has nothing to show here.
    pub(super) fn not_shown<T>(&self, why: &'static str) -> Checked<T> {
        Err(Stop::NotShown(why))
    }

    /// Does something, and notes when.
    pub(super) fn timed<T>(&self, what: impl FnOnce() -> T) -> (T, Span) {
        let sent = self.time.now();
        let done = what();
        (done, Span { sent, answered: self.time.now() })
    }

    pub(super) fn load(&self, key: &Key) -> Checked<Option<Entry>> {
        self.answer("load", self.store.load(key))?.map_err(|error| self.lab.failed("load", &error))
    }

    /// Reads an entry that must be there, with this record at this version.
    pub(super) fn expect_entry(
        &self,
        key: &Key,
        clause: Clause,
        record: &Record,
        version: Version,
    ) -> Checked<Seen> {
        let (found, at) = self.timed(|| self.load(key));
        let Some(entry) = found? else {
            let what =
                format!("an entry at {version:?} was written and is readable, and a load finds nothing");
            return Err(Violation::new(clause, what).into());
        };
        self.same_entry(clause, &entry, record, version)?;
        Ok(Seen { entry, at })
    }

    /// An entry is what was written, field by field and byte by byte.
    pub(super) fn same_entry(
        &self,
        clause: Clause,
        entry: &Entry,
        record: &Record,
        version: Version,
    ) -> Checked {
        demand(entry.version == version, clause, || {
            format!("the entry is at {:?}, and was written at {version:?}", entry.version)
        })?;
        demand(&entry.record == record, clause, || {
            format!("written was\n{record:?}\nand read back was\n{:?}", entry.record)
        })
    }

    /// The time left of an entry that was written then, to live so long, is what the time that passed leaves.
    pub(super) fn on_time(&self, clause: Clause, seen: &Seen, live: Duration, written: Span) -> Checked {
        let left = seen.entry.left;
        let least = live.saturating_sub(seen.at.answered.saturating_since(written.sent));
        let passed = seen.at.sent.saturating_since(written.answered);
        let most = match live {
            FOR_EVER => FOR_EVER,
            _ => live.saturating_sub(passed).saturating_add(self.time.resolution()),
        };
        demand(least <= left && left <= most, clause, || {
            format!(
                "of {live:?} to live, {left:?} are left when between {passed:?} and {:?} have passed",
                seen.at.answered.saturating_since(written.sent)
            )
        })
    }

    /// Writes, live and lingering for so long.
    pub(super) fn exchange(
        &self,
        key: &Key,
        expected: Expected,
        record: &Record,
        (live, linger): (Duration, Duration),
    ) -> Checked<Exchange> {
        let call = self.store.compare_exchange(key, expected, Put::new(record, live, linger));
        self.answer("compare_exchange", call)?.map_err(|error| {
            // Which clause it breaks depends on what the error says about itself.
            let found = self.block_on(self.store.load(key));
            let applied = found.is_ok_and(|found| found.is_some_and(|entry| &entry.record == record));
            if applied && !error.maybe_applied() {
                let what = format!("a put was reported as failed and not applied ({error}), and it is there");
                return Violation::new(Clause::S10, what).into();
            }
            self.lab.failed("compare_exchange", &error)
        })
    }

    /// A write that must be done.
    pub(super) fn write(
        &self,
        key: &Key,
        expected: Expected,
        record: &Record,
        lives: (Duration, Duration),
    ) -> Checked<Version> {
        match self.exchange(key, expected, record, lives)? {
            Exchange::Done(version) => Ok(version),
            Exchange::Conflict(found) => {
                let clause = if expected == Expected::Vacant { Clause::S3 } else { Clause::S4 };
                let what = format!("a put expecting {expected:?}, which held, conflicted with {found:?}");
                Err(Violation::new(clause, what).into())
            }
        }
    }

    pub(super) fn batch(&self, batch: &[BatchPut<'_>]) -> Checked<Vec<Exchange>> {
        let each = self.batch_answers(batch)?.into_iter();
        each.map(|answer| answer.map_err(|error| self.lab.failed("compare_exchange_many", &error))).collect()
    }

    /// The same, where errors are due.
    pub(super) fn batch_answers(
        &self,
        batch: &[BatchPut<'_>],
    ) -> Checked<Vec<Result<Exchange, <H::Store as Store>::Error>>> {
        let answers = self.answer("compare_exchange_many", self.store.compare_exchange_many(batch))?;
        demand(answers.len() == batch.len(), Clause::S1, || {
            format!("{} answers to a batch of {}: one per item is due", answers.len(), batch.len())
        })?;
        Ok(answers)
    }

    pub(super) fn purge(&self, limit: usize) -> Checked<Purged> {
        self.answer("purge", self.store.purge(limit))?.map_err(|error| self.lab.failed("purge", &error))
    }

    /// Purges until there is no more.
    pub(super) fn purge_all(&self) -> Checked<usize> {
        let mut removed = 0;
        for _ in 0..10_000 {
            let purged = self.purge(64)?;
            removed += purged.removed;
            if !purged.more {
                return Ok(removed);
            }
        }
        Err(Violation::new(Clause::S8, "10,000 purges of 64 each still say that there is more").into())
    }

    /// So many threads do this at once, each with its number; what each of them got.
    pub(super) fn race<T: Send>(&self, racers: usize, racer: impl Fn(usize) -> T + Sync) -> Vec<T> {
        Tally::count(&self.lab.tally.races, 1);
        let barrier = Barrier::new(racers);
        let run = |index| {
            barrier.wait();
            racer(index)
        };
        thread::scope(|scope| {
            let started: Vec<_> = (0..racers).map(|index| scope.spawn(move || run(index))).collect();
            let ended = started.into_iter().map(|racer| racer.join());
            ended.map(|racer| racer.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Intercept;
    use oncekey::MemoryStore;
    use oncekey::time::ManualClock;

    /// Its stores' reads wait for each other.
    struct HungHarness;

    impl Harness for HungHarness {
        type Store = Intercept<MemoryStore>;
        type Guard = ();

        fn fresh(&self) -> Subject<Self::Store> {
            let clock = ManualClock::new();
            let store = MemoryStore::builder().clock(clock.clone()).build();
            let hung = Intercept::new(store).on_load(|_, _| Box::pin(std::future::pending()));
            Subject::new(hung, Time::manual(clock))
        }
    }

    #[test]
    fn a_call_that_hangs_is_a_violation_and_not_a_hung_kit() {
        let patience = Duration::from_millis(30);
        let lab = Lab { patience, ..Lab::new(&HungHarness, Clause::S3) };
        let bench = lab.fresh();
        let record = crate::samples::in_progress(1);
        let version = bench.write(&key("a"), Expected::Vacant, &record, (FOR_EVER, NOTHING));
        version.expect("a write does not hang");
        let Err(Stop::Violated(violation)) = bench.load(&key("a")) else {
            panic!("a load that is never answered was answered")
        };
        assert_eq!(violation.clause, Clause::S3);
        assert_eq!(violation.what, "load has no answer after 30ms; a failure would be an answer");
    }
}
