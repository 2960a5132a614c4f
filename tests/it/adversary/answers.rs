//! What a caller, an operator or a store author could get wrong: each gets the right answer, and loses nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncekey::admin::*;
use oncekey::answer::*;
use oncekey::builder::*;
use oncekey::codec::FactOnly;
use oncekey::observe::*;
use oncekey::protocol::*;
use oncekey::store::*;
use oncekey::time::ManualClock;
use oncekey::*;
use oncekey_conformance::Intercept;

use crate::support::{Fault, *};

#[derive(Debug, thiserror::Error)]
#[error("newer")]
struct Newer;

impl StoreError for Newer {
    fn kind(&self) -> StoreErrorKind {
        StoreErrorKind::Newer
    }

    fn maybe_applied(&self) -> bool {
        false
    }
}

/// A store that fails once a newer release has written to it.
fn taken_over(clock: &ManualClock, newer: &Arc<AtomicBool>) -> Intercept<MemoryStore, Newer> {
    let (loads, writes) = (Arc::clone(newer), Arc::clone(newer));
    Intercept::telling(MemoryStore::builder().clock(clock.clone()).build(), |error| panic!("{error}"))
        .on_load(move |store, key| {
            let newer = loads.load(Ordering::SeqCst);
            Box::pin(async move { if newer { Err(Newer) } else { Ok(store.load(key).await.unwrap()) } })
        })
        .on_exchange(move |store, key, expected, put| {
            let newer = writes.load(Ordering::SeqCst);
            Box::pin(async move {
                if newer { Err(Newer) } else { Ok(store.compare_exchange(key, expected, put).await.unwrap()) }
            })
        })
}

/// A store whose load yields between reading and answering, while it is late.
fn loading_late(clock: &ManualClock, late: &Arc<AtomicBool>) -> Intercept<MemoryStore> {
    let late = Arc::clone(late);
    Intercept::new(MemoryStore::builder().clock(clock.clone()).build()).on_load(move |store, key| {
        let late = Arc::clone(&late);
        Box::pin(async move {
            let found = store.load(key).await;
            if late.load(Ordering::SeqCst) {
                yield_now().await;
            }
            found
        })
    })
}

#[test]
fn an_operation_made_too_slowly_is_not_polled_past_its_deadline() {
    let b = bench();
    let ran = Arc::new(AtomicBool::new(false));
    let r = Arc::clone(&ran);
    let clock = b.clock.clone();
    let other = b.other_process();
    let two = Arc::new(AtomicBool::new(false));
    let t = two;
    let answer = b.run(b.dedup.request(key()).run(move |_| {
        clock.advance(secs(31)); // a slow synchronous part
        // meanwhile another takes over
        let _c2 = claim(&other);
        std::mem::forget(_c2);
        t.store(true, Ordering::SeqCst);
        async move {
            r.store(true, Ordering::SeqCst);
            Ok::<_, String>("x".to_owned())
        }
    }));
    assert!(matches!(answer, Err(RunError::LeaseLost { .. })), "{answer:?}");
    assert!(
        !ran.load(Ordering::SeqCst),
        "the future was polled first 4 s past its deadline, beside attempt 2"
    );
}

#[test]
fn failing_open_does_not_run_over_a_record_that_cannot_be_read() {
    let dedup = Deduplicator::new(taken_over(&ManualClock::new(), &Arc::new(AtomicBool::new(true))));
    let ran = AtomicBool::new(false);
    let _ = ready(dedup.request(key()).fail_open().run(|_| async {
        ran.store(true, Ordering::SeqCst);
        Ok::<_, String>("x".to_owned())
    }));
    assert!(!ran.load(Ordering::SeqCst), "a record is there, and is not readable: it was run");
}

#[test]
fn a_waiter_does_not_poll_a_record_that_it_will_never_read() {
    let clock = ManualClock::new();
    let newer = Arc::default();
    let s = taken_over(&clock, &newer);
    let dedup = Deduplicator::builder(s).clock(clock.clone()).build().unwrap();
    let c = claim(&dedup);
    std::mem::forget(c);
    let mut tasks = Tasks::default();
    let w = tasks.spawn(dedup.request(key()).wait(Duration::MAX).claim());
    tasks.settle();
    newer.store(true, Ordering::SeqCst);
    tasks.pass(&clock, secs(3600));
    assert!(w.is_done(), "an hour on: polls a record it will never read");
}

#[test]
fn an_outcome_that_could_not_be_stored_is_not_run_again_at_once() {
    let b = bench_with(|b| b.on_drop(OnDrop::ExpireNow).completion_timeout(secs(1)));
    let mut c = claim(&b.dedup);
    b.store.always(Fault::Refused);
    assert!(b.run(c.complete("charged")).is_err());
    b.store.always(Fault::None);
    drop(c);
    assert!(
        !on_record(&b).left.is_zero(),
        "the effect happened, its outcome was sent; the drop let the next claim in at once"
    );
}

#[test]
fn what_another_claim_prepared_is_not_taken_for_committed() {
    let b = bench();
    let mut a = claim(&b.dedup);
    let kb = Key::new("payments.charge", "other").unwrap();
    let ClaimAnswer::Granted(mut cb) = ready(b.dedup.request(kb.clone()).claim()).unwrap() else { panic!() };
    let mut tasks = Tasks::default();
    let w = tasks.spawn(b.dedup.request(kb).wait(secs(20)).claim());
    tasks.settle();
    let pa = ready(a.prepare("A's outcome")).unwrap();
    assert!(matches!(cb.committed(&pa), Err(ClaimError::NotPrepared { .. })));
    tasks.settle();
    let got = w.is_done().then(|| w.take().unwrap());
    assert!(
        got.is_none(),
        "a waiter of key b got {:?}",
        got.map(|g| match g {
            ClaimAnswer::Answered(Earlier::Replayed { value, .. }) => {
                Some(String::from_utf8_lossy(&value).into_owned())
            }
            _ => None,
        })
    );
}

#[test]
fn rolling_back_a_completed_claim_changes_nothing() {
    let b = bench_with(|b| b.on_drop(OnDrop::ExpireNow));
    let mut c = claim(&b.dedup);
    ready(c.complete("x")).unwrap();
    c.rolled_back();
    drop(c);
    assert!(on_record(&b).record.outcome().is_some());
}

#[test]
fn an_observer_that_panics_at_the_grant_leaves_no_claim_behind() {
    let b = bench_with(|b| {
        b.policy(Policy::Hold).observer(|_: &Key, e: &Event<'_>| {
            if matches!(e, Event::Granted { .. }) {
                panic!("obs")
            }
        })
    });
    let r = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ready(b.dedup.request(key()).claim())));
    assert!(r.is_err());
    ready(b.dedup.flush());
    assert_ne!(
        on_record(&b).status(),
        Status::InProgress,
        "nothing started; under Hold this waits for a resolver forever"
    );
}

#[test]
fn preparing_after_a_settle_was_dropped_expects_the_version_that_is_there() {
    let b = bench();
    let mut c = claim(&b.dedup);
    let p = ready(c.prepare("x")).unwrap();
    b.store.plan([Fault::None, Fault::HangAfter]);
    {
        let mut s = Box::pin(c.settle(&p));
        assert!(poll_once(s.as_mut()).is_none());
    }
    c.rolled_back();
    let p2 = ready(c.prepare("x")).unwrap();
    assert_eq!(p2.expected, on_record(&b).version, "a stale version: the transaction can never commit");
}

#[test]
fn an_operators_outcome_over_the_limit_is_noted_as_too_large() {
    let b = bench_with(|b| b.outcome_len_max(10));
    let mut c = claim(&b.dedup);
    ready(c.abandon()).unwrap();
    ready(b.dedup.resolve(&key(), &Resolution::Completed(Outcome::success(vec![0; 1000])))).unwrap();
    assert!(matches!(on_record(&b).record.outcome().unwrap().body, OutcomeBody::TooLarge { .. }));
}

#[test]
fn the_cache_does_not_bring_back_what_was_forgotten_through_it() {
    let clock = ManualClock::new();
    let late = Arc::new(AtomicBool::new(false));
    let inner = loading_late(&clock, &late);
    let elsewhere = Deduplicator::builder(inner.clone()).clock(clock.clone()).build().unwrap();
    let dedup = Deduplicator::builder(CachedStore::new(inner, 100, secs(3600)).with_clock(clock.clone()))
        .clock(clock)
        .build()
        .unwrap();
    run_text(&elsewhere, "first");
    late.store(true, Ordering::SeqCst);
    let k = key();
    let mut inspect = Box::pin(dedup.inspect(&k));
    assert!(poll_once(inspect.as_mut()).is_none());
    late.store(false, Ordering::SeqCst);
    assert_eq!(ready(dedup.forget(&key())).unwrap(), AdminAnswer::Done);
    assert!(poll_once(inspect.as_mut()).is_some());
    assert!(run_text(&dedup, "second").ran_now(), "forgotten by this very process, and replayed");
}

#[test]
fn a_checkpoint_that_was_applied_is_called_possibly_applied_whatever_came_between() {
    let b = bench();
    let c = claim(&b.dedup);
    b.store.plan([Fault::HangBefore, Fault::HangAfter]);
    {
        let mut r = Box::pin(c.renew());
        assert!(poll_once(r.as_mut()).is_none());
    }
    {
        let mut r = Box::pin(c.checkpoint("x"));
        assert!(poll_once(r.as_mut()).is_none());
    }
    assert_eq!(on_record(&b).record.checkpoint(), b"x"[..]);
    b.clock.advance(secs(31));
    let c2 = claim(&b.other_process());
    std::mem::forget(c2);
    let e = ready(c.checkpoint("x")).unwrap_err();
    assert!(matches!(e, ClaimError::Superseded { possibly_applied: true, .. }), "it was applied: {e}");
}

#[test]
fn a_completion_that_was_applied_is_called_possibly_applied_whatever_came_between() {
    let b = bench();
    let mut c = claim(&b.dedup);
    b.store.plan([Fault::HangAfter, Fault::HangBefore]);
    {
        let mut r = Box::pin(c.complete("x"));
        assert!(poll_once(r.as_mut()).is_none());
    }
    {
        let mut r = Box::pin(c.abandon());
        assert!(poll_once(r.as_mut()).is_none());
    }
    ready(b.other_process().forget(&key())).unwrap();
    let c2 = claim(&b.other_process());
    std::mem::forget(c2);
    let e = ready(c.complete("x")).unwrap_err();
    assert!(matches!(e, ClaimError::Superseded { possibly_applied: true, .. }), "it was applied: {e}");
}

#[test]
fn pages_of_no_entries_end() {
    let s = MemoryStore::new();
    let d = Deduplicator::new(s);
    let _c = claim(&d);
    let mut cursor = None;
    for _ in 0..1000 {
        let p = ready(d.list_in_doubt(cursor, 0)).unwrap();
        cursor = p.next;
        if cursor.is_none() {
            return;
        }
    }
    panic!("pages never end");
}

#[test]
fn a_keeper_that_meets_ones_own_completion_does_not_call_it_superseded() {
    let events = Arc::new(Mutex::new(Vec::new()));
    let e2 = events.clone();
    let b = bench_with(|b| {
        b.completion_timeout(secs(1))
            .observer(move |_: &Key, e: &Event<'_>| e2.lock().unwrap().push(format!("{e:?}")))
    });
    let mut c = claim(&b.dedup);
    b.store.plan([Fault::ReplyLost]);
    b.store.always(Fault::RequestLost);
    assert!(b.run(c.complete("x")).is_err());
    b.store.always(Fault::None);
    let mut tasks = Tasks::default();
    let k = b.dedup.keeper();
    let _k = tasks.spawn(k);
    tasks.pass(&b.clock, secs(15));
    assert!(
        !events.lock().unwrap().iter().any(|e| e.contains("superseded: true")),
        "{:?}",
        events.lock().unwrap()
    );
}

#[cfg(feature = "tokio")]
#[test]
fn clean_up_that_arises_outside_of_a_runtime_is_not_lost() {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let clock = ManualClock::new();
    let store = FaultyStore::new(&clock);
    let events = Arc::new(Mutex::new(Vec::new()));
    let e2 = events.clone();
    let dedup = rt.block_on(async {
        Deduplicator::builder(store.clone())
            .tokio()
            .observer(move |_: &Key, e: &Event<'_>| e2.lock().unwrap().push(format!("{e:?}")))
            .build()
            .unwrap()
    });
    let mut c = rt.block_on(async { claim(&dedup) });
    store.yields.store(true, Ordering::SeqCst);
    rt.block_on(async {
        let mut f = Box::pin(c.complete("x"));
        assert!(poll_once(f.as_mut()).is_none());
    });
    drop(c); // on a thread of no runtime; the runtime is alive
    store.yields.store(false, Ordering::SeqCst);
    // It waits for whoever comes by on a runtime.
    rt.block_on(dedup.flush());
    let e = store.peek(&key()).unwrap();
    assert!(
        e.record.outcome().is_some(),
        "the completion that began was dropped in silence: {:?}",
        events.lock().unwrap()
    );
}

#[test]
fn an_error_says_whether_something_may_have_been_written() {
    let bench = bench();
    bench.store.always(Fault::RequestLost);
    let written = bench.run(bench.dedup.request(key()).claim()).unwrap_err().to_string();
    assert!(written.contains("a write of this call may have been applied"), "{written}");
    let read = bench.run(bench.dedup.inspect(&key())).unwrap_err().to_string();
    assert!(!read.contains("applied"), "a read applies nothing: {read}");
}

#[test]
fn an_error_that_is_none_can_be_boxed_and_shows_its_source() {
    type Any = Box<dyn std::error::Error + Send + Sync>;
    let bench = bench();
    let failed = |_| async { Err::<String, Any>("card network down".into()) };
    let answer: Result<Answer<String>, Any> =
        bench.run(bench.dedup.request(key()).run(failed)).map_err(|error| error.boxed().into());
    let error = answer.unwrap_err();
    assert_eq!(error.source().unwrap().to_string(), "card network down");
}

#[test]
fn an_error_without_effect_frees_the_key_whatever_its_type() {
    struct Refused(bool);
    let bench = bench();
    let refuse = |before_the_effect| async move {
        let refused = Refused(before_the_effect);
        Err::<String, _>(if refused.0 { Failure::NoEffect(refused) } else { Failure::Unknown(refused) })
    };
    let request = || bench.dedup.request(key()).failures(FactOnly);
    let first = bench.run(request().run_or_fail(|_| refuse(true)));
    assert!(matches!(first, Err(RunError::Operation { claim: ClaimFate::Released, .. })));
    let second = bench.run(request().run_or_fail(|_| refuse(false)));
    assert!(matches!(second, Err(RunError::Operation { claim: ClaimFate::InDoubt, .. })));
}
