//! Each duration that a user may give, but those of the engine's builder, at its extremes: zero, a
//! nanosecond, the longest. Those of the builder are beside it, in `src/engine/options/tests.rs`.

use std::time::Duration;

use oncekey::store::CachedStore;
use oncekey::{Answer, Deduplicator, Earlier};

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
