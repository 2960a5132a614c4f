//! Lost answers and reset connections: the call is answered all the same, as if nothing had happened.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use oncekey::admin::{AdminAnswer, Resolution};
use oncekey::{Answer, Deduplicator, Earlier, Key, Outcome, Policy, Store};
use tokio::task::JoinSet;

use super::case::{Case, Fault};
use super::place::PLACES_MAX;
use super::truth;
use crate::deployment::{Deployment, engine};
use crate::ledger::Ledger;
use crate::proxy::{Mode, Proxy};
use crate::server::unique_name;

/// Loses the answer of each request in turn, and then resets the connection at each in turn, of: a run with a checkpoint;
/// a claim renewed, completed and completed again; a release; a replay; a takeover; a resolution; a forgetting. Each ends
/// as it does without a fault, at once, and has one effect. And of two writes of the store's own: where it answers an error
/// that was not applied, it was not.
///
/// The store is opened through a proxy in front of the server that the URL names, and must connect again by itself.
///
/// # Panics
/// If not; and outside of a tokio runtime of several threads.
pub async fn replies<D: Deployment>(deployment: &D, url: &str) {
    let calls: [(&'static str, usize, Call<D::Store>); 8] = [
        ("write", 2, |case| Box::pin(truth::write(case))),
        ("run", 3, |case| Box::pin(run(case))),
        ("claim", 3, |case| Box::pin(claim(case))),
        ("release", 2, |case| Box::pin(release(case))),
        ("replay", 1, |case| Box::pin(replay(case))),
        ("takeover", 2, |case| Box::pin(takeover(case))),
        ("resolve", 2, |case| Box::pin(resolve(case))),
        ("forget", 2, |case| Box::pin(forget(case))),
    ];
    let mut sweeps = JoinSet::new();
    for mode in [Mode::DropAnswers, Mode::Reset] {
        let (proxy, near_url) = Proxy::before(url);
        let near = dedup(deployment.open(&near_url).await);
        let direct = dedup(deployment.open(url).await);
        sweeps.spawn(async move {
            for (name, least, call) in calls {
                let met = sweep(name, mode, &proxy, &near, &direct, call).await;
                // Or the proxy did not see what it was to spoil.
                assert!(met >= least, "{name}: {mode:?} met {met} requests, and there are {least} at least");
            }
        });
    }
    while let Some(swept) = sweeps.join_next().await {
        if let Err(failed) = swept {
            std::panic::resume_unwind(failed.into_panic());
        }
    }
}

fn dedup<S: Store + 'static>(store: S) -> Deduplicator<S> {
    // A store may need more than one try to notice that its connection is gone; the lease is never over.
    engine(store)
        .call_timeout(Duration::from_secs(60))
        .lease(Duration::from_secs(60))
        .build()
        .expect("options in order")
}

/// Answers how many requests of the call met the fault.
async fn sweep<S: Store + 'static>(
    name: &str,
    mode: Mode,
    proxy: &Proxy,
    near: &Deduplicator<S>,
    direct: &Deduplicator<S>,
    call: Call<S>,
) -> usize {
    for spared in 0..PLACES_MAX {
        let key = Key::new(unique_name("lost"), name).expect("a key in order");
        let place = format!("{name}: {mode:?} of request {}", spared + 1);
        let (near, direct) = (near.clone(), direct.clone());
        let fault = Fault { proxy, mode, spared };
        let case = Case { name: place, key, near, direct, ledger: Ledger::new(), fault };
        if !call(&case).await {
            return spared;
        }
    }
    panic!("{name}: no end of requests after {PLACES_MAX}")
}

/// Does its part through the proxy with the fault armed, and checks; answers whether the fault was met.
type Call<S> = for<'a> fn(&'a Case<'a, S>) -> BoxFuture<'a, bool>;

async fn run<S: Store + 'static>(case: &Case<'_, S>) -> bool {
    let place = case.arm().await;
    let answer = case.run(&case.near, Policy::Reclaim).await;
    case.assert_executed(&answer, 1, false);
    case.assert_replayed(&case.direct, answer.value().expect("executed")).await;
    place.is_met()
}

async fn claim<S: Store + 'static>(case: &Case<'_, S>) -> bool {
    let place = case.arm().await;
    let mut claim = case.claim(&case.near, Policy::Reclaim).await;
    assert_eq!((claim.number(), claim.after_doubt()), (1, false), "{}", case.name);
    claim.renew().await.unwrap_or_else(|error| panic!("{}: {error:?}", case.name));
    let outcome = case.ledger.effect(&case.key, &claim.attempt());
    for _ in 0..2 {
        claim.complete(outcome.as_str()).await.unwrap_or_else(|error| panic!("{}: {error:?}", case.name));
    }
    case.assert_one_effect(&outcome);
    case.assert_replayed(&case.direct, &outcome).await;
    place.is_met()
}

async fn release<S: Store + 'static>(case: &Case<'_, S>) -> bool {
    let place = case.arm().await;
    let mut claim = case.claim(&case.near, Policy::Hold).await;
    claim.release().await.unwrap_or_else(|error| panic!("{}: {error:?}", case.name));
    let is_met = place.is_met();
    let answer = case.run(&case.direct, Policy::Hold).await;
    case.assert_executed(&answer, 2, false);
    is_met
}

async fn replay<S: Store + 'static>(case: &Case<'_, S>) -> bool {
    let answer = case.run(&case.direct, Policy::Reclaim).await;
    case.assert_executed(&answer, 1, false);
    let place = case.arm().await;
    let outcome = answer.value().expect("executed");
    case.assert_replayed(&case.near, outcome).await;
    case.assert_one_effect(outcome);
    place.is_met()
}

/// Left in doubt by another, at once rather than after its lease.
async fn abandon<S: Store + 'static>(case: &Case<'_, S>, policy: Policy) {
    let mut claim = case.claim(&case.direct, policy).await;
    claim.abandon().await.unwrap_or_else(|error| panic!("{}: {error:?}", case.name));
}

async fn takeover<S: Store + 'static>(case: &Case<'_, S>) -> bool {
    abandon(case, Policy::Reclaim).await;
    let place = case.arm().await;
    let answer = case.run(&case.near, Policy::Reclaim).await;
    case.assert_executed(&answer, 2, true);
    case.assert_replayed(&case.direct, answer.value().expect("executed")).await;
    place.is_met()
}

async fn resolve<S: Store + 'static>(case: &Case<'_, S>) -> bool {
    abandon(case, Policy::Hold).await;
    let place = case.arm().await;
    let doubt = case.run(&case.near, Policy::Hold).await;
    assert!(
        matches!(doubt, Answer::Earlier(Earlier::InDoubt { attempt: 1, .. })),
        "{}: not in doubt: {doubt:?}",
        case.name
    );
    let outcome = Arc::<str>::from("an operator said so");
    let resolution = Resolution::Completed(Outcome::success(&*outcome));
    let resolved = case.near.resolve(&case.key, &resolution).await;
    assert!(matches!(resolved, Ok(AdminAnswer::Done)), "{}: {resolved:?}", case.name);
    let is_met = place.is_met();
    case.assert_replayed(&case.direct, &outcome).await;
    assert!(case.ledger.effects().is_empty(), "{}: run although in doubt", case.name);
    is_met
}

async fn forget<S: Store + 'static>(case: &Case<'_, S>) -> bool {
    let mut claim = case.claim(&case.direct, Policy::Reclaim).await;
    claim
        .complete("of the first generation")
        .await
        .unwrap_or_else(|error| panic!("{}: {error:?}", case.name));
    let place = case.arm().await;
    let forgotten = case.near.forget(&case.key).await;
    assert!(matches!(forgotten, Ok(AdminAnswer::Done)), "{}: {forgotten:?}", case.name);
    let is_met = place.is_met();
    let answer = case.run(&case.direct, Policy::Reclaim).await;
    case.assert_executed(&answer, 1, false);
    let fence = case.ledger.effects()[0].fence;
    assert!(fence > claim.fence().get(), "{}: a token did not rise", case.name);
    is_met
}
