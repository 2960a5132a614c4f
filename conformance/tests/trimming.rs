//! Stores that drop the bytes of outcomes past their retention: the kit's check, over right stores and wrong ones; and what
//! an engine's callers see.
#![allow(clippy::unwrap_used)]

#[path = "conformance/harnesses.rs"]
#[allow(dead_code, reason = "other tests have harnesses in it too")]
mod harnesses;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use harnesses::{Memory, MemoryOnRealTime};
use oncekey::answer::Unavailable;
use oncekey::protocol::{Entry, Expected, OutcomeBody};
use oncekey::store::{CachedStore, Exchange, ListInDoubt as _, Put, Store as _, TrimOutcomes, Trimmed};
use oncekey::time::ManualClock;
use oncekey::{Answer, Claim, ClaimAnswer, Deduplicator, Earlier, Key, MemoryStore};
use oncekey_conformance::{FaultStore, Intercept, check_trimming, over};

const HOUR: Duration = Duration::from_secs(3600);

fn ready<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the future is not ready at once"),
    }
}

#[test]
fn right_stores_pass() {
    check_trimming(&Memory).unwrap();
    check_trimming(&MemoryOnRealTime).unwrap();
    check_trimming(&over(Memory, |store, _| Arc::new(store))).unwrap();
    check_trimming(&over(Memory, |store, time| FaultStore::new(store).with_clock(time.clone()))).unwrap();
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    /// Nothing is trimmed.
    Never,
    /// More than was asked for.
    Unbounded,
    /// It says that it trimmed, each time.
    Boasts,
    /// It never comes to an end.
    Endless,
    /// As a write of its own, at another version.
    Rewrites,
    /// The whole record goes.
    Purges,
    /// What a live record holds, too.
    TrimsTheLive,
}

/// A store over the memory store that trims wrongly.
fn wrong(inner: MemoryStore, how: How) -> Intercept<MemoryStore> {
    Intercept::new(inner)
        .on_load(move |store, key| Box::pin(async move { Ok(seen(how, store.load(key).await?)) }))
        .on_trim(move |store, cursor, limit| {
            Box::pin(async move {
                let limit = if how == How::Unbounded { limit + 3 } else { limit };
                if how == How::Never {
                    return Ok(Trimmed { trimmed: 0, next: None });
                }
                let done = store.trim_outcomes(cursor, limit).await?;
                Ok(match how {
                    How::Boasts => Trimmed { trimmed: limit, ..done },
                    How::Endless => Trimmed { next: Some(done.next.unwrap_or(0)), ..done },
                    _ => done,
                })
            })
        })
}

/// What such a store answers of what is there.
fn seen(how: How, found: Option<Entry>) -> Option<Entry> {
    let entry = found?;
    Some(match how {
        How::Purges if entry.left.is_zero() && entry.record.outcome().is_some() => return None,
        How::Rewrites if trimmed(&entry) => {
            Entry { version: oncekey::protocol::Version::new(entry.version.get() + 1), ..entry }
        }
        How::TrimsTheLive => {
            let record = entry.record.without_outcome().unwrap_or_else(|| entry.record.clone());
            Entry { record, ..entry }
        }
        _ => entry,
    })
}

fn trimmed(entry: &Entry) -> bool {
    entry.record.outcome().is_some_and(|outcome| matches!(outcome.body, OutcomeBody::Dropped { .. }))
}

#[test]
fn wrong_stores_are_found_out() {
    for how in
        [How::Never, How::Unbounded, How::Boasts, How::Endless, How::Rewrites, How::Purges, How::TrimsTheLive]
    {
        let found = check_trimming(&over(Memory, move |inner, _| wrong(inner, how)));
        assert!(found.is_err(), "{how:?} passes");
    }
}

// --- What callers see -------------------------------------------------------------------------------------------------

fn key(id: u32) -> Key {
    Key::new("orders.ship", id.to_string()).unwrap()
}

fn engine(clock: &ManualClock) -> Deduplicator<MemoryStore> {
    let store = MemoryStore::builder().clock(clock.clone()).build();
    Deduplicator::builder(store).clock(clock.clone()).retention(HOUR).tail(23 * HOUR).build().unwrap()
}

fn trim_all(store: &impl TrimOutcomes) -> usize {
    let (mut trimmed, mut cursor) = (0, None);
    loop {
        let Ok(done) = ready(store.trim_outcomes(cursor, 100)) else { panic!("the trim failed") };
        trimmed += done.trimmed;
        cursor = done.next;
        if cursor.is_none() {
            return trimmed;
        }
    }
}

/// The cheap part of the tail: a thousand outcomes of 10 kB are gone, and every duplicate is still told that it is done.
#[test]
fn after_its_retention_an_outcome_costs_no_bytes_and_stays_done() {
    let clock = ManualClock::new();
    let dedup = engine(&clock);
    let large = vec![7_u8; 10_000];
    for id in 0..1000 {
        let large = large.clone();
        let told = ready(dedup.request(key(id)).run(|_| async move { Ok::<_, String>(large) }));
        assert!(matches!(told, Ok(Answer::Executed { .. })));
    }
    let full = dedup.store().usage().bytes;
    assert!(full > 10_000_000);
    assert_eq!(trim_all(dedup.store()), 0, "all are within their retention");
    clock.advance(HOUR);
    assert_eq!(trim_all(dedup.store()), 1000);
    let left = dedup.store().usage();
    assert_eq!(left.records, 1000);
    assert!(left.bytes < full / 30, "{left:?} of {full}");
    for id in 0..1000 {
        let again =
            ready(dedup.request(key(id)).run(|_| async { Ok::<_, String>(Vec::<u8>::new()) })).unwrap();
        assert!(
            matches!(again, Answer::Earlier(Earlier::Done { why: Unavailable::NoLongerKept, .. })),
            "{again:?}"
        );
    }
    let found = ready(dedup.inspect(&key(7))).unwrap().unwrap();
    assert_eq!(found.outcome_len, None);
    clock.advance(23 * HOUR);
    let again = ready(dedup.request(key(7)).run(|_| async { Ok::<_, String>(Vec::<u8>::new()) })).unwrap();
    assert!(matches!(again, Answer::Executed { .. }), "{again:?}");
}

fn granted(dedup: &Deduplicator<MemoryStore>, id: u32) -> Claim<MemoryStore> {
    match ready(dedup.request(key(id)).claim()) {
        Ok(ClaimAnswer::Granted(claim)) => claim,
        other => panic!("not granted: {other:?}"),
    }
}

/// P6 over a trim: a completion sent again is told that it is done; another is refused.
#[test]
fn a_completion_sent_again_after_a_trim_is_the_same_one() {
    let clock = ManualClock::new();
    let dedup = engine(&clock);
    let mut claim = granted(&dedup, 1);
    ready(claim.complete(vec![7_u8; 10_000])).unwrap();
    clock.advance(HOUR);
    assert_eq!(trim_all(dedup.store()), 1);
    ready(claim.complete(vec![7_u8; 10_000])).unwrap();
    assert!(ready(claim.complete(vec![7_u8; 9_999])).is_err());
    assert!(ready(claim.fail(vec![7_u8; 10_000])).is_err());
}

#[test]
fn a_transaction_that_is_settled_after_a_trim_is_found_committed() {
    let clock = ManualClock::new();
    let dedup = engine(&clock);
    let mut claim = granted(&dedup, 1);
    let prepared = ready(claim.prepare(vec![7_u8; 10_000])).unwrap();
    // The transaction commits; its COMMIT's reply is lost, and the process sleeps.
    let put = Put::new(&prepared.record, prepared.live, prepared.linger);
    let committed = dedup.store().compare_exchange(&prepared.key, Expected::At(prepared.expected), put);
    assert!(matches!(ready(committed), Ok(Exchange::Done(_))));
    clock.advance(HOUR);
    assert_eq!(trim_all(dedup.store()), 1);
    assert_eq!(ready(claim.settle(&prepared)).unwrap(), oncekey::Settled::Committed);
}

/// A cache before the store, and a listing of doubts, go on as before.
#[test]
fn a_cache_and_a_listing_are_not_in_the_way() {
    let clock = ManualClock::new();
    let store = MemoryStore::builder().clock(clock.clone()).build();
    let store = CachedStore::new(store, 10, Duration::from_secs(10)).with_clock(clock.clone());
    let dedup = Deduplicator::builder(store).clock(clock.clone()).retention(HOUR).tail(HOUR).build().unwrap();
    let told = ready(dedup.request(key(1)).run(|_| async { Ok::<_, String>(vec![7_u8; 10_000]) }));
    assert!(told.is_ok());
    clock.advance(HOUR);
    assert_eq!(trim_all(dedup.store()), 1);
    let again = ready(dedup.request(key(1)).run(|_| async { Ok::<_, String>(Vec::<u8>::new()) })).unwrap();
    assert!(matches!(again, Answer::Earlier(Earlier::Done { .. })), "{again:?}");
    assert!(ready(dedup.store().list_in_doubt(None, 10)).unwrap().entries.is_empty());
}
