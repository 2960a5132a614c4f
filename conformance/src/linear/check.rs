//! Whether the calls on one key can have happened one after the other: a search after Wing & Gong, with Lowe's memory.
//!
//! The register is small: which version is current, or none. Two things keep the search short. A read that fits now is
//! taken at once, since it changes nothing and only lets later calls through. And versions rise, so of the writes only
//! the next one fits. What was reached before (which calls are placed, and the state) is not looked at again.

use std::collections::HashSet;

/// A call on one key. Moments are numbers that no two ends of calls share.
#[derive(Clone, Debug)]
pub(super) struct Op {
    pub(super) invoked: u64,
    /// `None`: no answer was heard. It may have taken effect at any time after it was sent, or never.
    pub(super) answered: Option<u64>,
    pub(super) act: Act,
}

/// What a call did, by its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Act {
    /// A load, or a conflict: this version was current; `None`: nothing was readable.
    Read { found: Option<u64>, conflict: bool },
    /// A write that was done, or may have been.
    Write {
        /// The version it expects; `None`: nothing readable.
        expected: Option<u64>,
        /// The version it got, if anybody knows.
        version: Option<u64>,
        /// Whether it can be read, or is gone at once.
        lasts: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Legal,
    Illegal,
    /// The search came to its bound first.
    Undecided,
}

/// What counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demands {
    /// A conflict carries what was current.
    pub(super) conflicts: bool,
}

impl Demands {
    pub(super) const ALL: Self = Self { conflicts: true };
}

/// Most calls on one key: the set of placed calls is one word.
pub(super) const OPS_MAX: usize = 64;

/// No history of this size needs as much, unless it is made to.
const STATES_MAX: usize = 1_000_000;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct State {
    current: Option<u64>,
    /// The least number that the next version may be.
    floor: u64,
}

struct Search<'o> {
    ops: &'o [Op],
    answered: u64,
    seen: HashSet<(u64, State)>,
    states_max: usize,
}

/// Whether some order of these calls, in which each comes between its two ends, is one of a register.
pub(super) fn check(ops: &[Op], demands: Demands) -> Verdict {
    check_within(ops, demands, STATES_MAX)
}

/// The same, looking at so many states at most.
pub(super) fn check_within(ops: &[Op], demands: Demands, states_max: usize) -> Verdict {
    let ops: Vec<_> = ops.iter().filter(|op| matters(op, demands)).cloned().collect();
    if ops.len() > OPS_MAX {
        return Verdict::Undecided;
    }
    let answered = bits(&ops, |op| op.answered.is_some());
    let mut search = Search { ops: &ops, answered, seen: HashSet::new(), states_max };
    search.from(0, State { current: None, floor: 0 })
}

/// A read without an answer says nothing. A write without an answer that nobody saw can only have come last, where it
/// changes nothing for anybody, unless it is gone at once and leaves nothing to read.
fn matters(op: &Op, demands: Demands) -> bool {
    match op.act {
        Act::Read { conflict, .. } => op.answered.is_some() && (demands.conflicts || !conflict),
        Act::Write { version: None, lasts, expected } => !lasts && expected.is_some(),
        Act::Write { .. } => true,
    }
}

fn bits(ops: &[Op], is: impl Fn(&Op) -> bool) -> u64 {
    ops.iter().enumerate().filter(|(_, op)| is(op)).fold(0, |bits, (index, _)| bits | 1 << index)
}

impl Search<'_> {
    /// Whether the calls that are not placed yet can follow this state.
    fn from(&mut self, mut placed: u64, state: State) -> Verdict {
        while let Some(index) = self.read_that_fits(placed, state) {
            placed |= 1 << index;
        }
        if self.answered & !placed == 0 {
            return Verdict::Legal;
        }
        if !self.seen.insert((placed, state)) {
            return Verdict::Illegal;
        }
        if self.seen.len() >= self.states_max {
            return Verdict::Undecided;
        }
        let horizon = self.horizon(placed);
        for (index, op) in self.ops.iter().enumerate() {
            if placed & 1 << index != 0 || op.invoked > horizon {
                continue;
            }
            if let Some(next) = self.written(op, state) {
                match self.from(placed | 1 << index, next) {
                    Verdict::Illegal => {}
                    verdict => return verdict,
                }
            }
        }
        Verdict::Illegal
    }

    /// The first answer among calls that are not placed: what was sent after it cannot come before it.
    fn horizon(&self, placed: u64) -> u64 {
        let open = self.ops.iter().enumerate().filter(|(index, _)| placed & 1 << index == 0);
        open.filter_map(|(_, op)| op.answered).min().unwrap_or(u64::MAX)
    }

    fn read_that_fits(&self, placed: u64, state: State) -> Option<usize> {
        let horizon = self.horizon(placed);
        self.ops.iter().enumerate().position(|(index, op)| {
            let fits = matches!(op.act, Act::Read { found, .. } if found == state.current);
            fits && placed & 1 << index == 0 && op.invoked <= horizon
        })
    }

    fn written(&self, op: &Op, state: State) -> Option<State> {
        let Act::Write { expected, version, lasts } = op.act else { return None };
        if expected != state.current {
            return None;
        }
        let number = version.unwrap_or(state.floor);
        if number < state.floor {
            return None;
        }
        let floor = number.saturating_add(1);
        Some(State { current: version.filter(|_| lasts), floor })
    }
}
