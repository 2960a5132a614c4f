//! Stores that are slow or hang, and futures that are begun and put aside: nothing waits without a bound.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncekey::protocol::*;
use oncekey::store::*;
use oncekey::time::{Clock as _, ManualClock, Moment};
use oncekey::*;
use oncekey_conformance::Intercept;

use crate::support::{Fault, *};

/// A store with a latency, and without batches; its clock, and how often it was called.
fn slow(latency: Duration) -> (Intercept<MemoryStore>, ManualClock, Arc<AtomicU32>) {
    let clock = ManualClock::new();
    clock.advance(secs(1000));
    let calls = Arc::new(AtomicU32::new(0));
    let (passes, count) = (clock.clone(), Arc::clone(&calls));
    let store = Intercept::new(MemoryStore::builder().clock(clock.clone()).build())
        .before(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            passes.sleep_until(passes.now() + latency)
        })
        .on_exchange(|store, key, expected, put| store.compare_exchange(key, expected, put));
    (store, clock, calls)
}

#[test]
fn a_store_slower_than_the_lease_ends_in_an_error() {
    let (store, clock, calls) = slow(secs(2));
    let dedup = Deduplicator::builder(store).clock(clock.clone()).lease(secs(2)).build().unwrap();
    let mut tasks = Tasks::default();
    let run = tasks.spawn(async {
        dedup.request(key()).run(|_| async { Ok::<_, String>("x".to_owned()) }).await.is_ok()
    });
    tasks.pass(&clock, secs(3600));
    assert!(run.is_done(), "an hour later: still renewing, {} store calls", calls.load(Ordering::SeqCst));
}

/// P4: not even made, let alone polled.
#[test]
fn an_operation_whose_grants_all_come_too_late_is_not_begun() {
    let (store, clock, _) = slow(secs(2));
    let dedup = Deduplicator::builder(store).clock(clock.clone()).lease(secs(2)).build().unwrap();
    let mut tasks = Tasks::default();
    let run = tasks.spawn(
        dedup
            .request(key())
            .run(|_| -> std::future::Ready<Result<String, String>> { panic!("begun past its deadline") }),
    );
    tasks.pass(&clock, secs(3600));
    let answer = run.take();
    assert!(matches!(&answer, Err(RunError::Claim { source: Error::Store { .. }, .. })), "{answer:?}");
}

#[test]
fn a_keeper_gets_through_many_claims_over_a_slow_store_without_batches() {
    let (store, clock, _) = slow(Duration::from_millis(25));
    let dedup = Deduplicator::builder(store).clock(clock.clone()).build().unwrap();
    let mut tasks = Tasks::default();
    let slots: Vec<_> = (0..250)
        .map(|i| {
            let dedup = dedup.clone();
            tasks.spawn(
                async move { dedup.request(Key::new("s", i.to_string()).unwrap()).claim().await.unwrap() },
            )
        })
        .collect();
    let keeper = dedup.keeper();
    let _k = tasks.spawn(keeper);
    tasks.pass(&clock, secs(1));
    let claims: Vec<_> = slots
        .iter()
        .map(|s| match s.take() {
            ClaimAnswer::Granted(c) => c,
            _ => panic!(),
        })
        .collect();
    tasks.pass(&clock, secs(60));
    let lost = claims.iter().filter(|c| c.time_left().is_zero()).count();
    assert_eq!(lost, 0, "of 250 claims under a keeper, 60 s on, lost");
}

#[test]
fn a_keeper_that_is_polled_no_more_does_not_hold_up_a_completion_for_ever() {
    let b = bench();
    let mut c = claim(&b.dedup);
    b.clock.advance(secs(11));
    b.store.plan([Fault::HangBefore]);
    let mut keeper = Box::pin(b.dedup.keeper());
    assert!(poll_once(keeper.as_mut()).is_none());
    let mut tasks = Tasks::default();
    let done = tasks.spawn(async move { c.complete("x").await.is_ok() });
    tasks.pass(&b.clock, secs(24 * 3600));
    assert!(done.is_done(), "a day later, past completion_timeout of 60 s");
}

#[test]
fn a_checkpoint_begun_and_put_aside_does_not_hold_up_its_run_for_ever() {
    let b = bench();
    let store = b.store.clone();
    let keep = Arc::new(Mutex::new(Vec::<std::pin::Pin<Box<dyn Future<Output = ()> + Send>>>::new()));
    let keep2 = keep.clone();
    let mut tasks = Tasks::default();
    let r = tasks.spawn(b.dedup.request(key()).run(|a| async move {
        store.plan([Fault::HangBefore]);
        let mut f: std::pin::Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
            let _ = a.checkpoint("x").await;
        });
        assert!(f.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_pending());
        keep2.lock().unwrap().push(f);
        Ok::<_, String>("x".to_owned())
    }));
    tasks.pass(&b.clock, secs(24 * 3600));
    assert!(r.is_done(), "a day later");
}

#[test]
fn a_waiter_that_claims_at_a_hanging_store_keeps_to_its_bound() {
    let b = bench_with(|b| b.store_timeout(secs(5)));
    let _c = claim(&b.dedup); // dies at 30 s
    let other = b.other_process();
    let other = {
        let _ = other;
        engine_with(&b.clock, &b.store, |x| x.store_timeout(secs(5)))
    };
    let mut tasks = Tasks::default();
    let begun = b.clock.now();
    let ended = tasks.spawn({
        let clock = b.clock.clone();
        let other = &other;
        async move {
            let _ =
                other.request(key()).wait(secs(31)).run(|_| async { Ok::<_, String>("x".to_owned()) }).await;
            clock.now().saturating_since(begun)
        }
    });
    tasks.pass(&b.clock, Duration::from_millis(29_990));
    // loads answer, exchanges hang: plan alternates
    b.store.plan([Fault::None, Fault::HangBefore, Fault::HangBefore, Fault::HangBefore]);
    tasks.pass(&b.clock, secs(60));
    let t = ended.take();
    assert!(t <= secs(31), "took {t:?}");
}

#[test]
fn one_renewal_that_hangs_is_not_the_end_under_a_short_lease() {
    let clock = ManualClock::new();
    clock.advance(secs(1000));
    let store = FaultyStore::new(&clock);
    let dedup = Deduplicator::builder(store.clone()).clock(clock.clone()).lease(secs(5)).build().unwrap();
    let mut tasks = Tasks::default();
    let c2 = clock.clone();
    let run = tasks.spawn(async {
        dedup
            .request(key())
            .run(|_| async move {
                c2.sleep_until(c2.now() + secs(20)).await;
                Ok::<_, String>("x".to_owned())
            })
            .await
    });
    tasks.settle();
    store.plan([Fault::HangBefore]);
    tasks.pass(&clock, secs(60));
    let r = run.take();
    assert!(r.is_ok(), "one lost packet: {r:?}");
}

#[test]
fn a_keeper_is_in_time_for_a_late_renewal_interval() {
    let b = bench_with(|b| b.renew_every(secs(26)));
    let c = claim(&b.dedup);
    let mut tasks = Tasks::default();
    tasks.pass(&b.clock, secs(3));
    let k = b.dedup.keeper();
    let _k = tasks.spawn(k);
    let mut lost_at = None;
    for i in 3..100 {
        if c.time_left().is_zero() {
            lost_at = Some(i);
            break;
        }
        tasks.pass(&b.clock, secs(1));
    }
    assert_eq!(lost_at, None, "lost under a keeper, no store failure");
}

#[test]
fn a_completion_does_not_wait_for_a_renewals_pause() {
    let b = bench_with(|b| b.lease(secs(60)).margin(secs(6)).store_timeout(secs(5)));
    let mut tasks = Tasks::default();
    let (c, c2, st) = (b.clock.clone(), b.clock.clone(), b.store.clone());
    let run = tasks.spawn({
        let d = &b.dedup;
        async move {
            let e = Arc::new(Mutex::new(Moment::ORIGIN));
            let e2 = e.clone();
            let r = d
                .request(key())
                .run(|_| async move {
                    st.always(Fault::RequestLost);
                    c.sleep_until(c.now() + Duration::from_millis(13_700)).await;
                    st.always(Fault::None);
                    *e2.lock().unwrap() = c.now();
                    Ok::<_, String>("x".to_owned())
                })
                .await;
            (r.is_ok(), c2.now().saturating_since(*e.lock().unwrap()))
        }
    });
    tasks.pass(&b.clock, secs(120));
    let (ok, late) = run.take();
    assert!(
        ok && late < Duration::from_millis(100),
        "the store was well; completion waited {late:?} for a renewal's pause"
    );
}

#[test]
fn dropped_futures_that_wait_for_the_loss_leave_nothing_behind() {
    use std::task::{Context, Wake, Waker};
    struct W;
    impl Wake for W {
        fn wake(self: Arc<Self>) {}
    }
    let b = bench();
    let c = claim(&b.dedup);
    let a = c.attempt();
    let all: Vec<Arc<W>> = (0..20_000).map(|_| Arc::new(W)).collect();
    let begun = std::time::Instant::now();
    for w in &all {
        let waker = Waker::from(w.clone());
        let f = a.lost();
        let mut f = std::pin::pin!(f);
        assert!(f.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    let kept = all.iter().filter(|w| Arc::strong_count(w) > 1).count();
    assert_eq!(kept, 0, "wakers of dropped futures kept; {:?}", begun.elapsed());
}
