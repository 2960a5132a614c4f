//! Scenarios of `tests/it` that must fail while a bug is planted in the engine: those whose bug needs a task, a thread or a
//! batch that no model has.

#[path = "plants.rs"]
mod plants;

use plants::{Plant, assert_found};

const PLANTS: [Plant; 8] = [
    // E1: an operation that ended is stored although its task is blocked.
    Plant {
        bug: "housekeeping: nobody helps with a conclusion",
        model: "leases::blocked::what_ended_during_a_renewal_is_stored_while_a_neighbour_blocks",
        says: &["Succeeds"],
    },
    Plant {
        bug: "housekeeping: nobody helps with a conclusion",
        model: "leases::blocked::in_a_batch_what_has_ended_is_stored_while_a_neighbour_blocks",
        says: &["Succeeds, by a keeper: true"],
    },
    Plant {
        bug: "batch: only the task that filled it drives it",
        model: "leases::blocked::in_a_batch_what_has_ended_is_stored_while_a_neighbour_blocks",
        says: &["Succeeds, by a keeper: true"],
    },
    // E3: the second of a pair follows the answer of the first.
    Plant {
        bug: "batch: the second of a pair is not told that the first has ended",
        model: "many::twins::the_second_of_a_pair_waits_no_longer_than_it_says",
        says: &["with a wait of 0ns"],
    },
    // E5: the leader hears of an outcome while its own look hangs.
    Plant {
        bug: "waiters: hears nothing while it looks",
        model: "waiting::looks::the_one_that_looks_hears_of_the_outcome_while_its_look_hangs",
        says: &["waiter 0 hears nothing"],
    },
    Plant {
        bug: "waiters: hears nothing while it looks",
        model: "waiting::looks::at_once::the_one_that_looks_hears_of_the_outcome_while_its_look_hangs",
        says: &["waiter 0 hears nothing"],
    },
    // A dropped claim is given up whatever is in flight for it.
    Plant {
        bug: "lease: a dropped claim keeps its turn",
        model: "leases::turns::a_checkpoint_in_flight_does_not_revive_a_claim_that_was_dropped",
        says: &["a claim is revived"],
    },
    // Who helps with a conclusion works inside of its phase.
    Plant {
        bug: "lease: who helps is outside of the phase",
        model: "operators::watching::what_a_keeper_helps_with_is_heard_inside_of_its_phase",
        says: &["by the keeper"],
    },
];

#[test]
fn planted_bugs_are_found() {
    assert_found(&PLANTS, &[]);
}
