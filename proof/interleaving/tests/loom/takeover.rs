//! Claims past their lease: takeovers racing each other, and racing the owner's late completion.

use std::time::Duration;

use loom::future::block_on;
use oncekey::{Answer, ClaimError, Earlier};

use crate::support::{LEASE, PREEMPTIONS, Run, Sometimes, World, assert_idle, explore, granted};

/// The one run of a takeover: the second attempt, with a greater token, and the first one in doubt.
fn assert_second_attempt(runs: &[Run], first_token: u64) {
    let [Run { attempt: 2, token, after_doubt: true }] = *runs else {
        panic!("one takeover executes, as the second attempt and after doubt: {runs:?}")
    };
    assert!(token > first_token, "fencing tokens rise: {token} after {first_token}");
}

#[test]
fn of_two_takeovers_of_one_expired_claim_one_wins() {
    let refused = Sometimes::new("the loser finds the winner at it");
    let replayed = Sometimes::new("the loser finds the winner's outcome");
    let (saw_refused, saw_replayed) = (refused.clone(), replayed.clone());
    explore("two takeovers", PREEMPTIONS, move || {
        let world = World::new();
        let (one, two) = (world.engine(), world.engine());
        let abandoned = granted(&world.engine());
        let first_token = abandoned.fence().get();
        drop(abandoned);
        world.clock.advance(LEASE);

        let other = world.spawn_call(&one, Duration::ZERO, "by one thief");
        let mine = world.call(&two, Duration::ZERO, "by the other thief");
        let other = other.join().unwrap();
        assert_second_attempt(&world.runs(), first_token);
        let (winner, loser) = if mine.ran_now() { (mine, other) } else { (other, mine) };
        let Answer::Executed { value, info, .. } = winner else { panic!("not on record: {winner:?}") };
        assert!(info.attempt == 2 && info.after_doubt, "{info:?}");
        match &loser {
            Answer::Earlier(Earlier::InProgress { attempt, .. }) => assert_eq!(*attempt, 2),
            Answer::Earlier(Earlier::Replayed { value: replayed, info: loser_info, .. }) => {
                assert_eq!((replayed, loser_info), (&value, &info));
            }
            other => panic!("not an answer to the loser: {other:?}"),
        }
        saw_refused.saw(matches!(loser, Answer::Earlier(Earlier::InProgress { .. })));
        saw_replayed.saw(matches!(loser, Answer::Earlier(Earlier::Replayed { .. })));
        assert_eq!(world.recorded(), Some(value));
    });
    refused.check();
    replayed.check();
}

#[test]
fn a_late_completion_or_a_takeover_is_accepted_and_never_both() {
    explore_late("a late completion and a takeover", World::new);
}

#[test]
fn a_late_completion_or_a_takeover_at_once_is_accepted_and_never_both() {
    explore_late("a late completion and a takeover, at once", World::at_once);
}

fn explore_late(name: &str, world: fn() -> World) {
    let completed = Sometimes::new("the completion is accepted");
    let superseded = Sometimes::new("the takeover comes first");
    let (saw_completed, saw_superseded) = (completed.clone(), superseded.clone());
    explore(name, PREEMPTIONS, move || {
        let world = world();
        let (owners, thiefs) = (world.engine(), world.engine());
        let mut claim = granted(&owners);
        let first_token = claim.fence().get();
        world.clock.advance(LEASE);

        let thief = world.spawn_call(&thiefs, Duration::ZERO, "by the thief");
        let completion = block_on(claim.complete("by the owner"));
        drop(claim);
        let thief = thief.join().unwrap();
        saw_completed.saw(completion.is_ok());
        saw_superseded.saw(completion.is_err());
        match completion {
            Ok(_) => {
                let replays = matches!(&thief, Answer::Earlier(Earlier::Replayed { value, .. }) if value == "by the owner");
                assert!(replays, "an accepted completion is replayed: {thief:?}");
                assert!(world.runs().is_empty(), "an accepted outcome is not executed again");
                assert_eq!(world.recorded().as_deref(), Some("by the owner"));
            }
            Err(ClaimError::Superseded { possibly_applied: false, .. }) => {
                let executes = matches!(&thief, Answer::Executed { value, .. } if value == "by the thief");
                assert!(executes, "a refused completion means a takeover: {thief:?}");
                assert_second_attempt(&world.runs(), first_token);
                assert_eq!(world.recorded().as_deref(), Some("by the thief"));
            }
            Err(other) => panic!("not an answer to a late completion: {other:?}"),
        }
        assert_idle(&owners);
        assert_idle(&thiefs);
    });
    completed.check();
    superseded.check();
}
