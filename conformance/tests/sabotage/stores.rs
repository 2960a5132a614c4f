//! Each wrong store is caught, by a case of the clause that it breaks; the right ones are not.

use oncekey_conformance::Clause::{
    self, P1, P2, P3, P4, P5, P6, S1, S2, S3, S4, S5, S6, S7, S8, S9, S10, T1,
};
use oncekey_conformance::{Effort, Passed, Violation, cases, check};

use super::flaws::Flaw;
use super::kit::Kit;
use super::number;

/// A flaw, a case that catches it, and the clauses one of which the case names then.
type Catch = (Flaw, &'static str, &'static [Clause]);

/// A store that breaks a clause may break any promise of the engine: which one comes first is up to the seeds.
const PROMISES: &[Clause] = &[P1, P2, P3, P4, P5, P6, T1];

const CATCHES: &[Catch] = &[
    // Who looks first and writes later also answers conflicts with what, by then, is just as expected: S5.
    (Flaw::ClaimInTwoSteps, "s1_concurrent_histories_are_linearizable", &[S1, S5]),
    (Flaw::TakeoverInTwoSteps, "s1_concurrent_histories_are_linearizable", &[S1, S5]),
    (Flaw::TakeoverInTwoSteps, "s1_concurrent_histories_with_lost_calls_are_linearizable", &[S1, S5]),
    (Flaw::LaggingReplica, "s1_concurrent_histories_are_linearizable", &[S1]),
    (Flaw::ClaimAwaitsBetween, "s1_calls_in_flight_on_one_thread_are_linearizable", &[S1]),
    (Flaw::DroppedBeforeTheBody, "s1_calls_in_flight_on_one_thread_are_linearizable", &[S2]),
    (Flaw::DroppedBeforeTheLifetimes, "s1_calls_in_flight_on_one_thread_are_linearizable", &[S7]),
    (Flaw::AppliedIsReportedAsNot, "p1_to_t1_hold_with_faults_between", PROMISES),
    (Flaw::JudgedByTheClient, "p1_to_t1_hold_with_faults_between", PROMISES),
    (Flaw::VersionsRestartWhenGone, "p1_to_t1_hold_with_faults_between", PROMISES),
    (Flaw::VersionNotCompared, "p1_to_t1_hold_with_faults_between", PROMISES),
    (Flaw::ConflictHasNoTimeLeft, "p1_to_t1_hold_with_faults_between", PROMISES),
    (Flaw::NoFingerprint, "p1_to_t1_hold_with_faults_between", PROMISES),
    (Flaw::ClaimInTwoSteps, "s1_of_racing_claims_one_is_done", &[S1]),
    (Flaw::ClaimInTwoSteps, "s1_of_racing_claims_of_a_gone_key_one_is_done", &[S1]),
    (Flaw::TakeoverInTwoSteps, "s1_of_racing_takeovers_one_is_done", &[S1]),
    (Flaw::TakeoverInTwoSteps, "s1_a_late_completion_or_a_takeover", &[S1]),
    (Flaw::TakeoverInTwoSteps, "s1_no_update_is_lost", &[S1]),
    (Flaw::LaggingReplica, "s1_an_acknowledged_write_is_seen_by_everybody", &[S1]),
    (Flaw::LaggingReplica, "s3_a_fresh_key_is_claimed", &[S3]),
    (Flaw::RefusedIsDone, "s3_a_readable_entry_is_not_vacant", &[S3]),
    (Flaw::RefusedIsDone, "s4_no_other_version_fits", &[S4]),
    (Flaw::VersionOfTheTable, "s2_versions_rise_over_the_end_of_an_entry", &[S2]),
    (Flaw::VersionOfTheTable, "s2_a_version_of_an_earlier_life_never_fits_again", &[S2]),
    (Flaw::VersionsRestartWhenGone, "s2_versions_rise_over_the_end_of_an_entry", &[S2]),
    (Flaw::VersionsRestartWhenGone, "s2_a_version_of_an_earlier_life_never_fits_again", &[S2]),
    (Flaw::VersionKeptOnOverwrite, "s2_versions_rise_with_every_write", &[S2]),
    (Flaw::VersionsFromSteppingClock, "s2_versions_rise_with_every_write", &[S2]),
    (Flaw::VersionsFromCoarseClock, "s2_versions_rise_with_every_write", &[S2]),
    (Flaw::VersionFromWhatWasRead, "s2_versions_rise_under_races", &[S2]),
    (Flaw::VersionsRestartOnReopen, "s9_what_was_acknowledged_outlives_the_store", &[S2]),
    (Flaw::ClaimOverwrites, "s3_a_readable_entry_is_not_vacant", &[S3]),
    (Flaw::GoneIsInTheWay, "s3_past_live_and_linger_is_vacant", &[S3]),
    (Flaw::GoneIsInTheWay, "s3_what_is_gone_at_once_is_in_nobodys_way", &[S3]),
    (Flaw::ClaimKeepsTheOldBody, "s3_past_live_and_linger_is_vacant", &[S3]),
    (Flaw::OutcomeWrittenOnce, "s3_a_second_life_reads_its_own_outcome", &[S3]),
    (Flaw::LingerIgnored, "s3_a_readable_entry_is_not_vacant", &[S3]),
    (Flaw::LingerIgnored, "s4_the_current_version_fits_live_or_expired", &[S4]),
    (Flaw::VersionNotCompared, "s4_no_other_version_fits", &[S4]),
    (Flaw::GreaterVersionFits, "s4_no_other_version_fits", &[S4]),
    (Flaw::ExchangeRevives, "s4_nothing_readable_conflicts_with_nothing", &[S4]),
    (Flaw::ExchangeInserts, "s4_nothing_readable_conflicts_with_nothing", &[S4]),
    (Flaw::ExpiredCannotBeExchanged, "s4_the_current_version_fits_live_or_expired", &[S4]),
    (Flaw::ExpiredCannotBeExchanged, "s4_an_entry_that_ran_out_can_be_exchanged", &[S4]),
    (Flaw::ConflictIsEmpty, "s5_a_conflict_carries_what_is_current", &[S5]),
    (Flaw::ConflictIsStale, "s5_a_conflict_never_looks_like_a_match", &[S5]),
    (Flaw::ConflictIsStale, "s1_of_racing_claims_one_is_done", &[S5]),
    (Flaw::ConflictRestamps, "s5_a_conflict_changes_nothing", &[S5]),
    (Flaw::ConflictRaisesTheVersion, "s5_a_conflict_changes_nothing", &[S5]),
    (Flaw::ConflictWrites, "s5_a_conflict_changes_nothing", &[S5]),
    (Flaw::ConflictHasNoTimeLeft, "s5_a_conflict_carries_what_is_current", &[S5]),
    (Flaw::BytesThroughText, "s6_odd_outcomes_come_back", &[S6]),
    (Flaw::CutAt64KiB, "s6_large_outcomes_come_back", &[S6]),
    (Flaw::NoFingerprint, "s6_every_field_comes_back", &[S6]),
    (Flaw::NoCheckpoint, "s6_every_field_comes_back", &[S6]),
    (Flaw::NoDoubt, "s6_every_field_comes_back", &[S6]),
    (Flaw::NoPolicy, "s6_every_field_comes_back", &[S6]),
    (Flaw::NoFinishedAt, "s6_every_field_comes_back", &[S6]),
    (Flaw::KeysFolded, "s6_keys_are_compared_byte_for_byte", &[S6]),
    (Flaw::KeysTrimmed, "s6_keys_are_compared_byte_for_byte", &[S6]),
    (Flaw::KeysNormalised, "s6_keys_are_compared_byte_for_byte", &[S6]),
    (Flaw::KeysCutAtNul, "s6_keys_are_compared_byte_for_byte", &[S6]),
    (Flaw::KeysJoined, "s6_keys_are_compared_byte_for_byte", &[S6]),
    (Flaw::KeysCutAt191, "s6_keys_are_compared_byte_for_byte", &[S6]),
    (Flaw::ExpiresEarly, "s7_ends_are_exact_on_a_clock_moved_by_hand", &[S7]),
    (Flaw::ExpiresEarly, "s7_time_left_counts_down_to_nothing", &[S7]),
    (Flaw::ExpiresLate, "s7_ends_are_exact_on_a_clock_moved_by_hand", &[S7]),
    (Flaw::GoneEarly, "s7_ends_are_exact_on_a_clock_moved_by_hand", &[S7]),
    (Flaw::GoneEarly, "s1_random_histories_of_one_caller", &[S8]),
    (Flaw::GoneLate, "s7_ends_are_exact_on_a_clock_moved_by_hand", &[S3]),
    (Flaw::ReadingRenews, "s7_time_left_counts_down_to_nothing", &[S7]),
    (Flaw::ReadingRenews, "s1_random_histories_that_look_rarely", &[S7]),
    (Flaw::AgeWrapsAround, "s7_an_expired_entry_stays_so_for_ages", &[S7]),
    (Flaw::JudgedByTheClient, "s7_time_left_counts_down_to_nothing", &[S7]),
    (Flaw::StampedByTheClients, "s7_time_left_counts_down_to_nothing", &[S7]),
    (Flaw::LeftIsNotCountedDown, "s7_time_left_counts_down_to_nothing", &[S7]),
    (Flaw::EndKeptOnOverwrite, "s7_every_write_stamps_anew", &[S7]),
    (Flaw::LongLivesWrap, "s7_lifetimes_at_their_ends", &[S7]),
    (Flaw::ForEverIsUnset, "s7_lifetimes_at_their_ends", &[S7]),
    (Flaw::PurgesTheCompleted, "s8_nothing_readable_is_dropped", &[S8]),
    (Flaw::EvictsWhenCrowded, "s8_nothing_readable_is_dropped", &[S8]),
    (Flaw::PurgesOverItsLimit, "s8_purge_removes_what_is_gone_in_bounded_steps", &[S8]),
    (Flaw::PurgesAllForNothing, "s8_purge_removes_what_is_gone_in_bounded_steps", &[S8]),
    (Flaw::PurgesTheExpired, "s8_purge_removes_what_is_gone_in_bounded_steps", &[S8]),
    (Flaw::PurgesTheExpired, "s8_nothing_readable_is_dropped", &[S8]),
    (Flaw::PurgeRacesClaims, "s8_a_purge_never_removes_a_new_claim", &[S8]),
    (Flaw::PurgesByOldEnds, "s8_a_purge_never_removes_a_renewed_entry", &[S8]),
    (Flaw::PurgersCountTwice, "s8_purgers_beside_each_other", &[S8]),
    (Flaw::PurgeSaysTooEarlyThatItIsDone, "s8_purge_removes_what_is_gone_in_bounded_steps", &[S8]),
    (Flaw::ExchangeRefusedAtTheBound, "s8_a_full_store_refuses_new_keys_only", &[S8]),
    (Flaw::ExchangeRefusedAtTheBound, "s8_random_histories_at_the_bound", &[S8]),
    (Flaw::EvictsAtTheBound, "s8_a_full_store_refuses_new_keys_only", &[S8]),
    (Flaw::BoundOfOneMore, "s8_a_full_store_refuses_new_keys_only", &[S8]),
    (Flaw::FullForEver, "s8_a_full_store_refuses_new_keys_only", &[S8]),
    (Flaw::FullButInserted, "s8_a_full_store_refuses_new_keys_only", &[S10]),
    (Flaw::BatchAnsweredInOrderOfKeys, "s1_a_batch_answers_item_by_item", &[S1]),
    (Flaw::BatchAllOrNothing, "s1_a_batch_answers_item_by_item", &[S1]),
    (Flaw::BatchAnswersTooFew, "s1_a_batch_answers_item_by_item", &[S1]),
    (Flaw::BatchInTwoSteps, "s1_batches_that_cross_each_other", &[S1]),
    (Flaw::BatchInTwoSteps, "s1_a_batch_beside_single_puts", &[S1]),
    (Flaw::LastWriteLostOnReopen, "s9_what_was_acknowledged_outlives_the_store", &[S9]),
    (Flaw::LeasesRestartOnReopen, "s9_what_was_acknowledged_outlives_the_store", &[S9]),
    (Flaw::DeclaredMoreThanItIs, "s9_what_was_acknowledged_outlives_the_store", &[S9]),
    (Flaw::AppliedIsReportedAsNot, "s2_versions_rise_with_every_write", &[S10]),
    (Flaw::DroppedBeforeTheBody, "s10_a_dropped_call_is_whole_or_nothing", &[S10]),
    (Flaw::DroppedBeforeTheLifetimes, "s10_a_dropped_call_is_whole_or_nothing", &[S10]),
    (Flaw::DroppedBatchIsTorn, "s10_a_dropped_batch_is_whole_item_by_item", &[S10]),
    (Flaw::JudgedByTheClient, "p1_to_t1_hold_at_once", PROMISES),
    (Flaw::NoFingerprint, "p1_to_t1_hold_at_once", PROMISES),
    (Flaw::UpdateAnswersWhatWas, "p1_to_t1_hold_at_once", PROMISES),
    (Flaw::TableOfEachDoor, "s1_random_histories_by_both_doors", &[S3, S8]),
    (Flaw::UpdateAnswersWhatWas, "s1_random_histories_by_both_doors", &[S6]),
    (Flaw::UpdateInTwoSteps, "s1_of_racing_claims_by_both_doors_one_is_done", &[S1]),
    (Flaw::UpdateInTwoSteps, "s1_no_update_by_either_door_is_lost", &[S1]),
    (Flaw::LookRefusedAtTheBound, "s8_a_full_store_refuses_steps_that_need_room_only", &[S8]),
    (Flaw::StepOverAnEntryRefusedAtTheBound, "s8_a_full_store_refuses_steps_that_need_room_only", &[S8]),
    (Flaw::RefusedStepIsWritten, "s8_a_full_store_refuses_steps_that_need_room_only", &[S10]),
    (Flaw::StepReservesItsRow, "s10_a_step_that_panics_has_done_nothing", &[S10]),
    (Flaw::PanicPoisonsTheLock, "s10_a_step_that_panics_has_done_nothing", &[S10]),
    (Flaw::VersionDrawnBeforeTheLock, "s2_versions_rise_from_claim_to_claim_under_races", &[S2]),
    (Flaw::VersionCountedOutsideTheLock, "s2_versions_rise_from_claim_to_claim_under_races", &[S2]),
];

/// What is wrong about how a flaw was, or was not, caught.
fn miss((flaw, case, clauses): &Catch) -> Result<Violation, String> {
    let mut kit = Kit::new(Some(*flaw));
    // A race may miss, and ends with its first find: ten times as many cost nothing, and do not miss.
    kit.effort.races *= 10;
    match check(&kit, case) {
        Ok(Passed { not_shown, .. }) => Err(format!("{flaw:?} passes {case} (not shown: {not_shown:?})")),
        Err(violation) if clauses.contains(&violation.clause) && violation.case == *case => Ok(violation),
        Err(violation) => Err(format!("{flaw:?} breaks {clauses:?}, and {case} says: {violation}")),
    }
}

/// `ONCEKEY_SABOTAGE_ROUNDS` times (1): races do not repeat, and each round must find what it is there for.
#[test]
fn each_wrong_store_is_caught_by_the_clause_it_breaks() {
    let mut missed = Vec::new();
    for round in 0..number("ONCEKEY_SABOTAGE_ROUNDS").unwrap_or(1) {
        for catch in CATCHES {
            match miss(catch) {
                Ok(violation) if round == 0 => {
                    let what: String =
                        violation.what.lines().next().unwrap_or_default().chars().take(110).collect();
                    println!("{:?}: {} in {}: {what}", catch.0, violation.clause, violation.case);
                }
                Ok(_) => {}
                Err(what) => missed.push(format!("round {round}: {what}")),
            }
        }
    }
    assert!(missed.is_empty(), "{} missed:\n{}", missed.len(), missed.join("\n"));
}

#[test]
fn every_flaw_is_listed() {
    let missing: Vec<_> =
        Flaw::ALL.iter().filter(|flaw| !CATCHES.iter().any(|catch| catch.0 == **flaw)).collect();
    assert!(missing.is_empty(), "nothing is said to catch {missing:?}");
}

/// A case that no flaw is known to fail may be one that cannot fail.
#[test]
fn every_case_catches_something() {
    let idle = cases().iter().filter(|(case, _)| !CATCHES.iter().any(|catch| catch.1 == *case));
    let idle: Vec<_> = idle.map(|(case, _)| case).collect();
    assert!(idle.is_empty(), "no flaw in tests/sabotage/flaws.rs is listed as caught by {idle:?}");
}

/// The same register without a flaw: what the catches rest on.
mod without_a_flaw {
    oncekey_conformance::conformance_tests!(super::Kit::new(None));
}

#[test]
fn the_register_without_a_flaw_shows_every_case() {
    let kit = Kit { effort: Effort::modest(), ..Kit::new(None) };
    for (case, _) in cases() {
        let held = check(&kit, case).unwrap_or_else(|violation| panic!("\n{violation}\n"));
        assert_eq!(
            held.not_shown, None,
            "{case} shows nothing on the register, so its catches would mean nothing"
        );
    }
}
