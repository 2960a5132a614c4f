//! What the holder of a claim is told: when its lease is lost, and what a refused write may have done.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};

use super::*;
use crate::support::{Flag, Tasks, poll_once, secs};

/// Polls with a waker of its own: whether it is ready, and the flag that is set when it is woken.
fn poll_flagged<F: Future<Output = ()> + ?Sized>(future: Pin<&mut F>) -> (bool, Arc<Flag>) {
    let woken = Arc::new(Flag::default());
    let waker = Waker::from(Arc::clone(&woken));
    (future.poll(&mut Context::from_waker(&waker)).is_ready(), woken)
}

/// A task that waits is not polled by anybody else: it must be woken.
#[test]
fn who_waits_for_the_loss_is_woken_by_whoever_learns_of_it() {
    type Act = fn(&Bench, &mut Claim<FaultyStore>);
    let acts: [(&str, Act); 5] = [
        ("complete", |bench, claim| bench.run(claim.complete("a")).map(drop).unwrap()),
        ("release", |bench, claim| bench.run(claim.release()).unwrap()),
        ("abandon", |bench, claim| bench.run(claim.abandon()).unwrap()),
        ("a renewal that is refused", |bench, claim| {
            drop(granted(bench.run(bench.other_process().request(key()).claim())));
            assert!(matches!(bench.run(claim.renew()), Err(ClaimError::Superseded { .. })));
        }),
        ("a round of the keeper", |bench, _| {
            drop(granted(bench.run(bench.other_process().request(key()).claim())));
            assert!(poll_once(Box::pin(bench.dedup.keeper()).as_mut()).is_none());
        }),
    ];
    for (name, act) in acts {
        let bench = bench();
        let mut claim = bench.grant();
        if name.starts_with('a') && name.contains(' ') {
            // The store's lease is over, and the owner's clock has not moved: another may take over.
            let stored = bench.on_record();
            let put = Put::new(&stored.record, Duration::ZERO, RETENTION);
            ready(bench.store.inner.compare_exchange(&key(), Expected::At(stored.version), put)).unwrap();
        }
        let (one, other) = (claim.attempt(), claim.attempt());
        let mut lost = [Box::pin(one.lost()), Box::pin(other.lost())];
        let waits: Vec<_> = lost.iter_mut().map(|lost| poll_flagged(lost.as_mut())).collect();
        assert!(waits.iter().all(|(told, woken)| !told && !woken.0.load(Ordering::SeqCst)), "{name}");
        if name == "a round of the keeper" {
            bench.clock.advance(secs(10));
        }
        act(&bench, &mut claim);
        assert!(waits.iter().all(|(_, woken)| woken.0.load(Ordering::SeqCst)), "{name}: not woken");
        assert!(lost.iter_mut().all(|lost| poll_flagged(lost.as_mut()).0), "{name}: woken, and not told");
    }
}

/// The run is such a task too: its operation is dropped when the keeper learns that it was superseded.
#[test]
fn a_run_is_woken_when_the_keeper_learns_of_a_takeover() {
    let bench = bench();
    let mut tasks = Tasks::default();
    let run =
        tasks.spawn(bench.dedup.request(key()).run(|_| std::future::pending::<Result<String, String>>()));
    tasks.settle();
    let stored = bench.on_record();
    let put = Put::new(&stored.record, Duration::ZERO, RETENTION);
    ready(bench.store.inner.compare_exchange(&key(), Expected::At(stored.version), put)).unwrap();
    drop(granted(ready(bench.other_process().request(key()).claim())));
    // The keeper's round comes first: at a tick of its own, before the run's next look.
    let keeper = bench.dedup.keeper();
    let mut keeper = Box::pin(keeper);
    assert!(poll_once(keeper.as_mut()).is_none());
    bench.clock.advance(secs(10));
    assert!(poll_once(keeper.as_mut()).is_none());
    tasks.settle();
    assert!(run.is_done(), "nobody woke it");
    let told = run.take();
    assert!(
        matches!(&told, Err(RunError::LeaseLost { source: ClaimError::Superseded { .. }, .. })),
        "{told:?}"
    );
}

/// "Possibly applied" is said of the kind of write that went unanswered, and of no other.
#[test]
fn only_the_kind_of_write_that_went_unanswered_is_called_possibly_applied() {
    const KINDS: [&str; 5] = ["renew", "checkpoint", "complete", "release", "abandon"];
    let write = |bench: &Bench, claim: &mut Claim<FaultyStore>, kind: &str| match kind {
        "renew" => bench.run(claim.renew()),
        "checkpoint" => bench.run(claim.checkpoint("x")),
        "complete" => bench.run(claim.complete("x")).map(drop),
        "release" => bench.run(claim.release()),
        _ => bench.run(claim.abandon()),
    };
    for unanswered in KINDS {
        for then in KINDS.into_iter().filter(|kind| !matches!(*kind, "renew" | "checkpoint")) {
            let bench = bench();
            let mut claim = bench.grant();
            bench.store.always(Fault::RequestLost);
            assert!(matches!(write(&bench, &mut claim, unanswered), Err(ClaimError::Store { .. })));
            bench.store.always(Fault::None);
            bench.clock.advance(LEASE + secs(60));
            let _successor = granted(bench.run(bench.other_process().request(key()).claim()));
            match write(&bench, &mut claim, then) {
                Err(ClaimError::Superseded { possibly_applied, .. }) => {
                    assert_eq!(possibly_applied, unanswered == then, "{unanswered} unanswered, then {then}");
                }
                other => panic!("{unanswered} unanswered, then {then}: {other:?}"),
            }
        }
    }
}

/// Each refusal names the scope, for the one who reads the log.
#[test]
fn a_refusal_names_the_scope_and_not_the_id() {
    let told = |answer: Result<(), ClaimError>| {
        let shown = answer.unwrap_err().to_string();
        assert!(shown.contains("`payments.charge`") && !shown.contains("7f3a-91"), "{shown}");
    };
    let bench = bench();
    let mut claim = bench.grant();
    let prepared = bench.run(claim.prepare("a")).unwrap();
    told(bench.run(claim.complete("b")).map(drop)); // prepared
    claim.rolled_back();
    told(claim.committed(&prepared)); // not prepared
    told(bench.run(claim.checkpoint(vec![0; (64 << 10) + 1])));
    bench.run(claim.complete("a")).unwrap();
    told(bench.run(claim.complete("b")).map(drop));
    told(bench.run(claim.renew()));

    let bench = self::bench();
    let claim = bench.grant();
    bench.run(claim.lost());
    told(bench.run(claim.renew())); // its deadline passed
    let mut claim = claim;
    bench.clock.advance(LEASE);
    let _successor = granted(bench.run(bench.other_process().request(key()).claim()));
    told(bench.run(claim.complete("a")).map(drop)); // superseded
}

/// For at most so long: at that very moment no more.
#[test]
fn automatic_renewal_ends_at_its_bound() {
    for keeper in [false, true] {
        let bench = bench_with(|builder| builder.renew_for_max(secs(20)));
        let mut tasks = Tasks::default();
        let _keeper = keeper.then(|| tasks.spawn(bench.dedup.keeper()));
        let operation = |_| std::future::pending::<Result<String, String>>();
        let _run = tasks.spawn(bench.dedup.request(key()).run(operation));
        tasks.pass(&bench.clock, secs(15));
        let renewed = bench.store.trips().0;
        assert_eq!(renewed, 2, "claimed, and renewed once before the bound");
        bench.clock.advance(secs(5));
        tasks.pass(&bench.clock, secs(30));
        assert_eq!(bench.store.trips().0, renewed, "renewed at its bound, by a keeper: {keeper}");
    }
}

crate::support::also_at_once! {
    who_waits_for_the_loss_is_woken_by_whoever_learns_of_it
    a_run_is_woken_when_the_keeper_learns_of_a_takeover
    a_refusal_names_the_scope_and_not_the_id
    automatic_renewal_ends_at_its_bound
}
