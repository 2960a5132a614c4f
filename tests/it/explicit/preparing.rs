//! A completion that the caller's own transaction writes.

use super::*;

#[test]
fn a_known_commit_is_on_record_and_replayed() {
    let bench = bench();
    let mut claim = bench.grant();
    let prepared = bench.run(claim.prepare("charged")).unwrap();
    assert!(matches!(commit(&bench, &prepared), Exchange::Done(_)));
    claim.committed(&prepared);
    assert_eq!(claim.time_left(), Duration::ZERO);
    let committed = bench.on_record();
    drop(claim);
    bench.nothing_is_left();
    assert_eq!(bench.on_record(), committed, "dropping the claim changes nothing");
    let runs = AtomicU32::new(0);
    assert_eq!(bench.second_call(&runs).value(), Some(&"charged".to_owned()));
    assert_eq!(runs.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[test]
fn a_commit_wakes_who_waits_in_this_process() {
    let bench = bench();
    let mut claim = bench.grant();
    let mut waiter = Box::pin(
        bench
            .dedup
            .request(key())
            .wait(Duration::from_secs(20))
            .run(|_| async { Ok::<_, &str>("no".to_owned()) }),
    );
    assert!(poll_once(waiter.as_mut()).is_none());
    let prepared = bench.run(claim.prepare("charged")).unwrap();
    assert!(matches!(commit(&bench, &prepared), Exchange::Done(_)));
    claim.committed(&prepared);
    let answer = poll_once(waiter.as_mut()).expect("no poll of the store is needed").unwrap();
    assert_eq!(answer.into_value().unwrap(), "charged");
}

#[test]
fn an_unknown_commit_that_landed_is_learnt() {
    let bench = bench();
    let mut claim = bench.grant();
    let prepared = bench.run(claim.prepare("charged")).unwrap();
    assert!(matches!(commit(&bench, &prepared), Exchange::Done(_)));
    assert_eq!(bench.run(claim.settle(&prepared)).unwrap(), Settled::Committed);
    assert_eq!(bench.run(claim.settle(&prepared)).unwrap(), Settled::Committed, "and again");
    bench.run(claim.complete("charged")).unwrap();
    assert!(matches!(bench.run(claim.complete("else")), Err(ClaimError::AlreadyCompleted { .. })));
}

#[test]
fn an_unknown_commit_that_did_not_land_can_no_longer_land() {
    let bench = bench();
    let mut claim = bench.grant();
    let prepared = bench.run(claim.prepare("charged")).unwrap();
    bench.clock.advance(Duration::from_secs(20));
    assert_eq!(bench.run(claim.settle(&prepared)).unwrap(), Settled::NotCommitted);
    assert_eq!(claim.time_left(), LEASE - MARGIN, "held on, and renewed");
    match commit(&bench, &prepared) {
        Exchange::Conflict(Some(entry)) => assert_eq!(entry.record.state(), State::InProgress),
        other => panic!("a transaction still under way committed: {other:?}"),
    }
    // It may be tried again.
    let again = bench.run(claim.prepare("charged, second try")).unwrap();
    assert!(again.expected > prepared.expected);
    assert!(matches!(commit(&bench, &again), Exchange::Done(_)));
    assert_eq!(bench.run(claim.settle(&again)).unwrap(), Settled::Committed);
}

#[test]
fn a_prepared_claim_that_was_taken_over_says_so_and_its_transaction_fails() {
    let bench = bench();
    let mut claim = bench.grant();
    let prepared = bench.run(claim.prepare("charged")).unwrap();
    bench.clock.advance(LEASE);
    let other = bench.other_process();
    let _second = granted(bench.run(other.request(key()).claim()));
    let before = bench.on_record();
    assert!(
        matches!(commit(&bench, &prepared), Exchange::Conflict(Some(_))),
        "the loser's transaction fails"
    );
    assert!(matches!(bench.run(claim.settle(&prepared)), Err(ClaimError::Superseded { .. })));
    let again = bench.run(claim.complete("charged"));
    assert!(matches!(again, Err(ClaimError::Superseded { .. })), "it is settled, and says why: {again:?}");
    drop(claim);
    bench.run(bench.dedup.flush());
    assert_eq!(bench.on_record(), before);
}

#[test]
fn settling_survives_lost_replies_and_says_unknown_when_nothing_is_left() {
    for faults in [
        [Fault::Refused, Fault::None, Fault::ReplyLost],
        [Fault::HangBefore, Fault::None, Fault::RequestLost],
        [Fault::None, Fault::ReplyLost, Fault::None],
        [Fault::None, Fault::HangAfter, Fault::Refused],
        [Fault::None, Fault::Twice, Fault::ReplyLost],
    ] {
        let bench = bench();
        let mut claim = bench.grant();
        let prepared = bench.run(claim.prepare("charged")).unwrap();
        bench.store.plan(faults);
        assert_eq!(bench.run(claim.settle(&prepared)).unwrap(), Settled::NotCommitted, "{faults:?}");
        assert!(
            claim.time_left() > Duration::from_secs(20) && claim.time_left() <= LEASE - MARGIN,
            "{faults:?}"
        );
        assert!(matches!(commit(&bench, &prepared), Exchange::Conflict(_)), "{faults:?}");
        bench.run(claim.complete("charged")).unwrap();
    }
    let bench = bench();
    let mut claim = bench.grant();
    let prepared = bench.run(claim.prepare("charged")).unwrap();
    assert!(matches!(commit(&bench, &prepared), Exchange::Done(_)));
    bench.clock.advance(RETENTION + LEASE);
    assert!(matches!(bench.run(claim.settle(&prepared)), Err(ClaimError::Unknown { .. })), "never refused");
}

#[test]
fn settling_against_a_store_that_fails_goes_on_for_the_completion_timeout() {
    let bench = bench_with(|builder| builder.completion_timeout(Duration::from_secs(600)));
    let mut claim = bench.grant();
    let prepared = bench.run(claim.prepare("charged")).unwrap();
    // Loads are answered, writes are not: a database that is read-only for ten minutes.
    bench.store.plan([Fault::None]);
    bench.store.always(Fault::Refused);
    let begun = oncekey::time::Clock::now(&bench.clock);
    match bench.run(claim.settle(&prepared)) {
        Err(ClaimError::Store { .. }) => {}
        other => panic!("a store that fails does not contradict itself: {other:?}"),
    }
    let lasted = oncekey::time::Clock::now(&bench.clock).saturating_since(begun);
    assert!(lasted >= Duration::from_secs(600), "given up after {lasted:?}");
}

#[test]
fn a_prepared_claim_refuses_other_writes_and_the_keeper_skips_it() {
    let bench = bench();
    let mut claim = bench.grant();
    let prepared = bench.run(claim.prepare("charged")).unwrap();
    let before = bench.on_record().version;
    assert!(matches!(bench.run(claim.renew()), Err(ClaimError::Prepared { .. })));
    assert!(matches!(bench.run(claim.checkpoint("x")), Err(ClaimError::Prepared { .. })));
    assert!(matches!(bench.run(claim.complete("x")), Err(ClaimError::Prepared { .. })));
    assert!(matches!(bench.run(claim.fail("x")), Err(ClaimError::Prepared { .. })));
    assert!(matches!(bench.run(claim.release()), Err(ClaimError::Prepared { .. })));
    assert!(matches!(bench.run(claim.abandon()), Err(ClaimError::Prepared { .. })));
    assert!(matches!(bench.run(claim.prepare("x")), Err(ClaimError::Prepared { .. })));
    let mut keeper = Box::pin(bench.dedup.keeper());
    for _ in 0..15 {
        assert!(poll_once(keeper.as_mut()).is_none());
        bench.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(bench.on_record().version, before, "nothing moved the version under the transaction");
    // Rolled back, and known to be: the claim is as before, and the keeper renews it again.
    claim.rolled_back();
    for _ in 0..4 {
        assert!(poll_once(keeper.as_mut()).is_none());
        bench.clock.advance(Duration::from_secs(1));
    }
    assert!(bench.on_record().version > before);
    assert!(matches!(commit(&bench, &prepared), Exchange::Conflict(_)));
    bench.run(claim.renew()).unwrap();
    bench.run(claim.complete("charged")).unwrap();
}

#[test]
fn preparing_waits_for_a_renewal_in_flight() {
    let bench = bench();
    let mut claim = bench.grant();
    bench.clock.advance(Duration::from_secs(10));
    bench.store.yields.store(true, std::sync::atomic::Ordering::SeqCst);
    let mut keeper = Box::pin(bench.dedup.keeper());
    assert!(poll_once(keeper.as_mut()).is_none(), "its renewal is under way");
    let mut prepare = Box::pin(claim.prepare("charged"));
    assert!(poll_once(prepare.as_mut()).is_none());
    while poll_once(prepare.as_mut()).is_none_or(|prepared| {
        assert!(
            matches!(commit(&bench, &prepared.unwrap()), Exchange::Done(_)),
            "prepared at the version that is there"
        );
        false
    }) {
        assert!(poll_once(keeper.as_mut()).is_none());
    }
}

#[test]
fn preparing_after_a_renewal_of_unknown_fate_expects_the_version_that_is_there() {
    // The owner's own renewal, dropped when it was applied already.
    let bench = bench();
    let mut claim = bench.grant();
    bench.store.yields.store(true, std::sync::atomic::Ordering::SeqCst);
    {
        let mut renew = Box::pin(claim.renew());
        assert!(poll_once(renew.as_mut()).is_none() && poll_once(renew.as_mut()).is_none());
    }
    let prepared = bench.run(claim.prepare("charged")).unwrap();
    assert!(matches!(commit(&bench, &prepared), Exchange::Done(_)));

    // The keeper's renewal, whose reply was lost.
    let bench = self::bench();
    let mut claim = bench.grant();
    bench.clock.advance(Duration::from_secs(10));
    bench.store.plan([Fault::ReplyLost]);
    assert!(poll_once(Box::pin(bench.dedup.keeper()).as_mut()).is_none());
    let prepared = bench.run(claim.prepare("charged")).unwrap();
    assert!(matches!(commit(&bench, &prepared), Exchange::Done(_)));
}

#[test]
fn preparing_after_an_unanswered_renewal_outlasts_a_store_that_fails_for_more_than_one_timeout() {
    let bench = bench();
    let mut claim = bench.grant();
    bench.store.plan([Fault::HangAfter]);
    assert!(poll_once(Box::pin(claim.renew()).as_mut()).is_none());
    // Tried at 0, 25, 75, 175, 375 and 775 ms, and answered at 1.575 s; the store's timeout is 1 s.
    bench.store.plan([Fault::Refused; 6]);
    let prepared = bench.run(claim.prepare("charged")).unwrap();
    assert!(matches!(commit(&bench, &prepared), Exchange::Done(_)));
}

#[test]
fn a_commit_told_twice_is_taken_twice() {
    let bench = bench();
    let mut claim = bench.grant();
    let prepared = bench.run(claim.prepare("charged")).unwrap();
    assert!(matches!(commit(&bench, &prepared), Exchange::Done(_)));
    assert!(claim.committed(&prepared).is_ok());
    assert!(claim.committed(&prepared).is_ok(), "steps can be repeated");
}

/// The same key, version, token and outcome in another store: only the owner tells the two apart.
#[test]
fn what_a_claim_of_another_store_prepared_is_not_its_own() {
    let (here, there) = (bench(), bench());
    let (mut claim, mut other) = (here.grant(), there.grant());
    assert_eq!(claim.fence(), other.fence());
    let _own = here.run(claim.prepare("charged")).unwrap();
    let prepared = there.run(other.prepare("charged")).unwrap();
    assert!(matches!(claim.committed(&prepared), Err(ClaimError::NotPrepared { .. })));
    assert!(matches!(here.run(claim.settle(&prepared)), Err(ClaimError::NotPrepared { .. })));
}

#[test]
fn settling_what_was_rolled_back_over_another_outcome_says_that_it_is_completed() {
    let bench = bench();
    let mut claim = bench.grant();
    let prepared = bench.run(claim.prepare("a")).unwrap();
    claim.rolled_back();
    bench.run(claim.complete("b")).unwrap();
    let told = bench.run(claim.settle(&prepared));
    assert!(
        matches!(told, Err(ClaimError::AlreadyCompleted { .. })),
        "the outcome on record is another: {told:?}"
    );
}

#[test]
fn settling_against_a_store_that_is_down_ends_with_the_completion_timeout_or_at_once_without_hope() {
    for (fault, lasts) in [(Fault::Refused, Duration::from_secs(60)), (Fault::Hopeless, Duration::ZERO)] {
        // Its load fails; or its load is answered, and its write fails.
        for answered in [0, 1] {
            let bench = bench();
            let mut claim = bench.grant();
            let prepared = bench.run(claim.prepare("charged")).unwrap();
            let begun = oncekey::time::Clock::now(&bench.clock);
            bench.store.plan([Fault::None].into_iter().cycle().take(answered));
            bench.store.always(fault);
            let told = bench.run(claim.settle(&prepared));
            assert!(matches!(told, Err(ClaimError::Store { .. })), "{fault:?}: {told:?}");
            let lasted = oncekey::time::Clock::now(&bench.clock).saturating_since(begun);
            assert!(lasted >= lasts && lasted <= lasts + Duration::from_secs(7), "{fault:?}: {lasted:?}");
            // Nothing is settled: it can be asked again.
            bench.store.always(Fault::None);
            assert_eq!(bench.run(claim.settle(&prepared)).unwrap(), Settled::NotCommitted);
        }
    }
}

crate::support::also_at_once! {
    a_known_commit_is_on_record_and_replayed
    a_commit_wakes_who_waits_in_this_process
    an_unknown_commit_that_landed_is_learnt
    an_unknown_commit_that_did_not_land_can_no_longer_land
    a_prepared_claim_that_was_taken_over_says_so_and_its_transaction_fails
    settling_against_a_store_that_fails_goes_on_for_the_completion_timeout
    a_prepared_claim_refuses_other_writes_and_the_keeper_skips_it
    preparing_waits_for_a_renewal_in_flight
    a_commit_told_twice_is_taken_twice
    what_a_claim_of_another_store_prepared_is_not_its_own
    settling_what_was_rolled_back_over_another_outcome_says_that_it_is_completed
    settling_against_a_store_that_is_down_ends_with_the_completion_timeout_or_at_once_without_hope
}
