//! The simulation has teeth: it finds each wrong transition table and each wrong engine that is planted for it, and says
//! which promise is broken.
//!
//! `scripts/planted.sh` runs this in a copy of the sources, since the sources themselves have no such bug.
//! Each bug is planted in a process of its own, since it holds for a whole process.
#![allow(clippy::unwrap_used)]

#[path = "../../conformance/tests/conformance/harnesses.rs"]
#[allow(dead_code)]
mod harnesses;

use std::env::current_exe;
use std::process::Command;

use harnesses::OneShard;
use oncekey_conformance::{simulate, simulate_aloud};

/// As many seeds as it takes to find any of them, and some more.
const SEEDS: u64 = 60_000;

/// A bug, and the promises of which a violation is to be seen first.
const PLANTS: &[(&str, &[&str])] = &[
    ("transition: a live claim is taken over", &["T1"]),
    ("transition: a takeover sets no doubt", &["P4"]),
    ("transition: a release forgets doubt", &["P4"]),
    ("transition: Hold is ignored", &["P4"]),
    ("transition: an attempt keeps its number", &["P3"]),
    ("transition: a takeover draws a new operation id", &["P1"]),
    ("transition: fingerprints are compared last", &["P5"]),
    ("transition: a second completion is accepted", &["P1"]),
    ("transition: a completed operation is claimed again", &["P1"]),
    ("transition: a live claim is forgotten", &["P2"]),
    ("transition: anybody's write is the holder's", &["P1", "P2"]),
    ("transition: an outcome is kept from its claim on", &["P1"]),
    ("entry: a holder is known without its token", &["P1", "P2"]),
    ("admin: goes by a newer version", &["P2"]),
    ("acquire: a claim that failed counts as granted", &["P4", "P6"]),
    ("acquire: a deadline counts from the last resend", &["P4", "T1"]),
    ("acquire: an update is for every fingerprint", &["P5"]),
    ("lease: a conflict counts as stored", &["P1"]),
    ("lease: a late grant is started", &["P4", "T1"]),
    ("lease: a lost renewal extends the deadline", &["P4", "T1"]),
    ("port: a lost reply is forgotten", &["P6"]),
    ("lease: the margin is ignored", &["P4", "T1"]),
    ("lease: the operation is polled before a look at the clock", &["P4", "T1"]),
];

/// What a child process runs, with a bug or without.
#[test]
fn the_promises_hold_in_this_process() {
    for seed in 0..SEEDS {
        if let Err(violation) = simulate(&OneShard, seed) {
            let how = format!("oncekey_conformance::simulate_aloud(&harness, {seed:#x})");
            assert_eq!(violation.replay.as_deref(), Some(&*how), "a violation says how to see it again");
            let (again, story) = simulate_aloud(&OneShard, seed);
            let again = again.expect_err("what was seen once is seen again");
            assert_eq!(again.clause, violation.clause);
            assert!(violation.what.starts_with(&again.what) && !story.is_empty(), "{again}");
            panic!("FOUND {} at seed {seed}: {violation}", violation.clause);
        }
    }
}

#[test]
fn each_planted_bug_is_found_as_the_promise_that_it_breaks() {
    for (bug, clauses) in PLANTS.iter().copied() {
        let mut child = Command::new(current_exe().unwrap());
        child.args(["--exact", "the_promises_hold_in_this_process", "--nocapture"]);
        let output = child.env("ONCEKEY_PLANT", bug).env("RUST_BACKTRACE", "0").output().unwrap();
        let said =
            [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
        assert!(!output.status.success(), "`{bug}` is not found in {SEEDS} seeds");
        let found = said.lines().find_map(|line| line.strip_prefix("FOUND "));
        let found = found.unwrap_or_else(|| panic!("`{bug}` fails for another reason:\n{said}"));
        println!("`{bug}`: {found}");
        let named = clauses.iter().any(|clause| found.starts_with(&format!("{clause} ")));
        assert!(named, "`{bug}` is found as `{found}`, and breaks {clauses:?}");
    }
}
