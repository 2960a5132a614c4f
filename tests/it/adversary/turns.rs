//! Writers that are put aside and come back, and answers that are overtaken.

use crate::support::{Fault, *};
use async_trait::async_trait;
use oncekey::memory::MemoryError;
use oncekey::store::{BatchPut, CachedStore, Exchange, Put};
use oncekey::time::{Clock, ManualClock};
use oncekey::admin::*;
use oncekey::answer::*;
use oncekey::builder::*;
use oncekey::observe::*;
use oncekey::protocol::*;
use oncekey::*;
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

/// A store that takes five milliseconds, or for ever.
struct Slow {
    inner: Arc<MemoryStore>,
    clock: ManualClock,
    hang: AtomicBool,
}
#[async_trait]
impl Store for Slow {
    type Error = MemoryError;
    async fn load(&self, key: &Key) -> Result<Option<Entry>, Self::Error> {
        self.clock.sleep_until(self.clock.now() + Duration::from_millis(5)).await;
        self.inner.load(key).await
    }
    async fn compare_exchange(&self, key: &Key, e: Expected, p: Put<'_>) -> Result<Exchange, Self::Error> {
        if self.hang.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        self.clock.sleep_until(self.clock.now() + Duration::from_millis(5)).await;
        self.inner.compare_exchange(key, e, p).await
    }
    async fn compare_exchange_many(&self, batch: &[BatchPut<'_>]) -> Vec<Result<Exchange, Self::Error>> {
        if self.hang.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let mut v = vec![];
        for i in batch {
            v.push(self.inner.compare_exchange(i.key, i.expected, i.put).await);
        }
        v
    }
}
fn slow(
    change: impl FnOnce(DeduplicatorBuilder<Slow>) -> DeduplicatorBuilder<Slow>,
) -> (Bench, Deduplicator<Slow>) {
    let b = bench();
    let s = Slow { inner: b.store.inner.clone(), clock: b.clock.clone(), hang: AtomicBool::new(false) };
    let d = change(
        Deduplicator::builder(s).clock(b.clock.clone()).lease(LEASE).margin(MARGIN).retention(RETENTION),
    )
    .build()
    .unwrap();
    (b, d)
}

#[test]
fn preparing_past_the_deadline_after_an_unanswered_renewal_has_time() {
    let (b, d) = slow(|x| x);
    let ClaimAnswer::Granted(mut claim) = b.run(d.request(key()).claim()).unwrap() else { panic!() };
    d.store().hang.store(true, Ordering::SeqCst);
    {
        let mut r = Box::pin(claim.renew());
        assert!(poll_once(r.as_mut()).is_none());
    }
    d.store().hang.store(false, Ordering::SeqCst);
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
        let (b, d) = slow(|x| x.lease(Duration::from_secs(5)).margin(Duration::from_millis(500)));
        let clock = b.clock.clone();
        let op = d.request(key()).run(|_| async move {
            clock.sleep_until(clock.now() + Duration::from_secs(12)).await;
            Ok::<_, std::io::Error>("x".to_owned())
        });
        let hang = async {
            let c = &b.clock;
            c.sleep_until(c.now() + Duration::from_millis(1000)).await;
            d.store().hang.store(true, Ordering::SeqCst);
            c.sleep_until(c.now() + Duration::from_millis(2000)).await; // one call falls in here
            d.store().hang.store(false, Ordering::SeqCst);
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

/// A store whose next exchange answers late.
struct Gate {
    inner: Arc<MemoryStore>,
    closed: Arc<AtomicBool>,
}
#[async_trait]
impl Store for Gate {
    type Error = MemoryError;
    async fn load(&self, key: &Key) -> Result<Option<Entry>, Self::Error> {
        self.inner.load(key).await
    }
    async fn compare_exchange(&self, key: &Key, e: Expected, p: Put<'_>) -> Result<Exchange, Self::Error> {
        let wait = self.closed.swap(false, Ordering::SeqCst);
        let a = self.inner.compare_exchange(key, e, p).await;
        if wait {
            yield_now().await;
        }
        a
    }
}

#[test]
fn the_cache_keeps_no_answer_that_a_forget_overtook() {
    let b = bench();
    let closed = Arc::new(AtomicBool::new(false));
    let plain = Deduplicator::builder(b.store.inner.clone()).clock(b.clock.clone()).build().unwrap();
    b.run(plain.request(key()).run(|_| async { Ok::<_, std::io::Error>("first".to_owned()) })).unwrap();
    let s = CachedStore::new(
        Gate { inner: b.store.inner.clone(), closed: closed.clone() },
        100,
        Duration::from_secs(10),
    )
    .with_clock(b.clock.clone());
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
