//! The scenario of `blocking/tests/it` that must fail while a bug is planted in the engine.

#[path = "plants.rs"]
mod plants;

use plants::{Plant, assert_found};

#[test]
fn planted_bugs_are_found() {
    // E2: an outcome is stored while the next operation has the thread, also after a grant that came late.
    let plant = Plant {
        bug: "housekeeping: nobody helps with a conclusion",
        model: "many::an_outcome_after_a_late_grant_is_stored_while_the_next_operation_runs",
        says: &["the last outcome is not stored while the next operation runs"],
    };
    assert_found(&[plant], &[]);
}
