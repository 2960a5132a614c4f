//! Leaders that are dropped or fail while others wait: of those who wait, exactly one becomes the owner.

use std::future::pending;
use std::time::Duration;

use loom::future::block_on;
use oncekey::answer::ClaimFate;
use oncekey::builder::OnDrop;
use oncekey::{Answer, Attempt, Earlier, Failure, RunError};

use crate::store::pend;
use crate::support::{
    Engine, LEASE, PREEMPTIONS_FEW, PREEMPTIONS_ONE, Run, Sometimes, World, assert_idle, explore, granted,
    key, polled_once,
};

const LOOK_EVERY: Duration = Duration::from_secs(1);

type Waiter = loom::thread::JoinHandle<Answer<String, String>>;

/// A caller that waits for as long as it takes; should it become the owner, its operation succeeds.
fn spawn_waiter(world: &World, engine: &Engine, value: &'static str) -> Waiter {
    let (world, engine) = (world.clone(), engine.clone());
    loom::thread::spawn(move || {
        let operation = |attempt| async { Ok(world.operate(attempt, value).await.unwrap()) };
        let request = engine.request(key()).wait(Duration::MAX);
        block_on(request.run_or_fail::<String, String, _, _>(operation)).unwrap()
    })
}

/// One of the two became the owner, as the second attempt, and the other got its value.
fn assert_one_inherits(world: &World, answers: &[Answer<String, String>; 2], after_doubt: bool) {
    let [Run { attempt: 2, after_doubt: doubt, .. }] = world.runs()[..] else {
        panic!("one of those who wait executes, as the second attempt: {:?}", world.runs())
    };
    assert_eq!(doubt, after_doubt);
    let [one, other] = answers;
    assert!(one.ran_now() != other.ran_now(), "one executes, one is told: {answers:?}");
    assert!(one.value().is_some() && one.value() == other.value(), "both get its value: {answers:?}");
    assert_eq!(world.recorded().as_ref(), one.value());
}

/// Waiters, and a leader that is dropped while it executes. `then` is what ends its lease.
fn explore_dropped(name: &str, preemptions: usize, on_drop: OnDrop, then: fn(&World, &Engine)) {
    let both = Sometimes::new("both take a seat before the leader is dropped");
    let saw_both = both.clone();
    explore(name, preemptions, move || {
        let world = World::new();
        let engine = world.engine_with(|builder| builder.on_drop(on_drop).poll_every(LOOK_EVERY, LOOK_EVERY));
        let hangs = |_: Attempt| pending::<Result<String, std::convert::Infallible>>();
        let mut leader = Box::pin(engine.request(key()).run(hangs));
        polled_once(leader.as_mut());
        let waiters =
            [spawn_waiter(&world, &engine, "by one"), spawn_waiter(&world, &engine, "by the other")];
        loom::thread::yield_now();
        saw_both.saw(world.waited() == 2);
        drop(leader);
        then(&world, &engine);
        let answers = waiters.map(|waiter| waiter.join().unwrap());
        assert_one_inherits(&world, &answers, true);
        assert_idle(&engine);
    });
    both.check();
}

/// The waiters look often, and the clock goes on by less than a lease in all until one of them executes: so the one that
/// inherits never runs out of its own.
#[test]
fn of_two_waiters_one_inherits_from_a_dropped_leader_when_its_lease_is_over() {
    explore_dropped("two waiters and a dropped leader", PREEMPTIONS_ONE, OnDrop::KeepLease, |world, _| {
        world.clock.advance(LEASE);
        let mut looks = 3;
        while world.runs().is_empty() {
            if looks > 0 {
                world.clock.advance(LOOK_EVERY);
                looks -= 1;
            }
            loom::thread::yield_now();
        }
    });
}

/// The clock stands: the clean-up after the drop has to wake one of them.
#[test]
fn of_two_waiters_one_inherits_from_a_leader_dropped_at_once() {
    let name = "two waiters and a leader that expires now";
    explore_dropped(name, PREEMPTIONS_ONE, OnDrop::ExpireNow, |_, engine| block_on(engine.flush()));
}

/// Runs a leader that fails. Its operation starts the two who wait, so they meet it anywhere between its execution and
/// its end; the clock stands. Three threads and all of a run branch so much that more than one preemption takes a minute:
/// the same end of an explicit claim is explored further, in `of_two_waiters_one_inherits_from_an_abandoned_claim`.
fn lead(
    world: &World,
    engine: &Engine,
    failure: Failure<String>,
) -> (RunError<String>, [Answer<String, String>; 2]) {
    let mut waiters = None;
    let operation = |_: Attempt| {
        waiters = Some([spawn_waiter(world, engine, "by one"), spawn_waiter(world, engine, "by the other")]);
        async {
            pend(1).await;
            Err(failure)
        }
    };
    let request = engine.request(key()).run_or_fail::<String, String, _, _>(operation);
    let error = block_on(request).unwrap_err();
    let answers = waiters.expect("the leader executes").map(|waiter| waiter.join().unwrap());
    (error, answers)
}

#[test]
fn of_two_waiters_one_inherits_from_a_failing_leader() {
    let declined = || "declined".to_owned();
    let unknown = move || Failure::Unknown(declined());
    explore_failing("two waiters and a failing leader", unknown, true, |then| {
        matches!(then, ClaimFate::InDoubt)
    });
}

#[test]
fn of_two_waiters_one_inherits_from_a_leader_without_effect() {
    let declined = || "declined".to_owned();
    let no_effect = move || Failure::NoEffect(declined());
    explore_failing("two waiters and a leader without effect", no_effect, false, |then| {
        matches!(then, ClaimFate::Released)
    });
}

fn explore_failing(
    name: &str,
    failure: impl Fn() -> Failure<String> + Send + Sync + 'static,
    after_doubt: bool,
    expected: fn(&ClaimFate) -> bool,
) {
    let both = Sometimes::new("both take a seat");
    let saw_both = both.clone();
    explore(name, PREEMPTIONS_ONE, move || {
        let world = World::new();
        let engine = world.engine();
        let (error, answers) = lead(&world, &engine, failure());
        let RunError::Operation { error, claim, .. } = error else { panic!("its own error: {error:?}") };
        assert!(error == "declined" && expected(&claim), "{error}, {claim:?}");
        saw_both.saw(world.waited() == 2);
        assert_one_inherits(&world, &answers, after_doubt);
        assert_idle(&engine);
    });
    both.check();
}

/// A final failure is an outcome: nobody inherits, all who wait are told of it.
#[test]
fn a_final_failure_is_replayed_to_all_who_wait() {
    let both = Sometimes::new("both take a seat");
    let saw_both = both.clone();
    explore("two waiters and a final failure", PREEMPTIONS_ONE, move || {
        let world = World::new();
        let engine = world.engine();
        let (error, answers) = lead(&world, &engine, Failure::Final("declined".to_owned()));
        assert!(matches!(error, RunError::Operation { claim: ClaimFate::Recorded { .. }, .. }), "{error:?}");
        saw_both.saw(world.waited() == 2);
        for answer in answers {
            let told = matches!(&answer, Answer::Earlier(Earlier::FailedBefore { failure: Some(why), .. }) if why == "declined");
            assert!(told, "{answer:?}");
        }
        assert!(world.runs().is_empty(), "a final failure is not tried again");
        assert_idle(&engine);
    });
    both.check();
}

/// A claim that its owner gives up in doubt, with two who wait.
#[test]
fn of_two_waiters_one_inherits_from_an_abandoned_claim() {
    let both = Sometimes::new("both take a seat");
    let saw_both = both.clone();
    explore("two waiters and an abandoned claim", PREEMPTIONS_FEW, move || {
        let world = World::new();
        let engine = world.engine();
        let mut claim = granted(&engine);
        let waiters =
            [spawn_waiter(&world, &engine, "by one"), spawn_waiter(&world, &engine, "by the other")];
        block_on(claim.abandon()).unwrap();
        drop(claim);
        let answers = waiters.map(|waiter| waiter.join().unwrap());
        saw_both.saw(world.waited() == 2);
        assert_one_inherits(&world, &answers, true);
        assert_idle(&engine);
    });
    both.check();
}
