//! For operators: inspect, resolve, forget, list, the resolver hook, and events.

mod events;
mod in_words;
mod resolver;
mod watching;

use std::pin::pin;
use std::sync::atomic::Ordering;

use oncekey::admin::{AdminAnswer, Resolution};
use oncekey::protocol::{ExpiredBecause, Status};
use oncekey::{
    Answer, Claim, ClaimAnswer, ClaimError, Deduplicator, Earlier, Error, Fingerprint, Key, Outcome, Policy,
};

use crate::support::*;

/// The states that a key can be in.
const STATES: [&str; 7] =
    ["absent", "in progress", "abandoned", "released", "forgotten", "completed", "done"];

/// Puts the key into a state; the claim, where one is held on.
fn put_into(bench: &Bench, state: &str) -> Option<Claim<FaultyStore>> {
    if state == "absent" {
        return None;
    }
    let request = bench.dedup.request(key()).fingerprint(Fingerprint::sha256(b"request"));
    let Ok(ClaimAnswer::Granted(mut claim)) = ready(request.claim()) else { panic!("not granted") };
    ready(claim.checkpoint("half way")).unwrap();
    match state {
        "in progress" => return Some(claim),
        "abandoned" => ready(claim.abandon()).unwrap(),
        "released" => ready(claim.release()).unwrap(),
        "forgotten" => {
            ready(claim.release()).unwrap();
            assert_eq!(ready(bench.dedup.forget(&key())).unwrap(), AdminAnswer::Done);
        }
        "completed" => ready(claim.complete("outcome")).map(drop).unwrap(),
        "done" => {
            ready(claim.complete("outcome")).unwrap();
            bench.clock.advance(RETENTION);
        }
        other => unreachable!("{other}"),
    }
    None
}

fn tailed() -> Bench {
    bench_with(|builder| builder.tail(RETENTION))
}

fn completed_as(text: &str) -> Resolution {
    Resolution::Completed(Outcome::success(text))
}

fn resolve(dedup: &Deduplicator<FaultyStore>, resolution: &Resolution) -> AdminAnswer {
    ready(dedup.resolve(&key(), resolution)).unwrap()
}

fn forget(dedup: &Deduplicator<FaultyStore>) -> AdminAnswer {
    ready(dedup.forget(&key())).unwrap()
}

fn is_live(answer: AdminAnswer) -> bool {
    matches!(answer, AdminAnswer::Live { left: LEASE, .. })
}

#[test]
fn inspect_tells_every_state_apart_and_changes_nothing() {
    for state in STATES {
        let bench = tailed();
        let held = put_into(&bench, state);
        let before = bench.store.peek(&key());
        let found = ready(bench.other_process().inspect(&key())).unwrap();
        assert_eq!(bench.store.peek(&key()), before, "{state}");
        let Some(found) = found else {
            assert_eq!(state, "absent");
            continue;
        };
        let (judged, left) = match state {
            "in progress" => (Status::InProgress, LEASE),
            "abandoned" => (Status::Expired(ExpiredBecause::Abandoned), secs(0)),
            "released" => (Status::Expired(ExpiredBecause::Released), secs(0)),
            "forgotten" => (Status::Expired(ExpiredBecause::Forgotten), secs(0)),
            "completed" => (Status::Completed, RETENTION),
            _ => (Status::Expired(ExpiredBecause::Completed), secs(0)),
        };
        assert_eq!((found.state, found.left), (judged, left), "{state}");
        assert_eq!((found.attempt, found.attempts_counted), (1, 1), "{state}");
        assert_eq!(found.doubt, state == "abandoned", "{state}");
        assert_eq!(found.version, before.unwrap().version);
        assert_eq!(found.policy, Policy::Reclaim);
        assert_eq!(found.has_fingerprint, state != "forgotten", "{state}");
        let checkpointed = matches!(state, "in progress" | "abandoned" | "released");
        assert_eq!(found.checkpoint_len, if checkpointed { 8 } else { 0 }, "{state}");
        let has_outcome = matches!(state, "completed" | "done");
        assert_eq!(found.outcome_len, has_outcome.then_some(7), "{state}");
        let concluded = !matches!(state, "in progress" | "abandoned");
        assert_eq!(found.finished_at.is_some(), concluded, "{state}");
        assert_eq!(found.created_at.0, 1_000_000);
        if let Some(held) = held {
            assert_eq!((found.operation_id, found.token), (held.operation_id(), held.fence()));
        }
    }
}

#[test]
fn a_resolution_is_taken_only_of_an_operation_in_doubt() {
    for resolution in [completed_as("resolved"), Resolution::NoEffect] {
        for state in STATES {
            let bench = tailed();
            let _held = put_into(&bench, state);
            let before = bench.store.peek(&key());
            let answer = resolve(&bench.other_process(), &resolution);
            match state {
                "absent" => assert_eq!(answer, AdminAnswer::Absent),
                "in progress" => assert!(is_live(answer), "{answer:?}"),
                "released" | "forgotten" => assert_eq!(answer, AdminAnswer::NotInDoubt, "{state}"),
                "completed" | "done" => assert_eq!(answer, AdminAnswer::AlreadyCompleted, "{state}"),
                _ => assert_eq!(answer, AdminAnswer::Done),
            }
            if state != "abandoned" {
                assert_eq!(bench.store.peek(&key()), before, "{state}: it was refused");
            }
        }
    }
}

#[test]
fn what_was_resolved_as_completed_is_replayed_and_what_had_no_effect_runs_without_doubt() {
    for policy in [Policy::Reclaim, Policy::Hold] {
        let bench = bench_with(|builder| builder.policy(policy));
        let owner = claim(&bench.dedup);
        bench.clock.advance(LEASE);
        assert_eq!(resolve(&bench.dedup, &completed_as("as the bank says")), AdminAnswer::Done);
        // The late owner is told, and does not change it.
        let mut owner = owner;
        let late = ready(owner.complete("late"));
        assert!(matches!(late, Err(ClaimError::AlreadyCompleted { .. })), "{late:?}");
        assert!(
            matches!(run_text(&bench.dedup, "x"), Answer::Earlier(Earlier::Replayed { value, .. }) if value == "as the bank says")
        );
        assert_eq!(resolve(&bench.dedup, &completed_as("otherwise")), AdminAnswer::AlreadyCompleted);

        let bench = bench_with(|builder| builder.policy(policy));
        let mut owner = claim(&bench.dedup);
        bench.clock.advance(LEASE);
        assert_eq!(resolve(&bench.dedup, &Resolution::NoEffect), AdminAnswer::Done);
        let late = ready(owner.complete("late"));
        assert!(matches!(late, Err(ClaimError::AlreadyReleased { .. })), "{late:?}");
        let answer = run_text(&bench.dedup, "second");
        let Answer::Executed { info, .. } = answer else { panic!("{policy:?}: {answer:?}") };
        assert_eq!((info.attempt, info.after_doubt, info.operation_id), (2, false, owner.operation_id()));
    }
}

#[test]
fn forget_ends_every_generation_but_a_running_one() {
    for state in STATES {
        let bench = tailed();
        let _held = put_into(&bench, state);
        let before = bench.store.peek(&key());
        let answer = forget(&bench.other_process());
        match state {
            "absent" => {
                assert_eq!(answer, AdminAnswer::Absent);
                continue;
            }
            "in progress" => {
                assert!(is_live(answer), "{answer:?}");
                assert_eq!(bench.store.peek(&key()), before);
                continue;
            }
            _ => assert_eq!(answer, AdminAnswer::Done, "{state}"),
        }
        assert_eq!(forget(&bench.dedup), AdminAnswer::Done, "{state}: again");
        let before = before.unwrap();
        let forgotten = on_record(&bench);
        assert!(forgotten.version > before.version || state == "forgotten");
        assert!(forgotten.record.outcome().is_none() && forgotten.record.checkpoint().is_empty());
        // Another request may have it, and begins anew: with a greater token all the same.
        let request = bench.dedup.request(key()).fingerprint(Fingerprint::sha256(b"another"));
        let Ok(ClaimAnswer::Granted(next)) = ready(request.claim()) else { panic!("{state}: not granted") };
        assert_eq!((next.number(), next.after_doubt()), (1, false), "{state}");
        assert_ne!(next.operation_id(), before.record.operation_id(), "{state}");
        assert!(next.fence() > before.fencing_token(), "{state}");
    }
}

/// An operator's command stopped between its load and its write.
fn in_the_middle<T>(
    bench: &Bench,
    command: impl Future<Output = Result<AdminAnswer, Error>>,
    meanwhile: impl FnOnce() -> T,
) -> (AdminAnswer, T) {
    let mut command = pin!(command);
    let (exchanges, loads) = bench.store.trips();
    bench.store.yields.store(true, Ordering::SeqCst);
    while bench.store.trips() != (exchanges + 1, loads + 1) {
        assert!(poll_once(command.as_mut()).is_none(), "it ended before its write");
    }
    bench.store.yields.store(false, Ordering::SeqCst);
    let done = meanwhile();
    (ready(command).unwrap(), done)
}

fn is_changed(answer: AdminAnswer) -> bool {
    matches!(answer, AdminAnswer::Changed { possibly_applied: false, .. })
}

#[test]
fn a_resolution_does_not_cross_a_late_completion_a_takeover_or_a_new_generation() {
    let one = key();
    for resolution in [completed_as("resolved"), Resolution::NoEffect] {
        // The owner, whose lease is over, completes in between.
        let bench = bench();
        let mut owner = claim(&bench.dedup);
        bench.clock.advance(LEASE);
        let command = bench.dedup.resolve(&one, &resolution);
        let (answer, _) = in_the_middle(&bench, command, || ready(owner.complete("late")).unwrap());
        assert!(is_changed(answer), "{answer:?}");
        assert!(
            matches!(run_text(&bench.dedup, "x"), Answer::Earlier(Earlier::Replayed { value, .. }) if value == "late")
        );

        // Another takes over in between.
        let bench = bench_with(|builder| builder);
        let _owner = claim(&bench.dedup);
        bench.clock.advance(LEASE);
        let other = bench.other_process();
        let command = bench.dedup.resolve(&one, &resolution);
        let (answer, mut successor) = in_the_middle(&bench, command, || claim(&other));
        assert!(is_changed(answer), "{answer:?}");
        assert_eq!(on_record(&bench).fencing_token(), successor.fence());
        ready(successor.complete("second")).unwrap();

        // It is forgotten, and claimed and abandoned anew: a new generation in doubt is not the one that was looked at.
        let bench = bench_with(|builder| builder);
        let _owner = claim(&bench.dedup);
        bench.clock.advance(LEASE);
        let other = bench.other_process();
        let command = bench.dedup.resolve(&one, &resolution);
        let (answer, id) = in_the_middle(&bench, command, || {
            assert_eq!(forget(&other), AdminAnswer::Done);
            let mut next = claim(&other);
            ready(next.abandon()).unwrap();
            next.operation_id()
        });
        assert!(is_changed(answer), "{answer:?}");
        let now = ready(other.inspect(&key())).unwrap().unwrap();
        assert_eq!((now.state, now.operation_id), (Status::Expired(ExpiredBecause::Abandoned), id));

        // It is gone in between.
        let bench = bench_with(|builder| builder);
        let _owner = claim(&bench.dedup);
        bench.clock.advance(LEASE);
        let command = bench.dedup.resolve(&one, &resolution);
        let (answer, ()) = in_the_middle(&bench, command, || bench.clock.advance(RETENTION));
        assert!(is_changed(answer), "{answer:?}");
        assert!(bench.store.peek(&key()).is_none(), "nothing was created");
    }
}

#[test]
fn of_a_forget_and_a_late_completion_one_happens_whole() {
    let one = key();
    // The completion comes first.
    let bench = bench();
    let mut owner = claim(&bench.dedup);
    bench.clock.advance(LEASE);
    let command = bench.dedup.forget(&one);
    let (answer, _) = in_the_middle(&bench, command, || ready(owner.complete("late")).unwrap());
    assert!(is_changed(answer), "{answer:?}");
    assert!(
        matches!(run_text(&bench.dedup, "x"), Answer::Earlier(Earlier::Replayed { value, .. }) if value == "late")
    );

    // The forget comes first, while the completion is under way.
    let bench = bench_with(|builder| builder);
    let mut owner = claim(&bench.dedup);
    bench.clock.advance(LEASE);
    let other = bench.other_process();
    bench.store.yields.store(true, Ordering::SeqCst);
    let told = {
        let mut completion = pin!(owner.complete("late"));
        assert!(poll_once(completion.as_mut()).is_none());
        bench.store.yields.store(false, Ordering::SeqCst);
        assert_eq!(forget(&other), AdminAnswer::Done);
        ready(completion)
    };
    assert!(matches!(told, Err(ClaimError::Superseded { possibly_applied: false, .. })), "{told:?}");
    assert!(on_record(&bench).record.outcome().is_none());
    // And it stays refused, also when the key has a new generation.
    let next = claim(&other);
    let before = on_record(&bench);
    assert!(ready(owner.complete("late")).is_err() && ready(owner.renew()).is_err());
    assert_eq!(on_record(&bench), before);
    drop(next);
}

#[test]
fn a_command_whose_store_fails_says_so_and_one_whose_reply_is_lost_is_done() {
    for fault in [Fault::RequestLost, Fault::ReplyLost, Fault::HangBefore, Fault::HangAfter, Fault::Refused] {
        for command in ["resolve", "forget"] {
            let bench = bench();
            let _owner = claim(&bench.dedup);
            bench.clock.advance(LEASE);
            bench.store.plan([Fault::None, fault]);
            let resolution = completed_as("resolved");
            let answer = match command {
                "resolve" => bench.run(bench.dedup.resolve(&key(), &resolution)),
                _ => bench.run(bench.dedup.forget(&key())),
            };
            assert_eq!(answer.unwrap(), AdminAnswer::Done, "{command}: {fault:?}");
            let state = on_record(&bench).status();
            let expected = if command == "resolve" {
                Status::Completed
            } else {
                Status::Expired(ExpiredBecause::Forgotten)
            };
            assert_eq!(state, expected, "{command}: {fault:?}");
        }
    }
    let bench = bench_with(|builder| builder.call_timeout(THREE_TRIES));
    bench.store.always(Fault::Refused);
    assert!(matches!(bench.run(bench.dedup.inspect(&key())), Err(Error::Store { .. })));
    assert!(matches!(bench.run(bench.dedup.forget(&key())), Err(Error::Store { .. })));
    assert!(matches!(
        bench.run(bench.dedup.resolve(&key(), &Resolution::NoEffect)),
        Err(Error::Store { .. })
    ));
    assert_eq!(bench.store.trips(), (0, 9), "each is tried three times");
}

#[test]
fn the_engine_lists_its_keys_in_doubt() {
    let bench = bench_with(|builder| builder.policy(Policy::Hold));
    let engine = Deduplicator::new(std::sync::Arc::clone(&bench.store.inner));
    let keys: Vec<_> = (0..3).map(|i| Key::new("op", i.to_string()).unwrap()).collect();
    for key in &keys {
        drop(ready(bench.dedup.request(key.clone()).claim()).unwrap());
    }
    assert!(ready(engine.list_in_doubt(None, 100)).unwrap().entries.is_empty(), "they run");
    bench.clock.advance(LEASE);
    let page = ready(engine.list_in_doubt(None, 100)).unwrap();
    assert_eq!((page.entries.len(), page.next), (3, None));
    let doubt = |key: &Key| ready(bench.dedup.inspect(key)).unwrap().expect("it is on record").doubt;
    for (key, entry) in page.entries {
        assert!(keys.contains(&key) && entry.record.policy() == Policy::Hold);
        assert!(doubt(&key), "what is listed is in doubt");
        let resolved = ready(bench.dedup.resolve(&key, &Resolution::NoEffect)).unwrap();
        assert_eq!(resolved, AdminAnswer::Done);
        assert!(!doubt(&key), "it is resolved");
    }
    assert!(ready(engine.list_in_doubt(None, 100)).unwrap().entries.is_empty(), "they are resolved");
}

/// From the end of the first attempt until somebody resolves it, whatever the attempts after it do.
#[test]
fn a_key_is_in_doubt_until_it_is_resolved() {
    let bench = bench();
    let doubt = || ready(bench.dedup.inspect(&key())).unwrap().expect("it is on record").doubt;
    let mut first = claim(&bench.dedup);
    assert!(!doubt(), "it runs");
    ready(first.abandon()).unwrap();
    assert!(doubt(), "its owner gave it up");
    let _second = claim(&bench.dedup);
    assert!(doubt(), "it was taken over");
    bench.clock.advance(LEASE);
    assert!(doubt(), "the lease of the second is over too");
    let mut third = claim(&bench.dedup);
    ready(third.release()).unwrap();
    assert!(doubt(), "the third cannot vouch for those before it");
    assert_eq!(resolve(&bench.dedup, &Resolution::NoEffect), AdminAnswer::Done);
    assert!(!doubt());
}
