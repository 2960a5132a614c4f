//! Lost answers and reset connections under a keeper's batched renewals: no claim is lost by one of them.

use std::time::Duration;

use oncekey::{Answer, ClaimAnswer, Deduplicator, Key, Store};
use tokio::task::JoinSet;

use super::Place;
use crate::deployment::{Deployment, engine};
use crate::ledger::Ledger;
use crate::proxy::{Mode, Proxy};
use crate::server::unique_name;

/// Renewed by a third of it, so that a round can be lost and another come in time, also on a busy machine.
const LEASE: Duration = Duration::from_secs(6);
const CLAIMS: usize = 5;

/// Holds some claims with a keeper for twice their lease, while the answer of its first or second batch of renewals is lost,
/// or the connection reset. Another caller meets all of them in progress, attempt 1, and all are completed in the end.
///
/// # Panics
/// If not; and outside of a tokio runtime of several threads.
pub async fn renewals<D: Deployment>(deployment: &D, url: &str) {
    let mut cases = JoinSet::new();
    for mode in [Mode::DropAnswers, Mode::Reset] {
        for spared in [0, 1] {
            let (proxy, near_url) = Proxy::before(url);
            let near = dedup(deployment.open(&near_url).await);
            let direct = dedup(deployment.open(url).await);
            cases.spawn(async move { case(&proxy, mode, spared, &near, &direct).await });
        }
    }
    while let Some(ended) = cases.join_next().await {
        if let Err(failed) = ended {
            std::panic::resume_unwind(failed.into_panic());
        }
    }
}

fn dedup<S: Store + 'static>(store: S) -> Deduplicator<S> {
    engine(store).lease(LEASE).store_timeout(Duration::from_secs(1)).build().expect("options in order")
}

async fn case<S: Store + 'static>(
    proxy: &Proxy,
    mode: Mode,
    spared: usize,
    near: &Deduplicator<S>,
    direct: &Deduplicator<S>,
) {
    let (scope, ledger) = (unique_name("renewals"), Ledger::new());
    let mut claims = Vec::new();
    for number in 0..CLAIMS {
        let key = Key::new(&scope, number.to_string()).expect("a key in order");
        match near.request(key.clone()).claim().await {
            Ok(ClaimAnswer::Granted(claim)) => claims.push((key, claim)),
            other => panic!("a fresh key was not granted: {other:?}"),
        }
    }
    let place = Place::arm(proxy, near, mode, spared).await;
    let keeper = tokio::spawn(near.keeper());
    tokio::time::sleep(LEASE * 2).await;
    assert!(place.is_met(), "{place}: no renewal met it");
    for (key, claim) in &mut claims {
        let other = direct.request(key.clone()).claim().await;
        assert!(
            matches!(&other, Ok(ClaimAnswer::InProgress(running)) if running.attempt == 1),
            "{place}: a claim that is kept was not in progress: {other:?}"
        );
        let outcome = ledger.effect(key, &claim.attempt());
        let completed = claim.complete(outcome.as_str()).await;
        completed.unwrap_or_else(|error| panic!("{place}: a claim that is kept was lost: {error:?}"));
        let run = async |_| -> Result<String, std::convert::Infallible> { panic!("it is completed") };
        match direct.request(key.clone()).run(run).await {
            Ok(Answer::Replayed { value, .. }) if value == outcome => {}
            other => panic!("{place}: not a replay of {outcome:?}: {other:?}"),
        }
    }
    keeper.abort();
}
