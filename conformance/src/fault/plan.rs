//! What the next calls meet.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use super::Stray;
use super::chance::Odds;
use super::log::{FaultLog, Injection};
use oncekey::store::BatchPut;

/// What one call meets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// Not applied, and the error says so.
    Refused,
    /// Not applied, and nobody knows: an error that says "maybe applied".
    RequestLost,
    /// Applied, and then an error that says "maybe applied".
    ReplyLost,
    /// Applied after this time, and then answered. Dropped meanwhile: not applied. To stall past a lease, make it longer
    /// than one.
    DelayedBefore(Duration),
    /// Applied, and answered after this time. Dropped meanwhile: applied.
    DelayedAfter(Duration),
    /// Applied twice, as when a network repeats a request. The second answer is the one that arrives.
    Twice,
    /// An error that says "maybe applied"; the write arrives right before the `after_calls`-th later call, of any kind. A
    /// call that writes nothing is just lost.
    #[non_exhaustive]
    LateCopy {
        /// How many calls later, from 1; zero is taken as one.
        after_calls: u32,
    },
    /// Applied and answered; a copy of the write arrives right before the `after_calls`-th later call, of any kind.
    #[non_exhaustive]
    Echo {
        /// How many calls later, from 1; zero is taken as one.
        after_calls: u32,
    },
    /// Not applied, and never answered.
    HangsBefore,
    /// Applied, and never answered.
    HangsAfter,
}

impl Fault {
    /// [`Fault::LateCopy`].
    pub fn late_copy(after_calls: u32) -> Self {
        Self::LateCopy { after_calls }
    }

    /// [`Fault::Echo`].
    pub fn echo(after_calls: u32) -> Self {
        Self::Echo { after_calls }
    }

    /// Whether the store gets the call.
    pub(super) fn arrives(self) -> bool {
        !matches!(self, Self::Refused | Self::RequestLost | Self::LateCopy { .. } | Self::HangsBefore)
    }

    pub(super) fn hangs(self) -> bool {
        matches!(self, Self::HangsBefore | Self::HangsAfter)
    }

    pub(super) fn delay_before(self) -> Option<Duration> {
        if let Self::DelayedBefore(duration) = self { Some(duration) } else { None }
    }

    pub(super) fn delay_after(self) -> Option<Duration> {
        if let Self::DelayedAfter(duration) = self { Some(duration) } else { None }
    }

    fn copy_after(self) -> Option<u32> {
        match self {
            Self::LateCopy { after_calls } | Self::Echo { after_calls } => Some(after_calls.max(1)),
            _ => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("refused"),
            Self::RequestLost => f.write_str("the request lost"),
            Self::ReplyLost => f.write_str("applied, and the reply lost"),
            Self::DelayedBefore(duration) => write!(f, "applied after {duration:?}"),
            Self::DelayedAfter(duration) => write!(f, "applied, and answered after {duration:?}"),
            Self::Twice => f.write_str("applied twice"),
            Self::LateCopy { after_calls } => write!(f, "lost, to arrive {after_calls} calls later"),
            Self::Echo { after_calls } => {
                write!(f, "applied, and a copy to arrive {after_calls} calls later")
            }
            Self::HangsBefore => f.write_str("not applied, and never answered"),
            Self::HangsAfter => f.write_str("applied, and never answered"),
        }
    }
}

/// What kind of call.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum CallKind {
    /// A load, or a listing.
    Load,
    /// A compare-and-exchange.
    Exchange,
    /// An item of a batch.
    BatchItem,
    /// A purge.
    Purge,
}

impl CallKind {
    pub(super) const ALL: [Self; 4] = [Self::Load, Self::Exchange, Self::BatchItem, Self::Purge];
}

impl fmt::Display for CallKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Load => "load",
            Self::Exchange => "exchange",
            Self::BatchItem => "batch item",
            Self::Purge => "purge",
        })
    }
}

/// What a call meets, and which late copies arrive before it.
pub(super) struct Decided {
    pub(super) call: u64,
    pub(super) fault: Option<Fault>,
    pub(super) arriving: Vec<Stray>,
}

#[derive(Default)]
pub(super) struct Plan {
    /// Calls made.
    pub(super) calls: u64,
    pub(super) log: FaultLog,
    /// For the next calls: as planned, or (outer `None`) by chance.
    queue: VecDeque<Option<Option<Fault>>>,
    /// By kind of call.
    odds: [Option<(u64, Odds)>; 4],
    /// Each with the number of the call that it arrives before.
    late: Vec<(u64, Stray)>,
}

impl Plan {
    pub(super) fn set_odds(&mut self, seed: u64, kinds: &[CallKind], odds: Odds) {
        for kind in kinds {
            self.odds[*kind as usize] = Some((seed, odds));
        }
    }

    pub(super) fn queue(&mut self, faults: impl Iterator<Item = Option<Option<Fault>>>) {
        self.queue.extend(faults);
    }

    pub(super) fn set(&mut self, index: usize, fault: Fault) {
        if self.queue.len() <= index {
            self.queue.resize(index + 1, None);
        }
        self.queue[index] = Some(Some(fault));
    }

    pub(super) fn heal(&mut self) {
        self.queue.clear();
        self.odds = [None; 4];
        self.late.clear();
    }

    /// Numbers a call and says what it meets. `copy` makes one of its write, if it writes.
    pub(super) fn decide(&mut self, kind: CallKind, copy: Option<&dyn Fn() -> Stray>) -> Decided {
        self.calls += 1;
        let call = self.calls;
        let by_chance = || self.odds[kind as usize].and_then(|(seed, odds)| odds.draw(seed, call, kind));
        let fault = self.queue.pop_front().flatten().unwrap_or_else(by_chance);
        let arriving = self.arriving();
        if let Some(fault) = fault {
            self.log.add(Injection { call, kind, fault });
            if let (Some(after), Some(copy)) = (fault.copy_after(), copy) {
                self.late.push((call + u64::from(after), copy()));
            }
        }
        Decided { call, fault, arriving }
    }

    /// As [`Plan::decide`], item by item. A copy of one item that is due before another arrives before the batch.
    pub(super) fn decide_batch(&mut self, batch: &[BatchPut<'_>]) -> (Vec<(u64, Option<Fault>)>, Vec<Stray>) {
        let mut arriving = Vec::new();
        let decide = |item: &BatchPut<'_>| {
            let copy = || Stray::of(item.key, item.expected, item.put);
            let decided = self.decide(CallKind::BatchItem, Some(&copy));
            arriving.extend(decided.arriving);
            (decided.call, decided.fault)
        };
        let decided = batch.iter().map(decide).collect();
        (decided, arriving)
    }

    fn arriving(&mut self) -> Vec<Stray> {
        if self.late.is_empty() {
            return Vec::new();
        }
        let (due, later) = std::mem::take(&mut self.late).into_iter().partition(|(at, _)| *at <= self.calls);
        self.late = later;
        due.into_iter().map(|(_, copy): (u64, Stray)| copy).collect()
    }
}
