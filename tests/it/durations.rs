//! Each duration that a user may give, but those of the engine's builder, at its extremes: zero, a
//! nanosecond, the longest. Those of the builder are beside it, in `src/engine/options/tests.rs`.

use std::time::Duration;

use oncekey::consume::{Consumer, DeliveryAction, Later, Message};
use oncekey::store::CachedStore;
use oncekey::{Answer, Deduplicator, Earlier, Failure};

use crate::support::*;

const NANO: Duration = Duration::from_nanos(1);
const EXTREMES: [Duration; 3] = [Duration::ZERO, NANO, Duration::MAX];

/// A duplicate that comes while the first one runs; whether it waits until that has ended.
#[test]
fn a_wait() {
    for wait in EXTREMES {
        let bench = bench();
        let mut owner = claim(&bench.dedup);
        let mut tasks = Tasks::default();
        let request = bench.dedup.request(key()).wait(wait);
        let waits = tasks.spawn(request.run(async |_| Ok::<_, String>("second".to_owned())));
        tasks.pass(&bench.clock, NANO);
        assert_eq!(waits.is_done(), wait != Duration::MAX, "{wait:?}");
        ready(owner.complete("first")).unwrap();
        tasks.settle();
        match waits.take().unwrap() {
            Answer::Earlier(Earlier::InProgress { .. }) => assert_ne!(wait, Duration::MAX),
            Answer::Earlier(Earlier::Replayed { value, .. }) => {
                assert_eq!((wait, value.as_str()), (Duration::MAX, "first"));
            }
            other => panic!("{wait:?}: {other:?}"),
        }
    }
}

#[test]
fn a_wait_of_a_consumer() {
    for wait in EXTREMES {
        let bench = bench();
        let mut owner = claim(&bench.dedup);
        let consumer = Consumer::new(bench.dedup.clone()).wait(wait);
        let mut tasks = Tasks::default();
        let told = tasks.spawn(async {
            let handler = async |_| Ok::<_, Failure<String>>("second".to_owned());
            consumer.consume(Message::new(key()), handler).await.reason()
        });
        tasks.pass(&bench.clock, NANO);
        ready(owner.complete("first")).unwrap();
        tasks.settle();
        let expected = if wait == Duration::MAX { "replayed" } else { "in-progress-here" };
        assert_eq!(told.take(), expected, "{wait:?}");
    }
}

/// The delay is what was asked for, and up to half as much again, whatever the number of the attempt.
#[test]
fn a_backoff_of_a_consumer() {
    for (first, most) in EXTREMES.into_iter().flat_map(|first| EXTREMES.map(|most| (first, most))) {
        let bench = bench();
        let consumer = Consumer::new(bench.dedup.clone()).backoff(first, most);
        for attempt in 1..=40 {
            let message = Message::new(key()).deliveries(attempt);
            let told = bench.run(
                consumer.consume(message, async |_| Err::<String, _>(Failure::NoEffect("busy".to_owned()))),
            );
            let DeliveryAction::RetryLater { after, because: Later::NoEffect(_) } = told else {
                panic!("{first:?}, {most:?}: {told:?}")
            };
            let doubled = first.saturating_mul(2_u32.saturating_pow(attempt - 1));
            let exactly = doubled.min(most.max(first));
            // Spread, and rounded to a nanosecond.
            let longest = exactly.saturating_add(exactly / 2).saturating_add(NANO);
            assert!(
                (exactly..=longest).contains(&after),
                "{first:?}, {most:?}, attempt {attempt}: {after:?}"
            );
        }
    }
}

/// Whether a replay comes from the cache, by the age that it may have.
#[test]
fn an_age_of_a_cache() {
    for age_max in EXTREMES {
        let bench = bench();
        let store = bench.store.twin();
        let cached = CachedStore::new(store.clone(), 10, age_max).with_clock(bench.clock.clone());
        let dedup = Deduplicator::builder(cached).clock(bench.clock.clone()).build().unwrap();
        run_text(&dedup, "first");
        bench.clock.advance(NANO);
        let before = store.trips();
        assert!(
            matches!(run_text(&dedup, "second"), Answer::Earlier(Earlier::Replayed { value, .. }) if value == "first")
        );
        assert_eq!(store.trips() == before, age_max == Duration::MAX, "{age_max:?}");
    }
}

#[cfg(feature = "blocking")]
#[test]
fn waits_of_plain_threads() {
    use oncekey::ClaimAnswer;
    use oncekey::blocking::Deduplicator as Face;
    for wait in EXTREMES {
        let builder = Deduplicator::builder(oncekey::MemoryStore::new()).lease(secs(3600));
        let dedup = Face::new(builder.build().unwrap()).unwrap();
        let ClaimAnswer::Granted(mut owner) = dedup.request(key()).claim().unwrap() else {
            panic!("not granted")
        };
        if wait != Duration::MAX {
            assert!(!owner.wait_lost(wait), "{wait:?}");
        }
        std::thread::scope(|scope| {
            let waits =
                scope.spawn(|| dedup.request(key()).wait(wait).run(|_| Ok::<_, String>(String::new())));
            if wait == Duration::MAX {
                while dedup.waiting() == 0 {
                    std::thread::yield_now();
                }
            } else {
                assert!(
                    matches!(waits.join().unwrap(), Ok(Answer::Earlier(Earlier::InProgress { .. }))),
                    "{wait:?}"
                );
                owner.complete("first").unwrap();
                return;
            }
            owner.complete("first").unwrap();
            let told = waits.join().unwrap();
            assert!(
                matches!(&told, Ok(Answer::Earlier(Earlier::Replayed { value, .. })) if value == "first"),
                "{told:?}"
            );
            assert!(owner.wait_lost(wait), "the claim is over, which ends a wait without end");
        });
    }
}
