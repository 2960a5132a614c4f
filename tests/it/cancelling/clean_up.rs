//! Clean-up that nobody waits for, and who drives it.

use std::sync::atomic::AtomicUsize;

use futures::FutureExt as _;
use oncekey::Store as _;
use oncekey_conformance::Intercept;

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

/// tokio's timers panic once their runtime has shut down. Clean-up that a runtime leaves in the middle
/// is begun anew by whoever drives it next.
#[cfg(feature = "tokio")]
#[test]
fn clean_up_on_a_runtime_that_has_shut_down_is_put_back() {
    for by_spawner in [false, true] {
        let clock = ManualClock::new();
        let store = crate::support::FaultyStore::new(&clock);
        let dedup = Deduplicator::builder(store.clone()).tokio().lease(LEASE).build().unwrap();
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let first = runtime();
        // The claim is applied, and its answer never comes.
        store.plan([Fault::HangAfter]);
        let mut run = Box::pin(dedup.request(key()).run(|_| async { Ok::<_, &str>(String::new()) }));
        first.block_on(async { assert!(poll(&mut run).is_none()) });
        store.plan([Fault::Refused]);
        if by_spawner {
            first.block_on(async {
                drop(run);
                tokio::task::yield_now().await;
            });
        } else {
            // Where the call is dropped there is no runtime to clean up on.
            drop(run);
            first.block_on(async {
                assert!(poll(&mut Box::pin(dedup.flush())).is_none(), "it waits for its next try");
            });
        }
        drop(first);
        assert_eq!(store.peek(&key()).unwrap().status(), Status::InProgress);
        runtime().block_on(dedup.flush());
        let released = State::Released { fresh_operation_id: false };
        assert_eq!(store.peek(&key()).unwrap().record.state(), released, "by a spawner: {by_spawner}");
    }
}

/// A store behind a pool of connections: a call holds one from its first poll until it is answered
/// or dropped.
fn pooled(clock: &ManualClock, free: &Arc<AtomicUsize>) -> Intercept<MemoryStore> {
    let store = Intercept::new(MemoryStore::builder().clock(clock.clone()).build());
    let (on_load, on_exchange) = (Arc::clone(free), Arc::clone(free));
    store
        .on_load(move |store, key| {
            let free = Arc::clone(&on_load);
            Box::pin(async move {
                let _connection = Connection::take(free).await;
                yield_now().await;
                store.load(key).await
            })
        })
        .on_exchange(move |store, key, expected, put| {
            let free = Arc::clone(&on_exchange);
            Box::pin(async move {
                let _connection = Connection::take(free).await;
                yield_now().await;
                store.compare_exchange(key, expected, put).await
            })
        })
}

/// One of a pool's, until it is dropped.
struct Connection(Arc<AtomicUsize>);

impl Connection {
    async fn take(free: Arc<AtomicUsize>) -> Self {
        loop {
            let taken = free.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |free| free.checked_sub(1));
            if taken.is_ok() {
                return Self(free);
            }
            yield_now().await;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Clean-up that nobody drives holds no connection, and neither does what a call that came by began
/// and left.
#[test]
fn clean_up_that_nobody_drives_holds_nothing() {
    const POOL: usize = 4;
    let clock = ManualClock::new();
    let free = Arc::new(AtomicUsize::new(POOL));
    let dedup =
        Deduplicator::builder(pooled(&clock, &free)).clock(clock.clone()).lease(LEASE).build().unwrap();
    let key_of = |id: usize| Key::new("payments.charge", id.to_string()).unwrap();
    let run = |id| Box::pin(dedup.request(key_of(id)).run(|_| async { Ok::<_, &str>(String::new()) }));
    let mut runs: Vec<_> = (0..POOL).map(&run).collect();
    for run in &mut runs {
        (0..2)
            .for_each(|_| assert!(poll(run).is_none(), "its claim is written, and its completion under way"));
    }
    assert_eq!(free.load(Ordering::SeqCst), 0);
    drop(runs);
    assert_eq!(free.load(Ordering::SeqCst), POOL, "the drops began something");
    // It gets on with calls that come by.
    let mut left = run(POOL);
    assert!(poll(&mut left).is_none());
    assert!(free.load(Ordering::SeqCst) >= POOL - 2, "the call began more than one job");
    drop(left);
    assert_eq!(free.load(Ordering::SeqCst), POOL, "the call left something begun behind");
    for id in 10..40 {
        let mut run = run(id);
        let answer = (0..20).find_map(|_| poll(&mut run)).expect("it ends").unwrap();
        assert!(matches!(answer, Answer::Executed { .. }), "{answer:?}");
        drop(run);
        assert_eq!(free.load(Ordering::SeqCst), POOL);
    }
    for id in 0..POOL {
        let entry = crate::support::ready(dedup.store().inner().load(&key_of(id))).unwrap().unwrap();
        assert!(entry.record.is_completed(), "{id}: {entry:?}");
    }
}

/// A call that comes by drives some of the clean-up that waits, and not all of it.
#[test]
fn a_call_polls_few_of_the_jobs_that_are_queued() {
    const STUCK: usize = 1_000;
    let polls = Arc::new(AtomicUsize::new(0));
    let (counts, hangs) = (Arc::clone(&polls), Arc::new(AtomicUsize::new(0)));
    let hanging = Arc::clone(&hangs);
    // While `hangs` is set, no call is answered.
    let store = Intercept::new(MemoryStore::new()).before(move |_| {
        let (counts, hanging) = (Arc::clone(&counts), Arc::clone(&hanging));
        Box::pin(std::future::poll_fn(move |_| {
            counts.fetch_add(1, Ordering::SeqCst);
            match hanging.load(Ordering::SeqCst) {
                0 => std::task::Poll::Ready(()),
                _ => std::task::Poll::Pending,
            }
        }))
    });
    let builder =
        Deduplicator::builder(store).lease(Duration::from_secs(3600)).store_timeout(Duration::from_secs(600));
    let dedup = builder.build().unwrap();
    let request = |id: String| dedup.request(Key::new("orders.ship", id).unwrap());
    let done = async |_: oncekey::Attempt| Ok::<_, String>("done".to_owned());
    hangs.store(1, Ordering::SeqCst);
    for id in 0..STUCK {
        let run = request(id.to_string()).run(done);
        assert!(run.now_or_never().is_none(), "its claim is on its way");
    }
    let before = polls.load(Ordering::SeqCst);
    assert!(request("one more".to_owned()).run(done).now_or_never().is_none());
    let polled = polls.load(Ordering::SeqCst) - before;
    assert!(polled <= 32, "one call polled {polled} times");
}
