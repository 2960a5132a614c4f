//! What people read in logs: each thing says what it is, and what state it is in.

use oncekey::builder::OnLeaseLost;
use oncekey::codec::{AsValue, Raw};
use oncekey::store::CachedStore;
use oncekey::{ClaimAnswer, Deduplicator, Failure, Fingerprint, MemoryStore, Payload, Policy, RunError};

use crate::support::*;

/// An empty line in a log helps nobody. That nothing secret shows is for `explicit`.
#[test]
fn debug_says_what_it_shows() {
    let bench = bench();
    let shown = |what: &dyn std::fmt::Debug| format!("{what:?}");
    let begins = |what: &dyn std::fmt::Debug, with: &str| {
        assert!(shown(what).starts_with(with), "{with}: {}", shown(what));
    };
    let granted = ready(bench.dedup.request(key()).claim()).unwrap();
    begins(&granted, "Granted(Claim {");
    let ClaimAnswer::Granted(claim) = granted else { unreachable!() };
    assert!(shown(&claim).contains("payments.charge") && shown(&claim).contains("Started"), "{claim:?}");
    assert!(shown(&claim.attempt()).contains("attempt: 1"), "{:?}", claim.attempt());
    begins(&bench.dedup, "Deduplicator {");
    assert_eq!((bench.dedup.held(), bench.dedup.waiting()), (1, 0));
    assert!(shown(&bench.dedup).contains("held: 1"), "{:?}", bench.dedup);
    begins(&Deduplicator::builder(MemoryStore::new()), "DeduplicatorBuilder {");
    begins(&bench.dedup.request(key()).fail_open(), "Request {");
    assert!(shown(&bench.dedup.request(key()).fail_open()).contains("fail_open: true"));
    begins(&*bench.store.inner, "MemoryStore {");
    begins(&CachedStore::new(MemoryStore::new(), 7, secs(1)), "CachedStore {");

    let again = || ready(bench.dedup.request(key()).claim()).unwrap();
    begins(&again(), "Answered(InProgress {");
    let other = bench.dedup.request(key()).fingerprint(Fingerprint::sha256(b"other"));
    begins(&ready(other.claim()).unwrap(), "Answered(Mismatch)");
    let mut claim = claim;
    ready(claim.complete("done")).unwrap();
    begins(&again(), "Answered(Replayed {");
    ready(bench.dedup.forget(&key())).unwrap();
    let hold = ready(bench.dedup.request(key()).policy(Policy::Hold).claim()).unwrap();
    drop(hold);
    bench.clock.advance(LEASE);
    begins(&again(), "Answered(InDoubt {");
}

#[test]
fn a_failed_run_says_what_became_of_its_claim() {
    let bench = bench();
    let run = |failure: Failure<String>| {
        ready(bench.dedup.request(key()).run_or_fail(|_| async { Err::<String, _>(failure) })).unwrap_err()
    };
    let released = run(Failure::NoEffect("e".to_owned()));
    assert!(released.to_string().contains("without effect, and was released"), "{released}");
    assert!(format!("{released:?}").starts_with("Operation {"), "{released:?}");
    let in_doubt = run(Failure::Unknown("e".to_owned()));
    assert!(in_doubt.to_string().contains("in doubt"), "{in_doubt}");
    let recorded = run(Failure::Final("e".to_owned()));
    assert!(recorded.to_string().contains("its failure is on record"), "{recorded}");
    ready(bench.dedup.forget(&key())).unwrap();
    let long = "e".repeat((1 << 20) + 1);
    let cut = run(Failure::Final(long.clone()));
    assert!(cut.to_string().contains("a part of its failure is on record"), "{cut}");
    ready(bench.dedup.forget(&key())).unwrap();
    let whole = bench.dedup.request(key()).failures(AsValue(Raw));
    let lost = ready(whole.run_or_fail(|_| async { Err::<String, _>(Failure::Final(long)) })).unwrap_err();
    assert!(lost.to_string().contains("on record, without the failure"), "{lost}");
    ready(bench.dedup.forget(&key())).unwrap();

    bench.store.always(Fault::Refused);
    let not_run = bench.run(bench.dedup.request(key()).run(|_| async { Ok::<_, String>(String::new()) }));
    let not_run = not_run.unwrap_err();
    assert!(not_run.to_string().contains("was not run"), "{not_run}");
    assert!(matches!(not_run, RunError::Claim { .. }) && format!("{not_run:?}").starts_with("Claim {"));
    let open = bench.dedup.request(key()).fail_open();
    let open = bench.run(open.run(|_| async { Err::<String, _>("e".to_owned()) })).unwrap_err();
    assert!(open.to_string().contains("unprotected"), "{open}");
}

#[test]
fn a_lost_lease_says_so() {
    let bench = bench_with(|builder| builder.on_lease_lost(OnLeaseLost::Drop));
    let mut run = std::pin::pin!(bench.dedup.request(key()).run(async |_| {
        std::future::pending::<()>().await;
        Ok::<Payload, String>(Payload::empty())
    }));
    assert!(poll_once(run.as_mut()).is_none());
    bench.clock.advance(LEASE);
    let lost = poll_once(run.as_mut()).expect("its deadline has passed").unwrap_err();
    assert!(lost.to_string().contains("lease was lost"), "{lost}");
    assert!(format!("{lost:?}").starts_with("LeaseLost {"), "{lost:?}");
}

#[test]
fn a_store_says_among_how_many_locks_it_is_parted() {
    let shards = |count: usize| {
        let store = MemoryStore::builder().shards(count.try_into().unwrap()).build();
        let shown = format!("{store:?}");
        let at = shown.find("shards: ").expect("it says so") + "shards: ".len();
        shown[at..].split(',').next().unwrap().parse::<usize>().unwrap()
    };
    assert_eq!([1, 2, 7, 64, 100].map(shards), [1, 2, 8, 64, 128], "rounded up to a power of two");
    assert_eq!(shards(usize::MAX), 1 << 16);
    assert!(format!("{:?}", MemoryStore::new()).contains("shards: 64"));
}
