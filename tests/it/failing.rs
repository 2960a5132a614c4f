//! Operations that fail: without effect, for good, or with nobody knowing. What the next call does, and what stays in
//! doubt.

use std::sync::Mutex;

use oncekey::admin::{AdminAnswer, Resolution};
use oncekey::answer::{ClaimFate, FailureKind};
use oncekey::builder::OnLeaseLost;
use oncekey::codec::{AsValue, Codec, CodecError, Raw};
use oncekey::{
    Answer, Attempt, ClaimAnswer, ClaimError, Deduplicator, Earlier, Failure, Fingerprint, OperationId,
    Outcome, Payload, Policy, RunError,
};

use crate::support::*;

type Told = Result<Answer<String, String>, RunError<String>>;

/// Runs an operation that fails like this, against a store that answers at once.
fn run_failing(dedup: &Deduplicator<FaultyStore>, failure: Failure<String>) -> Told {
    ready(dedup.request(key()).run_or_fail(async |_| Err::<String, _>(failure)))
}

/// What became of the claim.
fn after(told: Told) -> ClaimFate {
    match told {
        Err(RunError::Operation { claim, error, .. }) => {
            assert_eq!(error, "boom", "the operation's own error reaches the caller");
            claim
        }
        other => panic!("not the operation's error: {other:?}"),
    }
}

fn no_effect() -> Failure<String> {
    Failure::NoEffect("boom".to_owned())
}

fn unknown() -> Failure<String> {
    Failure::Unknown("boom".to_owned())
}

/// What the next attempt is told.
#[derive(Debug, PartialEq)]
struct Seen {
    number: u32,
    operation_id: OperationId,
    after_doubt: bool,
    checkpoint: Vec<u8>,
}

impl Seen {
    fn of(attempt: &Attempt) -> Self {
        Self {
            number: attempt.number(),
            operation_id: attempt.operation_id(),
            after_doubt: attempt.after_doubt(),
            checkpoint: attempt.last_checkpoint().to_vec(),
        }
    }
}

/// Runs a first attempt that checkpoints and fails like this, and a second one; what the two saw.
fn first_and_second(bench: &Bench, failure: Failure<String>) -> (Seen, Option<Seen>, Answer<String>) {
    let first = Mutex::new(None);
    let told = ready(bench.dedup.request(key()).run_or_fail(async |attempt: Attempt| {
        attempt.checkpoint("half way").await.unwrap();
        *first.lock().unwrap() = Some(Seen::of(&attempt));
        Err::<String, _>(failure)
    }));
    after(told);
    let second = Mutex::new(None);
    let answer = ready(bench.other_process().request(key()).run(async |attempt: Attempt| {
        *second.lock().unwrap() = Some(Seen::of(&attempt));
        Ok::<_, String>("second".to_owned())
    }));
    (first.into_inner().unwrap().unwrap(), second.into_inner().unwrap(), answer.unwrap())
}

#[test]
fn after_a_failure_without_effect_the_next_call_runs_at_once_in_the_same_generation() {
    for policy in [Policy::Reclaim, Policy::Hold] {
        let bench = bench_with(|builder| builder.policy(policy));
        let (first, second, answer) = first_and_second(&bench, no_effect());
        let Answer::Executed { info, .. } = answer else { panic!("{policy:?}: {answer:?}") };
        let second = second.unwrap();
        assert_eq!((second.number, second.after_doubt), (2, false), "{policy:?}");
        assert_eq!(second.operation_id, first.operation_id);
        assert_eq!(second.checkpoint, b"half way");
        assert_eq!((info.attempt, info.after_doubt), (2, false));
    }
    let bench = bench();
    assert!(matches!(after(run_failing(&bench.dedup, no_effect())), ClaimFate::Released));
    assert_eq!(on_record(&bench).left, secs(0));
}

#[test]
fn a_release_that_asks_for_it_gives_the_next_attempt_a_fresh_operation_id() {
    let bench = bench();
    let mut first = claim(&bench.dedup);
    ready(first.release_with_fresh_id()).unwrap();
    let second = claim(&bench.dedup);
    assert_eq!(second.number(), 2);
    assert_ne!(second.operation_id(), first.operation_id());
}

#[test]
fn a_final_failure_is_kept_for_the_retention_and_replayed_as_one() {
    let bench = bench();
    let recorded = run_failing(&bench.dedup, Failure::Final("boom".to_owned()));
    assert!(matches!(after(recorded), ClaimFate::Recorded { .. }));
    assert_eq!(on_record(&bench).left, RETENTION);
    bench.clock.advance(RETENTION - std::time::Duration::from_nanos(1));
    let told = run_failing(&bench.other_process(), no_effect()).unwrap();
    let Answer::Earlier(Earlier::FailedBefore { failure, info, .. }) = told else { panic!("{told:?}") };
    assert_eq!(failure.as_deref(), Some("boom"));
    assert_eq!((info.attempt, info.after_doubt), (1, false));
    // A call without a codec for failures gets the bytes.
    let told = run_text(&bench.dedup, "x");
    assert!(
        matches!(&told, Answer::Earlier(Earlier::FailedBefore { failure: Some(bytes), .. }) if **bytes == b"boom"[..])
    );
    bench.clock.advance(std::time::Duration::from_nanos(1));
    assert!(matches!(run_text(&bench.dedup, "anew"), Answer::Executed { .. }));
}

/// Fails to encode.
#[derive(Clone)]
struct NoCodec;

impl Codec<String> for NoCodec {
    fn encode(&self, _: &String) -> Result<Payload, CodecError> {
        Err("no form for it".into())
    }

    fn decode(&self, bytes: &Payload) -> Result<String, CodecError> {
        Raw.decode(bytes)
    }
}

#[test]
fn a_final_failure_that_cannot_be_kept_is_final_all_the_same() {
    let bench = bench();
    let request = bench.dedup.request(key()).failures(AsValue(NoCodec));
    let told = ready(request.run_or_fail(async |_| Err::<String, _>(Failure::Final("boom".to_owned()))));
    assert!(matches!(after(told), ClaimFate::Recorded { .. }));
    let told = run_failing(&bench.dedup, no_effect()).unwrap();
    assert!(matches!(told, Answer::Earlier(Earlier::FailedBefore { failure: None, .. })), "{told:?}");
}

#[test]
fn after_an_unknown_failure_reclaim_takes_over_at_once_and_knows_of_the_doubt() {
    let bench = bench();
    let (first, second, answer) = first_and_second(&bench, unknown());
    let expected = Seen { number: 2, after_doubt: true, checkpoint: b"half way".to_vec(), ..first };
    assert_eq!(second, Some(expected));
    assert!(matches!(answer, Answer::Executed { .. }), "{answer:?}");
    let bench = bench_with(|builder| builder);
    assert!(matches!(after(run_failing(&bench.dedup, unknown())), ClaimFate::InDoubt));
}

#[test]
fn after_an_unknown_failure_hold_runs_nothing_until_somebody_resolved_it() {
    let bench = bench_with(|builder| builder.policy(Policy::Hold));
    let (first, second, answer) = first_and_second(&bench, unknown());
    assert_eq!(second, None, "it ran");
    assert!(
        matches!(answer, Answer::Earlier(Earlier::InDoubt { attempt: 1, operation_id, .. }) if operation_id == first.operation_id),
        "{answer:?}"
    );
    // For ever, and also for a caller who would reclaim.
    bench.clock.advance(RETENTION * 1000);
    let reclaims = ready(bench.dedup.request(key()).policy(Policy::Reclaim).claim()).unwrap();
    assert!(matches!(reclaims, ClaimAnswer::Answered(Earlier::InDoubt { .. })), "{reclaims:?}");
    let resolution = Resolution::Completed(Outcome::success("as the bank says"));
    assert_eq!(ready(bench.dedup.resolve(&key(), &resolution)).unwrap(), AdminAnswer::Done);
    let answer = run_text(&bench.dedup, "x");
    assert!(
        matches!(&answer, Answer::Earlier(Earlier::Replayed { value, .. }) if value == "as the bank says"),
        "{answer:?}"
    );
}

#[test]
fn the_question_mark_works_in_an_operation_and_its_error_is_of_unknown_effect() {
    fn parse(text: &str) -> Result<String, std::num::ParseIntError> {
        Ok(text.parse::<u32>()?.to_string())
    }
    let bench = bench();
    let run = bench.dedup.request(key()).run(async |_| -> Result<String, Box<dyn std::error::Error>> {
        let number = parse("no number")?;
        Ok(number)
    });
    let error = ready(run).unwrap_err();
    assert!(matches!(&error, RunError::Operation { claim: ClaimFate::InDoubt, .. }), "{error:?}");
    assert!(error.into_operation().unwrap().is::<std::num::ParseIntError>());
    // In the other form, `?` makes an error of unknown effect too.
    let run = bench.dedup.request(key()).run_or_fail(async |_| {
        let refused: Result<String, String> = Err("boom".to_owned());
        Ok::<_, Failure<String>>(refused?)
    });
    assert!(matches!(after(ready(run)), ClaimFate::InDoubt));
}

#[test]
fn an_error_type_without_any_bounds_will_do() {
    struct Opaque;
    let bench = bench();
    let error = ready(bench.dedup.request(key()).run(async |_| Err::<String, _>(Opaque))).unwrap_err();
    assert!(error.into_operation().is_some());
}

#[test]
fn an_error_that_tells_its_kind_is_mapped_to_it() {
    for (kind, next_attempt) in
        [(FailureKind::NoEffect, Some(2)), (FailureKind::Unknown, Some(2)), (FailureKind::Final, None)]
    {
        let bench = bench();
        let classify = |error: String| match kind {
            FailureKind::NoEffect => Failure::NoEffect(error),
            FailureKind::Final => Failure::Final(error),
            FailureKind::Unknown => Failure::Unknown(error),
        };
        let told = ready(
            bench.dedup.request(key()).run_or_fail(async |_| Err::<String, _>(classify("boom".to_owned()))),
        );
        assert!(matches!(&told, Err(RunError::Operation { kind: said, .. }) if *said == kind), "{told:?}");
        let claim = after(told);
        let as_expected = match kind {
            FailureKind::NoEffect => matches!(claim, ClaimFate::Released),
            FailureKind::Final => matches!(claim, ClaimFate::Recorded { .. }),
            FailureKind::Unknown => matches!(claim, ClaimFate::InDoubt),
        };
        assert!(as_expected, "{kind:?}: {claim:?}");
        let answer = run_text(&bench.dedup, "next");
        match (next_attempt, answer) {
            (Some(attempt), Answer::Executed { info, .. }) => {
                assert_eq!((info.attempt, info.after_doubt), (attempt, kind == FailureKind::Unknown));
            }
            (None, Answer::Earlier(Earlier::FailedBefore { .. })) => {}
            (_, other) => panic!("{kind:?}: {other:?}"),
        }
    }
}

#[test]
fn the_operations_own_error_reaches_the_caller_even_if_the_store_fails_then() {
    for failure in [no_effect(), unknown(), Failure::Final("boom".to_owned())] {
        for fault in [Fault::Refused, Fault::RequestLost, Fault::HangBefore] {
            let bench = bench();
            let told = bench.run(bench.dedup.request(key()).run_or_fail(async |_| {
                bench.store.always(fault);
                Err::<String, _>(failure.clone())
            }));
            let claim = after(told);
            assert!(matches!(claim, ClaimFate::NotStored(ClaimError::Store { .. })), "{fault:?}: {claim:?}");
            bench.store.always(Fault::None);
            bench.run(bench.dedup.flush());
            // Nothing is freed in silence: it is left to its lease.
            let entry = on_record(&bench);
            assert_eq!((entry.record.attempt(), entry.record.outcome()), (1, None));
            assert!(entry.left <= LEASE);
        }
    }
}

#[test]
fn an_error_of_an_attempt_that_was_superseded_reaches_its_caller_and_changes_nothing() {
    let bench = bench_with(|builder| builder.on_lease_lost(OnLeaseLost::Signal));
    let before = Mutex::new(None);
    let told = ready(bench.dedup.request(key()).run_or_fail(async |_| {
        bench.clock.advance(LEASE);
        let successor = claim(&bench.other_process());
        *before.lock().unwrap() = Some((on_record(&bench), successor));
        Err::<String, _>(no_effect())
    }));
    let claim = after(told);
    assert!(matches!(claim, ClaimFate::NotStored(ClaimError::Superseded { .. })), "{claim:?}");
    let (before, _successor) = before.into_inner().unwrap().unwrap();
    assert_eq!(on_record(&bench), before);
}

#[test]
fn no_effect_of_a_second_attempt_does_not_clear_the_doubt_of_the_first() {
    let print = Fingerprint::sha256(b"a");
    for policy in [Policy::Reclaim, Policy::Hold] {
        let bench = bench();
        let first = ready(bench.dedup.request(key()).fingerprint(print).claim()).unwrap();
        bench.clock.advance(LEASE); // it crashed in the middle
        drop(first);
        let second = bench.dedup.request(key()).fingerprint(print).policy(policy);
        let told = ready(second.run_or_fail(async |attempt: Attempt| {
            assert!(attempt.after_doubt());
            Err::<String, _>(no_effect())
        }));
        assert!(matches!(after(told), ClaimFate::InDoubt));
        assert!(on_record(&bench).record.doubt());
        // A release would let another request have the key.
        let other = ready(bench.dedup.request(key()).fingerprint(Fingerprint::sha256(b"b")).claim()).unwrap();
        assert!(matches!(other, ClaimAnswer::Answered(Earlier::Mismatch)), "{other:?}");
        let third = ready(bench.dedup.request(key()).fingerprint(print).claim()).unwrap();
        match (policy, third) {
            (Policy::Reclaim, ClaimAnswer::Granted(third)) => {
                assert_eq!((third.number(), third.after_doubt()), (3, true));
            }
            (Policy::Hold, ClaimAnswer::Answered(Earlier::InDoubt { attempt: 2, .. })) => {}
            (_, other) => panic!("{policy:?}: {other:?}"),
        }
    }
}

#[test]
fn an_outcome_after_doubt_says_so_in_every_replay_and_only_a_resolution_clears_it() {
    let bench = bench();
    after(run_failing(&bench.dedup, unknown()));
    // A reset and a clean failure do not.
    assert_eq!(ready(bench.dedup.reset_attempts(&key())).unwrap(), AdminAnswer::Done);
    after(run_failing(&bench.dedup, no_effect()));
    let executed = run_text(&bench.dedup, "third");
    assert!(matches!(&executed, Answer::Executed { info, .. } if info.after_doubt && info.attempt == 3));
    for _ in 0..3 {
        let replay = run_text(&bench.other_process(), "x");
        assert!(
            matches!(&replay, Answer::Earlier(Earlier::Replayed { info, .. }) if info.after_doubt && info.attempt == 3)
        );
    }
    // A resolution does, of either kind.
    for resolution in [Resolution::NoEffect, Resolution::Completed(Outcome::success("resolved"))] {
        let bench = bench_with(|builder| builder);
        after(run_failing(&bench.dedup, unknown()));
        assert_eq!(ready(bench.dedup.resolve(&key(), &resolution)).unwrap(), AdminAnswer::Done);
        assert!(!on_record(&bench).record.doubt());
        let (Answer::Executed { info, .. } | Answer::Earlier(Earlier::Replayed { info, .. })) =
            run_text(&bench.dedup, "next")
        else {
            panic!("{resolution:?}")
        };
        assert!(!info.after_doubt, "{resolution:?}");
    }
}

#[test]
fn attempts_are_counted_across_releases_and_takeovers_until_they_are_used_up() {
    for failures in [[no_effect(), no_effect()], [unknown(), unknown()], [no_effect(), unknown()]] {
        let bench = bench_with(|builder| builder.attempts_max(2));
        for failure in failures.clone() {
            after(run_failing(&bench.dedup, failure));
        }
        let before = on_record(&bench);
        let answer = run_text(&bench.dedup, "x");
        assert!(
            matches!(answer, Answer::Earlier(Earlier::Exhausted { attempts: 2, .. })),
            "{failures:?}: {answer:?}"
        );
        assert!(matches!(
            ready(bench.dedup.request(key()).claim()),
            Ok(ClaimAnswer::Answered(Earlier::Exhausted { attempts: 2, .. }))
        ));
        assert_eq!(on_record(&bench), before);
        // A crash counts as well, and a request may have a limit of its own.
        let own = ready(bench.dedup.request(key()).attempts_max(3).claim()).unwrap();
        assert!(matches!(own, ClaimAnswer::Granted(_)), "{own:?}");
        drop(own);
        bench.clock.advance(LEASE);
        assert!(matches!(
            run_text(&bench.dedup, "x"),
            Answer::Earlier(Earlier::Exhausted { attempts: 3, .. })
        ));
    }
}

#[test]
fn a_reset_lets_the_attempts_count_anew_and_keeps_generation_and_doubt() {
    for (failure, doubt) in [(no_effect(), false), (unknown(), true)] {
        let bench = bench_with(|builder| builder.attempts_max(1));
        after(run_failing(&bench.dedup, failure));
        let id = on_record(&bench).record.operation_id();
        assert!(matches!(run_text(&bench.dedup, "x"), Answer::Earlier(Earlier::Exhausted { .. })));
        assert_eq!(ready(bench.dedup.reset_attempts(&key())).unwrap(), AdminAnswer::Done);
        assert_eq!(ready(bench.dedup.reset_attempts(&key())).unwrap(), AdminAnswer::Done, "again");
        let answer = run_text(&bench.dedup, "second");
        let Answer::Executed { info, .. } = answer else { panic!("{answer:?}") };
        assert_eq!((info.attempt, info.after_doubt, info.operation_id), (2, doubt, id));
        assert_eq!(ready(bench.dedup.reset_attempts(&key())).unwrap(), AdminAnswer::AlreadyCompleted);
    }
    let bench = bench();
    assert_eq!(ready(bench.dedup.reset_attempts(&key())).unwrap(), AdminAnswer::Absent);
    let _claim = claim(&bench.dedup);
    assert!(matches!(ready(bench.dedup.reset_attempts(&key())), Ok(AdminAnswer::Live { left: LEASE, .. })));
}
