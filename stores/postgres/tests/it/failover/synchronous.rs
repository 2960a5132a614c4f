//! A synchronous standby: nothing that was acknowledged is lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use oncekey::store::{DurabilityClass, StoreErrorKind};
use oncekey::{Answer, ClaimError, Earlier, Error, RunError};
use oncekey_postgres::{Finding, PostgresStore};
use tokio::task::JoinSet;

use super::load::{Load, WAIT, key};
use super::{CALL_TIMEOUT, Pair, Service, builder, run};
use crate::support::{PATIENCE, block_on, connect, granted, number, pool_to, until};

/// Longer than any failover here, also on a busy machine: so no operation is taken over, and each runs once.
const LEASE: Duration = Duration::from_secs(20);
const STORE_TIMEOUT: Duration = Duration::from_secs(2);
/// What a refused call may take: it waits for the other's attempt, and goes on against the store.
const BUDGET: Duration = WAIT.saturating_add(CALL_TIMEOUT).saturating_add(STORE_TIMEOUT);
/// The same on a machine that does much else.
const SOON: Duration = BUDGET.saturating_mul(5);
const SERVICES: usize = 3;
const CLIENTS: usize = 24;
/// Keys acknowledged before the kill, and again after the promotion.
const KEYS: usize = 300;

#[test]
fn a_failover_to_a_synchronous_standby_loses_nothing() {
    let pair = Pair::synchronous();
    let load = Arc::new(Load::default());
    block_on(async {
        let services: Vec<_> = (0..SERVICES).map(|_| pair.service(LEASE, STORE_TIMEOUT)).collect();
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            // Two clients, each of another service, go through the same keys.
            let (service, load) = (services[client % SERVICES].clone(), Arc::clone(&load));
            clients.spawn(async move { load.client(&service, &format!("k{:02}", client / 2)).await });
        }
        load.until("keys before the kill", || load.acknowledged() >= KEYS && load.running() > 0).await;
        let before = load.acknowledged();
        pair.kill_primary();
        let killed = Instant::now();
        // There is nobody to answer.
        load.until("refused calls", || load.refused() >= CLIENTS / 2).await;
        pair.promote_standby();
        let (promoted, then) = (killed.elapsed(), load.acknowledged());
        load.until("a key after the promotion", || load.acknowledged() > then).await;
        let served = killed.elapsed();
        load.until("keys after the promotion", || load.acknowledged() >= before + KEYS).await;
        load.end();
        while let Some(ended) = clients.join_next().await {
            ended.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()));
        }
        drop(services);

        let lost = load.lost(&pair.service(LEASE, PATIENCE)).await;
        report(&load, promoted, served, lost.len());
        assert_eq!(lost, [""; 0], "acknowledged, and not on record");
        load.assert_no_overlap();
        assert!(served < LEASE, "the machine is too slow for this test: {served:?}");
        assert_eq!(load.executed_twice(), [""; 0]);
        assert_eq!(load.unrecorded(), 0, "a completion is stored once the other server takes writes");
        for (kind, (_, longest)) in load.refusals() {
            assert!(kind == "Unavailable" || kind == "TimedOut", "{kind}");
            assert!(longest < SOON, "a call was refused after {longest:?}, its budget is {BUDGET:?}");
        }
    });
}

fn report(load: &Load, promoted: Duration, served: Duration, lost: usize) {
    let refused: Vec<_> = load.refusals().into_iter().collect();
    println!("| failover to a synchronous standby, {CLIENTS} clients of {SERVICES} services | |");
    println!("|---|--:|");
    println!("| seconds without service | {:.2} |", served.as_secs_f64());
    println!("| of these until the standby was promoted | {:.2} |", promoted.as_secs_f64());
    println!("| calls refused | {} |", load.refused());
    println!("| keys with an acknowledged outcome | {} |", load.acknowledged());
    println!("| acknowledged and lost | {lost} |");
    println!("| operations run | {} |", load.executed());
    println!("| executed twice | {} |", load.executed_twice().len());
    let (held_up, longest) = load.slower_than(LEASE / 2);
    println!("| keys held by a claim whose reply was lost, until its lease ended | {held_up} |");
    println!("refused: {refused:?}; the slowest key took {longest:?} of a lease of {LEASE:?}");
}

/// A claim or a completion that the standby has not confirmed counts for nothing. The server shows it to nobody; were its
/// statement cancelled, the server would commit it all the same, and show it, and a failover would lose it.
#[test]
fn without_its_standby_a_primary_grants_and_acknowledges_nothing() {
    let pair = Pair::synchronous();
    block_on(async {
        let hasty = builder(&pair.url(), LEASE, Duration::from_millis(500));
        let hasty = hasty.completion_timeout(Duration::from_secs(4)).build().unwrap();
        let kept = run(&hasty, "before").await.unwrap();
        let Answer::Executed { value: kept, .. } = kept else { panic!("{kept:?}") };
        let mut claim = granted(&hasty, &key("completing")).await;
        tokio::task::block_in_place(|| pair.standby.cut_off());

        let calls = async {
            for _ in 0..2 {
                assert_refused(&hasty, "claiming").await;
            }
        };
        let (completed, ()) = tokio::join!(claim.complete("\"done\""), calls);
        assert!(matches!(completed, Err(ClaimError::Store { .. })), "not on the standby: {completed:?}");
        let other = pair.service(LEASE, PATIENCE);
        let seen = run(&other, "completing").await;
        assert!(
            matches!(seen, Ok(Answer::Earlier(Earlier::InProgress { .. })) | Err(RunError::Claim { .. })),
            "the standby does not have its completion: {seen:?}"
        );

        pair.kill_primary();
        pair.promote_standby();
        let replayed = run(&other, "before").await.unwrap();
        assert!(
            matches!(&replayed, Answer::Earlier(Earlier::Replayed { value, .. }) if *value == kept),
            "{replayed:?}"
        );
        let ran = run(&other, "claiming").await.unwrap();
        assert!(matches!(ran, Answer::Executed { .. }), "nothing was granted before: {ran:?}");
    });
}

/// No claim is granted, and the error is typed.
async fn assert_refused(service: &Service, id: &str) {
    let refused = run(service, id).await;
    let Err(RunError::Claim { source: Error::Store { source, .. }, .. }) = &refused else {
        panic!("{id}: no standby has this claim: {refused:?}")
    };
    assert!(
        matches!(source.kind(), StoreErrorKind::TimedOut | StoreErrorKind::Unavailable),
        "{id}: {source:?}"
    );
}

/// The primary hangs, the standby takes over, and the old one goes on later and takes itself for the primary. It takes
/// connections all the while, and answers none at first: the hosts are tried in random order, so that clients get past it.
#[test]
fn a_primary_that_hangs_and_comes_back_grants_nothing() {
    let pair = Pair::synchronous();
    block_on(async {
        let store_timeout = Duration::from_secs(1);
        let both = format!("{}&load_balance_hosts=random", pair.url());
        let service = builder(&both, LEASE, store_timeout).build().unwrap();
        let old = builder(pair.primary.url(), LEASE, store_timeout).build().unwrap();
        let Answer::Executed { value: kept, .. } = run(&service, "before").await.unwrap() else {
            panic!("a fresh key")
        };
        tokio::task::block_in_place(|| pair.primary.hang());
        pair.promote_standby();
        until("the clients find the new primary", async || {
            matches!(run(&service, "during").await, Ok(Answer::Executed { .. }))
        })
        .await;

        tokio::task::block_in_place(|| pair.primary.go_on());
        assert_refused(&old, "during").await;
        assert_refused(&old, "after").await;
        // What both have is the same on both.
        let replayed = run(&old, "before").await;
        assert!(
            matches!(&replayed, Ok(Answer::Earlier(Earlier::Replayed { value, .. })) if *value == kept),
            "{replayed:?}"
        );
        until("a claim on the new primary", async || {
            matches!(run(&service, "after").await, Ok(Answer::Executed { .. }))
        })
        .await;
    });
}

/// As one session is set: it does not wait for the standby.
#[test]
fn a_check_tells_of_commits_that_do_not_wait_for_the_standby() {
    let pair = Pair::synchronous();
    block_on(async {
        let url = format!("{}&options=-c%20synchronous_commit%3Dlocal", pair.url());
        let checked = PostgresStore::new(pool_to(&url, 1)).check().await.unwrap();
        assert_eq!(checked.durability, DurabilityClass::Disk);
        assert_eq!(checked.findings, [Finding::AsynchronousStandby]);
        let checked = PostgresStore::new(pool_to(&pair.url(), 1)).check().await.unwrap();
        assert_eq!((checked.durability, checked.findings), (DurabilityClass::Quorum, Vec::new()));
    });
}

/// A commit that waits for the standby cannot be ended, and its session stays on the server. So it keeps its place in the
/// pool: calls are refused, and the server does not run out of connections.
#[test]
fn no_more_commits_wait_for_a_standby_than_the_pool_has_places() {
    let pair = Pair::synchronous();
    block_on(async {
        let service = builder(&pair.url(), LEASE, Duration::from_millis(300))
            .call_timeout(Duration::from_millis(300))
            .build()
            .unwrap();
        let admin = connect(pair.primary.url()).await;
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        assert!(matches!(run(&service, "before").await, Ok(Answer::Executed { .. })));
        tokio::task::block_in_place(|| pair.standby.cut_off());
        let (mut most, began) = (0, Instant::now());
        for call in 0.. {
            let refused = run(&service, &format!("waits-{call}")).await.unwrap_err();
            assert!(matches!(refused, RunError::Claim { .. }), "{refused:?}");
            most = most.max(number(&admin, waiting).await);
            // The pool's four places, and the one beside them for who holds a claim.
            assert!(most <= 5, "{most} sessions wait");
            if most >= 4 && began.elapsed() > Duration::from_secs(12) {
                break;
            }
        }
    });
}
