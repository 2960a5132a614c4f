//! The list of cases. A case is a function of its name in the file of its clause.

mod at_once;
mod engine;
mod s1;
mod s10;
mod s2;
mod s3;
mod s4;
mod s5;
mod s6;
mod s7;
mod s8;
mod s9;

use at_once::*;
use engine::{p1_to_t1_hold_at_once, p1_to_t1_hold_with_faults_between};
use s1::*;
use s2::*;
use s3::*;
use s4::*;
use s5::*;
use s6::*;
use s7::*;
use s8::*;
use s9::*;
use s10::*;

use super::history::{
    s1_random_histories_by_both_doors, s1_random_histories_of_one_caller,
    s1_random_histories_that_look_rarely, s8_random_histories_at_the_bound,
};
use super::linear::{
    s1_calls_in_flight_on_one_thread_are_linearizable, s1_concurrent_histories_are_linearizable,
    s1_concurrent_histories_with_lost_calls_are_linearizable,
};
use crate::clause::Clause;
use crate::erased::AnyHarness;
use crate::lab::{Checked, Lab};

/// One case: its name, the clause that it shows, and the function that does.
pub(super) struct Case<'h> {
    pub(super) name: &'static str,
    pub(super) clause: Clause,
    pub(super) run: fn(&Lab<'_, AnyHarness<'h>>) -> Checked,
}

/// Hands the list of cases to a macro, after its other argument. A new case is one line here.
#[doc(hidden)]
#[macro_export]
macro_rules! __oncekey_conformance_cases {
    ($callback:path, $argument:expr) => {
        $callback! { $argument;
            S1 s1_of_racing_claims_one_is_done
            S1 s1_of_racing_claims_of_a_gone_key_one_is_done
            S1 s1_of_racing_takeovers_one_is_done
            S1 s1_a_late_completion_or_a_takeover
            S1 s1_no_update_is_lost
            S1 s1_an_acknowledged_write_is_seen_by_everybody
            S1 s1_a_batch_answers_item_by_item
            S1 s1_batches_that_cross_each_other
            S1 s1_a_batch_beside_single_puts
            S1 s1_concurrent_histories_are_linearizable
            S1 s1_concurrent_histories_with_lost_calls_are_linearizable
            S1 s1_calls_in_flight_on_one_thread_are_linearizable
            S1 s1_random_histories_of_one_caller
            S1 s1_random_histories_that_look_rarely
            S1 s1_random_histories_by_both_doors
            S1 s1_of_racing_claims_by_both_doors_one_is_done
            S1 s1_no_update_by_either_door_is_lost
            S2 s2_versions_rise_with_every_write
            S2 s2_versions_rise_over_the_end_of_an_entry
            S2 s2_a_version_of_an_earlier_life_never_fits_again
            S2 s2_versions_rise_under_races
            S2 s2_versions_rise_from_claim_to_claim_under_races
            S3 s3_a_fresh_key_is_claimed
            S3 s3_a_readable_entry_is_not_vacant
            S3 s3_past_live_and_linger_is_vacant
            S3 s3_a_second_life_reads_its_own_outcome
            S3 s3_what_is_gone_at_once_is_in_nobodys_way
            S4 s4_the_current_version_fits_live_or_expired
            S4 s4_an_entry_that_ran_out_can_be_exchanged
            S4 s4_no_other_version_fits
            S4 s4_nothing_readable_conflicts_with_nothing
            S5 s5_a_conflict_carries_what_is_current
            S5 s5_a_conflict_changes_nothing
            S5 s5_a_conflict_never_looks_like_a_match
            S6 s6_every_field_comes_back
            S6 s6_odd_outcomes_come_back
            S6 s6_large_outcomes_come_back
            S6 s6_keys_are_compared_byte_for_byte
            S7 s7_time_left_counts_down_to_nothing
            S7 s7_ends_are_exact_on_a_clock_moved_by_hand
            S7 s7_an_expired_entry_stays_so_for_ages
            S7 s7_every_write_stamps_anew
            S7 s7_lifetimes_at_their_ends
            S8 s8_nothing_readable_is_dropped
            S8 s8_purge_removes_what_is_gone_in_bounded_steps
            S8 s8_purgers_beside_each_other
            S8 s8_a_purge_never_removes_a_new_claim
            S8 s8_a_purge_never_removes_a_renewed_entry
            S8 s8_a_full_store_refuses_new_keys_only
            S8 s8_a_full_store_refuses_steps_that_need_room_only
            S8 s8_random_histories_at_the_bound
            S9 s9_what_was_acknowledged_outlives_the_store
            S10 s10_a_dropped_call_is_whole_or_nothing
            S10 s10_a_dropped_batch_is_whole_item_by_item
            S10 s10_a_step_that_panics_has_done_nothing
            P1 p1_to_t1_hold_with_faults_between
            P1 p1_to_t1_hold_at_once
        }
    };
}

macro_rules! registry {
    ($unused:expr; $($clause:ident $name:ident)*) => {
        pub(super) const NAMES: &[(&str, Clause)] = &[$((stringify!($name), Clause::$clause)),*];

        pub(super) fn registry<'h>() -> Vec<Case<'h>> {
            vec![$(Case { name: stringify!($name), clause: Clause::$clause, run: $name }),*]
        }
    };
}

__oncekey_conformance_cases! { registry, () }
