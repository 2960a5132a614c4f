//! What was shown, to be printed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::clause::{Clause, Violation};
use super::harness::{Effort, Harness};
use super::lab::Tally;
use super::{Held, cases, check, lab};
use crate::store::{Durability, Store as _};
use crate::time::{Clock as _, SystemClock};

/// What the kit found out about a store: print it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Certificate {
    /// The type of the store.
    pub store: &'static str,
    /// What the store declares about its durability.
    pub durability: Durability,
    /// Each case with its clause, and what came of it.
    pub cases: Vec<(&'static str, Clause, Result<Held, Violation>)>,
    /// How much was tried of each.
    pub effort: Effort,
    /// What all that was random came from.
    pub seed: u64,
    /// How long it took.
    pub took: Duration,
}

/// Runs every case, whatever the others say, and writes down what came of it.
///
/// # Panics
/// As the harness does, when it cannot build a store.
pub fn certify<H: Harness>(harness: &H) -> Certificate {
    let clock = SystemClock::new();
    let begun = clock.now();
    let durability = harness.fresh().store.durability();
    let cases = cases().iter().map(|&(name, clause)| (name, clause, check(harness, name))).collect();
    Certificate {
        store: std::any::type_name::<H::Store>(),
        durability,
        cases,
        effort: harness.effort().times_env(),
        seed: lab::seed(),
        took: clock.now().saturating_since(begun),
    }
}

impl Certificate {
    /// Whether no case saw a violation.
    pub fn holds(&self) -> bool {
        self.violations().next().is_none()
    }

    /// What was seen broken.
    pub fn violations(&self) -> impl Iterator<Item = &Violation> {
        self.cases.iter().filter_map(|(_, _, result)| result.as_ref().err())
    }

    fn sum(&self, count: impl Fn(&Held) -> u64) -> u64 {
        self.cases.iter().filter_map(|(_, _, result)| result.as_ref().ok()).map(count).sum()
    }
}

impl Held {
    pub(super) fn new(tally: &Tally, not_shown: Option<&'static str>) -> Self {
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Self {
            calls: read(&tally.calls),
            histories: read(&tally.histories),
            races: read(&tally.races),
            seeds: read(&tally.seeds),
            not_shown,
        }
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "oncekey {} conformance certificate", env!("CARGO_PKG_VERSION"))?;
        writeln!(f, "store       {}", self.store)?;
        writeln!(f, "durability  {}", self.durability)?;
        let mut clauses: BTreeMap<Clause, (usize, usize, usize)> = BTreeMap::new();
        for (_, clause, result) in &self.cases {
            let (held, not_shown, violated) = clauses.entry(*clause).or_default();
            match result {
                Ok(Held { not_shown: None, .. }) => *held += 1,
                Ok(_) => *not_shown += 1,
                Err(_) => *violated += 1,
            }
        }
        for (clause, (held, not_shown, violated)) in clauses {
            let verdict = match (held, violated) {
                (_, 1..) => "VIOLATED",
                (0, 0) => "not shown",
                (_, 0) => "held",
            };
            write!(f, "{clause:<4} {verdict:<10} {held:>2} cases held")?;
            if violated > 0 {
                write!(f, ", {violated} violated")?;
            }
            if not_shown > 0 {
                write!(f, ", {not_shown} not shown")?;
            }
            let demands = match clause.is_of_the_store() {
                true => clause.demands(),
                false => "with P2 to P6 and T1: the engine's promises, with faults between it and this store",
            };
            writeln!(f, ": {demands}")?;
        }
        writeln!(
            f,
            "tried       {} cases, {} histories, {} races of up to {} threads, {} seeds, {} calls by the cases; seed {:#x}; {:.1?}",
            self.cases.len(),
            self.sum(|held| held.histories),
            self.sum(|held| held.races),
            self.effort.racers,
            self.sum(|held| held.seeds),
            self.sum(|held| held.calls),
            self.seed,
            self.took,
        )?;
        for (name, clause, result) in &self.cases {
            if let Ok(Held { not_shown: Some(why), .. }) = result {
                writeln!(f, "not shown   {clause}, {name}: {why}")?;
            }
        }
        for violation in self.violations() {
            writeln!(f, "{violation}")?;
        }
        write!(
            f,
            "verdict     {}",
            if self.holds() { "conforms, as far as was shown" } else { "DOES NOT CONFORM" }
        )
    }
}
