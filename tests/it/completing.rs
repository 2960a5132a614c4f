//! Outcomes, codecs, limits, and completions that fail.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use oncekey::answer::{ClaimFate, Kept, Unavailable, Unrecorded};
use oncekey::codec::{AsValue, Codec, CodecError, Json};
use oncekey::protocol::{OutcomeBody, State, Status};
use oncekey::time::{Clock as _, Moment};
use oncekey::{Answer, ClaimError, Earlier, Error, Failure, Fingerprint, Outcome, Payload, Policy, RunError};

use crate::one_key::granted;
use crate::support::{Bench, Fault, LEASE, RETENTION, THREE_TRIES, bench, bench_with, engine_with, key};

/// Runs `value` under a codec, and a second call that must get the same back and not run.
fn round_trip<T, C>(bench: &Bench, codec: C, value: &T)
where
    T: Clone + PartialEq + std::fmt::Debug,
    C: Codec<T> + Copy,
{
    let first = bench
        .run(bench.dedup.request(key()).codec(codec).run(|_| async { Ok::<_, &str>(value.clone()) }))
        .unwrap();
    let Answer::Executed { value: got, info: executed, .. } = first else { panic!("{first:?}") };
    assert_eq!(&got, value);
    let at = executed.finished_at.expect("an executed operation is finished");
    bench.clock.advance(Duration::from_secs(60));
    let ran = Cell::new(false);
    let again = bench
        .run(bench.other_process().request(key()).codec(codec).run(|_| async {
            ran.set(true);
            Ok::<_, &str>(value.clone())
        }))
        .unwrap();
    let Answer::Earlier(Earlier::Replayed { value: got, info: replayed, .. }) = again else {
        panic!("{again:?}")
    };
    assert_eq!(&got, value);
    assert!(!ran.get(), "the operation is not run again");
    assert_eq!(replayed, executed, "the replay rests on the original");
    assert_eq!(replayed.finished_at, Some(at), "and says when that was");
}

#[test]
fn every_value_is_an_outcome() {
    use oncekey::codec::Raw;
    round_trip(&bench(), Raw, &());
    round_trip(&bench(), Raw, &String::new());
    round_trip(&bench(), Raw, &"grüße, 世界, \u{1f980}, \0".to_owned());
    round_trip(&bench(), Raw, &Vec::<u8>::new());
    round_trip(&bench(), Raw, &vec![0xff_u8, 0, 0xfe]);
    round_trip(&bench(), Raw, &Payload::empty());
    round_trip(&bench(), Json, &());
    round_trip(&bench(), Json, &None::<u32>);
    round_trip(&bench(), Json, &0_u32);
    round_trip(&bench(), Json, &false);
    round_trip(&bench(), Json, &String::new());
    round_trip(&bench(), Json, &Vec::<u32>::new());
    for json in ["null", "0", "false", "\"\"", "[]", "{}", "\"grüße\""] {
        round_trip(&bench(), Json, &serde_json::from_str::<serde_json::Value>(json).unwrap());
    }
}

/// What the first caller is told of an outcome over the limit: `Kept` has no constructor outside of its crate.
fn too_large(len: usize) -> Kept {
    let bench = bench_with(|builder| builder.outcome_len_max(len - 1));
    let told = bench.run(bench.grant().complete(vec![0; len])).unwrap();
    assert!(matches!(told, Kept::TooLarge { len: of, .. } if of == len as u64), "{told:?}");
    told
}

#[test]
fn an_outcome_over_the_limit_is_whole_for_its_first_caller_and_done_for_later_ones() {
    let run = |bench: &Bench, len: usize, runs: &AtomicU32| {
        bench
            .run(bench.dedup.request(key()).run(|_| async {
                runs.fetch_add(1, Ordering::SeqCst);
                Ok::<_, &str>("x".repeat(len))
            }))
            .unwrap()
    };
    for (len, kept) in [(999, true), (1000, true), (1001, false), (5000, false)] {
        let bench = bench_with(|builder| builder.outcome_len_max(1000));
        let runs = AtomicU32::new(0);
        let first = run(&bench, len, &runs);
        let told = if kept { Kept::Whole } else { too_large(len) };
        assert!(matches!(&first, Answer::Executed { kept, .. } if *kept == told), "{first:?}");
        assert_eq!(first.value().map(String::len), Some(len), "whole");
        for _ in 0..2 {
            match run(&bench, len, &runs) {
                Answer::Earlier(Earlier::Replayed { value, .. }) => assert!(kept && value.len() == len),
                Answer::Earlier(Earlier::Done {
                    why: Unavailable::TooLarge { len: told, .. }, info, ..
                }) => {
                    assert!(!kept);
                    assert_eq!((told, info.attempt), (len as u64, 1));
                }
                other => panic!("{other:?}"),
            }
            bench.clock.advance(LEASE * 2);
        }
        assert_eq!(runs.load(Ordering::SeqCst), 1, "never run again");
    }
}

#[test]
fn a_large_outcome_comes_back_to_the_byte() {
    let bytes: Vec<u8> = (0..1_048_576_u32).map(|i| i.to_le_bytes()[i as usize % 3]).collect();
    round_trip(&bench(), oncekey::codec::Raw, &bytes);
}

/// A codec that cannot write what it is given, or read what there is.
#[derive(Clone, Copy)]
struct Broken;

impl Codec<String> for Broken {
    fn encode(&self, _: &String) -> Result<Payload, CodecError> {
        Err("it has no such form".into())
    }

    fn decode(&self, _: &Payload) -> Result<String, CodecError> {
        Err("these are not the bytes".into())
    }
}

#[test]
fn an_outcome_that_cannot_be_encoded_is_done_and_never_run_again() {
    let bench = bench();
    let runs = AtomicU32::new(0);
    let run = || {
        bench.run(bench.dedup.request(key()).codec(Broken).run(|_| async {
            runs.fetch_add(1, Ordering::SeqCst);
            Ok::<_, &str>("whole".to_owned())
        }))
    };
    let first = run().unwrap();
    assert!(
        matches!(&first, Answer::Executed { value, kept: Kept::Unencodable, .. } if value == "whole"),
        "{first:?}"
    );
    for _ in 0..2 {
        let later = run().unwrap();
        assert!(
            matches!(&later, Answer::Earlier(Earlier::Done { why: Unavailable::Unencodable, .. })),
            "{later:?}"
        );
        bench.clock.advance(LEASE * 2);
    }
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[test]
fn a_final_failure_that_cannot_be_encoded_is_a_failure_all_the_same() {
    let bench = bench();
    let run =
        || {
            bench.run(
                bench.dedup.request(key()).failures(AsValue(Broken)).run_or_fail(|_| async {
                    Err::<String, _>(Failure::Final("no such account".to_owned()))
                }),
            )
        };
    match run() {
        Err(RunError::Operation { error, claim: ClaimFate::Recorded { kept, .. }, .. }) => {
            assert_eq!((error.as_str(), kept), ("no such account", Kept::Unencodable));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(run().unwrap(), Answer::Earlier(Earlier::FailedBefore { failure: None, .. })));
}

#[test]
fn each_way_to_conclude_tells_whether_later_calls_get_the_outcome() {
    let long = "charged in full";
    let bench = bench_with(|builder| builder.outcome_len_max(10));
    let mut claim = bench.grant();
    assert_eq!(bench.run(claim.fail(long)).unwrap(), too_large(15));

    let failed = |text: &str| {
        let bench = bench_with(|builder| builder.outcome_len_max(10));
        let failure = Failure::Final(text.to_owned());
        let run = bench.dedup.request(key()).run_or_fail(|_| async { Err::<String, _>(failure) });
        match bench.run(run) {
            Err(RunError::Operation { claim: ClaimFate::Recorded { kept, .. }, .. }) => kept,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(failed("refused"), Kept::Whole);
    // A text is cut, and its first caller is told.
    assert_eq!(format!("{:?}", failed("refused at length")), "Shortened { len: 17 }");

    let of = |id: &str| oncekey::Key::new("payments.charge", id).unwrap();
    let bench = bench_with(|builder| builder.outcome_len_max(10));
    let mut one = granted(bench.run(bench.dedup.request(of("1")).claim()));
    let mut two = granted(bench.run(bench.dedup.request(of("2")).claim()));
    let claims = [(&mut one, Payload::from("charged")), (&mut two, Payload::from(long))];
    let told: Vec<_> = bench.run(bench.dedup.complete_many(claims)).into_iter().map(Result::unwrap).collect();
    assert_eq!(told, [Kept::Whole, too_large(15)]);

    let work = ["charged", long].map(|text| {
        (
            bench.dedup.request(of(text)),
            move |_: oncekey::Attempt| async move { Ok::<_, &str>(text.to_owned()) },
        )
    });
    let told = bench.run(bench.dedup.run_many(work));
    let kept = |told: &Result<Answer<String>, RunError<&str>>| match told {
        Ok(Answer::Executed { kept, .. }) => *kept,
        other => panic!("{other:?}"),
    };
    assert_eq!(told.iter().map(kept).collect::<Vec<_>>(), [Kept::Whole, too_large(15)]);

    // Before its transaction commits, too.
    let mut claim = granted(bench.run(bench.dedup.request(of("3")).claim()));
    let prepared = bench.run(claim.prepare("charged")).unwrap();
    assert_eq!(prepared.kept(), Kept::Whole);
    claim.rolled_back();
    let prepared = bench.run(claim.prepare(long)).unwrap();
    assert_eq!(prepared.kept(), too_large(15));
}

#[test]
fn a_value_that_json_cannot_bring_back_is_told_to_its_first_caller_and_done_for_later_ones() {
    let bench = bench();
    let runs = AtomicU32::new(0);
    let run = || {
        let request = bench.dedup.request(key()).codec(Json);
        bench.run(request.run(|_| async {
            runs.fetch_add(1, Ordering::SeqCst);
            Ok::<_, &str>(vec![Some(1.5), Some(f64::NAN)])
        }))
    };
    let first = run().unwrap();
    assert!(matches!(&first, Answer::Executed { kept: Kept::Unencodable, .. }), "{first:?}");
    for _ in 0..2 {
        bench.clock.advance(LEASE * 2);
        let later = run().unwrap();
        assert!(
            matches!(&later, Answer::Earlier(Earlier::Done { why: Unavailable::Unencodable, .. })),
            "{later:?}"
        );
    }
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[test]
fn an_outcome_that_does_not_decode_is_an_error_and_stays_as_it_is() {
    let bench = bench();
    bench.run(bench.dedup.request(key()).run(|_| async { Ok::<_, &str>("charged".to_owned()) })).unwrap();
    let before = bench.on_record();
    let ran = Cell::new(false);
    let error = bench
        .run(bench.dedup.request(key()).codec(Broken).run(|_| async {
            ran.set(true);
            Ok::<_, &str>(String::new())
        }))
        .unwrap_err();
    match &error {
        RunError::Decode { scope, source, .. } => {
            assert_eq!(
                (scope.as_str(), source.to_string().as_str()),
                ("payments.charge", "these are not the bytes")
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(!ran.get());
    let after = bench.on_record();
    assert_eq!(
        (after.record.as_bytes(), after.version),
        (before.record.as_bytes(), before.version),
        "intact to the byte"
    );
    bench.nothing_is_left();
    // Who knows the codec still gets it.
    let again =
        bench.run(bench.dedup.request(key()).run(|_| async { Ok::<_, &str>(String::new()) })).unwrap();
    assert_eq!(again.into_value().unwrap(), "charged");

    // A failure that does not decode is one too.
    let bench = self::bench();
    let mut claim = bench.grant();
    bench.run(claim.fail("no such account")).unwrap();
    let error = bench.run(
        bench
            .dedup
            .request(key())
            .failures(AsValue(Broken))
            .run_or_fail(|_| async { Ok::<String, Failure<String>>(String::new()) }),
    );
    assert!(matches!(error, Err(RunError::Decode { .. })), "{error:?}");
}

#[test]
fn the_completion_is_durable_before_the_caller_sees_the_value() {
    let bench = bench();
    let mut run = Box::pin(bench.dedup.request(key()).run(|_| async {
        bench.store.plan([Fault::Refused, Fault::RequestLost, Fault::HangBefore, Fault::HangAfter]);
        Ok::<_, &str>("charged".to_owned())
    }));
    for polls in 0.. {
        let stored = bench.on_record_if_any().is_some_and(|entry| entry.status() == Status::Completed);
        match bench.poll_times(run.as_mut(), 1) {
            Some(answer) => {
                assert!(matches!(answer.unwrap(), Answer::Executed { .. }));
                assert!(stored, "it was on record before the last poll");
                break;
            }
            None => assert!(polls < 100, "it does not end"),
        }
    }
}

#[test]
fn what_is_known_of_the_generation_survives_its_completion() {
    for (label, conclude) in [("success", true), ("failure", false)] {
        let bench = bench();
        let print = Fingerprint::sha256(b"pay 50");
        let mut claim =
            granted(bench.run(bench.dedup.request(key()).fingerprint(print).policy(Policy::Hold).claim()));
        bench.clock.advance(Duration::from_secs(5));
        bench.run(claim.checkpoint("half way")).unwrap();
        let before = bench.on_record().record;
        if conclude {
            bench.run(claim.complete("charged")).unwrap();
        } else {
            bench.run(claim.fail("refused")).unwrap();
        }
        let entry = bench.on_record();
        let after = &entry.record;
        assert_eq!(after.created_at(), before.created_at(), "{label}");
        assert_eq!(after.operation_id(), before.operation_id(), "{label}");
        assert_eq!(after.fingerprint(), Some(print), "{label}");
        assert_eq!(
            (after.owner(), after.attempt(), after.policy()),
            (before.owner(), 1, Policy::Hold),
            "{label}"
        );
        assert_eq!(entry.fencing_token(), claim.fence(), "{label}");
        assert_eq!(after.finished_at(), Some(bench.clock.unix(bench.clock.now())), "{label}");
        assert!(after.finished_at() > Some(after.created_at()), "{label}");
        assert_eq!(entry.left, RETENTION, "retention counts from completion: {label}");
    }
}

#[test]
fn completing_again_is_the_same_answer_and_with_another_outcome_a_refusal() {
    let bench = bench_with(|builder| builder.outcome_len_max(10));
    let mut claim = bench.grant();
    assert_eq!(bench.run(claim.complete("charged")).unwrap(), Kept::Whole);
    let before = bench.on_record();
    bench.clock.advance(Duration::from_secs(60));
    assert_eq!(bench.run(claim.complete("charged")).unwrap(), Kept::Whole);
    assert!(matches!(bench.run(claim.complete("charged!")), Err(ClaimError::AlreadyCompleted { .. })));
    assert!(matches!(bench.run(claim.fail("charged")), Err(ClaimError::AlreadyCompleted { .. })));
    assert_eq!(bench.on_record().version, before.version);

    // Over the limit, the outcome is known by its length.
    let bench = bench_with(|builder| builder.outcome_len_max(10));
    let mut claim = bench.grant();
    assert_eq!(bench.run(claim.complete("charged in full")).unwrap(), too_large(15));
    assert_eq!(bench.run(claim.complete("charged in full")).unwrap(), too_large(15));
    let outcome = bench.on_record().record.outcome();
    assert_eq!(outcome.map(|outcome| outcome.body), Some(OutcomeBody::TooLarge { len: 15 }));
}

/// Runs an operation after which the store fails every write, until `from_now` has passed; answers what the caller got,
/// and when.
fn run_against(
    bench: &Bench,
    back_after: Duration,
    meanwhile: impl Fn(Moment),
) -> (Answer<String>, Duration) {
    let mut run = Box::pin(bench.dedup.request(key()).run(|_| async {
        bench.store.always(Fault::Refused);
        Ok::<_, &str>("charged".to_owned())
    }));
    let begun = bench.clock.now();
    loop {
        if bench.clock.now() >= begun + back_after {
            bench.store.always(Fault::None);
        }
        meanwhile(begun);
        if let Some(answer) = bench.poll_times(run.as_mut(), 1) {
            bench.store.always(Fault::None);
            return (answer.unwrap(), bench.clock.now().saturating_since(begun));
        }
    }
}

#[test]
fn a_completion_is_tried_past_the_lease_until_it_is_stored() {
    let bench = bench();
    let (answer, took) = run_against(&bench, LEASE + Duration::from_secs(10), |_| {});
    assert!(took > LEASE, "late: after {took:?}");
    assert!(matches!(&answer, Answer::Executed { .. }), "nobody took over, so it is accepted: {answer:?}");
    assert_eq!(bench.on_record().record.outcome(), Some(Outcome::success("charged")));
    let runs = AtomicU32::new(0);
    assert_eq!(bench.second_call(&runs).into_value().unwrap(), "charged");
    assert_eq!(runs.load(Ordering::SeqCst), 0);
}

#[test]
fn a_completion_is_tried_until_it_is_superseded() {
    let bench = bench();
    let twin = bench.store.twin();
    let other = engine_with(&bench.clock, &twin, |builder| builder);
    let theirs = std::cell::RefCell::new(None);
    let (answer, took) = run_against(&bench, LEASE + Duration::from_secs(10), |begun| {
        if theirs.borrow().is_none() && bench.clock.now() >= begun + LEASE {
            *theirs.borrow_mut() = Some(granted(bench.run(other.request(key()).claim())));
        }
    });
    let theirs = theirs.into_inner().expect("another took over");
    match answer {
        Answer::Unrecorded {
            value,
            why: Unrecorded::Completion(ClaimError::Superseded { possibly_applied, .. }),
            ..
        } => {
            assert_eq!((value.as_str(), possibly_applied), ("charged", false), "the value, with the news");
        }
        other => panic!("{other:?}"),
    }
    assert!(took < Duration::from_secs(60), "no need to go on: {took:?}");
    assert_eq!(bench.on_record().fencing_token(), theirs.fence());
    assert_eq!(bench.on_record().record.state(), State::InProgress);
}

#[test]
fn a_completion_that_cannot_be_stored_is_given_up_at_its_own_timeout() {
    let bench = bench_with(|builder| builder.completion_timeout(Duration::from_secs(20)));
    let (answer, took) = run_against(&bench, Duration::MAX, |_| {});
    match answer {
        Answer::Unrecorded { value, why: Unrecorded::Completion(ClaimError::Store { .. }), .. } => {
            assert_eq!(value, "charged");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(took, Duration::from_secs(20));
    bench.nothing_is_left();
    assert_eq!(bench.on_record().status(), Status::InProgress, "the record is not deleted");
    let runs = AtomicU32::new(0);
    assert!(
        matches!(bench.second_call(&runs), Answer::Earlier(Earlier::InProgress { attempt: 1, .. })),
        "a retry before the lease ends"
    );
    bench.clock.advance(Duration::from_secs(10));
    match bench.second_call(&runs) {
        Answer::Executed { info, .. } => assert!(info.after_doubt && info.attempt == 2),
        other => panic!("{other:?}"),
    }
}

#[test]
fn values_and_their_absence_read_well() {
    let of = |answer: Answer<String>| {
        (answer.ran_now(), answer.value().cloned(), answer.into_value().map_err(|none| format!("{none:?}")))
    };
    let bench = bench_with(|builder| builder.outcome_len_max(10));
    let run = |text: &'static str, bench: &Bench| {
        let request = bench.dedup.request(key()).fingerprint_of("pay 50");
        bench.run(request.run(|_| async move { Ok::<_, &str>(text.to_owned()) })).unwrap()
    };
    assert_eq!(of(run("charged", &bench)), (true, Some("charged".to_owned()), Ok("charged".to_owned())));
    assert_eq!(of(run("charged", &bench)), (false, Some("charged".to_owned()), Ok("charged".to_owned())));
    let mismatch =
        bench.run(bench.dedup.request(key()).run(|_| async { Ok::<_, &str>(String::new()) })).unwrap();
    assert_eq!(of(mismatch), (false, None, Err("Mismatch".to_owned())));

    let bench = bench_with(|builder| builder.outcome_len_max(10));
    run("charged in full", &bench);
    let done = of(run("charged in full", &bench));
    assert_eq!(done, (false, None, Err(format!("Done({:?})", done_why(15, &bench)))));

    let bench = self::bench();
    let mut claim = bench.grant();
    let plain = |bench: &Bench| {
        bench
            .run(bench.dedup.request(key()).attempts_max(1).run(|_| async { Ok::<_, &str>(String::new()) }))
            .unwrap()
    };
    let (ran, value, none) = of(plain(&bench));
    assert_eq!((ran, value), (false, None));
    assert!(none.unwrap_err().starts_with("InProgress { retry_after: 1"), "from 100 to 150 ms");
    bench.run(claim.abandon()).unwrap();
    assert_eq!(of(plain(&bench)), (false, None, Err("Exhausted(1)".to_owned())));
    bench.run(claim.fail("refused")).unwrap();
    assert_eq!(
        of(plain(&bench)),
        (false, None, Err("Failed(Before { failure: Some(Payload(7 bytes)) })".to_owned()))
    );

    let bench = self::bench();
    let mut claim = granted(bench.run(bench.dedup.request(key()).policy(Policy::Hold).claim()));
    bench.run(claim.abandon()).unwrap();
    assert_eq!(of(plain(&bench)), (false, None, Err(format!("InDoubt({:?})", claim.operation_id()))));
}

/// The reason of the answer that a call gets now.
fn done_why(len: u64, bench: &Bench) -> Unavailable {
    let request = bench.dedup.request(key()).fingerprint_of("pay 50");
    match bench.run(request.run(|_| async { Ok::<_, &str>(String::new()) })).unwrap() {
        Answer::Earlier(Earlier::Done { why: why @ Unavailable::TooLarge { len: told, .. }, .. })
            if told == len =>
        {
            why
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_call_that_fails_open_runs_unprotected_and_says_so() {
    let bench = bench();
    bench.store.always(Fault::Refused);
    let answer = bench
        .run(bench.dedup.request(key()).fail_open().run(|attempt| async move {
            assert_eq!(
                (attempt.number(), attempt.fence().get()),
                (0, 0),
                "no claim, and a token smaller than all"
            );
            assert!(!attempt.is_lost());
            assert!(matches!(attempt.checkpoint("half way").await, Err(ClaimError::Unprotected)));
            Ok::<_, &str>("charged".to_owned())
        }))
        .unwrap();
    assert!(answer.ran_now());
    match answer {
        Answer::Unrecorded { value, why: Unrecorded::FailedOpen(failure), .. } => {
            assert_eq!((value.as_str(), failure.maybe_applied()), ("charged", false));
        }
        other => panic!("{other:?}"),
    }
    // The operation's own error comes back as ever.
    let failed =
        bench.run(bench.dedup.request(key()).fail_open().run(|_| async { Err::<String, _>("broken") }));
    assert!(matches!(
        failed,
        Err(RunError::Operation { error: "broken", claim: ClaimFate::Unprotected, .. })
    ));
    bench.store.always(Fault::None);
    bench.nothing_is_left();
    assert_eq!(bench.on_record_if_any(), None);
}

#[test]
fn a_call_that_fails_open_leaves_no_claim_of_its_own_behind() {
    let bench = bench_with(|builder| builder.call_timeout(THREE_TRIES));
    bench.store.plan([Fault::ReplyLost; 3]);
    let answer = bench
        .run(bench.dedup.request(key()).fail_open().run(|_| async { Ok::<_, &str>("charged".to_owned()) }));
    assert!(matches!(answer.unwrap(), Answer::Unrecorded { why: Unrecorded::FailedOpen(_), .. }));
    bench.nothing_is_left();
    assert_eq!(bench.on_record().record.state(), State::Released { fresh_operation_id: false });
}

#[test]
fn without_failing_open_a_store_that_is_down_means_no_run() {
    for fault in [Fault::Refused, Fault::RequestLost, Fault::HangBefore] {
        let bench = bench();
        bench.store.always(fault);
        let ran = Cell::new(false);
        let error = bench
            .run(bench.dedup.request(key()).run(|_| async {
                ran.set(true);
                Ok::<_, &str>(String::new())
            }))
            .unwrap_err();
        assert!(
            matches!(&error, RunError::Claim { source: Error::Store { .. }, .. }),
            "{fault:?}: {error:?}"
        );
        assert!(!ran.get());
    }
}

#[test]
fn failing_open_is_for_a_store_that_cannot_answer_and_nothing_else() {
    let bench = bench();
    let _claim = bench.grant();
    let ran = Cell::new(false);
    let answer = bench
        .run(bench.dedup.request(key()).fail_open().run(|_| async {
            ran.set(true);
            Ok::<_, &str>(String::new())
        }))
        .unwrap();
    assert!(matches!(answer, Answer::Earlier(Earlier::InProgress { .. })));
    assert!(!ran.get(), "a store that answers is obeyed");
}
