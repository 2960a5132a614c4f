//! Forgetting against what it must not cross: a claim that is granted meanwhile, and a completion that comes late.

use loom::future::block_on;
use oncekey::admin::AdminAnswer;
use oncekey::protocol::{ExpiredBecause, Status};
use oncekey::{Claim, ClaimAnswer, ClaimError, Earlier, OperationId};
use std::sync::Arc;

use crate::store::ModelStore;
use crate::support::{Engine, LEASE, PREEMPTIONS, Sometimes, World, assert_idle, explore, granted, key};

/// Forgets the key on a thread of its own: another process.
fn spawn_forget(world: &World) -> loom::thread::JoinHandle<AdminAnswer> {
    let operators = world.engine();
    loom::thread::spawn(move || block_on(operators.forget(&key())).unwrap())
}

fn is_forgotten(world: &World) -> bool {
    world.entry().expect("it lingers").status() == Status::Expired(ExpiredBecause::Forgotten)
}

/// Leaves something under the key that a claim may take; answers the generation.
type Leave = fn(&World, &Engine) -> OperationId;

/// Either the claim finds the key forgotten and begins a new generation, or it goes on with the old one, and then it is
/// not forgotten under its feet.
fn explore_claimed(name: &str, leave: Leave) {
    let forgotten = Sometimes::new("the key is forgotten first");
    let claimed = Sometimes::new("the key is claimed first");
    let crossed = Sometimes::new("the claim comes between the look and the write of the forgetting");
    let (saw_forgotten, saw_claimed, saw_crossed) = (forgotten.clone(), claimed.clone(), crossed.clone());
    explore(name, PREEMPTIONS, move || {
        let world = World::new();
        let engine = world.engine();
        let first = leave(&world, &engine);
        let forget = spawn_forget(&world);
        let mut claim = granted(&engine);
        let forget = forget.join().unwrap();
        match forget {
            AdminAnswer::Done => {
                assert_eq!(claim.number(), 1, "a live claim is forgotten");
                assert_ne!(claim.operation_id(), first, "what was forgotten is gone on with");
            }
            AdminAnswer::Live { .. } | AdminAnswer::Changed { possibly_applied: false, .. } => {
                assert_eq!((claim.number(), claim.operation_id()), (2, first), "{forget:?}");
            }
            other => panic!("not an answer to a forgetting here: {other:?}"),
        }
        saw_forgotten.saw(forget == AdminAnswer::Done);
        saw_claimed.saw(matches!(forget, AdminAnswer::Live { .. }));
        saw_crossed.saw(matches!(forget, AdminAnswer::Changed { .. }));
        block_on(claim.complete("done")).expect("the claim is whole");
        drop(claim);
        assert_eq!(world.recorded().as_deref(), Some("done"));
        assert_idle(&engine);
    });
    forgotten.check();
    claimed.check();
    crossed.check();
}

#[test]
fn forgetting_does_not_cross_a_claim_after_a_release() {
    explore_claimed("a forgetting and a claim of what was released", |_, engine| {
        let mut claim = granted(engine);
        block_on(claim.release()).unwrap();
        claim.operation_id()
    });
}

#[test]
fn forgetting_does_not_cross_a_takeover() {
    explore_claimed("a forgetting and a takeover", |world, engine| {
        let claim = granted(engine);
        world.clock.advance(LEASE);
        claim.operation_id()
    });
}

/// A completed operation is replayed or forgotten and claimed anew; nothing between.
#[test]
fn forgetting_a_completed_operation_leaves_it_whole_or_gone() {
    let replayed = Sometimes::new("the outcome is replayed");
    let renewed = Sometimes::new("the key is claimed anew");
    let (saw_replayed, saw_renewed) = (replayed.clone(), renewed.clone());
    explore("a forgetting and a replay", PREEMPTIONS, move || {
        let world = World::new();
        let engine = world.engine();
        let mut claim = granted(&engine);
        block_on(claim.complete("done")).unwrap();
        let first = claim.operation_id();
        drop(claim);
        let forget = spawn_forget(&world);
        let answer = block_on(engine.request(key()).claim()).unwrap();
        assert_eq!(forget.join().unwrap(), AdminAnswer::Done, "nothing was running");
        match &answer {
            ClaimAnswer::Answered(Earlier::Replayed { value, .. }) => {
                assert_eq!(&value[..], b"done");
                assert!(is_forgotten(&world), "done means done");
            }
            ClaimAnswer::Granted(claim) => {
                assert_eq!(claim.number(), 1);
                assert_ne!(claim.operation_id(), first, "a new generation has an id of its own");
            }
            other => panic!("not an answer here: {other:?}"),
        }
        saw_replayed.saw(matches!(answer, ClaimAnswer::Answered(Earlier::Replayed { .. })));
        saw_renewed.saw(matches!(answer, ClaimAnswer::Granted(_)));
    });
    replayed.check();
    renewed.check();
}

/// Of a completion past its lease and a forgetting, one comes first, whole: what was forgotten is not completed, and a
/// completion is not forgotten by who did not see it.
#[test]
fn forgetting_and_a_late_completion_do_not_mix() {
    let completed = Sometimes::new("the completion comes between the look and the write of the forgetting");
    let forgotten = Sometimes::new("the forgetting comes first");
    let both = Sometimes::new("what is completed is forgotten after");
    let (saw_completed, saw_forgotten, saw_both) = (completed.clone(), forgotten.clone(), both.clone());
    explore("a forgetting and a late completion", PREEMPTIONS, move || {
        let world = World::new();
        let engine = world.engine();
        let mut claim: Claim<Arc<ModelStore>> = granted(&engine);
        world.clock.advance(LEASE);
        let forget = spawn_forget(&world);
        let completion = block_on(claim.complete("late"));
        drop(claim);
        let forget = forget.join().unwrap();
        match (&completion, forget) {
            (Ok(_), AdminAnswer::Changed { possibly_applied: false, .. }) => {
                assert_eq!(world.recorded().as_deref(), Some("late"), "an accepted completion stands");
            }
            (Ok(_), AdminAnswer::Done) => assert!(is_forgotten(&world), "done means done"),
            (Err(ClaimError::Superseded { possibly_applied: false, .. }), AdminAnswer::Done) => {
                assert!(is_forgotten(&world), "a refused completion changes nothing");
            }
            other => panic!("both, or neither: {other:?}"),
        }
        saw_completed.saw(matches!(forget, AdminAnswer::Changed { .. }));
        saw_forgotten.saw(completion.is_err());
        saw_both.saw(completion.is_ok() && forget == AdminAnswer::Done);
        assert_idle(&engine);
    });
    completed.check();
    forgotten.check();
    both.check();
}
