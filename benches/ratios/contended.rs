//! 64 tasks that race for one key, on a runtime of two workers, both sides on the same tasks.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use oncekey::{Deduplicator, Key, MemoryStore};
use tokio::task::{JoinSet, yield_now};

use crate::measure::{Effort, Ratios, in_pairs};
use crate::raw::{RawStore, Slot, compose};
use crate::work::{Outcome as _, SCOPE, id};

const RACERS: usize = 64;
const WAIT: Duration = Duration::from_secs(60);

/// What the operation of a race does.
#[derive(Clone, Copy)]
pub(crate) enum Operation {
    /// It returns at once: who comes later finds it completed, as a rule.
    AtOnce,
    /// It gives way to the other tasks once, so that most of them meet it in progress and wait.
    GivesWay,
}

impl Operation {
    async fn run(self, runs: &AtomicU64, number: u64) -> Vec<u8> {
        runs.fetch_add(1, Ordering::Relaxed);
        if matches!(self, Self::GivesWay) {
            yield_now().await;
        }
        Vec::of(number)
    }
}

/// Races, one key after the other. An operation of the table is one race of all tasks.
pub(crate) fn races(effort: &Effort, operation: Operation) -> Ratios {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("two threads");
    let races = effort.races;
    let raw = || {
        let store = Arc::new(RawStore::<Vec<u8>>::new());
        // The driver is a task too: spawning from a worker is what a service does.
        let driver = runtime.spawn(drive(races, move |id, number, runs| {
            let store = Arc::clone(&store);
            async move { race_raw(&store, &id, number, &runs, operation).await }
        }));
        runtime.block_on(driver).expect("a race does not panic")
    };
    let engine = || {
        let dedup = Deduplicator::new(MemoryStore::new());
        let driver = runtime.spawn(drive(races, move |id, number, runs| {
            let dedup = dedup.clone();
            async move { race_engine(&dedup, &id, number, &runs, operation).await }
        }));
        runtime.block_on(driver).expect("a race does not panic")
    };
    in_pairs(effort.pairs, races, raw, engine)
}

async fn race_raw(
    store: &RawStore<Vec<u8>>,
    id: &str,
    number: u64,
    runs: &AtomicU64,
    operation: Operation,
) -> Vec<u8> {
    let key = compose(SCOPE, id);
    let mut seen = store.insert_if_absent(&key);
    if seen.is_none() {
        let outcome = operation.run(runs, number).await;
        store.update(&key, outcome.clone());
        return outcome;
    }
    loop {
        match seen {
            Some(Slot::Completed(outcome)) => return outcome,
            // The raw table has nobody to wake who waits, so they look again whenever it is their turn.
            _ => yield_now().await,
        }
        seen = store.look_up(&key);
    }
}

async fn race_engine(
    dedup: &Deduplicator<MemoryStore>,
    id: &str,
    number: u64,
    runs: &AtomicU64,
    operation: Operation,
) -> Vec<u8> {
    let key = Key::new(SCOPE, id).expect("a key in order");
    let request = dedup.request(key).wait(WAIT);
    let answer =
        request.run(|_attempt| async { Ok::<_, Infallible>(operation.run(runs, number).await) }).await;
    answer.expect("the memory store does not fail").into_value().expect("every racer gets the outcome")
}

/// Runs the races, and answers how long they took. Each must run its operation once and give all racers its outcome.
async fn drive<F, Fut>(races: usize, racer: F) -> Duration
where
    F: Fn(Arc<str>, u64, Arc<AtomicU64>) -> Fut,
    Fut: Future<Output = Vec<u8>> + Send + 'static,
{
    let ids: Vec<Arc<str>> = (0..races).map(|number| id(number).into()).collect();
    let mut took = Duration::ZERO;
    for (id, number) in ids.into_iter().zip(0_u64..) {
        let runs = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        let start = Instant::now();
        for _ in 0..RACERS {
            tasks.spawn(racer(Arc::clone(&id), number, Arc::clone(&runs)));
        }
        let outcomes = tasks.join_all().await;
        took += start.elapsed();
        assert_eq!(runs.load(Ordering::Relaxed), 1, "one execution per key");
        assert_eq!(outcomes.len(), RACERS);
        assert!(outcomes.iter().all(|outcome| *outcome == Vec::of(number)), "all racers get its outcome");
    }
    took
}
