//! The contract as a program: per key a register with a version and two lifetimes. It judges every answer, and names
//! the clause that a wrong one breaks. It shares no code with a store.
//!
//! A call is applied at some moment between sending it and hearing its answer. On a clock moved by hand the two are the
//! same moment, and every answer is determined. On a clock that runs, an entry near the end of a life may read either way,
//! and what was read then binds all later answers.

use std::time::Duration;

use crate::Clause::{self, S1, S2, S3, S4, S5, S6, S7, S8};
use crate::Violation;
use crate::lab::Span;
use oncekey::protocol::{Entry, Expected, Record, Version};
use oncekey::store::Exchange;
use oncekey::time::Moment;

use super::steps::{End, KEYS};

/// A lifetime from which on nobody asks how much is left: a century, or forever.
const VAST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// How exact the store's clock is, seen from ours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Precision {
    /// What the store rounds times to.
    pub(super) resolution: Duration,
    /// Whether the store's clock runs by itself, at a rate a little different from ours.
    pub(super) drifts: bool,
}

/// A write that was done.
#[derive(Clone, Debug)]
struct Cell {
    record: Record,
    version: Version,
    written: Span,
    live: Duration,
    linger: Duration,
    /// It was read as expired; and as gone.
    expired: bool,
    gone: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Is {
    Yes,
    No,
    Maybe,
}

type Status = Result<(), Violation>;

/// All keys of one history.
#[derive(Debug)]
pub(super) struct Register {
    precision: Precision,
    cells: [Option<Cell>; KEYS],
    /// Per key, all versions it ever had.
    versions: [Vec<Version>; KEYS],
    /// All that was ever put to any key, by name.
    records: Vec<(Record, String)>,
}

/// One put, as the register needs to know it.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) key: usize,
    pub(super) expected: Expected,
    pub(super) record: Record,
    pub(super) live: Duration,
    pub(super) linger: Duration,
}

fn violated(clause: Clause, what: impl Into<String>) -> Status {
    Err(Violation::new(clause, what))
}

impl Cell {
    /// Until when it cannot have ended; from when on it must have.
    fn ends(&self, end: End, precision: Precision) -> (Moment, Moment) {
        let (life, roundings) = match end {
            End::Live => (self.live, 1),
            End::Linger => (self.live.saturating_add(self.linger), 2),
        };
        if life >= VAST {
            return (Moment::NEVER, Moment::NEVER);
        }
        (self.written.sent + life, self.written.answered + life + precision.resolution * roundings)
    }

    fn lasts(&self, end: End, asked: Span, precision: Precision) -> Is {
        let (from, to) = self.ends(end, precision);
        let slack = self.slack(asked, precision);
        if asked.answered + slack < from {
            Is::Yes
        } else if asked.sent >= to + slack {
            Is::No
        } else {
            Is::Maybe
        }
    }

    /// By how much the two clocks may have drifted apart since the write.
    fn slack(&self, asked: Span, precision: Precision) -> Duration {
        if precision.drifts {
            asked.answered.saturating_since(self.written.sent) / 64
        } else {
            Duration::ZERO
        }
    }

    /// Between what the time left must be.
    fn left(&self, asked: Span, precision: Precision) -> (Duration, Duration) {
        if self.expired {
            return (Duration::ZERO, Duration::ZERO);
        }
        if self.live >= VAST {
            let elapsed = asked.answered.saturating_since(self.written.sent);
            return (VAST.saturating_sub(elapsed), Duration::MAX);
        }
        let (from, to) = self.ends(End::Live, precision);
        let slack = self.slack(asked, precision);
        let least = from.saturating_since(asked.answered).saturating_sub(slack);
        let most = match self.lasts(End::Live, asked, precision) {
            Is::No => Duration::ZERO,
            Is::Yes | Is::Maybe => to.saturating_since(asked.sent) + slack,
        };
        (least, most)
    }
}

impl Register {
    pub(super) fn new(precision: Precision) -> Self {
        Self { precision, cells: Default::default(), versions: Default::default(), records: Vec::new() }
    }

    /// So that a record is told by name.
    pub(super) fn names(&mut self, record: &Record, name: String) {
        self.records.push((record.clone(), name));
    }

    /// What holds now: nothing, or a version. Where time leaves both open, the version.
    pub(super) fn fitting(&self, key: usize, now: Moment) -> Expected {
        match &self.cells[key] {
            Some(cell) if self.reads(key, at(now)) != Is::No => Expected::At(cell.version),
            _ => Expected::Vacant,
        }
    }

    /// The record that is readable now, as far as is known.
    pub(super) fn record(&self, key: usize, now: Moment) -> Option<&Record> {
        let cell = self.cells[key].as_ref().filter(|_| self.reads(key, at(now)) != Is::No);
        cell.map(|cell| &cell.record)
    }

    /// The `nth` last version of a key, from 1.
    pub(super) fn nth_last(&self, key: usize, nth: usize) -> Option<Version> {
        let versions = &self.versions[key];
        Some(versions[versions.len().checked_sub(nth)?])
    }

    /// How long from now until an end of what was written last, if it has one to come.
    pub(super) fn until(&self, key: usize, end: End, now: Moment) -> Option<Duration> {
        let (at, _) = self.cells[key].as_ref()?.ends(end, self.precision);
        (at > now && at != Moment::NEVER).then(|| at.saturating_since(now))
    }

    /// Keys that must be readable, but for those left out.
    pub(super) fn readable(&self, now: Moment, but: impl Fn(usize) -> bool) -> usize {
        (0..KEYS).filter(|&key| !but(key) && self.reads(key, at(now)) == Is::Yes).count()
    }

    /// Keys whose entry the store may still hold, readable or not.
    pub(super) fn held(&self) -> usize {
        self.cells.iter().flatten().count()
    }

    fn reads(&self, key: usize, asked: Span) -> Is {
        match &self.cells[key] {
            Some(cell) if !cell.gone => cell.lasts(End::Linger, asked, self.precision),
            _ => Is::No,
        }
    }

    /// Whether what the put expects is so.
    pub(super) fn holds(&self, sent: &Sent, asked: Span) -> Holds {
        let reads = self.reads(sent.key, asked);
        let holds = match (sent.expected, &self.cells[sent.key]) {
            (Expected::Vacant, _) => match reads {
                Is::Yes => Is::No,
                Is::No => Is::Yes,
                Is::Maybe => Is::Maybe,
            },
            (Expected::At(version), Some(cell)) if cell.version == version => reads,
            (Expected::At(_), _) => Is::No,
        };
        Holds(holds)
    }

    /// Judges what a put was answered.
    pub(super) fn exchanged(&mut self, sent: &Sent, answer: &Exchange, asked: Span) -> Status {
        let Holds(holds) = self.holds(sent, asked);
        let (expected, key) = (sent.expected, sent.key);
        let clause = if expected == Expected::Vacant { S3 } else { S4 };
        match answer {
            Exchange::Done(version) if holds == Is::No => violated(
                clause,
                format!(
                    "a put expecting {} was done ({version}), and what it expected was not so: {}",
                    told(expected),
                    self.told_current(key, asked)
                ),
            ),
            Exchange::Done(version) => self.done(sent, *version, asked),
            Exchange::Conflict(found) if holds == Is::Yes => violated(
                clause,
                format!(
                    "a put expecting {}, which was so, conflicted with {}",
                    told(expected),
                    self.told(found.as_ref())
                ),
            ),
            Exchange::Conflict(found) => {
                let equals = match (expected, found) {
                    (Expected::Vacant, None) => true,
                    (Expected::At(version), Some(found)) => found.version == version,
                    _ => false,
                };
                if equals {
                    let found = self.told(found.as_ref());
                    return violated(S5, format!("a conflict carries just what was expected: {found}"));
                }
                self.read(key, found.as_ref(), asked, S5)
            }
        }
    }

    fn done(&mut self, sent: &Sent, version: Version, written: Span) -> Status {
        let versions = &mut self.versions[sent.key];
        if let Some(last) = versions.last().filter(|last| **last >= version) {
            return violated(S2, format!("a write got version {version}, after {last}"));
        }
        versions.push(version);
        self.cells[sent.key] = Some(Cell {
            record: sent.record.clone(),
            version,
            written,
            live: sent.live,
            linger: sent.linger,
            expired: false,
            gone: false,
        });
        Ok(())
    }

    /// Judges what a load answered.
    pub(super) fn loaded(&mut self, key: usize, found: Option<&Entry>, asked: Span) -> Status {
        self.read(key, found, asked, S8)
    }

    /// Judges an entry answered; `missing` is broken by an answer of nothing where there is something.
    fn read(&mut self, key: usize, found: Option<&Entry>, asked: Span, missing: Clause) -> Status {
        let reads = self.reads(key, asked);
        match (found, reads) {
            (None, Is::No) => Ok(()),
            (None, Is::Maybe) => {
                self.cells[key].as_mut().expect("what may be readable was written").gone = true;
                Ok(())
            }
            (None, Is::Yes) => {
                violated(missing, format!("nothing was found; there is {}", self.told_current(key, asked)))
            }
            (Some(found), Is::No) => {
                let clause = if self.versions[key].contains(&found.version) { S7 } else { S6 };
                let there = self.told_current(key, asked);
                violated(clause, format!("found was {}; {there}", self.told(Some(found))))
            }
            (Some(found), Is::Yes | Is::Maybe) => self.same(key, found, asked),
        }
    }

    fn same(&mut self, key: usize, found: &Entry, asked: Span) -> Status {
        let cell = self.cells[key].as_ref().expect("what is readable was written");
        let wrong = |clause| {
            let (found, there) = (self.told(Some(found)), self.told_current(key, asked));
            violated(clause, format!("found was {found}; there is {there}"))
        };
        if found.version != cell.version {
            let has = |versions: &Vec<Version>| versions.contains(&found.version);
            return wrong(if has(&self.versions[key]) {
                S1
            } else if found.record == cell.record {
                // What was answered to a write of this key is another key's number, or nobody's.
                if self.versions.iter().any(has) { S1 } else { S2 }
            } else if self.records.iter().any(|(known, _)| *known == found.record) {
                S6
            } else {
                S2
            });
        }
        if found.record != cell.record {
            return wrong(S6);
        }
        let (least, most) = cell.left(asked, self.precision);
        if found.left < least || found.left > most {
            return violated(
                S7,
                format!(
                    "{} has {} left, and must have {}",
                    self.name(&found.record),
                    span(found.left),
                    if least == most {
                        span(least)
                    } else {
                        format!("between {} and {}", span(least), span(most))
                    }
                ),
            );
        }
        if found.left.is_zero() {
            self.cells[key].as_mut().expect("it is there").expired = true;
        }
        Ok(())
    }

    /// A record by its name.
    pub(super) fn name(&self, record: &Record) -> String {
        let known = self.records.iter().find(|(known, _)| known == record);
        known.map_or_else(|| format!("a record that nobody wrote, {record:?}"), |(_, name)| name.clone())
    }

    /// An entry, in words.
    pub(super) fn told(&self, entry: Option<&Entry>) -> String {
        entry.map_or_else(
            || "nothing".to_owned(),
            |entry| {
                let Entry { record, version, left } = entry;
                format!("{} at version {version}, {} left", self.name(record), span(*left))
            },
        )
    }

    fn told_current(&self, key: usize, asked: Span) -> String {
        match &self.cells[key] {
            None => "the key was never written".to_owned(),
            Some(cell) => {
                let name = self.name(&cell.record);
                let version = cell.version;
                let reads = match self.reads(key, asked) {
                    Is::Yes => "",
                    Is::No => ", which is gone by now",
                    Is::Maybe => ", which may be gone by now",
                };
                format!("{name} at version {version}{reads}")
            }
        }
    }
}

/// Whether an expectation is so, as far as is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holds(Is);

impl Holds {
    /// Whether it can be so.
    pub(super) fn maybe(self) -> bool {
        self.0 != Is::No
    }
}

fn at(now: Moment) -> Span {
    Span { sent: now, answered: now }
}

/// An expectation, in words.
pub(super) fn told(expected: Expected) -> String {
    match expected {
        Expected::Vacant => "nothing".to_owned(),
        Expected::At(version) => format!("version {version}"),
    }
}

/// A duration, in words.
pub(super) fn span(duration: Duration) -> String {
    if duration >= VAST { "forever".to_owned() } else { format!("{duration:?}") }
}
