//! Housekeeping that starts by itself, on a tokio runtime.

use std::sync::Arc;

use oncekey::time::ManualClock;
use oncekey::{Answer, ClaimAnswer, Deduplicator, Key, MemoryStore};
use tokio::runtime::{Builder, Runtime};

use crate::support::*;

/// While it sleeps: until the next renewals, and until the next purge.
const SLEEPS_OF_A_KEEPER: usize = 2;

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).build().unwrap()
}

/// The clock counts who sleeps.
fn engine() -> (ManualClock, Arc<MemoryStore>, Deduplicator<Arc<MemoryStore>>) {
    let clock = ManualClock::new();
    let store = Arc::new(MemoryStore::builder().clock(clock.clone()).build());
    let dedup = Deduplicator::builder(Arc::clone(&store)).tokio().clock(clock.clone()).build().unwrap();
    (clock, store, dedup)
}

fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < secs(60), "never: {what}");
        std::thread::sleep(millis(1));
    }
}

async fn call(dedup: &Deduplicator<Arc<MemoryStore>>, id: &str) {
    let run =
        dedup.request(Key::new("payments.charge", id).unwrap()).run(async |_| Ok::<_, String>(id.to_owned()));
    assert!(matches!(run.await.unwrap(), Answer::Executed { .. }));
}

#[test]
fn it_starts_with_a_call_on_a_runtime_once_and_anew_where_that_runtime_ended() {
    let (clock, _, dedup) = engine();
    ready(call(&dedup, "outside"));
    assert_eq!(clock.sleepers(), 0, "there is no runtime");
    for time in ["first", "second"] {
        let runtime = runtime();
        for call_of_it in 0..3 {
            runtime.block_on(call(&dedup, &format!("{time} {call_of_it}")));
        }
        eventually("a keeper sleeps", || clock.sleepers() == SLEEPS_OF_A_KEEPER);
        // One more would sleep by now too: this task comes after it.
        runtime.block_on(async { tokio::spawn(async {}).await }).unwrap();
        assert_eq!(clock.sleepers(), SLEEPS_OF_A_KEEPER, "and no other");
        drop(runtime);
        assert_eq!(clock.sleepers(), 0, "it ends with its runtime");
    }
}

#[test]
fn it_renews_a_claim_and_ends_with_its_engine() {
    let (clock, store, dedup) = engine();
    let runtime = runtime();
    let claim = runtime.block_on(dedup.request(key()).claim());
    let Ok(ClaimAnswer::Granted(claim)) = claim else { panic!("{claim:?}") };
    eventually("a keeper sleeps", || clock.sleepers() == SLEEPS_OF_A_KEEPER);
    let begun = claim.time_left();
    clock.advance(secs(12));
    eventually("the claim is renewed", || claim.time_left() >= begun);
    drop(claim);
    drop(dedup);
    eventually("it ends", || Arc::strong_count(&store) == 1 && clock.sleepers() == 0);
}

/// A keeper that the user spawned is enough.
#[test]
fn it_does_not_start_where_a_keeper_works() {
    let (clock, _, dedup) = engine();
    let runtime = runtime();
    runtime.spawn(dedup.keeper());
    eventually("the keeper sleeps", || clock.sleepers() == SLEEPS_OF_A_KEEPER);
    runtime.block_on(call(&dedup, "1"));
    runtime.block_on(async { tokio::spawn(async {}).await }).unwrap();
    assert_eq!(clock.sleepers(), SLEEPS_OF_A_KEEPER);
}
