//! The resolver hook: asked when a claim meets an attempt that stopped in the middle, before the policy.

mod silent;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use oncekey::admin::{Doubt, Resolver};

use super::*;

/// Answers as it was told, and remembers what it was asked.
#[derive(Clone)]
struct Scripted {
    answer: Option<Resolution>,
    asked: Arc<Mutex<Vec<Doubt>>>,
}

#[async_trait]
impl Resolver for Scripted {
    async fn resolve(&self, doubt: &Doubt) -> Option<Resolution> {
        self.asked.lock().unwrap().push(doubt.clone());
        self.answer.clone()
    }
}

fn bench_asking(answer: Option<Resolution>, policy: Policy) -> (Bench, Arc<Mutex<Vec<Doubt>>>) {
    let asked = Arc::default();
    let resolver = Scripted { answer, asked: Arc::clone(&asked) };
    (bench_with(|builder| builder.policy(policy).resolver(resolver)), asked)
}

/// A claim with a checkpoint that stopped in the middle.
fn stop(bench: &Bench) -> Claim<FaultyStore> {
    let request = bench.dedup.request(key()).fingerprint(Fingerprint::sha256(b"request"));
    let Ok(ClaimAnswer::Granted(claim)) = ready(request.claim()) else { panic!("not granted") };
    ready(claim.checkpoint("half way")).unwrap();
    bench.clock.advance(LEASE);
    claim
}

fn call(bench: &Bench) -> Answer<String> {
    let request = bench.dedup.request(key()).fingerprint(Fingerprint::sha256(b"request"));
    ready(request.run(async |_| Ok::<_, String>("second".to_owned()))).unwrap()
}

#[test]
fn it_is_told_what_is_known_of_the_attempt() {
    for policy in [Policy::Reclaim, Policy::Hold] {
        let (bench, asked) = bench_asking(None, policy);
        let owner = stop(&bench);
        call(&bench);
        let [doubt] = &asked.lock().unwrap()[..] else { panic!("asked not once") };
        assert_eq!((&doubt.key, doubt.policy), (&key(), policy));
        assert_eq!((doubt.operation_id, doubt.token), (owner.operation_id(), owner.fence()));
        assert_eq!((doubt.attempt, doubt.after_doubt), (1, false));
        assert_eq!(&*doubt.checkpoint, b"half way");
        assert_eq!(doubt.fingerprint, Some(Fingerprint::sha256(b"request")));
        assert_eq!(doubt.created_at.0, 1_000_000);
        assert!(!format!("{doubt:?}").contains(key().id()), "{doubt:?}");
    }
}

#[test]
fn what_it_knows_to_be_completed_is_replayed_without_running() {
    for policy in [Policy::Reclaim, Policy::Hold] {
        let (bench, asked) = bench_asking(Some(completed_as("as the bank says")), policy);
        let _owner = stop(&bench);
        for _ in 0..3 {
            let answer = call(&bench);
            let Answer::Earlier(Earlier::Replayed { value, info, .. }) = answer else {
                panic!("{policy:?}: {answer:?}")
            };
            assert_eq!((value.as_str(), info.attempt, info.after_doubt), ("as the bank says", 1, false));
        }
        assert_eq!(asked.lock().unwrap().len(), 1, "{policy:?}");
    }
}

#[test]
fn what_it_knows_to_have_had_no_effect_runs_without_doubt() {
    for policy in [Policy::Reclaim, Policy::Hold] {
        let (bench, asked) = bench_asking(Some(Resolution::NoEffect), policy);
        let owner = stop(&bench);
        let answer = call(&bench);
        let Answer::Executed { info, .. } = answer else { panic!("{policy:?}: {answer:?}") };
        assert_eq!((info.attempt, info.after_doubt, info.operation_id), (2, false, owner.operation_id()));
        assert_eq!(asked.lock().unwrap().len(), 1, "{policy:?}");
    }
}

#[test]
fn where_it_cannot_tell_the_policy_decides() {
    let (bench, _) = bench_asking(None, Policy::Reclaim);
    let _owner = stop(&bench);
    let answer = call(&bench);
    assert!(
        matches!(&answer, Answer::Executed { info, .. } if info.after_doubt && info.attempt == 2),
        "{answer:?}"
    );

    let (bench, asked) = bench_asking(None, Policy::Hold);
    let _owner = stop(&bench);
    for calls in 1..=3 {
        assert!(matches!(call(&bench), Answer::Earlier(Earlier::InDoubt { attempt: 1, .. })));
        assert_eq!(asked.lock().unwrap().len(), calls, "each call asks once");
    }
}

#[test]
fn it_is_asked_only_of_what_is_in_doubt_and_not_by_another_request() {
    for state in STATES.into_iter().filter(|state| *state != "abandoned") {
        let asked: Arc<Mutex<Vec<Doubt>>> = Arc::default();
        let resolver = Scripted { answer: Some(Resolution::NoEffect), asked: Arc::clone(&asked) };
        let bench = bench_with(|builder| builder.tail(RETENTION).resolver(resolver));
        let _held = put_into(&bench, state);
        call(&bench);
        assert!(asked.lock().unwrap().is_empty(), "{state}");
    }
    let (bench, asked) = bench_asking(Some(completed_as("secret")), Policy::Reclaim);
    let _owner = stop(&bench);
    let before = on_record(&bench);
    let other = ready(bench.dedup.request(key()).fingerprint(Fingerprint::sha256(b"other")).claim()).unwrap();
    assert!(matches!(other, ClaimAnswer::Answered(Earlier::Mismatch)), "{other:?}");
    assert!(asked.lock().unwrap().is_empty());
    assert_eq!(on_record(&bench), before);
}

#[test]
fn its_answer_does_not_cross_a_late_completion() {
    /// Completes the stopped claim while it is asked.
    #[derive(Clone, Default)]
    struct Slow(Arc<Mutex<Option<Claim<FaultyStore>>>>);
    #[async_trait]
    impl Resolver for Slow {
        async fn resolve(&self, _: &Doubt) -> Option<Resolution> {
            let owner = self.0.lock().unwrap().take();
            if let Some(mut owner) = owner {
                ready(owner.complete("late")).unwrap();
            }
            Some(completed_as("resolved"))
        }
    }
    let slow = Slow::default();
    let bench = bench_with(|builder| builder.resolver(slow.clone()));
    let owner = stop(&bench);
    *slow.0.lock().unwrap() = Some(owner);
    let answer = call(&bench);
    assert!(
        matches!(&answer, Answer::Earlier(Earlier::Replayed { value, .. }) if value == "late"),
        "{answer:?}"
    );
}

#[test]
fn many_who_meet_the_doubt_at_once_agree() {
    let (bench, _asked) = bench_asking(Some(completed_as("as the bank says")), Policy::Hold);
    let _owner = stop(&bench);
    bench.store.yields.store(true, Ordering::SeqCst);
    let calls = (0..50).map(|i| {
        let request = bench.dedup.request(key()).fingerprint(Fingerprint::sha256(b"request"));
        request.wait(secs(i % 2)).run(async |_| -> Result<String, String> { panic!("it must not run") })
    });
    for answer in bench.run(futures::future::join_all(calls)) {
        let answer = answer.unwrap();
        assert!(
            matches!(&answer, Answer::Earlier(Earlier::Replayed { value, .. }) if value == "as the bank says"),
            "{answer:?}"
        );
    }
}

/// Each time it is asked, somebody takes the key over and stops again, so that what it says comes too late.
#[derive(Clone, Default)]
struct AlwaysTooLate {
    others: Arc<Mutex<Option<Deduplicator<FaultyStore>>>>,
    asked: Arc<Mutex<u32>>,
}

#[async_trait]
impl Resolver for AlwaysTooLate {
    async fn resolve(&self, _: &Doubt) -> Option<Resolution> {
        *self.asked.lock().unwrap() += 1;
        let others = self.others.lock().unwrap();
        let fingerprint = Fingerprint::sha256(b"request");
        let request = others.as_ref().unwrap().request(key()).fingerprint(fingerprint);
        let Ok(ClaimAnswer::Granted(mut owner)) = ready(request.claim()) else { panic!("not granted") };
        ready(owner.abandon()).unwrap();
        Some(Resolution::NoEffect)
    }
}

#[test]
fn one_whose_answers_never_come_in_time_is_not_asked_for_ever() {
    let late = AlwaysTooLate::default();
    let bench = bench_with(|builder| builder.resolver(late.clone()));
    *late.others.lock().unwrap() = Some(bench.other_process());
    let _owner = stop(&bench);
    let request = bench.dedup.request(key()).fingerprint(Fingerprint::sha256(b"request"));
    let error = ready(request.claim()).unwrap_err();
    assert!(matches!(error, Error::Inconsistent { .. }), "{error:?}");
    let asked = *late.asked.lock().unwrap();
    assert!((2..=64).contains(&asked), "asked {asked} times");
}

crate::support::also_at_once! {
    it_is_told_what_is_known_of_the_attempt
    what_it_knows_to_be_completed_is_replayed_without_running
    what_it_knows_to_have_had_no_effect_runs_without_doubt
    where_it_cannot_tell_the_policy_decides
    it_is_asked_only_of_what_is_in_doubt_and_not_by_another_request
    its_answer_does_not_cross_a_late_completion
    many_who_meet_the_doubt_at_once_agree
    one_whose_answers_never_come_in_time_is_not_asked_for_ever
}
