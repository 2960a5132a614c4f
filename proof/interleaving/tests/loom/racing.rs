//! Callers of one key in one process, with and without waiting.

use std::time::Duration;

use loom::future::block_on;
use oncekey::{Answer, Earlier};

use crate::support::{Engine, PREEMPTIONS, PREEMPTIONS_FEW, Sometimes, World, assert_idle, explore, key};

/// One of the callers executed, all others got its value, and that is what is on record.
fn assert_one_executed(world: &World, answers: &[Answer<String>]) {
    assert_eq!(world.runs().len(), 1, "the operation executes once");
    let executed: Vec<_> = answers.iter().filter(|answer| answer.ran_now()).collect();
    let [Answer::Executed { value, info, .. }] = executed[..] else {
        panic!("one caller executes, and its outcome is on record: {answers:?}")
    };
    for answer in answers {
        match answer {
            Answer::Executed { .. } => {}
            Answer::Earlier(Earlier::Replayed { value: replayed, info: replayed_info, .. }) => {
                assert_eq!(replayed, value, "every caller gets the one outcome");
                assert_eq!(replayed_info, info);
            }
            // For the callers that do not wait.
            Answer::Earlier(Earlier::InProgress { attempt, .. }) => assert_eq!(*attempt, 1),
            other => panic!("not an answer to a racing caller: {other:?}"),
        }
    }
    assert_eq!(world.recorded().as_ref(), Some(value));
}

#[test]
fn of_two_callers_that_wait_one_executes_and_both_get_its_value() {
    explore_two("two callers that wait", World::new);
}

#[test]
fn of_two_callers_that_wait_one_executes_at_once_and_both_get_its_value() {
    explore_two("two callers that wait, at once", World::at_once);
}

fn explore_two(name: &str, world: fn() -> World) {
    let first = Sometimes::new("the spawned caller executes");
    let second = Sometimes::new("the other caller executes");
    let (saw_first, saw_second) = (first.clone(), second.clone());
    explore(name, PREEMPTIONS, move || {
        let world = world();
        let engine = world.engine();
        let other = world.spawn_call(&engine, Duration::MAX, "by the first");
        let mine = world.call(&engine, Duration::MAX, "by the second");
        let other = other.join().unwrap();
        saw_first.saw(other.ran_now());
        saw_second.saw(mine.ran_now());
        assert!(mine.value().is_some() && other.value().is_some(), "who waits gets the value");
        assert_one_executed(&world, &[mine, other]);
        assert_idle(&engine);
    });
    first.check();
    second.check();
}

#[test]
fn of_a_caller_that_waits_and_one_that_does_not_one_executes() {
    let refused = Sometimes::new("the caller that does not wait is told it is in progress");
    let saw_refused = refused.clone();
    explore("one caller that waits, one that does not", PREEMPTIONS, move || {
        let world = World::new();
        let engine = world.engine();
        let waits = world.spawn_call(&engine, Duration::MAX, "by who waits");
        let mine = world.call(&engine, Duration::ZERO, "by who does not wait");
        let waits = waits.join().unwrap();
        saw_refused.saw(matches!(mine, Answer::Earlier(Earlier::InProgress { .. })));
        assert!(waits.value().is_some(), "who waits gets the value");
        assert_one_executed(&world, &[mine, waits]);
        assert_idle(&engine);
    });
    refused.check();
}

#[test]
fn of_three_callers_that_wait_one_executes_and_all_get_its_value() {
    explore("three callers that wait", PREEMPTIONS_FEW, move || {
        let world = World::new();
        let engine = world.engine();
        let first = world.spawn_call(&engine, Duration::MAX, "by the first");
        let second = world.spawn_call(&engine, Duration::MAX, "by the second");
        let mine = world.call(&engine, Duration::MAX, "by the third");
        let answers = [first.join().unwrap(), second.join().unwrap(), mine];
        assert!(answers.iter().all(|answer| answer.value().is_some()), "who waits gets the value");
        assert_one_executed(&world, &answers);
        assert_idle(&engine);
    });
}

/// Two processes: engines that share nothing but the store.
#[test]
fn of_two_processes_one_executes() {
    explore("two processes", PREEMPTIONS, move || {
        let world = World::new();
        let (one, two) = (world.engine(), world.engine());
        let other = world.spawn_call(&one, Duration::ZERO, "by one process");
        let mine = world.call(&two, Duration::ZERO, "by the other process");
        assert_one_executed(&world, &[mine, other.join().unwrap()]);
    });
}

/// moka's bug: a caller that begins when the leader's mark is gone and its value not yet there. The late callers are
/// started by the operation itself, so they meet the leader anywhere between its execution and its end.
#[test]
fn a_caller_that_begins_while_the_leader_completes_does_not_execute_again() {
    let early = Sometimes::new("the late caller finds the leader at it");
    let late = Sometimes::new("the late caller finds the outcome");
    let (saw_early, saw_late) = (early.clone(), late.clone());
    explore("late callers and a completing leader", PREEMPTIONS, move || {
        let world = World::new();
        let engine = world.engine();
        let (leader, waits, asks) = lead(&world, &engine);
        let (waits, asks) = (waits.join().unwrap(), asks.join().unwrap());
        saw_early.saw(matches!(asks, Answer::Earlier(Earlier::InProgress { .. })));
        saw_late.saw(matches!(asks, Answer::Earlier(Earlier::Replayed { .. })));
        assert!(leader.ran_now(), "the leader had the key to itself");
        assert!(
            matches!(waits, Answer::Earlier(Earlier::Replayed { .. })),
            "who waits gets the leader's value: {waits:?}"
        );
        assert_one_executed(&world, &[leader, waits, asks]);
        assert_idle(&engine);
    });
    early.check();
    late.check();
}

type Late = loom::thread::JoinHandle<Answer<String>>;

/// Runs the leader; its operation starts a caller that waits and one that only asks.
fn lead(world: &World, engine: &Engine) -> (Answer<String>, Late, Late) {
    let mut late = None;
    let leader = engine.request(key()).run(|attempt| {
        late = Some((
            world.spawn_call(engine, Duration::MAX, "by a late waiter"),
            world.spawn_call(engine, Duration::ZERO, "by a late caller"),
        ));
        world.operate(attempt, "by the leader")
    });
    let leader = block_on(leader).unwrap();
    let (waits, asks) = late.expect("the leader executes");
    (leader, waits, asks)
}
