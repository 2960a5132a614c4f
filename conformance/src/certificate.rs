//! What was shown, to be printed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::clause::{Clause, Violation, reading_order};
use super::harness::{Effort, Harness};
use super::lab::Tally;
use super::{Passed, cases, check, lab};
use oncekey::store::{Durability, Store as _};
use oncekey::time::{Clock as _, SystemClock};

/// What the kit found out about a store: print it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Certificate {
    /// The type of the store.
    pub store: &'static str,
    /// What the store declares about its durability.
    pub durability: Durability,
    /// Each case with its clause, and what came of it.
    pub cases: Vec<(&'static str, Clause, Result<Passed, Violation>)>,
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

    /// The clauses that were seen broken, in the order to read them: the cases that make one call at a time and name
    /// the fault come first, the histories and the engine over the store last.
    pub fn violations(&self) -> impl Iterator<Item = &Violation> {
        let mut violations: Vec<_> =
            self.cases.iter().filter_map(|(_, _, result)| result.as_ref().err()).collect();
        violations.sort_by_key(|violation| reading_order(violation.case));
        violations.into_iter()
    }

    fn sum(&self, count: impl Fn(&Passed) -> u64) -> u64 {
        self.cases.iter().filter_map(|(_, _, result)| result.as_ref().ok()).map(count).sum()
    }
}

impl Passed {
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
        writeln!(f, "oncekey conformance certificate, by oncekey-conformance {}", env!("CARGO_PKG_VERSION"))?;
        writeln!(f, "store       {}", self.store)?;
        writeln!(f, "durability  {}", self.durability)?;
        let mut clauses: BTreeMap<Clause, (usize, usize, usize)> = BTreeMap::new();
        for (_, clause, result) in &self.cases {
            let (held, not_shown, _) = clauses.entry(*clause).or_default();
            match result {
                Ok(Passed { not_shown: None, .. }) => *held += 1,
                Ok(_) => *not_shown += 1,
                // A case can see another clause broken than the one it is there to show.
                Err(violation) => clauses.entry(violation.clause).or_default().2 += 1,
            }
        }
        for (clause, (held, not_shown, violated)) in clauses {
            let verdict = match (held, violated) {
                (_, 1..) => "VIOLATED",
                (0, 0) => "not shown",
                (_, 0) => "held",
            };
            write!(
                f,
                "{clause:<4} {verdict:<10} {held:>2} {} held",
                if held == 1 { "case" } else { "cases" }
            )?;
            if violated > 0 {
                write!(f, ", {violated} violated")?;
            }
            if not_shown > 0 {
                write!(f, ", {not_shown} not shown")?;
            }
            let demands = match (clause, violated) {
                (Clause::P1, 0) => {
                    "with P2 to P6 and T1: the engine's promises, with faults between it and this store"
                }
                _ => clause.demands(),
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
            if let Ok(Passed { not_shown: Some(why), .. }) = result {
                writeln!(f, "not shown   {clause}, {name}: {why}")?;
            }
        }
        let mut violations = self.violations().peekable();
        if let Some(first) = violations.peek() {
            let others = self.violations().count() - 1;
            if others > 0 {
                writeln!(
                    f,
                    "start with  {}, {}: one bug fails many cases, and of these {} the first is the nearest to it",
                    first.clause,
                    first.case,
                    others + 1
                )?;
            }
        }
        for violation in violations {
            writeln!(f, "{violation}")?;
        }
        write!(
            f,
            "verdict     {}",
            if self.holds() { "conforms, as far as was shown" } else { "DOES NOT CONFORM" }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oncekey::store::DurabilityClass;

    fn held(not_shown: Option<&'static str>) -> Result<Passed, Violation> {
        Ok(Passed { calls: 100, histories: 2, races: 10, seeds: 1, not_shown })
    }

    fn certificate(cases: Vec<(&'static str, Clause, Result<Passed, Violation>)>) -> Certificate {
        Certificate {
            store: "shop::PostgresStore",
            durability: Durability::new(DurabilityClass::Disk, "synchronous_commit is on"),
            cases,
            effort: Effort::default(),
            seed: 0x5eed,
            took: Duration::from_millis(2345),
        }
    }

    fn lines(certificate: &Certificate) -> Vec<String> {
        let shown = certificate.to_string();
        let (head, rest) = shown.split_once('\n').expect("there are several lines");
        let kit =
            concat!("oncekey conformance certificate, by oncekey-conformance ", env!("CARGO_PKG_VERSION"));
        assert_eq!(head, kit);
        rest.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_certificate_reads_well() {
        let certificate = certificate(vec![
            ("s1_a", Clause::S1, held(None)),
            ("s1_b", Clause::S1, held(None)),
            ("s8_a", Clause::S8, held(None)),
            ("s8_full", Clause::S8, held(Some("the harness has no bounded store"))),
            ("s9_a", Clause::S9, held(Some("nothing outlives it"))),
            ("p1_to_t1", Clause::P1, held(None)),
        ]);
        assert!(certificate.holds());
        assert_eq!(
            lines(&certificate),
            [
                "store       shop::PostgresStore",
                "durability  disk (survives a power loss): synchronous_commit is on",
                "S1   held        2 cases held: calls on one key are atomic and linearizable",
                "S8   held        1 case held, 1 not shown: nothing is dropped before live + linger; at a bound only Vacant puts are refused",
                "S9   not shown   0 cases held, 1 not shown: what was acknowledged is as durable as declared",
                "P1   held        1 case held: with P2 to P6 and T1: the engine's promises, with faults between it and this store",
                "tried       6 cases, 12 histories, 60 races of up to 8 threads, 6 seeds, 600 calls by the cases; seed 0x5eed; 2.3s",
                "not shown   S8, s8_full: the harness has no bounded store",
                "not shown   S9, s9_a: nothing outlives it",
                "verdict     conforms, as far as was shown",
            ]
        );
    }

    /// A claim that overwrites fails the histories and the engine's case too, which are listed first.
    #[test]
    fn of_many_violations_the_one_nearest_to_the_fault_comes_first() {
        let broken =
            |case, clause| (case, clause, Err(Violation { case, ..Violation::new(clause, "two claims") }));
        let certificate = certificate(vec![
            broken("s1_of_racing_claims_one_is_done", Clause::S1),
            broken("s1_random_histories_of_one_caller", Clause::S1),
            broken("s2_versions_rise_under_races", Clause::S2),
            broken("s3_a_readable_entry_is_not_vacant", Clause::S3),
            broken("p1_to_t1_hold_with_faults_between", Clause::P1),
        ]);
        let order: Vec<_> = certificate.violations().map(|violation| violation.case).collect();
        assert_eq!(
            order,
            [
                "s3_a_readable_entry_is_not_vacant",
                "s2_versions_rise_under_races",
                "s1_of_racing_claims_one_is_done",
                "s1_random_histories_of_one_caller",
                "p1_to_t1_hold_with_faults_between",
            ]
        );
        let start = lines(&certificate).into_iter().find(|line| line.starts_with("start with")).unwrap();
        assert!(start.starts_with("start with  S3, s3_a_readable_entry_is_not_vacant: "), "{start}");
    }

    #[test]
    fn a_certificate_blames_the_clause_that_was_broken_not_the_one_of_the_case() {
        let broken = Violation::new(Clause::S2, "version 3 after a restart, and 7 before");
        let certificate = certificate(vec![
            ("s2_a", Clause::S2, held(None)),
            ("s9_a", Clause::S9, Err(Violation { case: "s9_a", ..broken })),
        ]);
        assert!(!certificate.holds());
        assert_eq!(certificate.violations().map(|violation| violation.case).collect::<Vec<_>>(), ["s9_a"]);
        assert_eq!(
            lines(&certificate)[2..],
            [
                "S2   VIOLATED    1 case held, 1 violated: versions of a key rise strictly, forever, also after its entry is gone",
                "S9   not shown   0 cases held: what was acknowledged is as durable as declared",
                "tried       2 cases, 2 histories, 10 races of up to 8 threads, 1 seeds, 100 calls by the cases; seed 0x5eed; 2.3s",
                "S2 is violated: versions of a key rise strictly, forever, also after its entry is gone",
                "  what happened: version 3 after a restart, and 7 before",
                "  in case: s9_a",
                "verdict     DOES NOT CONFORM",
            ]
        );
    }
}
