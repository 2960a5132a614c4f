//! A run's whole result as a value or one error, and that error on its way out of a service.

use std::error::Error as StdError;

use oncekey::answer::{BoxedError, ClaimFate, FinalFailure, NoValue, Unavailable};
use oncekey::codec::{AsValue, FactOnly, Json};
use oncekey::store::StoreFailure;
use oncekey::{Answer, ClaimError, Failure, IntoValue as _, OperationId, Payload, Policy, RunError};

use crate::support::*;

type AnyError = Box<dyn StdError + Send + Sync>;

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("card declined ({0})")]
struct Declined(u16);

/// Runs an operation that ends like this.
fn run(
    bench: &Bench,
    end: Result<&str, Failure<Declined>>,
) -> Result<Answer<String, String>, RunError<Declined>> {
    ready(bench.dedup.request(key()).run_or_fail(async |_| end.map(str::to_owned)))
}

fn declined() -> Result<&'static str, Failure<Declined>> {
    Err(Failure::Final(Declined(51)))
}

#[test]
fn the_first_caller_of_a_final_failure_and_every_later_one_are_one_case() {
    let bench = bench();
    let told: Vec<_> = (0..3)
        .map(|_| match run(&bench, declined()).into_value() {
            Err(NoValue::Failed(failure)) => (failure.to_string(), failure.is_now()),
            other => panic!("{other:?}"),
        })
        .collect();
    let text = "card declined (51)".to_owned();
    assert_eq!(told, [(text.clone(), true), (text.clone(), false), (text, false)]);
}

#[test]
fn a_failure_that_is_kept_as_a_value_is_the_same_for_all() {
    let bench = bench();
    for _ in 0..3 {
        let request = bench.dedup.request(key()).failures(AsValue(Json));
        let told =
            ready(request.run_or_fail(async |_| Err::<String, _>(Failure::Final((51, "limit".to_owned())))));
        let Err(NoValue::Failed(failure)) = told.into_value() else { panic!("it did not fail for good") };
        assert_eq!(failure.into_failure(), Some((51, "limit".to_owned())));
    }
}

#[test]
fn a_failure_of_which_nothing_is_kept_is_still_one() {
    struct Opaque;
    let bench = bench();
    let call = || {
        let request = bench.dedup.request(key()).failures(FactOnly);
        ready(request.run_or_fail(async |_| Err::<String, _>(Failure::Final(Opaque)))).into_value()
    };
    assert!(matches!(call(), Err(NoValue::Failed(FinalFailure::Now { .. }))));
    assert!(matches!(call(), Err(NoValue::Failed(FinalFailure::Before { failure: Some(()), .. }))));
}

#[test]
fn what_is_not_final_keeps_the_operations_error_and_says_what_became_of_it() {
    for (failure, says) in [
        (
            Failure::NoEffect(Declined(1)),
            "the operation failed without effect, and was released: card declined (1)",
        ),
        (
            Failure::Unknown(Declined(1)),
            "the operation failed, and its effect is in doubt: card declined (1)",
        ),
    ] {
        let bench = bench();
        let error = run(&bench, Err(failure)).into_value().unwrap_err();
        assert!(matches!(&error, NoValue::Run(RunError::Operation { error: Declined(1), .. })), "{error:?}");
        assert_eq!(error.to_string(), says);
        assert_eq!(error.source().unwrap().downcast_ref(), Some(&Declined(1)));
        assert_eq!(error.into_operation(), Some(Declined(1)));
    }
}

#[test]
fn a_final_failure_that_is_not_on_record_says_so() {
    let bench = bench();
    let told = bench.run(bench.dedup.request(key()).run_or_fail(async |_| {
        bench.store.always(Fault::Refused);
        Err::<String, _>(Failure::Final(Declined(51)))
    }));
    let error = told.into_value().unwrap_err();
    let not_stored =
        matches!(&error, NoValue::Failed(FinalFailure::Now { claim: ClaimFate::NotStored(_), .. }));
    assert!(not_stored, "{error:?}");
    let text = error.to_string();
    assert!(text.contains("not on record; a later call may run it again: card declined (51)"), "{text}");
}

#[test]
fn every_way_to_get_a_value_gives_it() {
    let bench = bench();
    assert_eq!(run(&bench, Ok("first")).into_value().unwrap(), "first");
    assert_eq!(run(&bench, Ok("second")).into_value().unwrap(), "first");
    bench.store.always(Fault::Refused);
    let open = bench.dedup.request(key()).fail_open();
    let value = bench.run(open.run(async |_| Ok::<_, Declined>("open".to_owned()))).into_value();
    assert_eq!(value.unwrap(), "open");
}

#[test]
fn the_question_mark_makes_one_error_of_both_in_a_function_that_returns_it() {
    async fn pay(
        bench: &Bench,
        end: Result<&str, Failure<Declined>>,
    ) -> Result<String, NoValue<Declined, String>> {
        let answer = bench.dedup.request(key()).run_or_fail(async |_| end.map(str::to_owned)).await?;
        Ok(answer.value().cloned().unwrap_or_default())
    }
    let bench = bench();
    let error = ready(pay(&bench, declined())).unwrap_err();
    assert!(matches!(error, NoValue::Failed(FinalFailure::Now { error: Declined(51), .. })));
}

#[test]
fn the_texts_say_what_to_do() {
    type None = NoValue<Declined, String>;
    let id = OperationId::from_bytes([0xab; 16]);
    let bench = bench();
    run(&bench, declined()).unwrap_err();
    let before: None = run(&bench, declined()).into_value().unwrap_err();
    let running = self::bench();
    let _claim = claim(&running.dedup);
    let in_progress: None = run(&running, Ok("x")).into_value().unwrap_err();
    for (no_value, parts) in [
        (in_progress, ["another attempt is running", "ask again in "]),
        (None::Mismatch, ["used for another request", "use a new key"]),
        (
            None::InDoubt(id),
            ["stopped in the middle", "operation abababababababababababababababab may or may not"],
        ),
        (None::Exhausted(3), ["attempts are used up (3)", "`reset_attempts`"]),
        (None::Done(Unavailable::Unencodable), ["is done", "not available (its codec could not encode it)"]),
        (before, ["failed for good before", "card declined (51)"]),
    ] {
        let text = no_value.to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        assert!(no_value.source().is_none(), "{text}");
    }
}

#[test]
fn an_error_of_a_run_shows_its_cause_in_one_line_and_in_debug() {
    let bench = bench();
    let failed = run(&bench, Err(Failure::Unknown(Declined(7)))).unwrap_err();
    assert!(format!("{failed:?}").contains("error: Declined(7)"), "{failed:?}");
    assert!(failed.to_string().ends_with(": card declined (7)"), "{failed}");

    bench.store.always(Fault::Refused);
    let not_run = bench.run(bench.dedup.request(key()).run(async |_| Ok::<_, Declined>(String::new())));
    let not_run = not_run.unwrap_err();
    let text = not_run.to_string();
    assert!(text.starts_with("the operation was not run: "), "{text}");
    assert!(text.contains("`payments.charge` (planned: Refused)"), "the store's own error: {text}");
    let mut causes = std::iter::successors(not_run.source(), |error| (*error).source());
    assert!(causes.any(|error| error.downcast_ref::<StoreFailure>().is_some()));
}

#[test]
fn a_completion_that_the_store_refuses_names_its_cause() {
    let bench = bench();
    let mut claim = claim(&bench.dedup);
    bench.store.always(Fault::Hopeless);
    let refused = bench.run(claim.complete("done")).unwrap_err();
    assert!(
        matches!(refused, ClaimError::Store { .. }) && refused.to_string().contains("(planned: Hopeless)")
    );
}

#[test]
fn one_line_leads_through_boxes_and_anyhow() {
    // The operation's error is one itself.
    fn boxed(bench: &Bench) -> Result<String, Box<dyn StdError>> {
        Ok(run(bench, Err(Failure::Unknown(Declined(7)))).into_value()?)
    }
    fn anyhowed(bench: &Bench) -> anyhow::Result<String> {
        Ok(run(bench, Err(Failure::Unknown(Declined(7)))).into_value()?)
    }
    let error = boxed(&bench()).unwrap_err();
    assert_eq!(error.source().unwrap().downcast_ref(), Some(&Declined(7)));
    let error = anyhowed(&bench()).unwrap_err();
    assert!(error.chain().any(|cause| cause.downcast_ref() == Some(&Declined(7))), "{error:?}");

    // It is not: a box, `anyhow::Error`, text.
    fn failing<E>(bench: &Bench, error: E) -> Result<Answer<String>, RunError<E>> {
        ready(bench.dedup.request(key()).run(async |_| Err(error)))
    }
    type Way = fn(&Bench) -> anyhow::Result<Answer<String>>;
    let ways: [Way; 3] = [
        |bench| Ok(failing(bench, AnyError::from(Declined(7))).map_err(RunError::boxed)?),
        |bench| Ok(failing(bench, anyhow::Error::from(Declined(7))).map_err(RunError::boxed)?),
        |bench| Ok(failing(bench, "card declined (7)").map_err(RunError::boxed)?),
    ];
    for way in ways {
        let error = way(&bench()).unwrap_err();
        assert!(error.to_string().ends_with("its effect is in doubt: card declined (7)"), "{error}");
    }
    let whole = |error: AnyError| -> Result<String, Box<dyn StdError>> {
        Ok(failing(&bench(), error).into_value().map_err(NoValue::boxed)?)
    };
    let error = whole(Declined(7).into()).unwrap_err();
    let operation = error.source().unwrap().downcast_ref::<BoxedError>().unwrap();
    assert_eq!(operation.downcast_ref(), Some(&Declined(7)));
}

#[test]
fn boxing_changes_nothing_but_the_operations_error() {
    let id = OperationId::from_bytes([0xab; 16]);
    let all: [NoValue<Declined, Payload>; 7] = [
        NoValue::Mismatch,
        NoValue::InDoubt(id),
        NoValue::Exhausted(3),
        NoValue::Done(Unavailable::NoLongerKept),
        ready(bench().dedup.request(key()).run(async |_| Err::<String, _>(Declined(7))))
            .into_value()
            .unwrap_err(),
        {
            let bench = bench_with(|builder| builder.policy(Policy::Hold));
            run(&bench, declined()).unwrap_err();
            let again = ready(bench.dedup.request(key()).run(async |_| Ok::<_, Declined>(String::new())));
            again.into_value().unwrap_err()
        },
        {
            let bench = bench();
            let _claim = claim(&bench.dedup);
            let running = ready(bench.dedup.request(key()).run(async |_| Ok::<_, Declined>(String::new())));
            running.into_value().unwrap_err()
        },
    ];
    for no_value in all {
        let (text, debug) = (no_value.to_string(), format!("{no_value:?}"));
        let boxed = no_value.boxed();
        assert_eq!((boxed.to_string(), format!("{boxed:?}")), (text, debug));
    }
}
