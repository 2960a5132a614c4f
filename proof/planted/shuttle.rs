//! What shuttle's tests are known to find, and that a failing schedule can be run again.

#[path = "plants.rs"]
mod plants;

use std::path::Path;

use plants::{Plant, assert_found, explore_in_child};

/// How shuttle says that all wait and nobody can wake them.
const DEADLOCK: &str = "deadlock";

/// The bugs `store:` are in the models' own store; the others are in the engine, at the places that name them.
const PLANTS: [Plant; 10] = [
    Plant {
        bug: "store: check and write under two locks",
        model: "rush::random_rush_of_8",
        says: &["two attempts execute at once", "two outcomes", "concluded once", "fencing tokens rise"],
    },
    Plant {
        bug: "store: check and write under two locks",
        model: "rush::pct_rush_of_8",
        says: &["two attempts execute at once", "two outcomes", "concluded once", "fencing tokens rise"],
    },
    Plant {
        bug: "store: a completion removes first and writes second",
        model: "rush::random_rush_of_8",
        says: &[
            "two attempts execute at once",
            "two outcomes",
            "concluded once",
            "no lease and no timeout ends",
        ],
    },
    Plant { bug: "waiters: no look after joining", model: "rush::random_rush_of_8", says: &[DEADLOCK] },
    Plant { bug: "waiters: leaves without a successor", model: "rush::pct_rush_of_8", says: &[DEADLOCK] },
    Plant { bug: "lease: wakes before it stores", model: "rush::random_rush_of_8", says: &[DEADLOCK] },
    Plant { bug: "lease: gives up in silence", model: "rush::pct_rush_of_8", says: &[DEADLOCK] },
    Plant {
        bug: "store: versions are not compared",
        model: "storm::random_storm_of_8",
        says: &["two attempts execute at once", "two outcomes", "fencing tokens rise"],
    },
    Plant {
        bug: "lease: a conflict counts as stored",
        model: "storm::random_storm_of_8",
        says: &["two outcomes", "two attempts execute at once", "an outcome that nobody made"],
    },
    Plant {
        bug: "admin: goes by a newer version",
        model: "storm::random_storm_of_8",
        says: &["two attempts execute at once", "two outcomes"],
    },
];

#[test]
fn planted_bugs_are_found() {
    assert_found(&PLANTS, &[]);
}

/// The schedule that a failure prints fails in the same way, alone and at once.
#[test]
fn a_failing_schedule_can_be_run_again() {
    let test = "rush::pct_rush_of_8";
    let bug = Some("waiters: leaves without a successor");
    let (status, said) = explore_in_child(test, bug, &[]);
    assert!(!status.success(), "{said}");
    let schedule = said.split("failing schedule:\n\"\n").nth(1).and_then(|rest| rest.split("\n\"").next());
    let schedule = schedule.unwrap_or_else(|| panic!("no schedule is printed:\n{said}"));
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("failing-schedule.txt");
    std::fs::write(&file, schedule).unwrap();
    let replay = [("ONCEKEY_SHUTTLE_REPLAY", file.to_str().unwrap())];
    let (status, again) = explore_in_child(test, bug, &replay);
    assert!(!status.success() && again.contains(DEADLOCK), "it does not fail again:\n{again}");
    // Without the bug the same schedule is another one, or none: what is shown is that the bug was run into.
    assert!(said.contains("--exact rush::pct_rush_of_8"), "the command is printed:\n{said}");
}
