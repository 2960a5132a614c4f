//! Lost answers and reset connections under a keeper's batched renewals: no claim is lost by one of them.

use std::time::{Duration, Instant};

use oncekey::{Answer, Claim, ClaimAnswer, Deduplicator, Earlier, Key, Store};
use tokio::task::JoinSet;

use super::place::Place;
use crate::deployment::{Deployment, PATIENCE, engine};
use crate::ledger::Ledger;
use crate::proxy::{Mode, Proxy};
use crate::server::unique_name;

/// No machine is so busy that it is over before the next renewals.
const LEASE: Duration = Duration::from_secs(600);
const MARGIN: Duration = Duration::from_secs(1);
const RENEW_EVERY: Duration = Duration::from_millis(500);
/// How much less may be left of a lease than was written: the clocks of two processes of one machine, and rounding.
const SLACK: Duration = Duration::from_millis(100);
const CLAIMS: usize = 5;

/// Holds some claims with a keeper, while the answer of its first or second batch of renewals is lost, or the connection
/// reset. Each claim is renewed again after that, for its owner and on record. Another caller meets all of them in progress,
/// attempt 1, and all are completed in the end.
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
    let builder = engine(store).lease(LEASE).margin(MARGIN).renew_every(RENEW_EVERY);
    builder.store_timeout(Duration::from_secs(1)).call_timeout(PATIENCE).build().expect("options in order")
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
    let start = Instant::now();
    while !place.is_met() {
        assert!(start.elapsed() < PATIENCE, "{place}: no renewal met it");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let met_at = Instant::now();
    for (key, claim) in &mut claims {
        until_renewed(&place, key, claim, direct, met_at).await;
        let other = direct.request(key.clone()).claim().await;
        assert!(
            matches!(&other, Ok(ClaimAnswer::Answered(Earlier::InProgress { attempt: 1, .. }))),
            "{place}: a claim that is kept was not in progress: {other:?}"
        );
        let outcome = ledger.effect(key, &claim.attempt());
        let completed = claim.complete(outcome.as_str()).await;
        completed.unwrap_or_else(|error| panic!("{place}: a claim that is kept was lost: {error:?}"));
        let run = async |_| -> Result<String, std::convert::Infallible> { panic!("it is completed") };
        match direct.request(key.clone()).run(run).await {
            Ok(Answer::Earlier(Earlier::Replayed { value, .. })) if value == outcome => {}
            other => panic!("{place}: not a replay of {outcome:?}: {other:?}"),
        }
    }
    keeper.abort();
}

/// Waits until a renewal that was sent after `met_at` has renewed the claim, and checks that it is on record.
async fn until_renewed<S: Store + 'static>(
    place: &Place<'_>,
    key: &Key,
    claim: &Claim<S>,
    direct: &Deduplicator<S>,
    met_at: Instant,
) {
    loop {
        let left = claim.time_left();
        assert!(!left.is_zero(), "{place}: a claim that is kept was lost");
        // A renewal gives a whole lease from the moment at which it is sent.
        if left + MARGIN + met_at.elapsed() > LEASE {
            break;
        }
        assert!(met_at.elapsed() < PATIENCE * 3 / 2, "{place}: a claim that is kept was not renewed again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let found = loop {
        match direct.store().load(key).await {
            Ok(found) => break found,
            Err(error) => {
                assert!(met_at.elapsed() < PATIENCE, "{place}: a load, with nothing in its way: {error}");
            }
        }
    };
    let since = met_at.elapsed();
    let on_record = matches!(&found, Some(entry) if entry.left + since + SLACK > LEASE);
    assert!(
        on_record,
        "{place}: a claim that is kept was renewed, {since:?} after the fault, and there is {found:?}"
    );
}
