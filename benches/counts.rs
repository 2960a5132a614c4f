//! One kind of operation, a given number of times: the program whose instructions and allocations
//! `scripts/counts.py` counts. It measures nothing itself.
//!
//! ```text
//! counts <kind> <operations> plain|observed
//! ```
//!
//! Calls go through the whole engine, as in `benches/ratios.rs`: a key built from a prepared id,
//! `request(key).run(..)`, the raw codec and an outcome of 100 bytes as `Vec<u8>`. The set-up of a
//! kind is the same for every number of operations, and nothing is dropped at the end, so the
//! difference of two runs is that of their operations.
#![expect(clippy::print_stderr, reason = "a wrong command line is told")]

use std::convert::Infallible;
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use oncekey::observe::{Event, Observer, StoreCall};
use oncekey::protocol::Expected;
use oncekey::store::Put;
use oncekey::{Answer, Attempt, Deduplicator, Earlier, Key, MemoryStore, Store as _};

const SCOPE: &str = "payments.charge";
/// More ids than any run uses, so that each makes as many.
const FRESH_MAX: usize = 10_000;
const REPLAYED: usize = 100_000;
const POLL: usize = 500;
/// Longer than a run takes under any load: what a run does must not depend on how long it takes.
const LEASE: Duration = Duration::from_secs(6 * 3600);

type Engine = Deduplicator<MemoryStore>;

/// Counts what it is told.
#[derive(Clone, Default)]
struct Counting(Arc<AtomicU64>);

impl Observer for Counting {
    fn event(&self, _key: &Key, _event: &Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn store_call(&self, _call: &StoreCall) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    let [kind, operations, observer @ ("plain" | "observed")] = words[..] else {
        eprintln!("this is run by scripts/counts.py");
        return;
    };
    let operations = operations.parse().expect("a number of operations");
    let told = (observer == "observed").then(Counting::default);
    let builder = Deduplicator::builder(MemoryStore::new()).lease(LEASE);
    let dedup = match &told {
        Some(counting) => builder.observer(counting.clone()),
        None => builder,
    }
    .build()
    .expect("the options are in order");
    match kind {
        "fresh" => fresh(&dedup, operations),
        "hot" => replay(&dedup, 1, operations),
        "keys" => replay(&dedup, REPLAYED, operations),
        "polls" => polls(&dedup, operations),
        _ => panic!("no such kind: {kind}"),
    }
    assert!(told.is_none_or(|told| told.0.load(Ordering::Relaxed) > 0));
    // The records stay in the store: freeing them would count as an operation's.
    std::process::exit(0);
}

/// Ids of 17 characters, so that a composed key has 34 bytes.
fn ids(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("ch_{number:014x}")).collect()
}

fn key(id: &str) -> Key {
    Key::new(SCOPE, id).expect("a key in order")
}

async fn operation(_attempt: Attempt) -> Result<Vec<u8>, Infallible> {
    Ok(vec![b'o'; 100])
}

/// One poll, with a waker that does nothing: see `benches/ratios/work.rs`.
fn ready<T>(call: Pin<&mut impl Future<Output = T>>) -> T {
    match call.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => unreachable!("a call on a memory store that nobody else holds does not wait"),
    }
}

#[inline]
fn call(dedup: &Engine, key: Key) -> Answer<Vec<u8>> {
    let call = pin!(dedup.request(key).run(operation));
    ready(call).expect("the memory store does not fail")
}

fn fresh(dedup: &Engine, operations: usize) {
    for id in &ids(FRESH_MAX)[..operations] {
        assert!(black_box(call(dedup, key(id))).ran_now(), "the key was distinct");
    }
}

/// Replays of so many keys, in steps that meet each of them and no two neighbours in turn.
fn replay(dedup: &Engine, keys: usize, operations: usize) {
    let ids = ids(keys);
    store_outcomes(dedup, &ids);
    let mut next = 0;
    for _ in 0..operations {
        next = (next + 38_197) % keys;
        let answer = black_box(call(dedup, key(&ids[next])));
        assert!(matches!(answer, Answer::Earlier(Earlier::Replayed { .. })), "it is on record");
    }
}

/// Puts the record of one call under all of these keys, at a fraction of what as many calls take.
fn store_outcomes(dedup: &Engine, ids: &[String]) {
    let first = key("the first");
    assert!(call(dedup, first.clone()).ran_now());
    let load = pin!(dedup.store().load(&first));
    let entry = ready(load).expect("the memory store does not fail").expect("it ran");
    for id in ids {
        let (key, put) = (key(id), Put::new(&entry.record, entry.left, Duration::ZERO));
        let exchange = pin!(dedup.store().compare_exchange(&key, Expected::Vacant, put));
        ready(exchange).expect("the memory store does not fail");
    }
}

fn polls(dedup: &Engine, operations: usize) {
    for polled in ids(FRESH_MAX)[..operations].chunks(POLL) {
        let work: Vec<_> = polled.iter().map(|id| (dedup.request(key(id)), operation)).collect();
        let answers = futures::executor::block_on(dedup.run_many(work));
        let ran = |answer: &Result<Answer<Vec<u8>>, _>| answer.as_ref().is_ok_and(Answer::ran_now);
        assert!(black_box(answers).iter().all(ran), "the keys were distinct");
    }
}
