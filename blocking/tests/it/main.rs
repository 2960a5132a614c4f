//! The engine from plain threads, and stores whose calls block.

#![allow(clippy::unwrap_used, unreachable_pub)]
// Many a scenario begins with a call whose answer is not its point.
#![allow(unused_must_use)]

#[path = "../../../tests/it/support.rs"]
mod support;

mod contexts; // what may be called from where
mod durations; // waits at their extremes
mod guards; // the explicit claim
mod kit; // the conformance kit and the simulation over a blocking store
mod many; // many operations of one thread
mod operations; // run, in its forms, on the caller's thread
mod stores; // a blocking store as a store
mod threads; // the thread behind a face, from begin to end
#[cfg(feature = "tokio")]
mod tokio_runtime; // stores that need one

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use oncekey::DeduplicatorBuilder;
use oncekey::time::ManualClock;
use oncekey_blocking as blocking;

use crate::support::*;

type Face = blocking::Deduplicator<FaultyStore>;

/// A clock moved by hand, a store that can go wrong, and a face over an engine over them.
struct Threads {
    clock: ManualClock,
    store: FaultyStore,
    dedup: Face,
}

fn threads() -> Threads {
    threads_with(|builder| builder)
}

fn threads_with(
    change: impl FnOnce(DeduplicatorBuilder<FaultyStore>) -> DeduplicatorBuilder<FaultyStore>,
) -> Threads {
    let Bench { clock, store, dedup } = bench_with(change);
    let threads = Threads { clock, store, dedup: blocking::Deduplicator::new(dedup).unwrap() };
    threads.keeper_sleeps();
    threads
}

impl Threads {
    /// A face of another process over the same store.
    fn other_process(&self) -> Face {
        let engine = engine_with(&self.clock, &self.store, |builder| builder);
        blocking::Deduplicator::new(engine).unwrap()
    }

    /// Waits until the keeper did its round, and sleeps, as nobody else does.
    fn keeper_sleeps(&self) {
        eventually("the keeper sleeps", || self.clock.sleepers() == 1);
    }

    /// Lets time pass in steps of a keeper's round, each of which it makes.
    fn pass(&self, duration: Duration) {
        let step = Duration::from_millis(2500);
        for _ in 0..duration.as_millis().div_ceil(step.as_millis()) {
            self.clock.advance(step);
            self.keeper_sleeps();
        }
    }
}

/// No earlier than the deadline of the attempt: only a renewal that extends it brings a later one.
fn ends_by(attempt: &blocking::Attempt) -> Instant {
    let left = attempt.time_left();
    Instant::now() + left
}

/// No later than the deadline of the attempt.
fn ends_after(attempt: &blocking::Attempt) -> Instant {
    let now = Instant::now();
    now + attempt.time_left()
}

/// Waits for what another thread brings about.
#[track_caller]
fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(180), "not within three minutes: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Set when it is dropped.
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
