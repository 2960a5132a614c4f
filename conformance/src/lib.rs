//! The conformance kit of [`oncekey`]: proves, as far as tests can, that a [`Store`](oncekey::Store) keeps its contract.
//!
//! - [`Harness`] and [`conformance_tests!`]: one `#[test]` per case, over your store. [`certify`] writes down the results.
//! - [`FaultStore`]: a store whose calls go wrong, by a plan or by chance from a seed.
//! - [`Intercept`]: a store of which a test changes one call and leaves the others.
//! - [`samples`]: records in each state, for tests of an encoding.
//! - [`simulate`]: the engine over the store, with faults, crashes and clocks, from one seed. [`check_trimming`]: the
//!   contract of [`TrimOutcomes`](oncekey::store::TrimOutcomes).
//!
//! # A harness
//!
//! Write a [`Harness`] once, in the tests of the crate that has the store (`cargo add --dev oncekey-conformance`). Then one
//! line expands to one `#[test]` per case, so that a case that a later version adds reaches the store with the upgrade:
//!
//! ```
//! use oncekey_conformance::{Abilities, Harness, Subject, Time};
//! use oncekey::{MemoryStore, time::ManualClock};
//!
//! struct MyHarness;
//!
//! impl Harness for MyHarness {
//!     type Store = MemoryStore;
//!     type Guard = (); // for a database: what drops the schema again
//!
//!     fn fresh(&self) -> Subject<MemoryStore> {
//!         let clock = ManualClock::new();
//!         let store = MemoryStore::builder().clock(clock.clone()).build();
//!         Subject::new(store, Time::manual(clock)) // a store with a clock of its own: Time::real(..)
//!     }
//!
//!     fn fresh_bounded(&self, records_max: usize) -> Option<Subject<MemoryStore>> {
//!         let clock = ManualClock::new();
//!         let store = MemoryStore::builder().clock(clock.clone()).records_max(records_max).build();
//!         Some(Subject::new(store, Time::manual(clock)))
//!     }
//!
//!     fn abilities(&self) -> Abilities {
//!         Abilities::default().purging()
//!     }
//! }
//!
//! oncekey_conformance::conformance_tests!(MyHarness);
//! # fn main() {}
//! ```
//!
//! A case is named after the clause that it shows: `s5_..` for S5. A case that fails panics with a [`Violation`]. It says
//! the clause, the calls and their answers, and, where the case is random, how to see the same again. A case for which the
//! harness offers nothing (a bound, a restart, a short way) says so and passes; the [`Certificate`] lists it.
//!
//! # When cases fail
//!
//! One bug fails many cases. Read `s3_` to `s5_` first: they show the compare and the exchange, one call at a time. Then read
//! the other clauses by hand, and after them the races and histories of `s1_`, which shrink or repeat what they found. The
//! case `p1_` runs the engine over the store and fails for most bugs, so leave it for the end. [`Clause::demands`] has each
//! clause in a line; [`Store`](oncekey::Store) has its full words.
//!
//! # The cases
//!
//! - Each clause by hand, and the scenarios that other systems got wrong: hostile keys, empty and large outcomes, stale
//!   and future versions, batches, purge, restarts.
//! - Races of threads: claims, takeovers, purge against claim.
//! - Where the store has a short way ([`Store::at_once`](oncekey::Store::at_once)): histories and races by both doors.
//! - Random histories of one caller against a reference, shrunk to the fewest steps that fail.
//! - Random histories of several threads, checked for linearizability key by key.
//! - The engine over the store with faults between them (lost requests and replies, late and repeated ones, crashes,
//!   stalls), with the promises P1 to P6 and T1 checked at each step.
//!
//! # A certificate
//!
//! [`certify`] runs all cases and writes down what came of them. Keep it with a release of the store:
//!
//! ```no_run
//! # use oncekey_conformance::{Harness, Subject, Time, certify};
//! # use oncekey::{MemoryStore, time::ManualClock};
//! # struct MyHarness;
//! # impl Harness for MyHarness {
//! #     type Store = MemoryStore;
//! #     type Guard = ();
//! #     fn fresh(&self) -> Subject<MemoryStore> {
//! #         let clock = ManualClock::new();
//! #         Subject::new(MemoryStore::builder().clock(clock.clone()).build(), Time::manual(clock))
//! #     }
//! # }
//! let certificate = certify(&MyHarness);
//! println!("{certificate}");
//! assert!(certificate.holds());
//! ```
//!
//! For the memory store it says, with some lines left out (the example `certificate` prints all of it):
//!
//! ```text
//! oncekey conformance certificate, by oncekey-conformance 0.1.0
//! store       oncekey::memory::MemoryStore
//! durability  process (gone when the process ends): records are in this process's memory; ...
//! S1   held       17 cases held: calls on one key are atomic and linearizable
//! S2   held        5 cases held: versions of a key rise strictly, forever, also after its entry is gone
//! ...
//! S9   not shown   0 cases held, 1 not shown: what was acknowledged is as durable as declared
//! S10  held        3 cases held: an error means maybe applied, unless the store knows better and says so
//! P1   held        2 cases held: with P2 to P6 and T1: the engine's promises, with faults between it and this store
//! tried       57 cases, 1792 histories, 1482 races of up to 8 threads, 200 seeds, 136041 calls by the cases; ...
//! not shown   S9, s9_what_was_acknowledged_outlives_the_store: nothing is declared to outlive the process
//! verdict     conforms, as far as was shown
//! ```
//!
//! # How much is tried, and how to see it again
//!
//! [`Harness::effort`] sets how much is tried; the environment's `ONCEKEY_KIT_EFFORT` multiplies it. All that is random
//! comes from one seed, the same in every run unless `ONCEKEY_KIT_SEED` sets another. Races of threads do not repeat
//! exactly; everything else does.
//!
//! No wait is without an end. In the cases by hand, a call that gives its thread back and has no answer for a minute is a
//! violation. Any test fails after a quarter of an hour (times `ONCEKEY_KIT_EFFORT`), also where a store blocks the thread.
//! [`check`] and [`certify`] have the first of these bounds only.
//!
//! # Versions
//!
//! The kit has versions of its own, so that a stricter case needs no release of the core. Kit 0.1 tests stores for `oncekey`
//! 0.1, each release of it; `oncekey` 0.2 will have a kit 0.2. The kit and the store must be built with the same `oncekey`:
//! where the types do not match, `cargo tree -d` shows two of them.
//!
//! A patch release of the kit may add a case, or make one stricter. A store that fails it had the fault before. Commit
//! `Cargo.lock` if a build must not change by itself. A certificate names the version of the kit.
//!
//! # Limits
//!
//! The kit cannot show that a store survives a power loss, that its clock never steps, or how it behaves at the isolation
//! level that somebody else configures. Nor does it see what no history of this length meets. A store's own tests should
//! kill its process and its server, and cut its connections between request and reply.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod cases;
mod certificate;
mod clause;
mod env;
mod erased;
mod fault;
mod harness;
mod history;
mod intercept;
mod lab;
mod linear;
mod park;
pub mod samples;
mod seeded;
mod short_way;
mod simulation;
mod trim;

pub use certificate::{Certificate, certify};
pub use clause::{Clause, Violation};
pub use fault::{CallKind, Fault, FaultError, FaultLog, FaultStore, Injection, Odds};
pub use harness::{Abilities, Effort, Harness, Over, Subject, Time, over};
pub use intercept::Intercept;
pub use simulation::{Met, Simulated, simulate, simulate_aloud, simulate_at_once};
pub use trim::check_trimming;

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use erased::AnyHarness;
use lab::{Lab, Stop};

/// A case that saw no violation, and what it tried.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Passed {
    /// Calls to the store by the case itself.
    pub calls: u64,
    /// Random histories.
    pub histories: u64,
    /// Rounds of racing threads.
    pub races: u64,
    /// Seeds of the engine over the store with faults.
    pub seeds: u64,
    /// Why the case had nothing to show it on, if so.
    pub not_shown: Option<&'static str>,
}

/// The names of the cases, each with the clause it shows.
pub fn cases() -> &'static [(&'static str, Clause)] {
    cases::NAMES
}

/// Runs one case.
///
/// # Errors
/// The violation that it saw.
///
/// # Panics
/// If there is no such case, and as the harness does when it cannot build a store.
pub fn check<H: Harness>(harness: &H, case: &str) -> Result<Passed, Violation> {
    check_any(&AnyHarness::new(harness), case)
}

fn check_any(harness: &AnyHarness<'_>, case: &str) -> Result<Passed, Violation> {
    let found = cases::registry().into_iter().find(|known| known.name == case);
    let case = found.unwrap_or_else(|| panic!("the kit has no case {case:?}"));
    let lab = Lab::new(harness, case.clause);
    match (case.run)(&lab) {
        Ok(()) => Ok(Passed::new(&lab.tally, None)),
        Err(Stop::NotShown(why)) => Ok(Passed::new(&lab.tally, Some(why))),
        Err(Stop::Violated(violation)) => Err(Violation { case: case.name, ..violation }),
    }
}

/// Runs one case as a test does: what `conformance_tests!` expands to.
///
/// # Panics
/// With the [`Violation`], if the case saw one, and as [`check`] does.
#[track_caller]
pub fn assert_held<H: Harness>(harness: &H, case: &str) {
    match check(harness, case) {
        Ok(passed) => {
            if let Some(why) = passed.not_shown {
                #[allow(clippy::print_stdout, reason = "a test says what it did not show")]
                {
                    println!("NOT SHOWN by {case}: {why}");
                }
            }
        }
        Err(violation) => {
            let first = match clause::reading_order(case) {
                0 | 1 => "",
                _ => {
                    "\n  read first: cases of `s3_` to `s5_`, if some of them fail too; they are nearer to the fault"
                }
            };
            panic!("\n{violation}{first}\n")
        }
    }
}

/// Runs a test in a thread of its own and does not wait forever: a call that blocks its thread, where calls wait for
/// each other's locks, cannot be ended from outside, and would hang the whole run without a word.
#[doc(hidden)]
pub fn __watched(test: impl FnOnce() + Send + 'static) {
    // Long against the slowest of stores, and less than a CI waits.
    let factor = env::env_number("ONCEKEY_KIT_EFFORT").unwrap_or(1).clamp(1, 1000);
    watched(Duration::from_secs(15 * 60 * factor), test);
}

fn watched(patience: Duration, test: impl FnOnce() + Send + 'static) {
    let (ending, ended) = mpsc::channel::<()>();
    let name = thread::current().name().unwrap_or("conformance").to_owned();
    let test = thread::Builder::new().name(name).spawn(move || {
        // Dropped at the end, also of a test that fails: that is all the news there is.
        let _ending = ending;
        test();
    });
    let test = test.expect("a thread can be started");
    if ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
        panic!(
            "no end after {patience:?}: a call of the store blocks its thread, or the effort is too great for it"
        );
    }
    test.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// One `#[test]` per case of the kit, for the stores of a [`Harness`](crate::Harness).
///
/// The argument is an expression that makes the harness; each test makes its own. Put the line into a module of its
/// own for a second harness. See the [crate](crate).
#[macro_export]
macro_rules! conformance_tests {
    ($harness:expr) => {
        $crate::__oncekey_conformance_cases! { $crate::__oncekey_conformance_test, $harness }
    };
}

/// Expands to the tests. The harness is named in a closure, since it may be a place that cannot be moved from.
#[doc(hidden)]
#[macro_export]
macro_rules! __oncekey_conformance_test {
    ($harness:expr; $($clause:ident $name:ident)*) => {
        $(
            #[test]
            fn $name() {
                $crate::__watched(|| {
                    $crate::assert_held(&$harness, stringify!($name));
                });
            }
        )*
    };
}

/// The examples of the README compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(test)]
mod tests {
    use super::*;
    use oncekey::MemoryStore;
    use oncekey::store::{Durability, DurabilityClass};
    use oncekey::time::ManualClock;

    /// Its stores declare to survive a power loss, and have nothing to show for it.
    struct Boast;

    impl Harness for Boast {
        type Store = Intercept<MemoryStore>;
        type Guard = ();

        fn fresh(&self) -> Subject<Self::Store> {
            let clock = ManualClock::new();
            let store = MemoryStore::builder().clock(clock.clone()).build();
            let boastful = Intercept::new(store).declaring(Durability::new(DurabilityClass::Disk, ""));
            Subject::new(boastful, Time::manual(clock))
        }
    }

    const BROKEN: &str = "s9_what_was_acknowledged_outlives_the_store";

    #[test]
    fn a_violation_carries_the_name_of_its_case() {
        let violation = check(&Boast, BROKEN).expect_err("the store declares more than it is");
        assert_eq!((violation.case, violation.clause), (BROKEN, Clause::S9));
        check(&Boast, "s3_a_fresh_key_is_claimed").expect("a claim of a fresh key is in order");
    }

    #[test]
    #[should_panic(expected = "in case: s9_what_was_acknowledged_outlives_the_store")]
    fn the_test_of_a_broken_case_fails_with_the_violation() {
        __watched(|| assert_held(&Boast, BROKEN));
    }

    #[test]
    fn a_case_that_has_nothing_to_show_says_so_and_passes() {
        let passed = check(&Boast, "s8_a_full_store_refuses_new_keys_only").expect("it has no bound");
        assert_eq!(passed.not_shown, Some("the harness has no bounded store"));
        assert_held(&Boast, "s8_a_full_store_refuses_new_keys_only");
    }

    #[test]
    #[should_panic(expected = "the kit has no case \"s3_a_fresh_key\"")]
    fn an_unknown_case_is_not_passed() {
        let _ = check(&Boast, "s3_a_fresh_key");
    }

    #[test]
    fn a_case_is_named_after_its_clause_and_only_once() {
        let mut names: Vec<_> = cases().iter().map(|(name, _)| *name).collect();
        for (name, clause) in cases() {
            let prefix = format!("{clause}_").to_lowercase();
            assert!(name.starts_with(&prefix), "{name} shows {clause}");
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), cases().len());
    }

    #[test]
    fn a_watched_test_ends_as_it_ends_alone() {
        let name = thread::current().name().map(str::to_owned);
        watched(Duration::from_secs(60), move || assert_eq!(thread::current().name(), name.as_deref()));
    }

    #[test]
    #[should_panic(expected = "no end after 20ms: a call of the store blocks its thread")]
    fn a_test_that_blocks_its_thread_does_not_hang_the_run() {
        watched(Duration::from_millis(20), || {
            loop {
                thread::park();
            }
        });
    }
}
