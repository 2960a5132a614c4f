//! What an observer is told of besides events: phases, who holds and who waits, and calls to the store.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncekey::Failure;
use oncekey::observe::{CallPhase, Span, StoreCall};
use oncekey::observe::{Event, Observer};
use oncekey::store::StoreErrorKind;

use super::*;

/// What was heard, in order.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn push(&self, line: impl Into<String>) {
        self.0.lock().unwrap().push(line.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn count(&self, line: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|heard| *heard == line).count()
    }
}

/// Writes down phases and the names of events.
struct Watcher(Log);

impl Observer for Watcher {
    fn event(&self, _: &Key, event: &Event<'_>) {
        let shown = format!("{event:?}");
        self.0.push(shown.split([' ', '{']).next().unwrap());
    }

    fn begin(&self, key: &Key, phase: CallPhase) -> Option<Box<dyn Span>> {
        assert_eq!(*key, self::key());
        self.0.push(format!("{} begins", phase.name()));
        Some(Box::new(Part { log: self.0.clone(), phase, inside: false }))
    }
}

struct Part {
    log: Log,
    phase: CallPhase,
    inside: bool,
}

impl Span for Part {
    fn enter(&mut self) {
        assert!(!std::mem::replace(&mut self.inside, true), "entered twice");
        self.log.push(format!("<{}", self.phase.name()));
    }

    fn exit(&mut self) {
        assert!(std::mem::replace(&mut self.inside, false), "left twice");
        self.log.push(format!("{}>", self.phase.name()));
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        assert!(!self.inside, "dropped inside");
        self.log.push(format!("{} ends", self.phase.name()));
    }
}

fn watched() -> (Bench, Log) {
    let log = Log::default();
    let hears = log.clone();
    (bench_with(|builder| builder.observer(Watcher(hears))), log)
}

#[test]
fn a_run_is_three_phases_and_what_happens_in_each_is_heard_inside_of_it() {
    let (bench, log) = watched();
    let inner = log.clone();
    let run = bench.dedup.request(key()).run(|_| async move {
        inner.push("operation");
        yield_now().await;
        inner.push("operation");
        Ok::<_, String>(String::new())
    });
    assert!(matches!(bench.run(run), Ok(Answer::Executed { .. })));
    assert_eq!(
        log.take(),
        [
            ["claim begins", "<claim", "Granted", "claim>", "claim ends"].as_slice(),
            &["run begins", "<run", "operation", "run>", "<run", "operation", "run>", "run ends"],
            &["complete begins", "<complete", "Completed", "complete>", "complete ends", "LetGo"],
        ]
        .concat()
    );
    run_text(&bench.dedup, "x");
    assert_eq!(log.take(), ["claim begins", "<claim", "Answered", "claim>", "claim ends"]);
}

#[test]
fn an_explicit_claim_is_watched_where_it_claims_and_where_it_concludes() {
    let (bench, log) = watched();
    let mut owner = claim(&bench.dedup);
    log.take();
    ready(owner.renew()).unwrap();
    assert_eq!(log.take(), ["Renewed"]);
    ready(owner.release()).unwrap();
    assert_eq!(log.take(), ["complete begins", "<complete", "Released", "complete>", "complete ends"]);
    let mut owner = claim(&bench.dedup);
    log.take();
    ready(owner.abandon()).unwrap();
    assert_eq!(log.take(), ["complete begins", "<complete", "Abandoned", "complete>", "complete ends"]);
}

fn panics() -> Result<String, String> {
    panic!("the operation panics")
}

#[test]
fn a_phase_ends_also_when_its_work_is_dropped_or_panics() {
    let (bench, log) = watched();
    let request = bench.dedup.request(key());
    let mut run = Box::pin(request.run(|_| std::future::pending::<Result<String, String>>()));
    assert!(poll_once(run.as_mut()).is_none());
    log.take();
    drop(run);
    assert_eq!(log.take(), ["<run", "run>", "run ends", "LetGo"], "what is dropped is dropped inside");

    bench.clock.advance(LEASE);
    let run = bench.dedup.request(key()).run(|_| async { panics() });
    assert!(catch_unwind(AssertUnwindSafe(|| ready(run))).is_err());
    let heard = log.take();
    let ended = ["run begins", "<run", "run>", "<run", "run>", "run ends", "LetGo"];
    assert_eq!(heard[heard.len() - 7..], ended, "{heard:?}");
}

/// For gauges: what went up comes down, whatever ended it.
#[test]
fn each_grant_is_let_go_once_and_each_wait_ends_once() {
    let (bench, log) = watched();
    let balance = |held: usize, waiting: usize| {
        assert_eq!(log.count("Granted") - log.count("LetGo"), held);
        assert_eq!(log.count("Waiting") - log.count("Waited"), waiting);
        assert_eq!((bench.dedup.held(), bench.dedup.waiting()), (held, waiting));
    };
    for says in [Ok(String::new()), Err(Failure::NoEffect(String::new())), Err(Failure::Final(String::new()))]
    {
        let _told = ready(bench.dedup.request(key()).run_or_fail(|_| async { says }));
        balance(0, 0);
        let _forgotten = forget(&bench.dedup);
    }
    let owner = claim(&bench.dedup);
    balance(1, 0);
    let wait = |time| Box::pin(bench.dedup.request(key()).wait(time).claim());
    let (mut dropped, mut timed_out, mut answered) = (wait(secs(9)), wait(secs(1)), wait(secs(60)));
    for waits in [&mut dropped, &mut timed_out, &mut answered] {
        assert!(poll_once(waits.as_mut()).is_none());
    }
    balance(1, 3);
    drop(dropped);
    balance(1, 2);
    assert!(matches!(bench.run(timed_out), Ok(ClaimAnswer::Answered(Earlier::InProgress { .. }))));
    balance(1, 1);
    drop(owner);
    balance(0, 1);
    let next = bench.run(answered);
    assert!(matches!(next, Ok(ClaimAnswer::Granted(_))));
    balance(1, 0);
    drop(next);
    balance(0, 0);
    // A claim that is lost is let go when its call hears of it.
    bench.clock.advance(LEASE);
    bench.store.always(Fault::None);
    let store = bench.store.clone();
    let lost = bench.run(bench.dedup.request(key()).run(|_| async move {
        store.always(Fault::RequestLost);
        std::future::pending::<Result<String, String>>().await
    }));
    assert!(lost.is_err());
    balance(0, 0);
}

/// In a drop, a second panic would end the process.
#[test]
fn an_observer_that_panics_when_a_claim_is_let_go_ends_nothing() {
    let bench = bench_with(|builder| {
        builder.observer(|_: &Key, event: &Event<'_>| {
            assert!(!matches!(event, Event::LetGo | Event::Waited), "the observer panics");
        })
    });
    let owner = claim(&bench.dedup);
    let waits = bench.dedup.request(key()).wait(secs(1)).claim();
    assert!(matches!(bench.run(waits), Ok(ClaimAnswer::Answered(Earlier::InProgress { .. }))));
    drop(owner);
    assert_eq!(bench.dedup.held(), 0);
    // Nor while a panic unwinds.
    bench.clock.advance(LEASE);
    let run = bench.dedup.request(key()).run(|_| async { panics() });
    assert!(catch_unwind(AssertUnwindSafe(|| ready(run))).is_err());
}

/// The same for a span that panics when it is left, while its operation panics.
#[test]
fn a_span_that_panics_beside_its_operation_ends_nothing_else() {
    struct Bad;
    impl Observer for Bad {
        fn event(&self, _: &Key, _: &Event<'_>) {}
        fn begin(&self, _: &Key, phase: CallPhase) -> Option<Box<dyn Span>> {
            matches!(phase, CallPhase::Run { .. }).then(|| Box::new(BadPart) as Box<dyn Span>)
        }
    }
    struct BadPart;
    impl Span for BadPart {
        fn enter(&mut self) {}
        fn exit(&mut self) {
            panic!("the span panics");
        }
    }
    let bench = bench_with(|builder| builder.observer(Bad));
    let run = bench.dedup.request(key()).run(|_| async { panics() });
    assert!(catch_unwind(AssertUnwindSafe(|| ready(run))).is_err());
    assert_eq!(bench.dedup.held(), 0);
}

/// What a log and an alert go by: each failure with whether it is tried again, and whose fault it is.
#[test]
fn failures_of_keepers_waiters_and_settlements_are_told_as_what_they_are() {
    let heard = Log::default();
    let hears = heard.clone();
    let bench = bench_with(|builder| {
        builder.observer(move |_: &Key, event: &Event<'_>| match event {
            Event::StoreFailed { retry_in, .. } => {
                hears.push(format!("failed, again: {}", retry_in.is_some()));
            }
            Event::Unanswered => hears.push("unanswered"),
            Event::Answered { answer, .. } => hears.push(*answer),
            _ => {}
        })
    });
    let owner = claim(&bench.dedup);
    let mut keeper = Box::pin(bench.dedup.keeper());
    assert!(poll_once(keeper.as_mut()).is_none());
    bench.clock.advance(secs(10));
    bench.store.plan([Fault::Refused]);
    assert!(poll_once(keeper.as_mut()).is_none());
    assert_eq!(heard.take(), ["failed, again: true"], "at the keeper's next round");
    drop(keeper);

    let mut waits = Box::pin(bench.dedup.request(key()).wait(secs(20)).claim());
    assert!(poll_once(waits.as_mut()).is_none());
    heard.take();
    bench.store.always(Fault::Hopeless);
    assert!(bench.run(waits).is_err());
    assert_eq!(heard.take(), ["failed, again: false", "unanswered"]);
    bench.store.always(Fault::None);
    drop(owner);
    bench.clock.advance(LEASE);

    let mut owner = claim(&bench.dedup);
    let prepared = ready(owner.prepare("x")).unwrap();
    heard.take();
    bench.store.plan([Fault::Refused]);
    assert!(bench.run(owner.settle(&prepared)).is_ok());
    assert_eq!(heard.take(), ["failed, again: true"]);
    ready(owner.release()).unwrap();

    let bound = |digest: &Fingerprint| {
        let key = Key::new("payments.charge", "another").unwrap();
        bench.dedup.request(key).fingerprint(*digest)
    };
    let sha = Fingerprint::sha256(b"x");
    let own = Fingerprint::from_digest(oncekey::protocol::Algorithm::private(1), &[1; 8]).unwrap();
    let _done = ready(bound(&sha).run(|_| async { Ok::<_, String>(String::new()) }));
    heard.take();
    assert!(ready(bound(&own).claim()).is_err());
    assert_eq!(heard.take(), ["incomparable"], "the store answered");
}

/// Writes down calls to the store.
struct Timer(Arc<Mutex<Vec<StoreCall>>>);

impl Observer for Timer {
    fn event(&self, _: &Key, _: &Event<'_>) {}

    fn store_call(&self, call: &StoreCall) {
        self.0.lock().unwrap().push(call.clone());
    }
}

#[test]
fn each_call_to_the_store_is_told_with_how_long_it_took_and_what_went_wrong() {
    let calls = Arc::<Mutex<Vec<StoreCall>>>::default();
    let bench = bench_with(|builder| builder.observer(Timer(Arc::clone(&calls))));
    let take = || -> Vec<(&'static str, usize, Duration, Option<StoreErrorKind>)> {
        std::mem::take(&mut *calls.lock().unwrap())
            .into_iter()
            .map(|call| (call.method, call.keys, call.took, call.failure))
            .collect()
    };
    let none = Duration::ZERO;
    run_text(&bench.dedup, "x");
    assert_eq!(take(), [("compare_exchange", 1, none, None), ("compare_exchange", 1, none, None)]);
    bench.store.plan([Fault::HangBefore, Fault::Refused]);
    run_later(&bench);
    assert_eq!(
        take(),
        [
            ("compare_exchange", 1, secs(1), Some(StoreErrorKind::TimedOut)),
            ("compare_exchange", 1, none, Some(StoreErrorKind::Unavailable)),
            ("compare_exchange", 1, none, None),
        ]
    );
    let _found = ready(bench.dedup.inspect(&key()));
    assert_eq!(take(), [("load", 1, none, None)]);
    bench.store.plan([Fault::None, Fault::Hopeless]);
    let requests = ["a", "b", "c"].map(|id| bench.dedup.request(Key::new("many", id).unwrap()));
    let claims = bench.run(bench.dedup.claim_many(requests));
    assert_eq!(claims.iter().filter(|claim| claim.is_ok()).count(), 2);
    assert_eq!(take()[0], ("compare_exchange_many", 3, none, Some(StoreErrorKind::Rejected)));
}

fn run_later(bench: &Bench) {
    let again = bench.dedup.request(key()).run(|_| async { Ok::<_, String>(String::new()) });
    assert!(matches!(bench.run(again), Ok(Answer::Earlier(Earlier::Replayed { .. }))));
}

#[test]
fn two_observers_as_a_pair_hear_the_same() {
    let (one, other) = (Log::default(), Log::default());
    let calls = Arc::<Mutex<Vec<StoreCall>>>::default();
    let pair = ((Watcher(one.clone()), Timer(Arc::clone(&calls))), Watcher(other.clone()));
    let bench = bench_with(|builder| builder.observer(pair));
    run_text(&bench.dedup, "x");
    let (one, other) = (one.take(), other.take());
    assert_eq!(one, other);
    assert_eq!(one.iter().filter(|line| line.ends_with(" ends")).count(), 3);
    assert_eq!(calls.lock().unwrap().len(), 2);
}

/// The keeper drives the completion of a call that nobody polls: it does so inside of the call's phase.
#[test]
fn what_a_keeper_helps_with_is_heard_inside_of_its_phase() {
    let (bench, log) = watched();
    let mut keeper = Box::pin(bench.dedup.keeper());
    assert!(poll_once(keeper.as_mut()).is_none());
    let mut run = Box::pin(bench.dedup.request(key()).run(|_| async { Ok::<_, String>("done".to_owned()) }));
    // The completion is sent, and the reply does not come. From here on the call is put aside.
    bench.store.plan([Fault::None, Fault::HangBefore]);
    assert!(poll_once(run.as_mut()).is_none());
    assert_eq!(log.count("Completed"), 0);
    log.take();
    for _ in 0..40 {
        assert!(poll_once(keeper.as_mut()).is_none());
        bench.clock.advance(millis(250));
    }
    let heard = log.take();
    let failed = ["<complete", "StoreFailed", "complete>"];
    let completed = ["<complete", "Completed", "complete>", "complete ends"];
    assert_eq!(heard, [failed.as_slice(), &completed].concat(), "by the keeper");
    assert!(matches!(ready(run), Ok(Answer::Executed { .. })));
    assert_eq!(log.take(), ["LetGo"]);
}
