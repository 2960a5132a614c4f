//! Plays steps against a store and the reference together.

use std::time::Duration;

use crate::clause::Clause;
use crate::harness::{Harness, Time};
use crate::lab::{Bench, Checked, Span, Stop, Tally, demand};
use oncekey::protocol::{Entry, Expected, Key, Record, Version};
use oncekey::store::{BatchPut, Exchange, Purged, Put, Store as _, StoreError, StoreErrorKind};
use oncekey::time::Clock as _;

use super::reference::{Precision, Register, Sent, span, told};
use super::steps::{Expect, KEYS, Kind, Pass, Side, Step, What, Write};

/// How a history is played.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Every key is loaded after every step, and not at the end alone.
    pub(super) watched: bool,
    /// How many entries the store holds at most.
    pub(super) bound: Option<usize>,
    /// How often time may be let pass, where that takes time.
    pub(super) waits_max: usize,
}

/// A history that went wrong: what was played, and how it ended.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) stop: Stop,
    pub(super) played: Vec<String>,
}

/// A store as the player sees it. It names no type of the store, so that the player is built once and not for each.
pub(super) trait Caller {
    fn time(&self) -> &Time;
    fn load(&self, key: &Key) -> Checked<Option<Entry>>;
    fn purge(&self, limit: usize) -> Checked<Purged>;
    fn put(&self, key: &Key, expected: Expected, put: Put<'_>) -> Checked<Answer>;
    fn put_many(&self, batch: &[BatchPut<'_>]) -> Vec<Answer>;
    /// An error where none was due.
    fn failed(&self, error: &Refusal) -> Stop;
}

pub(super) type Answer = Result<Exchange, Refusal>;

/// An error of the store.
#[derive(Debug)]
pub(super) struct Refusal {
    kind: StoreErrorKind,
    told: String,
}

impl<H: Harness> Caller for Bench<'_, H> {
    fn time(&self) -> &Time {
        &self.time
    }

    fn load(&self, key: &Key) -> Checked<Option<Entry>> {
        self.load(key)
    }

    fn purge(&self, limit: usize) -> Checked<Purged> {
        self.purge(limit)
    }

    fn put(&self, key: &Key, expected: Expected, put: Put<'_>) -> Checked<Answer> {
        Tally::count(&self.lab.tally.calls, 1);
        let answer = self.block_on(self.store.compare_exchange(key, expected, put));
        Ok(answer.map_err(|error| refusal(&error)))
    }

    fn put_many(&self, batch: &[BatchPut<'_>]) -> Vec<Answer> {
        Tally::count(&self.lab.tally.calls, 1);
        let answers = self.block_on(self.store.compare_exchange_many(batch));
        answers.into_iter().map(|answer| answer.map_err(|error| refusal(&error))).collect()
    }

    fn failed(&self, error: &Refusal) -> Stop {
        self.lab.failed("a put", &error.told)
    }
}

pub(super) fn refusal(error: &impl StoreError) -> Refusal {
    Refusal { kind: error.kind(), told: error.to_string() }
}

struct Player<'b> {
    store: &'b dyn Caller,
    rules: Rules,
    keys: Vec<Key>,
    register: Register,
    waits: usize,
    played: Vec<String>,
}

/// Keys that only a store that compares bytes tells apart.
const IDS: [&str; KEYS] = ["k", "K", "k ", "k\0"];

/// Plays a history over keys of its own.
pub(super) fn play(store: &dyn Caller, rules: Rules, number: u32, steps: &[Step]) -> Result<(), Failed> {
    let keys = IDS.map(|id| crate::lab::key(format!("{number}-{id}"))).to_vec();
    let precision =
        Precision { resolution: store.time().resolution(), drifts: store.time().manual_clock().is_none() };
    let register = Register::new(precision);
    let mut player = Player { store, rules, keys, register, waits: 0, played: Vec::new() };
    let ended = player.all(steps);
    ended.map_err(|stop| Failed { stop, played: player.played })
}

impl Player<'_> {
    fn all(&mut self, steps: &[Step]) -> Checked {
        for (index, step) in steps.iter().enumerate() {
            self.step(index + 1, step)?;
            if self.rules.watched {
                self.look_at_all()?;
            }
        }
        self.look_at_all()
    }

    fn step(&mut self, number: usize, step: &Step) -> Checked {
        match step {
            Step::Load { key } => {
                self.played.push(format!("{number}. load {:?}", IDS[*key]));
                let found = self.look_at(*key)?;
                let found = self.register.told(found.as_ref());
                self.answered(&found);
                Ok(())
            }
            Step::Put(write) => self.put(number, write),
            Step::Batch(writes) => self.batch(number, writes),
            Step::Pass(pass) => {
                self.pass(number, *pass);
                Ok(())
            }
            Step::Purge { limit } => {
                self.played.push(format!("{number}. purge up to {limit}"));
                let purged = self.store.purge(*limit)?;
                self.answered(&format!("{} removed, more: {}", purged.removed, purged.more));
                demand(purged.removed <= *limit, Clause::S8, || {
                    format!("a purge of at most {limit} removed {}", purged.removed)
                })
            }
        }
    }

    fn answered(&mut self, answer: &str) {
        self.answered_before(0, answer);
    }

    /// Tells the answer to the line so many before the last.
    fn answered_before(&mut self, lines: usize, answer: &str) {
        let line = self.played.iter_mut().nth_back(lines).expect("a step is told before its answer");
        line.push_str(" -> ");
        line.push_str(answer);
    }

    fn pass(&mut self, number: usize, pass: Pass) {
        let duration = match pass {
            Pass::For(duration) => duration,
            Pass::To { key, end, side } => {
                let until = self.register.until(key, end, self.store.time().now());
                // Nobody waits for what ends in years: the clock would come to its own end.
                let until = until.filter(|until| *until <= Duration::from_secs(100_000));
                let until = until.unwrap_or(Duration::from_secs(1));
                let millisecond = Duration::from_millis(1);
                match side {
                    Side::Before => until.saturating_sub(millisecond),
                    Side::At => until,
                    Side::After => until + millisecond,
                }
            }
        };
        if self.store.time().manual_clock().is_none() {
            if self.waits >= self.rules.waits_max {
                return;
            }
            self.waits += 1;
        }
        self.played.push(format!("{number}. {duration:?} pass"));
        self.store.time().pass(duration);
    }

    /// What a write comes to, as things stand.
    fn sent(&mut self, tag: u64, name: &str, write: &Write) -> Sent {
        let now = self.store.time().now();
        let of = |key, nth| Expected::At(self.register.nth_last(key, nth).unwrap_or(Version::new(0)));
        let expected = match write.expect {
            Expect::Fitting => self.register.fitting(write.key, now),
            Expect::Vacant => Expected::Vacant,
            Expect::Last => of(write.key, 1),
            Expect::Stale => of(write.key, 2),
            Expect::Next => match self.register.nth_last(write.key, 1) {
                Some(last) => Expected::At(Version::new(last.get() + 1)),
                None => Expected::At(Version::new(1)),
            },
            Expect::Never => Expected::At(Version::new(u64::MAX)),
            Expect::Of(key) => of(key, 1),
        };
        let (record, name): (Record, String) = match &write.what {
            What::Following(choice) => {
                let over = self.register.record(write.key, now).map(Record::state);
                let kind = Kind::following(over, *choice);
                (kind.record(tag + 1000 * u64::from(*choice)), format!("{kind} #{name}"))
            }
            What::Sample(kind, salt) => {
                (kind.record(tag + 1000 * u64::from(*salt)), format!("{kind} #{name}"))
            }
            What::Any(record) => ((**record).clone(), format!("{record:?} #{name}")),
        };
        self.register.names(&record, name);
        Sent { key: write.key, expected, record, live: write.live, linger: write.linger }
    }

    fn told(&self, sent: &Sent) -> String {
        format!(
            "{:?}: expecting {}, put {} to live {} and linger {}",
            IDS[sent.key],
            told(sent.expected),
            self.register.name(&sent.record),
            span(sent.live),
            span(sent.linger)
        )
    }

    fn put(&mut self, number: usize, write: &Write) -> Checked {
        let name = number.to_string();
        let sent = self.sent(10 * number as u64, &name, write);
        let line = format!("{number}. {}", self.told(&sent));
        self.played.push(line);
        let put = Put::new(&sent.record, sent.live, sent.linger);
        let (answer, asked) = self.timed(|store, keys| store.put(&keys[sent.key], sent.expected, put));
        self.judge(&[(sent, answer?)], asked)
    }

    fn batch(&mut self, number: usize, writes: &[Write]) -> Checked {
        let mut all = Vec::new();
        self.played.push(format!("{number}. a batch"));
        for (index, write) in (1..).zip(writes) {
            let name = format!("{number}.{index}");
            let sent = self.sent(10 * number as u64 + index, &name, write);
            let line = format!("   {}", self.told(&sent));
            self.played.push(line);
            all.push(sent);
        }
        let put = |sent: &Sent| (sent.key, sent.expected, sent.record.clone(), sent.live, sent.linger);
        let puts: Vec<_> = all.iter().map(put).collect();
        let batch: Vec<_> = puts
            .iter()
            .map(|(key, expected, record, live, linger)| {
                BatchPut::new(&self.keys[*key], *expected, Put::new(record, *live, *linger))
            })
            .collect();
        let (answers, asked) = self.timed(|store, _| store.put_many(&batch));
        demand(answers.len() == all.len(), Clause::S1, || {
            format!("{} answers to a batch of {}: one per item is due", answers.len(), all.len())
        })?;
        let puts: Vec<_> = all.into_iter().zip(answers).collect();
        self.judge(&puts, asked)
    }

    /// Judges the answers to puts that were sent together.
    fn judge(&mut self, puts: &[(Sent, Answer)], asked: Span) -> Checked {
        for (index, (_, answer)) in (1..).zip(puts) {
            let told = match answer {
                Ok(Exchange::Done(version)) => format!("done, version {version}"),
                Ok(Exchange::Conflict(found)) => {
                    format!("conflict with {}", self.register.told(found.as_ref()))
                }
                Err(error) => format!("error: {}", error.told),
            };
            self.answered_before(puts.len() - index, &told);
        }
        let holds: Vec<_> = puts.iter().map(|(sent, _)| self.register.holds(sent, asked)).collect();
        // An item of a batch that ends an entry at once may make room for another.
        let ends = |key| puts.iter().any(|(sent, _)| sent.key == key && sent.expected != Expected::Vacant);
        let mut readable = self.register.readable(asked.answered, ends);
        for (sent, answer) in puts {
            let Ok(exchange) = answer else { continue };
            self.register.exchanged(sent, exchange, asked)?;
            let fresh = sent.expected == Expected::Vacant && matches!(exchange, Exchange::Done(_));
            if let (true, Some(bound)) = (fresh, self.rules.bound) {
                demand(readable < bound, Clause::S8, || {
                    format!(
                        "a put expecting nothing was let in over {readable} readable entries, and the bound is {bound}"
                    )
                })?;
                let lasts = !sent.live.saturating_add(sent.linger).is_zero();
                readable += usize::from(lasts);
            }
        }
        for ((sent, answer), holds) in puts.iter().zip(holds) {
            let Err(error) = answer else { continue };
            self.refused(sent, error, holds.maybe())?;
        }
        Ok(())
    }

    /// Judges an error: only a store at its own bound has one to give here.
    fn refused(&self, sent: &Sent, error: &Refusal, may_hold: bool) -> Checked {
        let Some(bound) = self.rules.bound else {
            return Err(self.store.failed(error));
        };
        let held = self.register.held();
        let full = error.kind == StoreErrorKind::Full;
        let due = full && sent.expected == Expected::Vacant && may_hold && held >= bound;
        demand(due, Clause::S8, || {
            let so = if may_hold { "so" } else { "not so" };
            format!(
                "a put expecting {}, which was {so}, was refused with an error of kind {:?}, {}; the store can \
                 hold {held} entries at most by now, of {bound}",
                told(sent.expected),
                error.kind,
                error.told,
            )
        })
    }

    fn look_at_all(&mut self) -> Checked {
        (0..KEYS).try_for_each(|key| {
            let looked = self.look_at(key).map(drop);
            looked.map_err(|stop| stop.about(&format!("{:?} was loaded then", IDS[key])))
        })
    }

    /// Calls the store, and notes when.
    fn timed<T>(&self, call: impl FnOnce(&dyn Caller, &[Key]) -> T) -> (T, Span) {
        let sent = self.store.time().now();
        let answer = call(self.store, &self.keys);
        (answer, Span { sent, answered: self.store.time().now() })
    }

    fn look_at(&mut self, key: usize) -> Checked<Option<Entry>> {
        let (found, asked) = self.timed(|store, keys| store.load(&keys[key]));
        let found = found?;
        self.register.loaded(key, found.as_ref(), asked)?;
        Ok(found)
    }
}
