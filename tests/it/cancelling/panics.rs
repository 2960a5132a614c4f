//! Panics: before the operation, in it, after it, and in what cleans up.

use oncekey_conformance::Intercept;

use super::*;

/// Polls a future to its end; whether it panicked.
fn panics<F: Future>(bench: &Bench, future: F) -> bool {
    catch_unwind(AssertUnwindSafe(|| bench.run(future))).is_err()
}

/// What follows a panic of a run whose operation may have begun.
fn the_lease_stands(bench: &Bench, policy: Policy, context: &str) {
    bench.nothing_is_left();
    let progress = Progress::default();
    progress.polled.set(true);
    next_call_is_legal(bench, &progress, Before::Nothing, policy, OnDrop::KeepLease, context);
}

#[test]
fn a_panic_in_the_operation_leaves_the_claim_to_its_lease() {
    for policy in [Policy::Reclaim, Policy::Hold] {
        for place in ["making it", "its first poll", "after an await"] {
            let bench = bench();
            let request = bench.dedup.request(key()).policy(policy);
            let panicked = match place {
                "making it" => panics(
                    &bench,
                    request.run(|_| -> std::future::Ready<Result<String, &str>> { panic!("planned") }),
                ),
                "its first poll" => {
                    panics(&bench, request.run(|_| async { panic_unless(false).map(|()| String::new()) }))
                }
                _ => panics(
                    &bench,
                    request.run(|_| async {
                        yield_now().await;
                        panic_unless(false).map(|()| String::new())
                    }),
                ),
            };
            assert!(panicked, "{place}");
            the_lease_stands(&bench, policy, place);
        }
    }
}

/// Panics, within an expression of a type.
fn panic_unless(fine: bool) -> Result<(), &'static str> {
    assert!(fine, "planned");
    Ok(())
}

#[test]
fn a_panic_of_the_owner_does_not_hang_who_waits() {
    let bench = bench();
    let wait = || {
        let request = bench.dedup.request(key()).wait(LEASE * 3);
        Box::pin(request.run(|_| async { Ok::<_, &str>("second".to_owned()) }))
    };
    let mut owner = Box::pin(bench.dedup.request(key()).run(|_| async {
        yield_now().await;
        yield_now().await;
        panic_unless(false).map(|()| String::new())
    }));
    assert!(poll(&mut owner).is_none());
    let (mut one, mut two) = (wait(), wait());
    assert!(poll(&mut one).is_none() && poll(&mut two).is_none());
    assert!(panics(&bench, owner.as_mut()));
    drop(owner);
    let begun = bench.clock.now();
    let first = bench.run_pinned(one.as_mut()).unwrap();
    assert!(
        matches!(&first, Answer::Executed { info: RecordInfo { after_doubt: true, .. }, .. }),
        "{first:?}"
    );
    assert!(bench.clock.now().saturating_since(begun) >= LEASE, "not before the lease is over");
    let second = bench.run_pinned(two.as_mut()).unwrap();
    assert!(
        matches!(second, Answer::Earlier(Earlier::Replayed { .. })),
        "exactly one of them ran it: {second:?}"
    );
}

#[test]
fn a_waiter_whose_operation_panics_does_not_hang_the_others() {
    let bench = bench();
    let mut claim = bench.grant();
    let mut one = Box::pin(
        bench.dedup.request(key()).wait(LEASE).run(|_| async { panic_unless(false).map(|()| String::new()) }),
    );
    let mut two = Box::pin(
        bench.dedup.request(key()).wait(LEASE * 3).run(|_| async { Ok::<_, &str>("second".to_owned()) }),
    );
    assert!(poll(&mut one).is_none() && poll(&mut two).is_none());
    bench.run(claim.release()).unwrap();
    assert!(panics(&bench, one.as_mut()), "it drives, claims and runs");
    drop(one);
    let answer = bench.run_pinned(two.as_mut()).unwrap();
    assert!(matches!(answer, Answer::Executed { .. }), "{answer:?}");
}

/// An engine over a store whose calls panic while it is armed, at once and after a turn.
fn panicking_engine(clock: &ManualClock) -> (Deduplicator<Intercept<MemoryStore>>, Arc<AtomicBool>) {
    let armed = Arc::new(AtomicBool::new(false));
    let arm = Arc::clone(&armed);
    let inner = MemoryStore::builder().clock(clock.clone()).build();
    let store = Intercept::new(inner).before(move |_| {
        let armed = Arc::clone(&arm);
        Box::pin(async move {
            assert!(!armed.load(Ordering::SeqCst), "planned");
            yield_now().await;
            assert!(!armed.load(Ordering::SeqCst), "planned");
        })
    });
    let dedup = Deduplicator::builder(store).clock(clock.clone()).lease(LEASE).build().unwrap();
    (dedup, armed)
}

/// Polls to the end, on a clock that stands still.
fn drive<F: Future>(future: F) -> F::Output {
    let mut future = Box::pin(future);
    for _ in 0..1000 {
        if let Some(output) = poll(&mut future) {
            return output;
        }
    }
    panic!("the future does not end");
}

#[test]
fn a_panic_in_a_background_job_ends_that_job_and_nothing_else() {
    // In the first poll of its call to the store, and in a later one.
    for at_once in [true, false] {
        let clock = ManualClock::new();
        let (dedup, armed) = panicking_engine(&clock);
        let mut run = Box::pin(dedup.request(key()).run(|_| async { Ok::<_, &str>("first".to_owned()) }));
        assert!(poll(&mut run).is_none(), "its claim is on its way");
        armed.store(true, Ordering::SeqCst);
        drop(run); // calls no store: this may be an unwinding already
        armed.store(at_once, Ordering::SeqCst);
        let mut flush = Box::pin(dedup.flush());
        assert_eq!(poll(&mut flush).is_some(), at_once);
        armed.store(true, Ordering::SeqCst);
        if !at_once {
            drive(flush);
        }
        armed.store(false, Ordering::SeqCst);
        assert_eq!((dedup.held(), dedup.waiting(), clock.sleepers()), (0, 0, 0));
        let answer =
            drive(dedup.request(key()).run(|_| async { Ok::<_, &str>("second".to_owned()) })).unwrap();
        assert!(matches!(answer, Answer::Executed { .. }), "{answer:?}");
    }
}

#[test]
fn a_store_that_panics_under_a_call_leaves_the_key_free_or_its_outcome_kept() {
    // In the claim, nothing was run; in the completion, the effect happened.
    let clock = ManualClock::new();
    let (dedup, armed) = panicking_engine(&clock);
    armed.store(true, Ordering::SeqCst);
    let run = dedup.request(key()).run(|_| async { Ok::<_, &str>("first".to_owned()) });
    assert!(catch_unwind(AssertUnwindSafe(|| drive(run))).is_err());
    armed.store(false, Ordering::SeqCst);
    assert_eq!((dedup.held(), clock.sleepers()), (0, 0));

    let arm = Arc::clone(&armed);
    let run = dedup.request(key()).run(|_| async move {
        arm.store(true, Ordering::SeqCst);
        Ok::<_, &str>("first".to_owned())
    });
    assert!(catch_unwind(AssertUnwindSafe(|| drive(run))).is_err());
    armed.store(false, Ordering::SeqCst);
    drive(dedup.flush());
    assert_eq!((dedup.held(), clock.sleepers()), (0, 0));
    let second = dedup.request(key()).run(|_| async { Ok::<_, &str>("second".to_owned()) });
    let answer = drive(second).unwrap();
    assert!(
        matches!(&answer, Answer::Earlier(Earlier::Replayed { value, .. }) if value == "first"),
        "{answer:?}"
    );
}

#[test]
fn a_spawner_that_panics_does_not_turn_a_panic_into_an_abort() {
    // As tokio::spawn does outside of a runtime.
    let bench = bench_with(|builder| {
        builder.on_drop(OnDrop::ExpireNow).spawner(|_job| panic!("planned, no runtime"))
    });
    assert!(panics(
        &bench,
        bench.dedup.request(key()).run(|_| async { panic_unless(false).map(|()| String::new()) })
    ));
    assert_eq!((bench.dedup.held(), bench.clock.sleepers()), (0, 0));
    bench.clock.advance(LEASE);
    let runs = AtomicU32::new(0);
    assert!(matches!(
        bench.second_call(&runs),
        Answer::Executed { info: RecordInfo { after_doubt: true, .. }, .. }
    ));
    // Outside of a panic, a drop does not begin one.
    drop(bench.dedup.request(Key::new("payments.charge", "another").unwrap()));
    let other =
        granted(bench.run(bench.dedup.request(Key::new("payments.charge", "third").unwrap()).claim()));
    assert!(catch_unwind(AssertUnwindSafe(|| drop(other))).is_ok());
}

#[test]
fn jobs_go_to_the_spawner() {
    type Jobs = Arc<std::sync::Mutex<Vec<futures::future::BoxFuture<'static, ()>>>>;
    let jobs = Jobs::default();
    let taken = Arc::clone(&jobs);
    let bench = bench_with(|builder| builder.spawner(move |job| taken.lock().unwrap().push(job)));
    bench.store.yields.store(true, Ordering::SeqCst);
    let mut run = Box::pin(bench.dedup.request(key()).run(|_| async { Ok::<_, &str>(String::new()) }));
    assert!(bench.poll_times(run.as_mut(), 2).is_none());
    drop(run);
    let job = jobs.lock().unwrap().pop().expect("one job");
    bench.run(job);
    assert_eq!(bench.on_record().record.state(), State::Released { fresh_operation_id: false });
    bench.nothing_is_left();
}

crate::support::also_at_once! {
    a_panic_in_the_operation_leaves_the_claim_to_its_lease
    a_panic_of_the_owner_does_not_hang_who_waits
    a_waiter_whose_operation_panics_does_not_hang_the_others
    a_spawner_that_panics_does_not_turn_a_panic_into_an_abort
}
