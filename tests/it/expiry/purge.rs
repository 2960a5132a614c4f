//! Purging: bounded, complete, and never in the way of a claim.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use oncekey::memory::MemoryUsage;
use oncekey::time::{Clock as _, ManualClock};

use super::*;

fn nothing(usage: MemoryUsage) -> bool {
    (usage.records, usage.bytes) == (0, 0)
}

#[test]
fn a_purge_is_bounded_and_says_whether_there_is_more() {
    let clock = ManualClock::new();
    let store = MemoryStore::builder().clock(clock.clone()).build();
    for i in 0..1000 {
        done(put(&store, &numbered(i), Expected::Vacant, secs(1), secs(if i < 900 { 1 } else { 1000 })));
    }
    let early = ready(store.purge(10)).unwrap();
    assert_eq!((early.removed, early.more), (0, false));
    clock.advance(secs(2));
    let (mut removed, mut calls) = (0, 0);
    loop {
        let purged = ready(store.purge(64)).unwrap();
        assert!(purged.removed <= 64, "{purged:?}");
        (removed, calls) = (removed + purged.removed, calls + 1);
        assert!(purged.more || removed == 900, "after {calls} calls and {removed} removed: {purged:?}");
        if !purged.more {
            break;
        }
        assert!(calls < 1000, "it does not get on");
    }
    assert_eq!((removed, store.usage().records), (900, 100));
    for i in 0..1000 {
        assert_eq!(ready(store.load(&numbered(i))).unwrap().is_some(), i >= 900, "{i}");
    }
    clock.advance(secs(1000));
    while ready(store.purge(64)).unwrap().more {}
    assert!(nothing(store.usage()), "{:?}", store.usage());
}

#[test]
fn ten_thousand_keys_of_an_engine_are_all_reclaimed() {
    const KEYS: usize = 10_000;
    let bench = bench();
    for i in 0..KEYS {
        let request = bench.dedup.request(numbered(i));
        match i % 4 {
            0 => assert!(ready(request.run(async |_| Ok::<_, String>("x".repeat(i % 300)))).is_ok()),
            1 => assert!(ready(request.run(async |_| Err::<String, _>("unknown"))).is_err()),
            2 => drop(ready(request.claim()).unwrap()),
            _ => match ready(request.claim()) {
                Ok(ClaimAnswer::Granted(mut claim)) => ready(claim.release()).unwrap(),
                other => panic!("{other:?}"),
            },
        }
    }
    let store = &bench.store.inner;
    assert_eq!(store.usage().records, KEYS);
    bench.clock.advance(LEASE + RETENTION);
    while ready(store.purge(256)).unwrap().more {}
    assert!(nothing(store.usage()), "{:?}", store.usage());
    assert!((0..KEYS).all(|i| bench.store.peek(&numbered(i)).is_none()));
}

#[test]
fn two_purgers_and_racing_claims_lose_nothing_and_leave_nothing() {
    const KEYS: usize = 64;
    let clock = ManualClock::new();
    let store = MemoryStore::builder().clock(clock.clone()).shards(4.try_into().unwrap()).build();
    let (over, removed, written) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    removed.fetch_add(ready(store.purge(8)).unwrap().removed, Ordering::SeqCst);
                }
            });
        }
        let claimers: Vec<_> = (0..2)
            .map(|claimer| {
                let (store, clock, written) = (&store, &clock, &written);
                scope.spawn(move || {
                    for i in 0..20_000 {
                        // Each claimer has keys of its own, so that what it wrote must be there.
                        let key = numbered(claimer * KEYS + i % KEYS);
                        let expected = match ready(store.load(&key)).unwrap() {
                            Some(entry) => Expected::At(entry.version),
                            None => Expected::Vacant,
                        };
                        let begun = clock.now();
                        // It may be gone just now: then it is vacant.
                        let version = match put(store, &key, expected, secs(30), secs(1)) {
                            Exchange::Done(version) => version,
                            Exchange::Conflict(None) => {
                                done(put(store, &key, Expected::Vacant, secs(30), secs(1)))
                            }
                            Exchange::Conflict(entry) => panic!("nobody else writes this key: {entry:?}"),
                        };
                        written.fetch_add(1, Ordering::SeqCst);
                        clock.advance(Duration::from_millis(100));
                        match ready(store.load(&key)).unwrap() {
                            Some(entry) => assert_eq!(entry.version, version),
                            // The other claimer moved the clock over its lifetimes.
                            None => assert!(
                                clock.now().saturating_since(begun) >= secs(31),
                                "purged while readable"
                            ),
                        }
                    }
                })
            })
            .collect();
        claimers.into_iter().for_each(|claimer| claimer.join().unwrap());
        over.store(true, Ordering::SeqCst);
    });
    assert_eq!(written.load(Ordering::SeqCst), 40_000);
    clock.advance(secs(31));
    loop {
        let purged = ready(store.purge(8)).unwrap();
        removed.fetch_add(purged.removed, Ordering::SeqCst);
        if !purged.more {
            break;
        }
    }
    assert!(nothing(store.usage()), "{:?}", store.usage());
    // How much of it the two purgers found before the claimers reused it depends on how they were scheduled.
    assert!(removed.load(Ordering::SeqCst) > 0, "there was something to purge");
}

/// Entries whose lease is over are looked at and live on: looking at them is bounded too, and comes to an end.
#[test]
fn a_purge_looks_at_a_bounded_number_of_entries_that_live_on() {
    let clock = ManualClock::new();
    let store = MemoryStore::builder().clock(clock.clone()).build();
    for i in 0..3000 {
        done(put(&store, &numbered(i), Expected::Vacant, secs(1), secs(1000)));
    }
    clock.advance(secs(2));
    let first = ready(store.purge(1)).unwrap();
    assert_eq!((first.removed, first.more), (0, true), "it looked at all of them in one call");
    let calls = (1..100).find(|_| !ready(store.purge(1)).unwrap().more).expect("it comes to an end");
    assert!(calls >= 3000 / 512, "{calls} further calls");
    assert_eq!(store.usage().records, 3000);
}
