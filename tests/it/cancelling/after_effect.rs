//! The user's code that runs after the effect panics: that the operation is done is on record all the same, and no later
//! call runs it again, whatever the policy says.

use std::any::Any;
use std::panic::resume_unwind;

use oncekey::answer::Unavailable;
use oncekey::codec::{AsValue, Codec, CodecError, FailureCodec};
use oncekey::observe::{CallPhase, Event, Observer, Span};
use oncekey::protocol::{Conclusion, OutcomeBody};
use oncekey::{Attempt, ClaimError, OrFailure as _};

use super::*;
use crate::support::{engine_with, ready, secs};

const PLANNED: &str = "planned";

/// Panics where it is to write, and reads what is there.
#[derive(Clone, Copy)]
struct Panicking;

impl Codec<String> for Panicking {
    fn encode(&self, _: &String) -> Result<Payload, CodecError> {
        panic!("{}", PLANNED)
    }

    fn decode(&self, bytes: &Payload) -> Result<String, CodecError> {
        oncekey::codec::Raw.decode(bytes)
    }
}

/// Becomes no bytes.
struct Unwritable;

impl From<Unwritable> for Payload {
    fn from(_: Unwritable) -> Self {
        panic!("{}", PLANNED)
    }
}

impl std::fmt::Display for Unwritable {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("{}", PLANNED)
    }
}

/// Keeps too much, and panics when it is to keep less.
struct Shortening;

impl FailureCodec<Unwritable> for Shortening {
    type Kept = ();

    fn encode(&self, _: &Unwritable) -> Result<Payload, CodecError> {
        Ok(vec![0; (1 << 20) + 1].into())
    }

    fn decode(&self, _: &Payload) -> Result<(), CodecError> {
        Ok(())
    }

    fn shortened(&self, _: &Payload, _: usize) -> Option<Payload> {
        panic!("{}", PLANNED)
    }
}

/// Polls a future to its end; the panic that it ended in.
fn panic_of<F: Future>(bench: &Bench, future: F) -> Box<dyn Any + Send> {
    match catch_unwind(AssertUnwindSafe(|| bench.run(future))) {
        Ok(_) => panic!("it did not panic"),
        Err(panic) => panic,
    }
}

/// Whether it is the very panic of the user's code.
fn is_planned(panic: &(dyn Any + Send)) -> bool {
    panic.downcast_ref::<String>().is_some_and(|text| text == PLANNED)
        || panic.downcast_ref::<&str>().is_some_and(|text| *text == PLANNED)
}

/// The operation is done, now and after its lease, and does not run again.
fn is_done(bench: &Bench, conclusion: Conclusion, context: &str) {
    bench.nothing_is_left();
    let outcome = Outcome { conclusion, body: OutcomeBody::Unencodable };
    assert_eq!(bench.on_record().record.outcome().as_ref(), Some(&outcome), "{context}");
    let runs = AtomicU32::new(0);
    for _ in 0..2 {
        match (conclusion, bench.second_call(&runs)) {
            (Conclusion::Succeeded, Answer::Earlier(Earlier::Done { why: Unavailable::Unencodable, .. }))
            | (Conclusion::Failed, Answer::Earlier(Earlier::FailedBefore { failure: None, .. })) => {}
            (_, other) => panic!("{context}: {other:?}"),
        }
        bench.clock.advance(LEASE);
    }
    assert_eq!(runs.load(Ordering::SeqCst), 0, "{context}");
}

/// Where the user's code panics, in each form of a run.
const PLACES: [(&str, Conclusion); 4] = [
    ("encoding a value", Conclusion::Succeeded),
    ("encoding a failure", Conclusion::Failed),
    ("the text of a failure", Conclusion::Failed),
    ("shortening a failure", Conclusion::Failed),
];

/// A run whose code panics there.
async fn run_to(bench: &Bench, place: &str, policy: Policy) {
    let request = bench.dedup.request(key()).policy(policy);
    match place {
        "encoding a value" => {
            let run = request.codec(Panicking).run(|_| async { Ok::<_, &str>("charged".to_owned()) });
            drop(run.await);
        }
        "encoding a failure" => {
            let failing = |_: Attempt| async { Err::<String, _>("broken".to_owned()).or_final::<String>() };
            drop(request.failures(AsValue(Panicking)).run_or_fail(failing).await);
        }
        "the text of a failure" => {
            let failing = |_: Attempt| async { Err::<String, _>(Unwritable).or_final::<Unwritable>() };
            drop(request.run_or_fail(failing).await);
        }
        "shortening a failure" => {
            let failing = |_: Attempt| async { Err::<String, _>(Unwritable).or_final::<Unwritable>() };
            drop(request.failures(Shortening).run_or_fail(failing).await);
        }
        other => panic!("no such place: {other}"),
    }
}

#[test]
fn a_panic_after_the_effect_goes_on_once_it_is_on_record_that_the_operation_is_done() {
    for policy in [Policy::Reclaim, Policy::Hold] {
        for on_drop in [OnDrop::KeepLease, OnDrop::ExpireNow] {
            for (place, conclusion) in PLACES {
                for slow in [false, true] {
                    let bench = bench_with(|builder| builder.on_drop(on_drop));
                    bench.store.yields.store(slow, Ordering::SeqCst);
                    let panic = panic_of(&bench, run_to(&bench, place, policy));
                    assert!(is_planned(&*panic), "{place}: the panic is the user's own");
                    is_done(&bench, conclusion, &format!("{place}, {policy:?}, {on_drop:?}, slow: {slow}"));
                }
            }
        }
    }
}

#[test]
fn a_run_that_is_dropped_while_it_records_a_panic_is_done_too() {
    for (place, conclusion) in PLACES {
        let mut polls = 1;
        loop {
            let bench = bench();
            bench.store.yields.store(true, Ordering::SeqCst);
            let mut run = Box::pin(run_to(&bench, place, Policy::Reclaim));
            let ended = catch_unwind(AssertUnwindSafe(|| bench.poll_times(run.as_mut(), polls))).is_err();
            drop(run);
            bench.nothing_is_left();
            // The claim takes two polls, and the third is the operation's.
            if polls >= 3 {
                is_done(&bench, conclusion, &format!("{place}, {polls} polls"));
            }
            if ended {
                break;
            }
            polls += 1;
        }
        assert!(polls > 3, "{place}: it was never dropped while it recorded");
    }
}

#[test]
fn a_panic_goes_on_also_if_that_cannot_be_put_on_record() {
    let heard = Arc::new(AtomicU32::new(0));
    let hears = Arc::clone(&heard);
    let bench = bench_with(|builder| {
        builder.observer(move |_: &Key, event: &Event<'_>| {
            if matches!(event, Event::Unrecorded) {
                hears.fetch_add(1, Ordering::SeqCst);
            }
        })
    });
    let run = bench.dedup.request(key()).codec(Panicking).run(|_| async {
        bench.store.always(Fault::Refused);
        Ok::<_, &str>("charged".to_owned())
    });
    let begun = bench.clock.now();
    assert!(is_planned(&*panic_of(&bench, run)));
    assert_eq!(bench.clock.now().saturating_since(begun), secs(60), "the engine's completion timeout");
    assert_eq!(heard.load(Ordering::SeqCst), 1);
    assert_eq!(bench.on_record().record.state(), State::InProgress);
}

#[test]
fn a_claim_whose_value_panics_on_its_way_to_bytes_is_done() {
    for conclusion in [Conclusion::Succeeded, Conclusion::Failed] {
        let bench = bench();
        let mut claim = granted(bench.run(bench.dedup.request(key()).claim()));
        let panic = match conclusion {
            Conclusion::Succeeded => panic_of(&bench, claim.complete(Unwritable)),
            Conclusion::Failed => panic_of(&bench, claim.fail(Unwritable)),
        };
        assert!(is_planned(&*panic));
        // It stands, whatever its holder tries then.
        let again = bench.run(claim.complete("charged"));
        assert!(matches!(again, Err(ClaimError::AlreadyCompleted { .. })), "{again:?}");
        drop(claim);
        is_done(&bench, conclusion, "an explicit claim");
    }
    // A completion that is only prepared changes nothing: its transaction does not commit.
    let bench = bench();
    let mut claim = granted(bench.run(bench.dedup.request(key()).claim()));
    assert!(is_planned(&*panic_of(&bench, claim.prepare(Unwritable))));
    bench.run(claim.release()).unwrap();
    assert_eq!(bench.on_record().record.state(), State::Released { fresh_operation_id: false });
}

#[test]
fn of_many_the_one_that_panics_is_done() {
    let bench = bench();
    let of = |id: &str| Key::new("orders.ship", id).unwrap();
    let work = ["a", "b"].map(|id| {
        let request = bench.dedup.request(of(id)).codec(Panicking);
        (request, move |_: Attempt| async move {
            if id == "b" { std::future::pending().await } else { Ok::<_, &str>(id.to_owned()) }
        })
    });
    assert!(is_planned(&*panic_of(&bench, bench.dedup.run_many(work))));
    let done = bench.store.peek(&of("a")).unwrap();
    assert_eq!(done.record.outcome().map(|outcome| outcome.body), Some(OutcomeBody::Unencodable));
    // The other is as if the call had been dropped.
    assert_eq!(bench.store.peek(&of("b")).unwrap().status(), Status::InProgress);
}

/// Panics at one place after the effect.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Watches {
    TheBegin,
    TheEnter,
    AFailure,
}

impl Observer for Watches {
    fn event(&self, _: &Key, event: &Event<'_>) {
        if *self == Self::AFailure && matches!(event, Event::StoreFailed { .. }) {
            resume_unwind(Box::new(PLANNED));
        }
    }

    fn begin(&self, _: &Key, phase: CallPhase) -> Option<Box<dyn Span>> {
        match (phase, self) {
            (CallPhase::Complete { .. }, Self::TheBegin) => resume_unwind(Box::new(PLANNED)),
            (CallPhase::Complete { .. }, Self::TheEnter) => Some(Box::new(Unwelcome)),
            _ => None,
        }
    }
}

struct Unwelcome;

impl Span for Unwelcome {
    fn enter(&mut self) {
        resume_unwind(Box::new(PLANNED));
    }

    fn exit(&mut self) {}
}

#[test]
fn an_outcome_is_stored_also_if_an_observer_panics_before_it_is() {
    for place in [Watches::TheBegin, Watches::TheEnter, Watches::AFailure] {
        let bench = bench();
        let dedup = engine_with(&bench.clock, &bench.store, |builder| builder.observer(place));
        let run = dedup.request(key()).run(|_| async {
            if place == Watches::AFailure {
                bench.store.plan([Fault::Refused]);
            }
            Ok::<_, &str>("charged".to_owned())
        });
        assert!(is_planned(&*panic_of(&bench, run)), "{place:?}");
        // The rest is clean-up.
        bench.run(dedup.flush());
        let kept = bench.on_record().record.outcome();
        assert_eq!(kept, Some(Outcome::success("charged")), "{place:?}");
        let again = ready(bench.dedup.request(key()).run(|_| async { Err::<String, _>("runs again") }));
        assert!(
            matches!(again, Ok(Answer::Earlier(Earlier::Replayed { value, .. })) if value == "charged"),
            "{place:?}"
        );
    }
}

crate::support::also_at_once! {
    a_panic_after_the_effect_goes_on_once_it_is_on_record_that_the_operation_is_done
    a_panic_goes_on_also_if_that_cannot_be_put_on_record
    a_claim_whose_value_panics_on_its_way_to_bytes_is_done
}
