//! A full store: it refuses new keys, never the holder of a claim, and evicts nothing.

use oncekey::memory::MemoryError;
use oncekey::time::ManualClock;
use oncekey::{Deduplicator, Error};

use super::*;

/// Fills the store with entries that live for `live`; how many there was room for.
fn fill(store: &MemoryStore, live: Duration) -> usize {
    let record = record(1, Policy::Reclaim);
    for i in 0..100_000 {
        match ready(store.compare_exchange(
            &numbered(i),
            Expected::Vacant,
            Put::new(&record, live, Duration::ZERO),
        )) {
            Ok(Exchange::Done(_)) => {}
            Err(MemoryError::Full { .. }) => return i,
            other => panic!("{other:?}"),
        }
    }
    panic!("it is never full");
}

fn refused(store: &MemoryStore, i: usize) -> Option<&'static str> {
    let record = record(1, Policy::Reclaim);
    match ready(store.compare_exchange(
        &numbered(i),
        Expected::Vacant,
        Put::new(&record, secs(1), Duration::ZERO),
    )) {
        Err(MemoryError::Full { unit, .. }) => Some(unit),
        Ok(Exchange::Done(_)) => None,
        other => panic!("{other:?}"),
    }
}

/// Opens a store with a bound.
type Open = fn() -> MemoryStore;

#[test]
fn at_its_bound_new_keys_are_refused_and_holders_of_claims_never() {
    let bounds: [(&str, Open); 2] = [
        ("records", || MemoryStore::builder().records_max(100).clock(ManualClock::new()).build()),
        ("bytes", || MemoryStore::builder().bytes_max(20_000).clock(ManualClock::new()).build()),
    ];
    for (unit, store) in bounds {
        let store = store();
        let room = fill(&store, secs(60));
        assert!(room >= 50, "{unit}: room for {room}");
        assert_eq!(refused(&store, 1_000_000), Some(unit));
        let usage = store.usage();
        // Renewals and a large outcome are written all the same; nothing is evicted for them.
        let version = |i| ready(store.load(&numbered(i))).unwrap().expect("evicted").version;
        for i in 0..room {
            done(put(&store, &numbered(i), Expected::At(version(i)), secs(60), Duration::ZERO));
        }
        assert_eq!(store.usage(), usage, "{unit}: the same records");
        // A duplicate is answered, not refused.
        let duplicate = put(&store, &numbered(0), Expected::Vacant, secs(1), Duration::ZERO);
        assert!(matches!(duplicate, Exchange::Conflict(Some(_))), "{duplicate:?}");
    }
}

#[test]
fn room_is_made_of_what_is_gone_without_a_purge() {
    for bound in ["records", "bytes"] {
        let clock = ManualClock::new();
        let builder = MemoryStore::builder().clock(clock.clone());
        let store = match bound {
            "records" => builder.records_max(1000).build(),
            _ => builder.bytes_max(200_000).build(),
        };
        let room = fill(&store, secs(60));
        clock.advance(secs(60) - NANO);
        assert!(refused(&store, 1_000_000).is_some(), "{bound}: what is live is not evicted");
        clock.advance(NANO);
        let again = (0..room).filter(|i| refused(&store, 2_000_000 + i).is_none()).count();
        assert_eq!(again, room, "{bound}: as much room as before");
    }
}

#[test]
fn an_engine_over_a_full_store_runs_nothing_new_and_finishes_what_runs() {
    let clock = ManualClock::new();
    let store = MemoryStore::builder().records_max(1).clock(clock.clone()).build();
    let dedup =
        Deduplicator::builder(store).clock(clock).call_timeout(Duration::from_millis(1)).build().unwrap();
    let mut owner = claim(&dedup);
    let error = ready(dedup.request(numbered(1)).claim()).unwrap_err();
    let Error::Store { source, .. } = error else { panic!("{error:?}") };
    assert_eq!(source.kind(), oncekey::store::StoreErrorKind::Full);
    assert!(!source.maybe_applied(), "a refusal is certain");
    ready(owner.checkpoint(vec![1_u8; 60_000])).unwrap();
    ready(owner.renew()).unwrap();
    ready(owner.complete(vec![1_u8; 1 << 20])).unwrap();
    assert!(matches!(
        ready(dedup.request(key()).claim()),
        Ok(ClaimAnswer::Answered(Earlier::Replayed { .. }))
    ));
    assert!(ready(dedup.request(numbered(1)).claim()).is_err());
}
