//! The owner fails while many wait: one of them becomes the owner, and the rest get its outcome.

use std::cell::{Cell, RefCell};

use futures::future::pending;
use oncekey::{Answer, Attempt, Deduplicator, Earlier, Failure, Policy, RunError};

use crate::support::*;

const WAITERS: usize = 100;

/// How the owner fails.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    NoEffect,
    Unknown,
    /// It hangs for longer than it is renewed.
    Hung,
    /// It is dropped, as when its process dies: nobody renews it.
    Dropped,
}

/// What the waiters' operations saw, and how many of them were under way at once.
#[derive(Default)]
struct Runs {
    attempts: RefCell<Vec<(u32, bool)>>,
    running: Cell<u32>,
    running_max: Cell<u32>,
}

async fn wait_and_run(
    bench: &Bench,
    dedup: &Deduplicator<FaultyStore>,
    runs: &Runs,
) -> Result<Answer<String>, RunError<String>> {
    use oncekey::time::Clock as _;
    let request = dedup.request(key()).wait(secs(300));
    let run = request.run(async |attempt: Attempt| {
        runs.attempts.borrow_mut().push((attempt.number(), attempt.after_doubt()));
        runs.running.set(runs.running.get() + 1);
        runs.running_max.set(runs.running_max.get().max(runs.running.get()));
        bench.clock.sleep_until(bench.clock.now() + secs(3)).await;
        runs.running.set(runs.running.get() - 1);
        Ok::<_, String>("second".to_owned())
    });
    run.await
}

fn owner_fails_while_many_wait(end: End, here: usize, there: usize) {
    let bench = bench_with(|builder| builder.renew_for_max(secs(5)));
    let other = bench.other_process();
    let runs = Runs::default();
    let mut tasks = Tasks::default();
    let owner = tasks.spawn(bench.dedup.request(key()).run_or_fail(async |_| {
        use oncekey::time::Clock as _;
        bench.clock.sleep_until(bench.clock.now() + secs(2)).await;
        match end {
            End::NoEffect => Err::<String, _>(Failure::NoEffect("failed".to_owned())),
            End::Unknown => Err(Failure::Unknown("failed".to_owned())),
            End::Hung | End::Dropped => pending().await,
        }
    }));
    tasks.settle();
    let waits: Vec<_> = (0..here + there)
        .map(|i| tasks.spawn(wait_and_run(&bench, if i < here { &bench.dedup } else { &other }, &runs)))
        .collect();
    tasks.pass(&bench.clock, secs(1));
    assert_eq!((bench.dedup.waiting(), other.waiting()), (here, there));
    assert!(runs.attempts.borrow().is_empty());
    tasks.pass(&bench.clock, secs(2));
    match end {
        End::Dropped => tasks.cancel(&owner),
        End::Hung => assert!(!owner.is_done()),
        End::NoEffect | End::Unknown => assert!(owner.is_done()),
    }
    // The look of another process may be a second away; a lease, its whole length.
    let until = if matches!(end, End::Hung | End::Dropped) { LEASE } else { secs(0) };
    tasks.pass(&bench.clock, until + secs(1));
    let doubt = end != End::NoEffect;
    assert_eq!(*runs.attempts.borrow(), [(2, doubt)], "{end:?}, {here} here and {there} there");
    tasks.pass(&bench.clock, secs(10));
    let answers: Vec<_> = waits.iter().map(|waits| waits.take().unwrap()).collect();
    let executed = answers.iter().filter(|answer| matches!(answer, Answer::Executed { .. })).count();
    assert_eq!((executed, runs.running_max.get()), (1, 1), "{end:?}");
    for answer in answers {
        assert_eq!(answer.value().unwrap(), "second", "{end:?}");
        let (Answer::Executed { info, .. } | Answer::Earlier(Earlier::Replayed { info, .. })) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!((info.attempt, info.after_doubt), (2, doubt), "{end:?}");
    }
    assert_eq!((bench.dedup.held(), other.held()), (0, 0));
    assert_eq!((bench.dedup.waiting(), other.waiting(), bench.clock.sleepers()), (0, 0, 0));
}

#[test]
fn one_of_the_waiters_becomes_the_owner_and_the_rest_get_its_outcome() {
    for end in [End::NoEffect, End::Unknown, End::Hung, End::Dropped] {
        for (here, there) in [(WAITERS, 0), (0, WAITERS), (WAITERS, WAITERS), (1, 1)] {
            owner_fails_while_many_wait(end, here, there);
        }
    }
}

#[test]
fn each_waiter_whose_operation_fails_is_followed_by_the_next() {
    let bench = bench();
    let mut owner = claim(&bench.dedup);
    let attempts = RefCell::new(Vec::new());
    let mut tasks = Tasks::default();
    let waits: Vec<_> = (0..10)
        .map(|_| {
            let request = bench.dedup.request(key()).wait(secs(60));
            tasks.spawn(request.run_or_fail(async |attempt: Attempt| {
                attempts.borrow_mut().push(attempt.number());
                yield_now().await;
                match attempt.number() {
                    11 => Ok("the last".to_owned()),
                    _ => Err(Failure::NoEffect("failed".to_owned())),
                }
            }))
        })
        .collect();
    tasks.settle();
    ready(owner.release()).unwrap();
    tasks.settle();
    assert_eq!(*attempts.borrow(), (2..=11).collect::<Vec<_>>(), "one after the other, with no time passing");
    let failed = waits.iter().filter(|waits| waits.take().is_err()).count();
    assert_eq!(failed, 9, "each got its own operation's error");
}

#[test]
fn under_hold_all_waiters_are_told_of_the_doubt_and_nobody_runs() {
    let bench = bench_with(|builder| builder.policy(Policy::Hold));
    let other = bench.other_process();
    let runs = Runs::default();
    let mut owner = claim(&bench.dedup);
    let mut tasks = Tasks::default();
    let waits: Vec<_> = (0..2 * WAITERS)
        .map(|i| tasks.spawn(wait_and_run(&bench, if i % 2 == 0 { &bench.dedup } else { &other }, &runs)))
        .collect();
    tasks.settle();
    ready(owner.abandon()).unwrap();
    tasks.pass(&bench.clock, secs(1));
    for waits in waits {
        let told = waits.take().unwrap();
        assert!(matches!(told, Answer::Earlier(Earlier::InDoubt { attempt: 1, .. })), "{told:?}");
    }
    assert!(runs.attempts.borrow().is_empty());
}

#[test]
fn those_who_wait_hear_of_a_resolution_and_of_a_forgotten_key() {
    use oncekey::Outcome;
    use oncekey::admin::{AdminAnswer, Resolution};
    // Under Hold a waiter is told of the doubt; so these wait for an attempt that is running while an operator waits
    // for its lease to end, as the waiters do.
    let bench = bench_with(|builder| builder.attempts_max(2));
    let owner = claim(&bench.dedup);
    let runs = Runs::default();
    bench.clock.advance(LEASE - std::time::Duration::from_millis(1));
    let mut tasks = Tasks::default();
    let waits = tasks.spawn(wait_and_run(&bench, &bench.dedup, &runs));
    tasks.settle();
    // Nobody polls the waiter while the lease ends and the operator resolves it.
    bench.clock.advance(std::time::Duration::from_millis(1));
    let resolution = Resolution::Completed(Outcome::success("as the bank says"));
    assert_eq!(ready(bench.dedup.resolve(&key(), &resolution)).unwrap(), AdminAnswer::Done);
    tasks.settle();
    let told = waits.take().unwrap();
    assert!(
        matches!(&told, Answer::Earlier(Earlier::Replayed { value, .. }) if value == "as the bank says"),
        "{told:?}"
    );
    assert!(runs.attempts.borrow().is_empty());
    drop(owner);
}

crate::support::also_at_once! {
    one_of_the_waiters_becomes_the_owner_and_the_rest_get_its_outcome
    each_waiter_whose_operation_fails_is_followed_by_the_next
    under_hold_all_waiters_are_told_of_the_doubt_and_nobody_runs
    those_who_wait_hear_of_a_resolution_and_of_a_forgotten_key
}
