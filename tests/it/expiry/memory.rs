//! The embedded store by itself: boundaries of live and linger, keys byte for byte, versions, listing.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use oncekey::Deduplicator;
use oncekey::protocol::Status;
use oncekey::store::ListInDoubt as _;
use oncekey::time::ManualClock;

use super::*;

fn store(clock: &ManualClock) -> MemoryStore {
    MemoryStore::builder().clock(clock.clone()).build()
}

#[test]
fn live_and_linger_end_to_the_nanosecond() {
    let (live, linger) = (secs(10), secs(5));
    for purge in [false, true] {
        let clock = ManualClock::new();
        clock.advance(Duration::from_nanos(123_456_789));
        let store = store(&clock);
        let version = done(put(&store, &key(), Expected::Vacant, live, linger));
        let look = || {
            if purge {
                ready(store.purge(100)).unwrap();
            }
            ready(store.load(&key())).unwrap()
        };
        assert_eq!(look().unwrap().left, live);
        clock.advance(live - NANO);
        assert_eq!(look().unwrap().left, NANO);
        assert_eq!(look().unwrap().status(), Status::InProgress);
        clock.advance(NANO);
        let expired = look().unwrap();
        assert_eq!((expired.left, expired.version), (Duration::ZERO, version));
        clock.advance(linger - NANO);
        assert!(look().is_some());
        let conflict = put(&store, &key(), Expected::Vacant, live, linger);
        assert!(matches!(conflict, Exchange::Conflict(Some(entry)) if entry.version == version));
        clock.advance(NANO);
        assert!(look().is_none());
        let gone = put(&store, &key(), Expected::At(version), live, linger);
        assert_eq!(gone, Exchange::Conflict(None), "past all lifetimes there is nothing to write at");
        assert!(done(put(&store, &key(), Expected::Vacant, live, linger)) > version);
    }
}

#[test]
fn an_expired_entry_can_be_written_over_as_long_as_it_lingers() {
    let clock = ManualClock::new();
    let store = store(&clock);
    let first = done(put(&store, &key(), Expected::Vacant, secs(1), secs(1)));
    clock.advance(secs(2) - NANO);
    let second = done(put(&store, &key(), Expected::At(first), secs(1), secs(1)));
    assert!(second > first);
    assert_eq!(ready(store.load(&key())).unwrap().unwrap().left, secs(1), "every write restamps");
    let stale = put(&store, &key(), Expected::At(first), secs(9), secs(9));
    assert!(
        matches!(stale, Exchange::Conflict(Some(entry)) if entry.version == second && entry.left == secs(1))
    );
}

#[test]
fn lifetimes_saturate_and_for_ever_is_for_ever() {
    let clock = ManualClock::new();
    clock.advance(secs(1000));
    let store = store(&clock);
    for (i, (live, linger)) in
        [(Duration::MAX, Duration::ZERO), (secs(1), Duration::MAX), (Duration::MAX, Duration::MAX)]
            .into_iter()
            .enumerate()
    {
        done(put(&store, &numbered(i), Expected::Vacant, live, linger));
    }
    // Nothing to live, nothing to linger: written and gone.
    let nothing = done(put(&store, &numbered(9), Expected::Vacant, Duration::ZERO, Duration::ZERO));
    assert!(ready(store.load(&numbered(9))).unwrap().is_none());
    assert!(done(put(&store, &numbered(9), Expected::Vacant, Duration::ZERO, Duration::ZERO)) > nothing);
    clock.advance(secs(500 * 365 * 86_400));
    while ready(store.purge(10)).unwrap().more {}
    let left = |i| ready(store.load(&numbered(i))).unwrap().unwrap().left;
    assert_eq!((left(0), left(1), left(2)), (Duration::MAX, Duration::ZERO, Duration::MAX));
    assert_eq!(store.usage().records, 3);
}

#[test]
fn keys_that_look_alike_are_distinct() {
    let ids = [
        "a", "A", "a ", " a", "a\0", "\0a", "\0", "á", "a\u{301}", "a\n", "aa", "ﬀ", "ff", "ss", "ß", "İ",
        "i",
    ];
    let mut keys: Vec<_> = ids.iter().map(|id| Key::new("op", id).unwrap()).collect();
    keys.extend(ids.iter().map(|id| Key::new("Op", id).unwrap()));
    keys.push(Key::scoped(["o", "p"], "a").unwrap());
    keys.push(Key::scoped(["op", "a"], "a").unwrap());
    // One shard, so that they can meet.
    let store = MemoryStore::builder().shards(NonZeroUsize::MIN).clock(ManualClock::new()).build();
    let versions: BTreeSet<_> =
        keys.iter().map(|key| done(put(&store, key, Expected::Vacant, secs(9), secs(0)))).collect();
    assert_eq!((versions.len(), store.usage().records), (keys.len(), keys.len()));
    for key in &keys {
        assert!(matches!(put(&store, key, Expected::Vacant, secs(9), secs(0)), Exchange::Conflict(Some(_))));
    }
}

#[test]
fn versions_of_a_key_rise_for_ever() {
    let clock = ManualClock::new();
    let store = MemoryStore::builder().shards(NonZeroUsize::MIN).clock(clock.clone()).build();
    let mut last = Version::new(0);
    for round in 0..50 {
        let version = done(put(&store, &key(), Expected::Vacant, secs(1), secs(1)));
        assert!(version > last, "round {round}");
        last = done(put(&store, &key(), Expected::At(version), secs(1), secs(1)));
        assert!(last > version);
        clock.advance(secs(2));
        if round % 2 == 0 {
            assert_eq!(ready(store.purge(10)).unwrap().removed, 1);
            assert_eq!(store.usage().records, 0);
        }
    }
}

#[test]
fn a_listing_of_keys_in_doubt_is_complete_page_by_page_and_lists_nothing_else() {
    const EACH: usize = 700;
    let bench = bench();
    let claim = |i: usize| match ready(bench.dedup.request(numbered(i)).claim()) {
        Ok(ClaimAnswer::Granted(claim)) => claim,
        other => panic!("{other:?}"),
    };
    // In doubt, released, forgotten, completed, and completed in its tail.
    let kept = engine_with(&bench.clock, &bench.store, |builder| builder.retention(LEASE).tail(RETENTION));
    for i in 0..EACH {
        drop(claim(5 * i));
        ready(claim(5 * i + 1).release()).unwrap();
        ready(claim(5 * i + 2).complete("x")).unwrap();
        ready(kept.request(numbered(5 * i + 3)).run(async |_| Ok::<_, String>(String::new()))).unwrap();
        drop(claim(5 * i + 4));
    }
    bench.clock.advance(LEASE);
    for i in 0..EACH {
        ready(bench.dedup.forget(&numbered(5 * i + 4))).unwrap();
    }
    drop(claim(9_999_999)); // and one that runs
    let expected: BTreeSet<_> = (0..EACH).map(|i| numbered(5 * i)).collect();
    let engine = Deduplicator::new(std::sync::Arc::clone(&bench.store.inner));
    for limit in [1, 7, 1000, usize::MAX] {
        let (mut cursor, mut listed) = (None, Vec::new());
        for page in 0.. {
            assert!(page < 100_000, "the listing does not end");
            let page = ready(engine.list_in_doubt(cursor, limit)).unwrap();
            assert!(page.entries.len() <= limit);
            listed.extend(page.entries.into_iter().map(|(key, entry)| {
                assert!(matches!(
                    entry.status(),
                    Status::Expired(oncekey::protocol::ExpiredBecause::Abandoned)
                ));
                key
            }));
            let Some(next) = page.next else { break };
            cursor = Some(next);
        }
        assert_eq!(listed.len(), EACH, "limit {limit}");
        assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), expected, "limit {limit}");
    }
    let direct = ready(bench.store.inner.list_in_doubt(None, 1)).unwrap();
    assert_eq!(direct.entries.len(), 1);
}

/// Nothing is listed past its last nanosecond, reclaimed or not.
#[test]
fn a_listing_has_nothing_that_is_gone() {
    let clock = ManualClock::new();
    let store = store(&clock);
    done(put(&store, &key(), Expected::Vacant, secs(1), secs(1)));
    let listed = || ready(store.list_in_doubt(None, 10)).unwrap().entries.len();
    clock.advance(secs(1) - NANO);
    assert_eq!(listed(), 0, "its lease runs");
    clock.advance(NANO);
    assert_eq!(listed(), 1);
    clock.advance(secs(1) - NANO);
    assert_eq!(listed(), 1);
    clock.advance(NANO);
    assert_eq!((listed(), store.usage().records), (0, 1));
}

/// A page is looked for among a bounded number of entries, in doubt or not.
#[test]
fn a_page_of_a_listing_is_bounded_by_what_it_looks_at() {
    let clock = ManualClock::new();
    let store = store(&clock);
    for i in 0..3000 {
        done(put(&store, &numbered(i), Expected::Vacant, secs(1000), secs(1)));
    }
    let (mut cursor, mut pages) = (None, 0);
    loop {
        let page = ready(store.list_in_doubt(cursor, 1)).unwrap();
        assert!(page.entries.is_empty());
        pages += 1;
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
        assert!(pages < 100, "it does not come to an end");
    }
    assert!(pages > 1, "it looked at all of them for one page");
}

/// The count of bytes follows each write, larger or smaller than what it takes the place of.
#[test]
fn usage_follows_what_is_written() {
    let bench = bench();
    let usage = || bench.store.inner.usage().bytes;
    let mut owner = claim(&bench.dedup);
    let small = usage();
    ready(owner.checkpoint("x".repeat(1000))).unwrap();
    let large = usage();
    assert!((1000..1100).contains(&(large - small)), "{small}, then {large}");
    // A completed record keeps no checkpoint.
    ready(owner.complete("done")).unwrap();
    assert!(usage() < small + 100, "{large}, then {}", usage());
    bench.clock.advance(RETENTION);
    ready(bench.store.inner.purge(1)).unwrap();
    assert_eq!((usage(), bench.store.inner.usage().records), (0, 0));
}
