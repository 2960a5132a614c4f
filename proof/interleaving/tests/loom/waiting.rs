//! Waiters against what ends their waiting.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use loom::future::block_on;
use oncekey::{Answer, Attempt, ClaimAnswer, Earlier};

use crate::support::{
    Engine, LEASE, PREEMPTIONS, PREEMPTIONS_FEW, Sometimes, World, assert_idle, explore, granted, key,
    pass_time_until, polled_once,
};

/// A caller that waits and must be told an outcome that is on record by then.
fn spawn_waiter(world: &World, engine: &Engine, outcome: &'static str) -> loom::thread::JoinHandle<()> {
    let (world, engine) = (world.clone(), engine.clone());
    loom::thread::spawn(move || {
        let answer = world.call(&engine, Duration::MAX, "by a waiter");
        assert!(
            matches!(&answer, Answer::Earlier(Earlier::Replayed { value, .. }) if value == outcome),
            "{answer:?}"
        );
        assert_eq!(world.recorded().as_deref(), Some(outcome), "told before it was stored");
    })
}

/// The clock stands, so a waiter that misses the completion waits for ever, which loom reports as a deadlock.
#[test]
fn a_waiter_ends_by_the_completion_alone() {
    explore_completion("a waiter and a completion", World::new);
}

#[test]
fn a_waiter_ends_by_a_completion_at_once_alone() {
    explore_completion("a waiter and a completion, at once", World::at_once);
}

fn explore_completion(name: &str, world: fn() -> World) {
    let waited = Sometimes::new("the waiter takes a seat before the completion");
    let replayed = Sometimes::new("the waiter comes after the completion");
    let (saw_waited, saw_replayed) = (waited.clone(), replayed.clone());
    explore(name, PREEMPTIONS, move || {
        let world = world();
        let engine = world.engine();
        let mut claim = granted(&engine);
        let waiter = spawn_waiter(&world, &engine, "done");
        block_on(claim.complete("done")).unwrap();
        waiter.join().unwrap();
        drop(claim);
        saw_waited.saw(world.waited() == 1);
        saw_replayed.saw(world.waited() == 0);
        assert!(world.runs().is_empty());
        assert_idle(&engine);
    });
    waited.check();
    replayed.check();
}

/// The look is never answered, and no time passes: what a completion leaves that comes after it
/// began has to reach the waiter all the same.
#[test]
fn a_waiter_whose_look_hangs_ends_by_the_completion_alone() {
    explore("a waiter whose look hangs, and a completion", PREEMPTIONS, move || {
        let world = World::new();
        let engine = world.engine();
        let mut claim = granted(&engine);
        world.store.hang_next_load();
        let waiter = world.spawn_call(&engine, Duration::MAX, "by a waiter");
        while world.store.is_to_hang() {
            loom::thread::yield_now();
        }
        block_on(claim.complete("done")).unwrap();
        let answer = waiter.join().unwrap();
        assert!(
            matches!(&answer, Answer::Earlier(Earlier::Replayed { value, .. }) if value == "done"),
            "{answer:?}"
        );
        drop(claim);
        assert!(world.runs().is_empty());
        assert_idle(&engine);
    });
}

/// One of them looks at the store for both; the other hears of the completion all the same.
#[test]
fn two_waiters_end_by_the_completion_alone() {
    let both = Sometimes::new("both waiters take a seat");
    let saw_both = both.clone();
    explore("two waiters and a completion", PREEMPTIONS, move || {
        let world = World::new();
        let engine = world.engine();
        let mut claim = granted(&engine);
        let waiters = [spawn_waiter(&world, &engine, "done"), spawn_waiter(&world, &engine, "done")];
        block_on(claim.complete("done")).unwrap();
        for waiter in waiters {
            waiter.join().unwrap();
        }
        drop(claim);
        saw_both.saw(world.waited() == 2);
        assert!(world.runs().is_empty());
        assert_idle(&engine);
    });
    both.check();
}

/// A release leaves no outcome: of those who wait, one runs the operation and the other gets its value.
#[test]
fn after_a_release_one_waiter_executes() {
    explore("two waiters and a release", PREEMPTIONS_FEW, move || {
        let world = World::new();
        let engine = world.engine();
        let mut claim = granted(&engine);
        let other = world.spawn_call(&engine, Duration::MAX, "by a waiter");
        let one = world.spawn_call(&engine, Duration::MAX, "by a waiter");
        block_on(claim.release()).unwrap();
        drop(claim);
        let answers = [one.join().unwrap(), other.join().unwrap()];
        assert_eq!(answers.iter().filter(|answer| answer.ran_now()).count(), 1, "{answers:?}");
        assert!(answers.iter().all(|answer| answer.value().is_some()), "{answers:?}");
        assert_eq!(world.runs().len(), 1);
        assert_idle(&engine);
    });
}

/// A leader that was dropped while it executed leaves its lease. A waiter takes over when that is past.
#[test]
fn a_waiter_outlives_a_dropped_leader() {
    explore("a waiter and a dropped leader", PREEMPTIONS, move || {
        let world = World::new();
        let engine = world.engine();
        let hangs = |_: Attempt| pending::<Result<String, std::convert::Infallible>>();
        let mut leader = Box::pin(engine.request(key()).run(hangs));
        polled_once(leader.as_mut());
        let done = Arc::new(AtomicBool::new(false));
        let waiter = loom::thread::spawn({
            let (engine, done) = (engine.clone(), Arc::clone(&done));
            move || {
                let answer = block_on(engine.request(key()).wait(Duration::MAX).claim()).unwrap();
                done.store(true, Ordering::SeqCst);
                answer
            }
        });
        drop(leader);
        pass_time_until(&world, LEASE, &done);
        let answer = waiter.join().unwrap();
        let ClaimAnswer::Granted(mut claim) = answer else { panic!("the waiter takes over: {answer:?}") };
        assert_eq!((claim.number(), claim.after_doubt()), (2, true));
        block_on(claim.complete("by the waiter")).unwrap();
        drop(claim);
        assert_eq!(world.recorded().as_deref(), Some("by the waiter"));
        assert_idle(&engine);
    });
}

/// The waiter that looks at the store for both leaves; the other looks from then on, and finds what another process
/// completed.
#[test]
fn a_waiter_goes_on_when_the_one_that_looked_leaves() {
    let inherited = Sometimes::new("the second waiter is there before the first one leaves");
    let saw_inherited = inherited.clone();
    explore("a waiter and one that leaves", PREEMPTIONS, move || {
        let world = World::new();
        let (engine, elsewhere) = (world.engine(), world.engine());
        let mut claim = granted(&elsewhere);
        let mut leaver = Some(Box::pin(engine.request(key()).wait(Duration::MAX).claim()));
        polled_once(leaver.as_mut().unwrap().as_mut());
        let done = Arc::new(AtomicBool::new(false));
        let waiter = loom::thread::spawn({
            let (world, engine, done) = (world.clone(), engine.clone(), Arc::clone(&done));
            move || {
                let answer = world.call(&engine, Duration::MAX, "by the waiter");
                done.store(true, Ordering::SeqCst);
                answer
            }
        });
        loom::thread::yield_now();
        saw_inherited.saw(world.waited() == 2);
        drop(leaver.take());
        block_on(claim.complete("elsewhere")).unwrap();
        pass_time_until(&world, LEASE, &done);
        let answer = waiter.join().unwrap();
        assert!(
            matches!(&answer, Answer::Earlier(Earlier::Replayed { value, .. }) if value == "elsewhere"),
            "{answer:?}"
        );
        assert_idle(&engine);
    });
    inherited.check();
}
