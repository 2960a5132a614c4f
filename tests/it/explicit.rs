//! The explicit claim: renew, checkpoint, release, prepare and settle.

mod preparing;
mod telling;

use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncekey::answer::Unavailable;
use oncekey::builder::OnDrop;
use oncekey::protocol::{Expected, ExpiredBecause, State, Status};
use oncekey::store::{Exchange, Put};
use oncekey::{
    Claim, ClaimAnswer, ClaimError, Earlier, Fingerprint, Payload, Policy, Prepared, RunError, Settled,
    Store as _,
};

use crate::one_key::granted;
use crate::support::{
    Bench, Fault, FaultyStore, LEASE, MARGIN, RETENTION, bench, bench_with, key, poll_once, ready,
};

/// What the caller's own transaction does with a prepared completion.
fn commit(bench: &Bench, prepared: &Prepared) -> Exchange {
    let put = Put::new(&prepared.record, prepared.live, prepared.linger);
    ready(bench.store.inner.compare_exchange(&prepared.key, Expected::At(prepared.expected), put)).unwrap()
}

fn claim_again(bench: &Bench) -> ClaimAnswer<Claim<FaultyStore>> {
    bench.run(bench.dedup.request(key()).claim()).unwrap()
}

#[test]
fn a_claim_knows_its_facts_and_how_long_it_may_act() {
    let bench = bench();
    let mut claim = bench.grant();
    let record = bench.on_record().record;
    assert_eq!((claim.number(), claim.after_doubt(), claim.last_checkpoint().len()), (1, false, 0));
    assert_eq!(claim.operation_id(), record.operation_id());
    assert_eq!(claim.attempt().created_at(), record.created_at());
    assert_eq!(record.created_at().0, 1_000_000, "the owner's wall clock, in milliseconds");
    assert_eq!(claim.fence(), bench.on_record().fencing_token());
    assert_eq!(claim.time_left(), LEASE - MARGIN);
    bench.clock.advance(Duration::from_secs(20));
    assert_eq!(claim.time_left(), Duration::from_secs(7));
    bench.run(claim.renew()).unwrap();
    assert_eq!((claim.time_left(), bench.on_record().left), (LEASE - MARGIN, LEASE));
    bench.run(claim.complete("done")).unwrap();
    assert_eq!(claim.time_left(), Duration::ZERO, "a concluded attempt may not act");
    match claim_again(&bench) {
        ClaimAnswer::Answered(Earlier::Replayed { value, info, .. }) => {
            assert_eq!(value, Payload::from("done"));
            assert_eq!(info.token, claim.fence());
            assert_eq!(info.operation_id, claim.operation_id());
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_answer_to_a_claim_is_reached() {
    let bench = bench_with(|builder| builder.tail(RETENTION));
    let of = |print: &str| bench.dedup.request(key()).fingerprint(Fingerprint::sha256(print.as_bytes()));
    let mut claim = granted(bench.run(of("a").claim()));
    match bench.run(of("a").claim()).unwrap() {
        ClaimAnswer::Answered(Earlier::InProgress { left, attempt, .. }) => {
            assert_eq!((left, attempt), (LEASE, 1));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(bench.run(of("b").claim()).unwrap(), ClaimAnswer::Answered(Earlier::Mismatch)));
    bench.run(claim.abandon()).unwrap();
    assert!(matches!(
        bench.run(of("a").attempts_max(1).claim()).unwrap(),
        ClaimAnswer::Answered(Earlier::Exhausted { attempts: 1, .. })
    ));
    let mut second = granted(bench.run(of("a").policy(Policy::Hold).claim()));
    assert!(second.after_doubt() && second.number() == 2);
    bench.run(second.abandon()).unwrap();
    match bench.run(of("a").claim()).unwrap() {
        ClaimAnswer::Answered(Earlier::InDoubt { attempt, operation_id, since, .. }) => {
            assert_eq!((attempt, operation_id), (2, claim.operation_id()));
            assert_eq!(since, bench.on_record().record.created_at());
        }
        other => panic!("{other:?}"),
    }
    // Late, but nobody took over.
    bench.run(second.fail("no such account")).unwrap();
    match bench.run(of("a").claim()).unwrap() {
        ClaimAnswer::Answered(Earlier::FailedBefore { failure, info, .. }) => {
            assert_eq!(failure, Some(Payload::from("no such account")));
            assert!(info.after_doubt);
        }
        other => panic!("{other:?}"),
    }
    bench.clock.advance(RETENTION);
    match bench.run(of("a").claim()).unwrap() {
        ClaimAnswer::Answered(Earlier::FailedBefore { failure, .. }) => {
            assert_eq!(failure, None, "within the tail only the fact is kept");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_release_keeps_the_operation_id_unless_a_fresh_one_is_asked_for() {
    let bench = bench();
    let mut first = bench.grant();
    bench.run(first.checkpoint("half way")).unwrap();
    bench.run(first.release()).unwrap();
    let mut second = bench.grant();
    assert_eq!((second.number(), second.after_doubt()), (2, false));
    assert_eq!(second.operation_id(), first.operation_id());
    assert_eq!(second.last_checkpoint(), Payload::from("half way"));
    assert!(second.fence() > first.fence());
    bench.run(second.release_with_fresh_id()).unwrap();
    let third = bench.grant();
    assert_eq!((third.number(), third.after_doubt()), (3, false));
    assert_ne!(third.operation_id(), first.operation_id());
    assert!(third.fence() > second.fence());
    // The first two have no say any more.
    let before = bench.on_record();
    assert!(matches!(bench.run(first.renew()), Err(ClaimError::AlreadyReleased { .. })));
    assert!(matches!(bench.run(second.complete("late")), Err(ClaimError::AlreadyReleased { .. })));
    assert_eq!(bench.on_record(), before, "stale is inert");
}

#[test]
fn an_abandoned_claim_is_in_doubt_at_once() {
    let bench = bench();
    let mut first = bench.grant();
    bench.run(first.abandon()).unwrap();
    assert_eq!(bench.on_record().status(), Status::Expired(ExpiredBecause::Abandoned));
    assert_eq!(first.time_left(), Duration::ZERO, "another may start now, so this one may not act");
    let second = bench.grant();
    assert!(second.after_doubt());
    assert_eq!(second.operation_id(), first.operation_id());
}

#[test]
fn a_claim_that_is_over_says_so_to_every_write() {
    let bench = bench();
    let mut claim = bench.grant();
    bench.run(claim.complete("a")).unwrap();
    bench.run(claim.complete("a")).unwrap();
    let before = bench.on_record();
    assert!(matches!(bench.run(claim.complete("b")), Err(ClaimError::AlreadyCompleted { .. })));
    assert!(matches!(bench.run(claim.fail("a")), Err(ClaimError::AlreadyCompleted { .. })));
    assert!(matches!(bench.run(claim.renew()), Err(ClaimError::AlreadyCompleted { .. })));
    assert!(matches!(bench.run(claim.checkpoint("x")), Err(ClaimError::AlreadyCompleted { .. })));
    assert!(matches!(bench.run(claim.release()), Err(ClaimError::AlreadyCompleted { .. })));
    assert!(matches!(bench.run(claim.abandon()), Err(ClaimError::AlreadyCompleted { .. })));
    assert!(matches!(bench.run(claim.prepare("a")), Err(ClaimError::AlreadyCompleted { .. })));
    bench.run(claim.complete("a")).unwrap();
    drop(claim);
    assert_eq!(bench.on_record(), before);

    let bench = self::bench();
    let mut claim = bench.grant();
    bench.run(claim.release()).unwrap();
    bench.run(claim.release()).unwrap();
    assert!(matches!(bench.run(claim.renew()), Err(ClaimError::AlreadyReleased { .. })));
    assert!(matches!(bench.run(claim.complete("b")), Err(ClaimError::AlreadyReleased { .. })));
    assert!(matches!(bench.run(claim.prepare("b")), Err(ClaimError::AlreadyReleased { .. })));
    assert_eq!(bench.on_record().record.state(), State::Released { fresh_operation_id: false });
}

#[test]
fn a_checkpoint_that_is_too_large_is_refused_and_nothing_is_lost() {
    let bench = bench_with(|builder| builder.checkpoint_len_max(8));
    let claim = bench.grant();
    bench.run(claim.checkpoint("12345678")).unwrap();
    let (before, exchanges) =
        (bench.on_record(), bench.store.exchanges.load(std::sync::atomic::Ordering::SeqCst));
    match bench.run(claim.checkpoint("123456789")) {
        Err(ClaimError::CheckpointTooLarge { len: 9, max: 8, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(bench.on_record(), before);
    assert_eq!(bench.store.exchanges.load(std::sync::atomic::Ordering::SeqCst), exchanges);
    bench.run(claim.renew()).unwrap();
    assert_eq!(bench.on_record().record.checkpoint(), Payload::from("12345678"), "a renewal keeps it");
    drop(claim);
    bench.clock.advance(LEASE);
    assert_eq!(bench.grant().last_checkpoint(), Payload::from("12345678"), "the next attempt sees it");
}

#[test]
fn who_waits_for_the_loss_of_a_lease_is_told() {
    let bench = bench();
    let claim = bench.grant();
    let begun = oncekey::time::Clock::now(&bench.clock);
    bench.run(claim.lost());
    let lasted = oncekey::time::Clock::now(&bench.clock).saturating_since(begun);
    assert_eq!(lasted, LEASE - MARGIN, "told at the owner's deadline, a margin before the store's");
    assert_eq!(claim.time_left(), Duration::ZERO);
    assert!(matches!(bench.run(claim.renew()), Err(ClaimError::DeadlinePassed { .. })));

    // Superseded: told by the write that finds out.
    let bench = self::bench();
    let claim = bench.grant();
    bench.clock.advance(LEASE);
    let _second = granted(bench.run(bench.other_process().request(key()).claim()));
    assert!(matches!(bench.run(claim.renew()), Err(ClaimError::Superseded { .. })));
    ready(claim.lost());
    assert!(claim.attempt().is_lost());
}

#[test]
fn an_attempt_that_outlives_its_claim_is_told_that_it_is_lost() {
    type Conclude = fn(&Bench, &mut Claim<FaultyStore>);
    let conclusions: [(&str, Conclude); 4] = [
        ("complete", |bench, claim| bench.run(claim.complete("a")).map(drop).unwrap()),
        ("fail", |bench, claim| bench.run(claim.fail("a")).map(drop).unwrap()),
        ("release", |bench, claim| bench.run(claim.release()).unwrap()),
        ("abandon", |bench, claim| bench.run(claim.abandon()).unwrap()),
    ];
    for (name, conclude) in conclusions {
        let bench = bench();
        let mut claim = bench.grant();
        let attempt = claim.attempt();
        let mut lost = Box::pin(attempt.lost());
        assert!(poll_once(lost.as_mut()).is_none() && !attempt.is_lost());
        conclude(&bench, &mut claim);
        // After a release or an abandonment another attempt may start at once: this one must not think it may act.
        assert!(attempt.is_lost(), "{name}");
        assert_eq!(attempt.time_left(), Duration::ZERO, "{name}");
        assert!(poll_once(lost.as_mut()).is_some(), "{name}");
        assert!(poll_once(Box::pin(attempt.lost()).as_mut()).is_some(), "{name}");
    }
}

#[test]
fn an_attempt_that_outlives_its_run_is_told_that_it_is_lost() {
    for outcome in [Ok("fine".to_owned()), Err("broken")] {
        let bench = bench();
        let kept = Arc::new(Mutex::new(None));
        let keep = Arc::clone(&kept);
        let result = outcome.clone();
        let _answer = bench.run(bench.dedup.request(key()).run(|attempt| async move {
            *keep.lock().unwrap() = Some(attempt);
            result
        }));
        let attempt = kept.lock().unwrap().take().unwrap();
        assert!(attempt.is_lost(), "{outcome:?}");
        assert_eq!(attempt.time_left(), Duration::ZERO, "{outcome:?}");
    }
}

#[test]
fn a_dropped_claim_goes_by_the_option() {
    let bench = bench();
    drop(bench.grant());
    bench.nothing_is_left();
    assert!(
        matches!(claim_again(&bench), ClaimAnswer::Answered(Earlier::InProgress { .. })),
        "left to its lease"
    );
    bench.clock.advance(LEASE);
    assert!(granted(Ok(claim_again(&bench))).after_doubt());

    let bench = bench_with(|builder| builder.on_drop(OnDrop::ExpireNow));
    drop(bench.grant());
    bench.nothing_is_left();
    assert!(granted(Ok(claim_again(&bench))).after_doubt(), "at once, and in doubt");

    // A prepared claim is in the hands of the transaction.
    let bench = bench_with(|builder| builder.on_drop(OnDrop::ExpireNow));
    let mut claim = bench.grant();
    let prepared = bench.run(claim.prepare("charged")).unwrap();
    drop(claim);
    bench.nothing_is_left();
    assert!(matches!(commit(&bench, &prepared), Exchange::Done(_)), "nothing moved the version under it");
}

#[test]
fn an_outcome_over_the_limit_is_prepared_as_done_and_unavailable() {
    let bench = bench_with(|builder| builder.outcome_len_max(3));
    let mut claim = bench.grant();
    let prepared = bench.run(claim.prepare("four")).unwrap();
    assert!(matches!(commit(&bench, &prepared), Exchange::Done(_)));
    claim.committed(&prepared);
    let runs = AtomicU32::new(0);
    match bench.second_call(&runs) {
        oncekey::Answer::Earlier(Earlier::Done { why: Unavailable::TooLarge { len: 4, .. }, .. }) => {}
        other => panic!("{other:?}"),
    }
}

/// What a secret looks like when it is shown as text or as bytes.
fn assert_hidden(shown: &str) {
    for secret in ["7f3a-91", "s3cr3t", "115, 51, 99", "73333363", "half way"] {
        assert!(!shown.contains(secret), "{secret} shows in {shown}");
    }
}

#[test]
fn debug_hides_ids_and_outcomes() {
    let bench = bench();
    let mut claim = granted(bench.run(bench.dedup.request(key()).fingerprint_of("s3cr3t").claim()));
    bench.run(claim.checkpoint("half way")).unwrap();
    assert_hidden(&format!("{:?} {:?} {:?}", claim, claim.attempt(), bench.dedup));
    assert_hidden(&format!("{:?}", bench.dedup.request(key()).fingerprint_of("s3cr3t")));
    let prepared = bench.run(claim.prepare("s3cr3t")).unwrap();
    assert_hidden(&format!("{claim:?} {prepared:?} {:?}", Payload::from("s3cr3t")));
    assert!(matches!(commit(&bench, &prepared), Exchange::Done(_)));
    claim.committed(&prepared);
    let answer = bench.run(bench.dedup.request(key()).fingerprint_of("s3cr3t").claim()).unwrap();
    assert!(matches!(answer, ClaimAnswer::Answered(Earlier::Replayed { .. })));
    assert_hidden(&format!("{:?} {:?} {answer:?}", key(), bench.on_record()));
    assert_hidden(&format!("{:?}", bench.run(bench.dedup.inspect(&key())).unwrap()));
}

#[test]
fn debug_of_an_outcome_that_does_not_decode_hides_it() {
    // Text that is no text, and JSON of another type: what the codec says names the value.
    let bench = bench();
    let mut claim = bench.grant();
    bench.run(claim.complete(b"s3cr3t\xff".to_vec())).unwrap();
    let text =
        bench.run(bench.dedup.request(key()).run(|_| async { Ok::<_, &str>(String::new()) })).unwrap_err();
    assert!(matches!(text, RunError::Decode { .. }));
    assert_hidden(&format!("{text:?} {text}"));

    let bench = self::bench();
    let mut claim = bench.grant();
    bench.run(claim.complete("\"s3cr3t\"")).unwrap();
    let json =
        bench.run(bench.dedup.request(key()).json().run(|_| async { Ok::<_, &str>(7_u32) })).unwrap_err();
    assert!(matches!(json, RunError::Decode { .. }));
    assert_hidden(&format!("{json:?} {json}"));
}

crate::support::also_at_once! {
    a_claim_knows_its_facts_and_how_long_it_may_act
    every_answer_to_a_claim_is_reached
    a_release_keeps_the_operation_id_unless_a_fresh_one_is_asked_for
    an_abandoned_claim_is_in_doubt_at_once
    a_claim_that_is_over_says_so_to_every_write
    a_checkpoint_that_is_too_large_is_refused_and_nothing_is_lost
    who_waits_for_the_loss_of_a_lease_is_told
    an_attempt_that_outlives_its_claim_is_told_that_it_is_lost
    an_attempt_that_outlives_its_run_is_told_that_it_is_lost
    a_dropped_claim_goes_by_the_option
    an_outcome_over_the_limit_is_prepared_as_done_and_unavailable
    debug_of_an_outcome_that_does_not_decode_hides_it
}
