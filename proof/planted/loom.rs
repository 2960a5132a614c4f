//! The models have teeth: each finds the bug that is planted for it.

#[path = "plants.rs"]
mod plants;

use crate::support::PREEMPTIONS_AT_MOST;
use plants::{Plant, assert_found};

/// Enough for every bug here, and quick; less where a model's own bound is less.
const PREEMPTIONS: &str = "2";
/// How loom says that threads wait and nobody can wake them.
const DEADLOCK: &str = "deadlock";
/// How loom says that a thread goes on forever: here the one that moves the clock for a waiter that does not end.
const ENDLESS: &str = "exceeded maximum number of branches";

/// The bugs `store:` are in the models' own store; the others are in the engine, at the places that name them.
const PLANTS: [Plant; 22] = [
    Plant {
        bug: "store: check and write under two locks",
        model: "racing::of_two_callers_that_wait_one_executes_and_both_get_its_value",
        says: &["two attempts execute at once", "the operation executes once"],
    },
    Plant {
        bug: "store: check and write under two locks",
        model: "racing::of_two_processes_one_executes",
        says: &["two attempts execute at once", "the operation executes once"],
    },
    Plant {
        bug: "store: check and write under two locks",
        model: "racing::of_two_callers_that_wait_one_executes_at_once_and_both_get_its_value",
        says: &["two attempts execute at once", "the operation executes once"],
    },
    Plant {
        bug: "store: versions are not compared",
        model: "takeover::of_two_takeovers_of_one_expired_claim_one_wins",
        says: &["two attempts execute at once", "one takeover executes"],
    },
    Plant {
        bug: "lease: a conflict counts as stored",
        model: "takeover::a_late_completion_or_a_takeover_is_accepted_and_never_both",
        says: &["an accepted completion is replayed"],
    },
    Plant {
        bug: "store: a completion removes first and writes second",
        model: "racing::a_caller_that_begins_while_the_leader_completes_does_not_execute_again",
        says: &["the operation executes once", "who waits gets the leader's value"],
    },
    Plant {
        bug: "waiters: no look after joining",
        model: "waiting::a_waiter_ends_by_the_completion_alone",
        says: &[DEADLOCK],
    },
    Plant {
        bug: "waiters: hears nothing while it looks",
        model: "waiting::a_waiter_whose_look_hangs_ends_by_the_completion_alone",
        says: &[DEADLOCK],
    },
    Plant {
        bug: "waiters: no look after joining",
        model: "waiting::a_waiter_ends_by_a_completion_at_once_alone",
        says: &[DEADLOCK],
    },
    Plant {
        bug: "lease: wakes before it stores",
        model: "waiting::a_waiter_ends_by_the_completion_alone",
        says: &[DEADLOCK],
    },
    Plant {
        bug: "waiters: no look after joining",
        model: "waiting::a_waiter_outlives_a_dropped_leader",
        says: &[ENDLESS],
    },
    Plant {
        bug: "waiters: leaves without a successor",
        model: "waiting::a_waiter_goes_on_when_the_one_that_looked_leaves",
        says: &[ENDLESS],
    },
    Plant {
        bug: "lease: the turn ends in silence",
        model: "writers::a_completion_gets_its_turn_beside_the_keeper",
        says: &[DEADLOCK],
    },
    Plant {
        bug: "lease: the turn ends in silence",
        model: "writers::a_completion_at_once_gets_its_turn_beside_the_keeper",
        says: &[DEADLOCK],
    },
    Plant {
        bug: "lease: gives up in silence",
        model: "leaders::of_two_waiters_one_inherits_from_a_failing_leader",
        says: &[DEADLOCK],
    },
    Plant {
        bug: "lease: gives up in silence",
        model: "leaders::of_two_waiters_one_inherits_from_a_leader_dropped_at_once",
        says: &[DEADLOCK],
    },
    Plant {
        bug: "lease: who lost its turn writes on",
        model: "writers::a_claim_that_was_given_up_is_not_revived_by_a_stalled_checkpoint",
        says: &["a claim is revived"],
    },
    Plant {
        bug: "housekeeping: an engine is kept before its job is queued",
        model: "clean_up::a_keeper_releases_the_last_claim_of_an_engine",
        says: &["the clean-up is lost"],
    },
    Plant {
        bug: "housekeeping: an engine is kept for a keeper that is gone",
        model: "clean_up::an_engine_ends_whose_keeper_goes_while_a_claim_is_dropped",
        says: &["the engine is kept for nobody"],
    },
    Plant {
        bug: "housekeeping: nobody helps with a conclusion",
        model: "batches::a_batch_whose_filler_stops_is_stored_by_the_keeper",
        says: &[ENDLESS],
    },
    Plant {
        bug: "batch: only the task that filled it drives it",
        model: "batches::a_batch_whose_filler_stops_is_stored_by_the_keeper",
        says: &[ENDLESS],
    },
    Plant {
        bug: "admin: goes by a newer version",
        model: "forgetting::forgetting_does_not_cross_a_takeover",
        says: &["a live claim is forgotten"],
    },
];

#[test]
fn planted_bugs_are_found() {
    assert_found(&PLANTS, &[(PREEMPTIONS_AT_MOST, PREEMPTIONS)]);
}
