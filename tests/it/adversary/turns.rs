//! Writers that are put aside and come back, and answers that are overtaken.

use crate::support::{Fault, *};
use oncekey::admin::AdminAnswer;
use oncekey::store::CachedStore;
use oncekey::time::Clock;
use oncekey::*;
use oncekey_conformance::{CallKind, Intercept};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[test]
fn a_checkpoint_put_aside_does_not_undo_an_abandon() {
    let b = bench();
    let ClaimAnswer::Granted(mut claim) = b.run(b.dedup.request(key()).claim()).unwrap() else { panic!() };
    let attempt = claim.attempt();
    b.store.plan([Fault::HangBefore]);
    let mut checkpoint = Box::pin(attempt.checkpoint(b"x".to_vec()));
    assert!(poll_once(checkpoint.as_mut()).is_none());
    b.run(claim.abandon()).unwrap();
    assert_eq!(b.store.peek(&key()).unwrap().left, Duration::ZERO);
    let said = b.run(checkpoint);
    assert_eq!(b.store.peek(&key()).unwrap().left, Duration::ZERO, "{said:?}");
}

#[test]
fn a_checkpoint_put_aside_does_not_spoil_what_is_prepared() {
    let b = bench();
    let ClaimAnswer::Granted(mut claim) = b.run(b.dedup.request(key()).claim()).unwrap() else { panic!() };
    let attempt = claim.attempt();
    b.store.plan([Fault::HangBefore]);
    let mut checkpoint = Box::pin(attempt.checkpoint(b"x".to_vec()));
    assert!(poll_once(checkpoint.as_mut()).is_none());
    let prepared = b.run(claim.prepare(b"out".to_vec())).unwrap();
    assert_eq!(b.store.peek(&key()).unwrap().version, prepared.expected);
    let said = b.run(checkpoint);
    assert_eq!(b.store.peek(&key()).unwrap().version, prepared.expected, "{said:?}");
}

/// An engine over a store whose loads and exchanges take five milliseconds, and whose writes take forever while the flag is
/// set.
fn slow(
    change: impl FnOnce(
        DeduplicatorBuilder<Intercept<MemoryStore>>,
    ) -> DeduplicatorBuilder<Intercept<MemoryStore>>,
) -> (Bench, Deduplicator<Intercept<MemoryStore>>, Arc<AtomicBool>) {
    let b = bench();
    let hang = Arc::new(AtomicBool::new(false));
    let (clock, hangs) = (b.clock.clone(), Arc::clone(&hang));
    let store = MemoryStore::builder().clock(b.clock.clone()).build();
    let store = Intercept::new(store).before(move |kind| {
        let (clock, hangs) = (clock.clone(), kind != CallKind::Load && hangs.load(Ordering::SeqCst));
        Box::pin(async move {
            if hangs {
                std::future::pending::<()>().await;
            }
            if kind != CallKind::BatchItem {
                clock.sleep_until(clock.now() + Duration::from_millis(5)).await;
            }
        })
    });
    let builder = Deduplicator::builder(store).clock(b.clock.clone());
    let d = change(builder.lease(LEASE).margin(MARGIN).retention(RETENTION)).build().unwrap();
    (b, d, hang)
}

#[test]
fn preparing_past_the_deadline_after_an_unanswered_renewal_has_time() {
    let (b, d, hang) = slow(|x| x);
    let ClaimAnswer::Granted(mut claim) = b.run(d.request(key()).claim()).unwrap() else { panic!() };
    hang.store(true, Ordering::SeqCst);
    {
        let mut r = Box::pin(claim.renew());
        assert!(poll_once(r.as_mut()).is_none());
    }
    hang.store(false, Ordering::SeqCst);
    b.clock.advance(Duration::from_secs(28));
    let mut last = None;
    for _ in 0..20 {
        match b.run(claim.prepare(b"out".to_vec())) {
            Ok(_) => return,
            Err(e) => last = Some(e),
        }
    }
    panic!("a healthy store, 5 ms: {last:?}");
}

#[test]
fn one_batch_that_hangs_is_not_the_end_under_a_short_lease() {
    for keeper in [false, true] {
        let (b, d, hang) = slow(|x| x.lease(Duration::from_secs(5)).margin(Duration::from_millis(500)));
        let clock = b.clock.clone();
        let op = d.request(key()).run(|_| async move {
            clock.sleep_until(clock.now() + Duration::from_secs(12)).await;
            Ok::<_, std::io::Error>("x".to_owned())
        });
        let hang = async {
            let c = &b.clock;
            c.sleep_until(c.now() + Duration::from_millis(1000)).await;
            hang.store(true, Ordering::SeqCst);
            c.sleep_until(c.now() + Duration::from_millis(2000)).await; // one call falls in here
            hang.store(false, Ordering::SeqCst);
        };
        let keep = d.keeper();
        let both = async {
            let work = futures::future::join(op, hang);
            if keeper {
                match futures::future::select(Box::pin(work), Box::pin(keep)).await {
                    futures::future::Either::Left((x, _)) => {
                        x.0.map(|a| a.into_value().unwrap()).map_err(|e| e.to_string())
                    }
                    _ => unreachable!(),
                }
            } else {
                work.await.0.map(|a| a.into_value().unwrap()).map_err(|e| e.to_string())
            }
        };
        let out = b.run(both);
        assert!(out.is_ok(), "keeper {keeper}: {out:?}");
    }
}

#[test]
fn the_cache_keeps_no_answer_that_a_forget_overtook() {
    let b = bench();
    let closed = Arc::new(AtomicBool::new(false));
    let plain = Deduplicator::builder(b.store.inner.clone()).clock(b.clock.clone()).build().unwrap();
    b.run(plain.request(key()).run(|_| async { Ok::<_, std::io::Error>("first".to_owned()) })).unwrap();
    let gate = Arc::clone(&closed);
    let late = Intercept::new(b.store.inner.clone()).on_exchange(move |store, key, expected, put| {
        let waits = gate.swap(false, Ordering::SeqCst); // the next exchange answers late
        Box::pin(async move {
            let answer = store.compare_exchange(key, expected, put).await;
            if waits {
                yield_now().await;
            }
            answer
        })
    });
    let s = CachedStore::new(late, 100, Duration::from_secs(10)).with_clock(b.clock.clone());
    let d = Deduplicator::builder(s).clock(b.clock.clone()).build().unwrap();
    closed.store(true, Ordering::SeqCst);
    let mut replay =
        Box::pin(d.request(key()).run(|_| async { Ok::<_, std::io::Error>("second".to_owned()) }));
    assert!(poll_once(replay.as_mut()).is_none());
    assert_eq!(b.run(d.forget(&key())).unwrap(), AdminAnswer::Done);
    b.run(replay).unwrap();
    let after =
        b.run(d.request(key()).run(|_| async { Ok::<_, std::io::Error>("third".to_owned()) })).unwrap();
    assert!(after.ran_now(), "{after:?}");
}

#[test]
fn what_was_rolled_back_and_released_is_not_taken_for_committed() {
    let b = bench();
    let ClaimAnswer::Granted(mut claim) = b.run(b.dedup.request(key()).claim()).unwrap() else { panic!() };
    let p1 = b.run(claim.prepare(b"one".to_vec())).unwrap();
    claim.rolled_back();
    b.run(claim.release()).unwrap();
    assert!(claim.committed(&p1).is_err());
}

#[test]
fn what_was_rolled_back_is_not_taken_for_what_is_prepared_now() {
    let b = bench();
    let ClaimAnswer::Granted(mut claim) = b.run(b.dedup.request(key()).claim()).unwrap() else { panic!() };
    let rolled_back = b.run(claim.prepare("one")).unwrap();
    claim.rolled_back();
    let now = b.run(claim.prepare("two")).unwrap();
    assert!(matches!(claim.committed(&rolled_back), Err(ClaimError::NotPrepared { .. })));
    claim.committed(&now).unwrap();
}
