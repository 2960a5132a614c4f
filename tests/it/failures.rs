//! What is kept of a final failure: its text or less, from errors of any type.

use std::cell::Cell;
use std::fmt;

use oncekey::answer::{ClaimFate, FailureKind, Kept};
use oncekey::codec::{AsValue, CodecError, FactOnly, FailureCodec, Json};
use oncekey::{Answer, Earlier, Failure, OrFailure as _, Payload, RunError};

use crate::support::*;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// What a later call gets, in the text of the failure.
fn later(bench: &Bench) -> Option<String> {
    let answer = ready(
        bench
            .dedup
            .request(key())
            .run_or_fail(async |_| -> Result<String, Failure<String>> { panic!("it runs again") }),
    );
    match answer {
        Ok(Answer::Earlier(Earlier::FailedBefore { failure, .. })) => failure,
        other => panic!("{other:?}"),
    }
}

/// Fails for good with this, and says what became of it.
fn fail<E: fmt::Display>(bench: &Bench, error: E) -> (E, Kept) {
    let told =
        ready(bench.dedup.request(key()).run_or_fail(async |_| Err::<String, _>(Failure::Final(error))));
    match told {
        Err(RunError::Operation { error, claim: ClaimFate::Recorded { kept, .. }, .. }) => (error, kept),
        _ => panic!("it was not recorded"),
    }
}

#[test]
fn the_text_of_an_error_of_any_type_is_kept() {
    #[derive(Debug, thiserror::Error)]
    #[error("no such account")]
    struct NoSuchAccount;

    let by_any: [fn(&Bench); 5] = [
        |bench| assert!(fail(bench, NoSuchAccount).1.is_whole()),
        |bench| assert!(fail(bench, "no such account".to_owned()).1.is_whole()),
        |bench| assert!(fail(bench, AnyError::from("no such account")).1.is_whole()),
        |bench| assert!(fail::<Box<dyn std::error::Error>>(bench, NoSuchAccount.into()).1.is_whole()),
        |bench| assert!(fail(bench, anyhow::Error::from(NoSuchAccount)).1.is_whole()),
    ];
    for fail in by_any {
        let bench = bench();
        fail(&bench);
        assert_eq!(later(&bench).as_deref(), Some("no such account"));
    }
}

#[test]
fn an_error_without_a_text_needs_a_codec_of_its_own_and_only_a_final_one_meets_it() {
    struct Opaque;
    let bench = bench();
    let request = || bench.dedup.request(key()).failures(FactOnly);
    for (failure, released) in [(Failure::NoEffect(Opaque), true), (Failure::Unknown(Opaque), false)] {
        let told = ready(request().run_or_fail(async |_| Err::<String, _>(failure)));
        let Err(RunError::Operation { claim, .. }) = told else { panic!("not its own error") };
        assert_eq!(matches!(claim, ClaimFate::Released), released, "{claim:?}");
    }
    let told = ready(request().run_or_fail(async |_| Err::<String, _>(Failure::Final(Opaque))));
    let Err(RunError::Operation { claim: ClaimFate::Recorded { kept, .. }, .. }) = told else {
        panic!("it was not recorded")
    };
    assert_eq!(kept, Kept::Whole);
    let again = ready(request().run_or_fail(async |_| Err::<String, _>(Failure::Final(Opaque))));
    assert!(matches!(again, Ok(Answer::Earlier(Earlier::FailedBefore { failure: Some(()), .. }))));
    assert_eq!(later(&bench).as_deref(), Some(""), "nothing of the failure is on record");
}

#[test]
fn a_text_over_the_limit_is_cut_and_its_first_caller_is_told() {
    for (len_max, kept) in
        [(0, ""), (1, "s"), (2, "s"), (3, "sö"), (7, "söld "), (8, "söld ö"), (9, "söld öu")]
    {
        let bench = bench_with(|builder| builder.outcome_len_max(len_max));
        let (error, told) = fail(&bench, "söld öut!".to_owned());
        assert_eq!(error, "söld öut!", "the first caller has all of it");
        assert_eq!(format!("{told:?}"), "Shortened { len: 11 }", "{len_max}");
        assert!(!told.is_whole());
        assert_eq!(later(&bench).as_deref(), Some(kept), "{len_max}");
    }
}

/// Counts how often it writes, and says that it shortens, without doing so.
struct Counting(Cell<u32>);

impl FailureCodec<String> for Counting {
    type Kept = usize;

    fn encode(&self, error: &String) -> Result<Payload, CodecError> {
        self.0.set(self.0.get() + 1);
        Ok(format!("{error}{}", self.0.get()).into())
    }

    fn decode(&self, bytes: &Payload) -> Result<usize, CodecError> {
        Ok(bytes.len())
    }

    fn shortened(&self, bytes: &Payload, _: usize) -> Option<Payload> {
        Some(bytes.clone())
    }
}

#[test]
fn a_failure_is_encoded_once_however_often_it_is_sent() {
    let bench = bench();
    bench.store.plan([Fault::None, Fault::ReplyLost, Fault::RequestLost]);
    let counting = Counting(Cell::new(0));
    let request = bench.dedup.request(key()).failures(&counting);
    let told = bench.run(request.run_or_fail(async |_| Err::<String, _>("declined".to_owned()).or_final()));
    let told: Result<_, RunError<String>> = told;
    assert!(matches!(told, Err(RunError::Operation { claim: ClaimFate::Recorded { .. }, .. })), "{told:?}");
    assert_eq!(counting.0.get(), 1);
}

#[test]
fn a_codec_that_does_not_shorten_enough_leaves_the_fact() {
    let bench = bench_with(|builder| builder.outcome_len_max(5));
    let request = bench.dedup.request(key()).failures(Counting(Cell::new(0)));
    let told = ready(request.run_or_fail(async |_| Err::<String, _>(Failure::Final("declined".to_owned()))));
    let Err(RunError::Operation { claim: ClaimFate::Recorded { kept, .. }, .. }) = told else {
        panic!("{told:?}")
    };
    assert!(matches!(kept, Kept::TooLarge { len: 9, .. }), "{kept:?}");
    assert_eq!(later(&bench), None);
}

#[test]
fn a_value_codec_gives_the_failure_back_whole() {
    type Declined = (u16, String);
    let bench = bench();
    let charge = || {
        let request = bench.dedup.request(key()).failures(AsValue(Json));
        ready(request.run_or_fail(async |_| {
            Err::<String, Failure<Declined>>(Failure::Final((51, "limit".to_owned())))
        }))
    };
    let first = charge();
    assert!(matches!(&first, Err(RunError::Operation { kind: FailureKind::Final, .. })), "{first:?}");
    let Ok(Answer::Earlier(Earlier::FailedBefore { failure: Some(again), .. })) = charge() else {
        panic!("it is not replayed")
    };
    assert_eq!(again, (51, "limit".to_owned()));
}

#[test]
fn each_step_of_an_operation_says_what_its_error_means() {
    #[derive(Debug, thiserror::Error)]
    enum PayError {
        #[error(transparent)]
        Number(#[from] std::num::ParseIntError),
        #[error("{0}")]
        Text(String),
    }
    impl From<&str> for PayError {
        fn from(text: &str) -> Self {
            Self::Text(text.to_owned())
        }
    }
    let kind_of = |step: u32| {
        let bench = bench();
        let told =
            ready(bench.dedup.request(key()).run_or_fail(async |_| -> Result<String, Failure<PayError>> {
                let broken = |at| if step == at { Err("broken") } else { Ok(()) };
                broken(1).or_no_effect()?;
                broken(2).or_final()?;
                broken(3).or_unknown()?;
                let own: Result<(), PayError> = broken(4).map_err(PayError::from);
                own?;
                let number: u32 = if step == 5 { "x".parse().or_no_effect()? } else { 7 };
                Ok(number.to_string())
            }));
        match told {
            Err(RunError::Operation { kind, .. }) => Some(kind),
            Ok(_) => None,
            Err(other) => panic!("{other:?}"),
        }
    };
    use FailureKind as Kind;
    let kinds = [1, 2, 3, 4, 5, 6].map(kind_of);
    let expected = [
        Some(Kind::NoEffect),
        Some(Kind::Final),
        Some(Kind::Unknown),
        Some(Kind::Unknown),
        Some(Kind::NoEffect),
        None,
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn anyhow_errors_say_what_they_mean_and_keep_their_outermost_text() {
    use anyhow::Context as _;
    let bench = bench();
    let told =
        ready(bench.dedup.request(key()).run_or_fail(async |_| -> Result<String, Failure<anyhow::Error>> {
            let plain: anyhow::Result<u32> = "7".parse().context("the amount");
            let _amount = plain?;
            let account: Result<u32, std::num::ParseIntError> = "x".parse();
            Ok(account.context("no such account").or_final()?.to_string())
        }));
    let Err(RunError::Operation { error, kind: FailureKind::Final, .. }) = told else { panic!("not final") };
    assert_eq!(error.chain().count(), 2, "the first caller has the whole error");
    assert_eq!(later(&bench).as_deref(), Some("no such account"));
}
