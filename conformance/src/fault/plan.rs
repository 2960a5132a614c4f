//! What the next calls meet.

use std::collections::VecDeque;
use std::time::Duration;

use super::chance::Odds;
use super::kinds::{CallKind, Fault};
use super::log::{FaultLog, Injection};
use oncekey::protocol::{Expected, Key, Record};
use oncekey::store::{BatchPut, Put};

/// A write under way on its own: what a network does.
pub(super) struct Stray {
    pub(super) key: Key,
    pub(super) expected: Expected,
    pub(super) record: Record,
    pub(super) live: Duration,
    pub(super) linger: Duration,
}

impl Stray {
    pub(super) fn of(key: &Key, expected: Expected, put: Put<'_>) -> Self {
        Self { key: key.clone(), expected, record: put.record.clone(), live: put.live, linger: put.linger }
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
