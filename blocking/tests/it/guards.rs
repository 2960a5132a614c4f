//! The explicit claim in a thread's hands.

use oncekey::Store as _;
use oncekey::answer::Kept;
use oncekey::builder::OnDrop;
use oncekey::protocol::Expected;
use oncekey::protocol::{ExpiredBecause, Status, Version};
use oncekey::store::{Exchange, Put};
use oncekey::{ClaimAnswer, Earlier};
use oncekey::{ClaimError, Key, Settled};
use oncekey_blocking::Claim;

use super::*;

fn granted(dedup: &Face) -> Claim<FaultyStore> {
    match dedup.request(key()).claim().unwrap() {
        ClaimAnswer::Granted(claim) => claim,
        other => panic!("not granted: {other:?}"),
    }
}

#[test]
fn a_claim_is_completed_and_replayed() {
    let threads = threads();
    let mut claim = granted(&threads.dedup);
    assert_eq!((claim.number(), claim.after_doubt(), claim.is_lost()), (1, false, false));
    assert_eq!((claim.time_left(), threads.dedup.held()), (LEASE - MARGIN, 1));
    let attempt = claim.attempt();
    assert_eq!((attempt.operation_id(), attempt.fence()), (claim.operation_id(), claim.fence()));
    let second = threads.dedup.request(key()).claim().unwrap();
    assert!(matches!(second, ClaimAnswer::Answered(Earlier::InProgress { left: LEASE, .. })));
    assert_eq!(claim.complete("done").unwrap(), Kept::Whole);
    assert_eq!(claim.complete("done").unwrap(), Kept::Whole);
    assert!(matches!(claim.complete("other"), Err(ClaimError::AlreadyCompleted { .. })));
    drop(claim);
    assert!(attempt.is_lost() && attempt.wait_lost(Duration::MAX));
    let replay = threads.dedup.request(key()).claim().unwrap();
    let ClaimAnswer::Answered(Earlier::Replayed { value, .. }) = replay else { panic!("{replay:?}") };
    assert_eq!(&value[..], b"done");
}

#[test]
fn every_answer_of_a_claim_is_told() {
    let threads = threads();
    granted(&threads.dedup).fail("declined").unwrap();
    let failed = threads.dedup.request(key()).claim().unwrap();
    assert!(
        matches!(&failed, ClaimAnswer::Answered(Earlier::FailedBefore { failure: Some(bytes), .. }) if **bytes == b"declined"[..]),
        "{failed:?}"
    );
    let other = threads.dedup.request(key()).fingerprint_of("another").claim().unwrap();
    assert!(matches!(other, ClaimAnswer::Answered(Earlier::Mismatch)), "{other:?}");

    let held = Key::new("payments.charge", "held").unwrap();
    let request = || threads.dedup.request(held.clone()).policy(oncekey::Policy::Hold);
    let ClaimAnswer::Granted(mut claim) = request().claim().unwrap() else { panic!("not granted") };
    claim.abandon().unwrap();
    let ClaimAnswer::Answered(Earlier::InDoubt { attempt, operation_id, .. }) = request().claim().unwrap()
    else {
        panic!("no doubt")
    };
    assert_eq!((attempt, operation_id), (1, claim.operation_id()));
    let resolved = threads.dedup.resolve(&held, &oncekey::admin::Resolution::NoEffect).unwrap();
    assert_eq!(resolved, oncekey::admin::AdminAnswer::Done);

    let tried = Key::new("payments.charge", "tried").unwrap();
    let request = || threads.dedup.request(tried.clone()).attempts_max(1);
    let ClaimAnswer::Granted(mut claim) = request().claim().unwrap() else { panic!("not granted") };
    claim.release().unwrap();
    assert!(matches!(
        request().claim().unwrap(),
        ClaimAnswer::Answered(Earlier::Exhausted { attempts: 1, .. })
    ));
    assert_eq!(threads.dedup.reset_attempts(&tried).unwrap(), oncekey::admin::AdminAnswer::Done);
    assert!(matches!(request().claim().unwrap(), ClaimAnswer::Granted(_)));
}

#[test]
fn a_released_claim_is_granted_again_with_its_id_or_a_new_one() {
    let threads = threads();
    let mut first = granted(&threads.dedup);
    first.checkpoint("half").unwrap();
    first.renew().unwrap();
    first.release().unwrap();
    let mut second = granted(&threads.dedup);
    assert_eq!((second.number(), second.operation_id()), (2, first.operation_id()));
    assert_eq!(&second.last_checkpoint()[..], b"half");
    second.release_with_fresh_id().unwrap();
    let third = granted(&threads.dedup);
    assert_ne!(third.operation_id(), first.operation_id());
}

#[test]
fn a_dropped_claim_is_left_to_its_lease_or_ended_at_once() {
    for (choice, left) in [(OnDrop::KeepLease, LEASE), (OnDrop::ExpireNow, Duration::ZERO)] {
        let threads = threads_with(|builder| builder.on_drop(choice));
        drop(granted(&threads.dedup));
        assert_eq!(threads.dedup.held(), 0);
        threads.dedup.flush();
        assert_eq!(threads.store.peek(&key()).unwrap().left, left, "{choice:?}");
    }
}

/// What is left undone when a claim is dropped goes on in the face's thread, though nobody calls.
#[test]
fn the_keeper_brings_to_its_end_what_a_drop_began() {
    let threads = threads_with(|builder| builder.on_drop(OnDrop::ExpireNow));
    let claim = granted(&threads.dedup);
    threads.store.yields.store(true, Ordering::SeqCst);
    drop(claim);
    eventually("the claim is given up", || threads.store.peek(&key()).unwrap().left.is_zero());
}

#[test]
fn a_claim_is_renewed_by_the_keeper_also_when_its_face_is_gone() {
    let Threads { clock, store, dedup } = threads();
    let mut claim = granted(&dedup);
    let threads = Threads { clock, store, dedup: dedup.clone() };
    threads.pass(LEASE * 3);
    drop(dedup);
    let Threads { clock, store, dedup } = threads;
    drop(dedup);
    for _ in 0..40 {
        clock.advance(Duration::from_millis(2500));
        eventually("the keeper sleeps", || clock.sleepers() == 1);
        assert!(claim.time_left() > secs(0));
    }
    claim.complete("done").unwrap();
    assert_eq!(store.peek(&key()).unwrap().status(), Status::Completed);
    drop(claim);
    eventually("the keeper is gone", || clock.sleepers() == 0);
}

#[test]
fn a_completion_within_a_transaction_is_prepared_and_settled() {
    let threads = threads();
    let commit = |prepared: &oncekey::Prepared| {
        let put = Put::new(&prepared.record, prepared.live, prepared.linger);
        let write = threads.store.inner.compare_exchange(&prepared.key, Expected::At(prepared.expected), put);
        assert!(matches!(ready(write), Ok(Exchange::Done(_))));
    };
    let mut claim = granted(&threads.dedup);
    let prepared = claim.prepare("done").unwrap();
    assert!(matches!(claim.renew(), Err(ClaimError::Prepared { .. })));
    threads.pass(secs(20));
    assert_eq!(threads.store.peek(&key()).unwrap().version, prepared.expected, "the keeper leaves it alone");
    claim.rolled_back();
    threads.pass(secs(5));
    assert!(threads.store.peek(&key()).unwrap().version > prepared.expected, "and renews it again");
    assert!(matches!(claim.committed(&prepared), Err(ClaimError::NotPrepared { .. })));

    let prepared = claim.prepare("done").unwrap();
    assert_eq!(claim.settle(&prepared).unwrap(), Settled::NotCommitted);
    let prepared = claim.prepare("done").unwrap();
    commit(&prepared);
    assert_eq!(claim.settle(&prepared).unwrap(), Settled::Committed);
    assert_eq!(threads.store.peek(&key()).unwrap().status(), Status::Completed);

    assert_eq!(threads.dedup.forget(&key()).unwrap(), oncekey::admin::AdminAnswer::Done);
    let mut claim = granted(&threads.dedup);
    let prepared = claim.prepare("done").unwrap();
    commit(&prepared);
    claim.committed(&prepared).unwrap();
    assert!(prepared.expected > Version::new(0));
}

/// Companion crates complete by the async claim.
#[test]
fn a_claim_is_at_hand_for_async_code_too() {
    let threads = threads();
    let mut claim = granted(&threads.dedup);
    assert_eq!(claim.as_async().fence(), claim.fence());
    ready(claim.as_async_mut().complete("done")).unwrap();
    assert_eq!(threads.store.peek(&key()).unwrap().status(), Status::Completed);
}

#[test]
fn an_operator_sees_lists_and_ends() {
    let threads = threads();
    assert!(threads.dedup.inspect(&key()).unwrap().is_none());
    let mut claim = granted(&threads.dedup);
    let seen = threads.dedup.inspect(&key()).unwrap().unwrap();
    assert_eq!((seen.state, seen.attempt), (Status::InProgress, 1));
    assert!(matches!(threads.dedup.forget(&key()).unwrap(), oncekey::admin::AdminAnswer::Live { .. }));
    claim.abandon().unwrap();
    let seen = threads.dedup.inspect(&key()).unwrap().unwrap();
    assert_eq!(seen.state, Status::Expired(ExpiredBecause::Abandoned));

    let dedup =
        blocking::Deduplicator::new(oncekey::Deduplicator::new(Arc::clone(&threads.store.inner))).unwrap();
    let page = dedup.list_in_doubt(None, 10).unwrap();
    assert!(page.entries.len() == 1 && page.entries[0].0 == key() && page.next.is_none());
    assert_eq!(dedup.block_on(dedup.store().purge(10)).unwrap().removed, 0);
}

#[test]
fn nothing_shows_a_key_or_an_outcome() {
    let threads = threads();
    let request = threads.dedup.request(key());
    let shown = format!("{request:?} {:?}", threads.dedup);
    assert!(!shown.contains("7f3a-91"), "{shown}");
    let mut claim = granted(&threads.dedup);
    let shown = format!("{claim:?} {:?}", claim.attempt());
    assert!(!shown.contains("7f3a-91"), "{shown}");
    claim.complete("4242").unwrap();
    let shown = format!("{:?} {:?}", claim, threads.dedup.request(key()).claim().unwrap());
    assert!(!shown.contains("7f3a-91") && !shown.contains("4242"), "{shown}");
}
