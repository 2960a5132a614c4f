//! Which stores an engine takes, and what it does about one that fails or contradicts itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use oncekey::answer::Unrecorded;
use oncekey::store::{Exchange, StoreError, StoreErrorKind};
use oncekey::time::ManualClock;
use oncekey::{Answer, ClaimAnswer, ClaimError, Deduplicator, Earlier, Error, MemoryStore, RunError, Store};
use oncekey_conformance::Intercept;

use crate::support::*;

async fn must_not_run(_: oncekey::Attempt) -> Result<String, String> {
    panic!("it must not run")
}

#[test]
fn a_store_serves_as_a_value_shared_and_behind_dyn() {
    fn works<S: Store + 'static>(dedup: &Deduplicator<S>) {
        assert!(matches!(run_text(dedup, "first"), Answer::Executed { .. }));
        assert!(
            matches!(run_text(dedup, "second"), Answer::Earlier(Earlier::Replayed { value, .. }) if value == "first")
        );
    }
    works(&Deduplicator::new(MemoryStore::new()));
    let shared = Arc::new(MemoryStore::new());
    works(&Deduplicator::new(Arc::clone(&shared)));
    type Error = <MemoryStore as Store>::Error;
    works(&Deduplicator::new(Arc::new(MemoryStore::new()) as Arc<dyn Store<Error = Error>>));
    // All of them see the one store.
    let erased = Deduplicator::new(Arc::clone(&shared) as Arc<dyn Store<Error = Error>>);
    assert!(
        matches!(run_text(&erased, "third"), Answer::Earlier(Earlier::Replayed { value, .. }) if value == "first")
    );
    assert_eq!(shared.usage().records, 1);
}

#[test]
fn a_store_that_is_down_runs_nothing_and_is_tried_for_as_long_as_the_engine_says() {
    // Less than the first pause, and than one call of the store; more; and what is the default.
    for timeout in [std::time::Duration::from_millis(20), secs(3), secs(10)] {
        for fault in [Fault::Refused, Fault::RequestLost, Fault::HangBefore] {
            let bench = bench_with(|builder| match builder.store_timeout(secs(5)) {
                builder if timeout == secs(10) => builder,
                builder => builder.call_timeout(timeout),
            });
            bench.store.always(fault);
            let begun = oncekey::time::Clock::now(&bench.clock);
            let error = bench.run(bench.dedup.request(key()).wait(secs(60)).run(must_not_run)).unwrap_err();
            let RunError::Claim { source: Error::Store { source, .. }, .. } = error else {
                panic!("{error:?}")
            };
            assert_eq!(source.maybe_applied(), fault != Fault::Refused, "{fault:?}");
            let lasted = oncekey::time::Clock::now(&bench.clock).saturating_since(begun);
            // It ends with its time, or where there is none left for a pause, which is 2 s at most, and a try.
            let tries = match fault {
                Fault::HangBefore => [1, 1, 2],
                _ => [1, 7, 10],
            };
            let tries = tries[usize::from(timeout >= secs(3)) + usize::from(timeout >= secs(10))];
            assert_eq!(bench.store.trips().0, tries, "{fault:?}, {timeout:?}");
            assert!(lasted <= timeout && timeout - lasted <= secs(4), "{fault:?}: {lasted:?} of {timeout:?}");
            bench.store.always(Fault::None);
            bench.run(bench.dedup.flush());
            assert!(bench.store.peek(&key()).is_none());
        }
    }
}

/// The last try is cut short by the end of the call's time, and what the store said before says more.
#[test]
fn a_call_that_ends_with_its_time_tells_the_last_error_of_the_store_itself() {
    let bench = bench_with(|builder| builder.store_timeout(secs(5)).call_timeout(secs(3)));
    bench.store.plan([Fault::Refused, Fault::HangBefore]);
    let error = bench.run(bench.dedup.request(key()).claim()).unwrap_err();
    let Error::Store { source, .. } = error else { panic!("{error:?}") };
    assert_eq!(source.downcast_ref::<Planned>().unwrap().fault, Fault::Refused);
    assert!(source.maybe_applied(), "the try that was cut short may have been");
}

/// A conflict is an answer, so the call's time begins anew, and so do its pauses.
#[test]
fn a_conflict_between_failures_gives_a_call_its_whole_time_again() {
    let bench = bench_with(|builder| builder.call_timeout(THREE_TRIES));
    let mut owner = claim(&bench.other_process());
    ready(owner.release()).unwrap();
    let before = bench.store.trips().0;
    // The claim takes the key for vacant, and meets the released record at its third try.
    let twice = [Fault::Refused, Fault::Refused, Fault::None];
    bench.store.plan(twice.into_iter().chain(twice));
    assert!(matches!(bench.run(bench.dedup.request(key()).claim()), Ok(ClaimAnswer::Granted(_))));
    assert_eq!(bench.store.trips().0, before + 6);
}

/// The wait is not bounded by the time that a call may go without an answer.
#[test]
fn a_call_that_is_answered_again_and_again_goes_on_past_its_time() {
    let bench = bench_with(|builder| builder.call_timeout(secs(3)));
    let owner = claim(&bench.other_process());
    let begun = oncekey::time::Clock::now(&bench.clock);
    let waited = bench.run(bench.dedup.request(key()).wait(secs(20)).run(must_not_run)).unwrap();
    assert!(matches!(waited, Answer::Earlier(Earlier::InProgress { .. })), "{waited:?}");
    assert!(oncekey::time::Clock::now(&bench.clock).saturating_since(begun) >= secs(20));
    drop(owner);
}

#[test]
fn a_call_that_fails_open_runs_without_a_promise_and_says_so() {
    let bench = bench();
    bench.store.always(Fault::Refused);
    let run = bench.dedup.request(key()).fail_open().run(async |attempt: oncekey::Attempt| {
        assert_eq!(attempt.fence().get(), 0);
        assert!(!attempt.is_lost());
        assert_eq!(attempt.time_left(), std::time::Duration::MAX, "no lease bounds it");
        let refused = attempt.checkpoint("x").await;
        assert!(matches!(refused, Err(ClaimError::Unprotected)));
        Ok::<_, String>("unprotected".to_owned())
    });
    let answer = bench.run(run).unwrap();
    assert!(
        matches!(&answer, Answer::Unrecorded { value, why: Unrecorded::FailedOpen(_), .. } if value == "unprotected"),
        "{answer:?}"
    );
    assert!(bench.store.peek(&key()).is_none());

    // Answers compare by why nothing is recorded, not by the errors.
    let open = |dedup: &Deduplicator<FaultyStore>| {
        let run = dedup.request(key()).fail_open().run(async |_| Ok::<_, String>("unprotected".to_owned()));
        bench.run(run).unwrap()
    };
    let again = open(&bench.dedup);
    assert_eq!(again, answer);
    bench.store.always(Fault::None);
    let unstored = bench.run(bench.dedup.request(key()).run(async |_| {
        bench.store.always(Fault::Refused);
        Ok::<_, String>("unprotected".to_owned())
    }));
    let unstored = unstored.unwrap();
    assert!(matches!(&unstored, Answer::Unrecorded { why: Unrecorded::Completion(_), .. }), "{unstored:?}");
    assert_ne!(unstored, again);
}

/// Answers each write with a conflict: with what is on record, which may be just what was expected, or with nothing.
#[derive(Clone, Default)]
struct Liar {
    lies: Arc<AtomicBool>,
    calls: Arc<AtomicU32>,
}

#[derive(Debug, thiserror::Error)]
#[error("no use in trying again")]
struct Hopeless(StoreErrorKind);

impl StoreError for Hopeless {
    fn maybe_applied(&self) -> bool {
        false
    }

    fn kind(&self) -> StoreErrorKind {
        self.0
    }
}

/// The liar, or if there is a kind of error, a store whose writes all fail so.
fn liar(kind: Option<StoreErrorKind>) -> (ManualClock, Liar, Deduplicator<Intercept<MemoryStore, Hopeless>>) {
    let (clock, liar) = (ManualClock::new(), Liar::default());
    let (loads, writes) = (liar.clone(), liar.clone());
    let inner = MemoryStore::builder().clock(clock.clone()).build();
    let store = Intercept::telling(inner, |error| panic!("{error}"))
        .on_load(move |store, key| {
            loads.calls.fetch_add(1, Ordering::SeqCst);
            Box::pin(async { Ok(store.load(key).await.unwrap()) })
        })
        .on_exchange(move |store, key, expected, put| {
            writes.calls.fetch_add(1, Ordering::SeqCst);
            let lies = writes.lies.load(Ordering::SeqCst);
            Box::pin(async move {
                match kind {
                    Some(kind) => Err(Hopeless(kind)),
                    None if lies => Ok(Exchange::Conflict(store.load(key).await.unwrap())),
                    None => Ok(store.compare_exchange(key, expected, put).await.unwrap()),
                }
            })
        });
    let dedup = Deduplicator::builder(store).clock(clock.clone()).build().unwrap();
    (clock, liar, dedup)
}

/// How many calls are few enough.
const CALLS_MAX: u32 = 64;

#[test]
fn a_store_that_contradicts_itself_ends_in_a_typed_error_after_a_bounded_number_of_calls() {
    for before in ["nothing", "released", "abandoned"] {
        let (_clock, store, dedup) = liar(None);
        if before != "nothing" {
            let mut claim = claim(&dedup);
            match before {
                "released" => ready(claim.release()).unwrap(),
                _ => ready(claim.abandon()).unwrap(),
            }
        }
        store.lies.store(true, Ordering::SeqCst);
        store.calls.store(0, Ordering::SeqCst);
        let error = ready(dedup.request(key()).wait(secs(60)).fail_open().run(must_not_run)).unwrap_err();
        assert!(
            matches!(error, RunError::Claim { source: Error::Inconsistent { .. }, .. }),
            "{before}: {error:?}"
        );
        let calls = store.calls.load(Ordering::SeqCst);
        assert!((2..=CALLS_MAX).contains(&calls), "{before}: {calls} calls");
    }
}

#[test]
fn a_holder_of_a_claim_is_told_so_too() {
    for step in ["renew", "checkpoint", "complete", "release", "abandon"] {
        let (_clock, store, dedup) = liar(None);
        let mut claim = claim(&dedup);
        store.lies.store(true, Ordering::SeqCst);
        let told = match step {
            "renew" => ready(claim.renew()),
            "checkpoint" => ready(claim.checkpoint("x")),
            "complete" => ready(claim.complete("x")).map(drop),
            "release" => ready(claim.release()),
            _ => ready(claim.abandon()),
        };
        assert!(matches!(told, Err(ClaimError::Inconsistent { .. })), "{step}: {told:?}");
        assert!(store.calls.load(Ordering::SeqCst) <= CALLS_MAX, "{step}");
        // It came back to its senses: the claim is still ours.
        store.lies.store(false, Ordering::SeqCst);
        ready(claim.complete("done")).unwrap();
    }
    let (_clock, store, dedup) = liar(None);
    let mut claim = claim(&dedup);
    let prepared = ready(claim.prepare("x")).unwrap();
    store.lies.store(true, Ordering::SeqCst);
    let told = ready(claim.settle(&prepared));
    assert!(matches!(told, Err(ClaimError::Inconsistent { .. })), "settle: {told:?}");
    store.lies.store(false, Ordering::SeqCst);
    assert!(matches!(ready(claim.settle(&prepared)), Ok(oncekey::Settled::NotCommitted)));
}

/// Under a short lease the pauses between tries are short too, or one failure would cost the lease.
#[test]
fn pauses_between_tries_are_a_part_of_the_lease() {
    use std::time::Duration;
    for (lease_ms, pauses_ms) in
        [(100, [5, 10, 20, 20]), (400, [20, 40, 80, 80]), (30_000, [25, 50, 100, 200])]
    {
        let bench = bench_with(|builder| {
            let lease = Duration::from_millis(lease_ms);
            builder.lease(lease).margin(lease / 10).renew_every(lease / 3)
        });
        let begun = oncekey::time::Clock::now(&bench.clock);
        bench.store.plan([Fault::Refused; 4]);
        drop(bench.run(bench.dedup.request(key()).claim()).unwrap());
        let lasted = oncekey::time::Clock::now(&bench.clock).saturating_since(begun);
        assert_eq!(lasted, Duration::from_millis(pauses_ms.iter().sum()), "a lease of {lease_ms} ms");
    }
}

#[test]
fn an_error_that_will_not_go_away_is_not_tried_again() {
    for kind in [StoreErrorKind::Rejected, StoreErrorKind::Corrupt, StoreErrorKind::Newer] {
        let (_clock, store, dedup) = liar(Some(kind));
        let error = ready(dedup.request(key()).run(must_not_run)).unwrap_err();
        let RunError::Claim { source: Error::Store { source, .. }, .. } = error else { panic!("{error:?}") };
        assert_eq!(source.kind(), kind);
        assert_eq!(source.downcast_ref::<Hopeless>().unwrap().0, kind);
        assert_eq!(store.calls.load(Ordering::SeqCst), 1);
    }
}
