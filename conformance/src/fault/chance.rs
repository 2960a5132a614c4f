//! Faults by chance, from a seed.

use std::time::Duration;

use super::kinds::{CallKind, Fault};
use crate::seeded::SplitMix;

/// How likely each fault is, for one call, from 0 to 1. Together they should not be over 1; past that, the later ones of
/// the list are never met.
///
/// ```
/// use oncekey_conformance::Odds;
/// use std::time::Duration;
/// let odds = Odds::none().request_lost(0.05).reply_lost(0.05).delayed(0.2, Duration::from_millis(300));
/// ```
#[derive(Clone, Copy, PartialEq, Debug, Default)]
#[must_use = "odds do nothing until a store has them"]
pub struct Odds {
    refused: f64,
    request_lost: f64,
    reply_lost: f64,
    delayed: (f64, Duration),
    stalled: (f64, Duration),
    twice: f64,
    late_copy: (f64, u32),
    echo: (f64, u32),
    hangs: f64,
}

impl Odds {
    /// Nothing goes wrong.
    pub fn none() -> Self {
        Self::default()
    }

    /// Calls that are not applied, and say so: [`Fault::Refused`].
    pub fn refused(mut self, odds: f64) -> Self {
        self.refused = odds;
        self
    }

    /// Calls that never arrive: [`Fault::RequestLost`].
    pub fn request_lost(mut self, odds: f64) -> Self {
        self.request_lost = odds;
        self
    }

    /// Calls that are applied, and whose answer never arrives: [`Fault::ReplyLost`].
    pub fn reply_lost(mut self, odds: f64) -> Self {
        self.reply_lost = odds;
        self
    }

    /// Calls that take up to `at_most`, one half on the way there and one half on the way back:
    /// [`Fault::DelayedBefore`] and [`Fault::DelayedAfter`].
    pub fn delayed(mut self, odds: f64, at_most: Duration) -> Self {
        self.delayed = (odds, at_most);
        self
    }

    /// Calls that take exactly `duration`, longer than a lease for instance; one half on the way there and one half on the
    /// way back.
    pub fn stalled(mut self, odds: f64, duration: Duration) -> Self {
        self.stalled = (odds, duration);
        self
    }

    /// Calls that are applied twice: [`Fault::Twice`].
    pub fn twice(mut self, odds: f64) -> Self {
        self.twice = odds;
        self
    }

    /// Writes that arrive only before one of the next `within` calls: [`Fault::LateCopy`].
    pub fn late_copy(mut self, odds: f64, within: u32) -> Self {
        self.late_copy = (odds, within);
        self
    }

    /// Writes that arrive now, and a copy of them before one of the next `within` calls: [`Fault::Echo`].
    pub fn echo(mut self, odds: f64, within: u32) -> Self {
        self.echo = (odds, within);
        self
    }

    /// Calls that are never answered; one half of them is applied: [`Fault::HangsBefore`] and [`Fault::HangsAfter`].
    pub fn hangs(mut self, odds: f64) -> Self {
        self.hangs = odds;
        self
    }

    /// The fault that call number `call` meets.
    pub(super) fn draw(&self, seed: u64, call: u64, kind: CallKind) -> Option<Fault> {
        let mut random = SplitMix::new(seed ^ SplitMix::new(call).next() ^ (kind as u64).rotate_left(32));
        let (mut chance, part) = (random.unit(), random.unit());
        let on_the_way_there = random.next() & 1 == 0;
        let delayed = |duration| {
            if on_the_way_there { Fault::DelayedBefore(duration) } else { Fault::DelayedAfter(duration) }
        };
        let faults = [
            (self.refused, Fault::Refused),
            (self.request_lost, Fault::RequestLost),
            (self.reply_lost, Fault::ReplyLost),
            (self.delayed.0, delayed(self.delayed.1.mul_f64(part))),
            (self.stalled.0, delayed(self.stalled.1)),
            (self.twice, Fault::Twice),
            (self.late_copy.0, Fault::late_copy(random.one_to(self.late_copy.1))),
            (self.echo.0, Fault::echo(random.one_to(self.echo.1))),
            (self.hangs, if on_the_way_there { Fault::HangsBefore } else { Fault::HangsAfter }),
        ];
        let met = faults.into_iter().find(|(odds, _)| {
            chance -= odds;
            chance < 0.0
        });
        met.map(|(_, fault)| fault)
    }
}
