//! The faults that calls met, to be read.

use std::collections::VecDeque;
use std::fmt;

use super::kinds::{CallKind, Fault};

/// One call that went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Injection {
    /// The number of the call, from 1.
    pub call: u64,
    /// The kind of the call.
    pub kind: CallKind,
    /// The fault that it met.
    pub fault: Fault,
}

impl fmt::Display for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "call {}, {}: {}", self.call, self.kind, self.fault)
    }
}

/// The faults of a [`FaultStore`](super::FaultStore), in order. It displays as one line for each.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FaultLog {
    latest: VecDeque<Injection>,
    count: u64,
}

impl FaultLog {
    /// How many injections are kept, the latest ones.
    pub const LEN_MAX: usize = 1024;

    /// The latest injections, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Injection> {
        self.latest.iter()
    }

    /// How many there were in all, kept or not.
    pub fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn add(&mut self, injection: Injection) {
        if self.latest.len() == Self::LEN_MAX {
            self.latest.pop_front();
        }
        self.latest.push_back(injection);
        self.count += 1;
    }
}

impl fmt::Display for FaultLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dropped = self.count - self.latest.len() as u64;
        if dropped > 0 {
            writeln!(f, "({dropped} earlier ones are not kept)")?;
        }
        self.latest.iter().try_for_each(|injection| writeln!(f, "{injection}"))
    }
}
