//! Clean-up that nobody waits for, and who drives it.

use super::*;

#[test]
fn clean_up_gets_on_with_a_keeper_and_with_later_calls() {
    let stuck = || {
        let bench = bench();
        bench.store.yields.store(true, Ordering::SeqCst);
        let mut run =
            Box::pin(bench.dedup.request(key()).policy(Policy::Hold).run(|_| async { Ok::<_, &str>(()) }));
        assert!(bench.poll_times(run.as_mut(), 2).is_none());
        drop(run);
        assert_eq!(bench.on_record().status(), Status::InProgress, "applied, and not yet released");
        bench
    };
    let released = State::Released { fresh_operation_id: false };
    let bench = stuck();
    let mut keeper = Box::pin(bench.dedup.keeper());
    let begun = bench.clock.now();
    for _ in 0..10 {
        assert!(poll(&mut keeper).is_none());
    }
    assert_eq!(bench.on_record().record.state(), released, "by the keeper");
    assert_eq!(bench.clock.now(), begun, "at once");

    let bench = stuck();
    let elsewhere = Key::new("payments.charge", "another").unwrap();
    for _ in 0..10 {
        let _any = bench.run(bench.dedup.request(elsewhere.clone()).claim()).unwrap();
    }
    assert_eq!(bench.on_record().record.state(), released, "by calls that came by");
}

#[test]
fn a_call_that_comes_by_does_not_put_a_flush_to_sleep() {
    let bench = bench();
    let mut claim = bench.grant();
    bench.store.plan([Fault::HangBefore, Fault::HangBefore]);
    assert!(poll_once(Box::pin(claim.complete("first")).as_mut()).is_none());
    drop(claim); // its completion is now in the background, and hangs for a store timeout
    let woken = Arc::new(Flag::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut flush = Box::pin(bench.dedup.flush());
    assert!(flush.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    woken.0.store(false, Ordering::SeqCst);
    // A call for another key polls what is queued on its way.
    let elsewhere = Key::new("payments.charge", "another").unwrap();
    let _other = granted(bench.run(bench.dedup.request(elsewhere).claim()));
    // From here on it is as with any executor: polled when woken.
    let mut done = false;
    for _ in 0..100 {
        if woken.0.swap(false, Ordering::SeqCst)
            && flush.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
        {
            done = true;
            break;
        }
        bench.clock.advance(Duration::from_millis(100));
    }
    assert!(done, "the flush was never woken again");
    assert_eq!(bench.on_record().record.outcome(), Some(Outcome::success("first")));
}

/// tokio's timers panic once their runtime has shut down. Clean-up that waits on one is over then,
/// and nothing else is: the claim is left to its lease.
#[cfg(feature = "tokio")]
#[test]
fn clean_up_that_waits_on_a_runtime_that_has_shut_down_is_left_to_the_lease() {
    let clock = ManualClock::new();
    let store = crate::support::FaultyStore::new(&clock);
    let dedup = Deduplicator::builder(store.clone()).tokio().lease(LEASE).build().unwrap();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let first = runtime();
    // The claim is applied, and its answer never comes. Where the call is dropped there is no
    // runtime to clean up on.
    store.plan([Fault::HangAfter]);
    let mut run = Box::pin(dedup.request(key()).run(|_| async { Ok::<_, &str>(String::new()) }));
    first.block_on(async { assert!(poll(&mut run).is_none()) });
    drop(run);
    store.plan([Fault::Refused]);
    first.block_on(async {
        assert!(poll(&mut Box::pin(dedup.flush())).is_none(), "it waits for its next try");
    });
    drop(first);
    runtime().block_on(dedup.flush());
    assert_eq!(store.peek(&key()).unwrap().status(), Status::InProgress, "nobody released it");
    clock.advance(LEASE);
    let again = dedup.request(key()).run(|_| async { Ok::<_, &str>("second".to_owned()) });
    assert!(matches!(runtime().block_on(again), Ok(Answer::Executed { info, .. }) if info.after_doubt));
}
