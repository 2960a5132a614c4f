//! The log through the engine.

use std::cell::Cell;
use std::collections::HashSet;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::executor::block_on;
use oncekey::admin::{AdminAnswer, Resolution};
use oncekey::codec::{AsValue, Codec as _, Json};
use oncekey::observe::Event;
use oncekey::store::ListInDoubt;
use oncekey::{Answer, Attempt, Deduplicator, Earlier, Failure, Key, Outcome, Policy, RunError, Store};

use super::audit::{Column, Reply, Settled};
use super::gateway::{Gateway, Refusal};
use super::input::Request;
use super::ledger::{Ledger, Receipt};
use super::{progress, race};

/// How long a duplicate waits for the one that runs. Far longer than the slowest charge, and than a lease: after a kill,
/// the next run waits for the leases of the killed one.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Short, so that a run after a kill need not wait for long.
const LEASE: Duration = Duration::from_secs(10);
/// A log that is replayed over a durable store is to charge nothing, whenever that is.
const RETENTION: Duration = Duration::from_secs(400 * 86_400);

/// Operations whose gateway can be asked at once what became of a charge, by our operation id.
const ASKABLE: [&str; 2] = ["payments.charge", "subscriptions.renew"];

/// After a timeout, a charge that can be asked for is taken up again, and asks first. Any other (a bank transfer, which
/// shows in tomorrow's statement) is held until somebody resolves it.
fn policy(operation: &str) -> Policy {
    if ASKABLE.contains(&operation) { Policy::Reclaim } else { Policy::Hold }
}

/// Lets a store's futures run as they need it, from many threads at once.
pub(crate) trait Drive: Sync {
    /// Runs a future to its end on this thread.
    fn drive<F: Future>(&self, future: F) -> F::Output;
}

/// For stores that need no runtime.
pub(crate) struct Anywhere;

impl Drive for Anywhere {
    fn drive<F: Future>(&self, future: F) -> F::Output {
        block_on(future)
    }
}

/// Replays the log, and then settles what is still in doubt.
pub(crate) fn replay<S: Store + ListInDoubt + 'static>(
    store: S,
    drive: &impl Drive,
    ledger: Ledger,
    requests: &[Request],
    workers: usize,
    style: progress::Style,
) -> Result<Column, Box<dyn Error + Send + Sync>> {
    let waited = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&waited);
    let count_waits = move |_: &Key, event: &Event<'_>| {
        if matches!(event, Event::Waiting) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    };
    let builder = Deduplicator::builder(store).lease(LEASE).retention(RETENTION);
    let dedup = builder.observer(count_waits).build()?;
    let gateway = Gateway::new(ledger);
    let begun = Instant::now();
    let replies = progress::show(style, "oncekey", requests.len(), |progress| {
        race::run(requests, workers, progress, |request| drive.drive(answer(&dedup, &gateway, request)))
    });
    let elapsed = begun.elapsed();
    gateway.check()?;
    let settled = drive.drive(settle(&dedup, &gateway, requests))?;
    let mut charges = gateway.into_charges()?;
    // What other logs left on the ledger is none of ours.
    let ours: HashSet<_> = requests.iter().map(|request| &request.key).collect();
    charges.retain(|charge| !charge.elsewhere || ours.contains(&charge.key));
    Ok(Column {
        replies,
        charges,
        waited: Some(waited.load(Ordering::Relaxed)),
        settled: Some(settled),
        elapsed,
    })
}

/// One request, as a handler would answer it.
async fn answer<S: Store + 'static>(dedup: &Deduplicator<S>, gateway: &Gateway, request: &Request) -> Reply {
    let found = Cell::new(false);
    let answer = dedup
        .request(request.key.clone())
        .fingerprint_of(&request.payload)
        .policy(policy(&request.operation))
        .wait(WAIT_MAX)
        .json()
        .failures(AsValue(Json))
        .run_or_fail(|attempt| charge(gateway, request, attempt, &found))
        .await;
    match answer {
        Ok(Answer::Executed { value, .. }) if found.get() => Reply::Found(value),
        Ok(Answer::Executed { value, .. }) => Reply::Charged(value),
        Ok(Answer::Earlier(Earlier::Replayed { value, .. })) => Reply::Replayed(value),
        Ok(Answer::Earlier(Earlier::FailedBefore { failure: Some(Refusal::Declined), .. })) => {
            Reply::ReplayedDecline
        }
        Ok(Answer::Earlier(Earlier::Mismatch)) => Reply::Mismatched,
        Ok(Answer::Earlier(Earlier::InDoubt { .. })) => Reply::InDoubt,
        Ok(Answer::Unrecorded { why, .. }) => Reply::Failed(format!("charged, but not on record: {why:?}")),
        Ok(other) => {
            Reply::Failed(other.into_value().map_or_else(|no_value| no_value.to_string(), |_| String::new()))
        }
        Err(RunError::Operation { error, .. }) => Reply::Refused(error),
        Err(error) => Reply::Failed(with_causes(&error)),
    }
}

/// The operation itself: runs under a claim, so never twice at once for a key.
async fn charge(
    gateway: &Gateway,
    request: &Request,
    attempt: Attempt,
    found: &Cell<bool>,
) -> Result<Receipt, Failure<Refusal>> {
    let reference = attempt.operation_id();
    // There was an attempt before this one: what became of its charge? Also where somebody has said since that it had
    // none, who may have looked before the charge was made.
    if attempt.number() > 1 {
        if let Some(receipt) = gateway.find(reference).map_err(Failure::Unknown)? {
            found.set(true);
            return Ok(receipt);
        }
    }
    gateway.charge(request, Some(reference)).await.map_err(|refusal| match refusal {
        Refusal::Declined => Failure::Final(refusal),
        Refusal::NoReply => Failure::Unknown(refusal),
        Refusal::Unreachable => Failure::NoEffect(refusal),
    })
}

/// What an operator does at the end of the day: looks each operation in doubt up on the ledger, and says what happened.
/// Only those of this log: the store may hold others.
async fn settle<S: ListInDoubt + 'static>(
    dedup: &Deduplicator<S>,
    gateway: &Gateway,
    requests: &[Request],
) -> Result<Settled, Box<dyn Error + Send + Sync>> {
    let ours: HashSet<_> = requests.iter().map(|request| &request.key).collect();
    let mut doubts = Vec::new();
    let mut cursor = None;
    loop {
        let page = dedup.list_in_doubt(cursor, 256).await?;
        doubts.extend(page.entries.into_iter().filter(|(key, _)| ours.contains(key)));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    let mut settled = Settled::default();
    for (key, entry) in doubts {
        let (resolution, count) = match gateway.find(entry.record.operation_id())? {
            Some(receipt) => {
                (Resolution::Completed(Outcome::success(Json.encode(&receipt)?)), &mut settled.charged)
            }
            None => (Resolution::NoEffect, &mut settled.not_charged),
        };
        match dedup.resolve(&key, &resolution).await? {
            AdminAnswer::Done => *count += 1,
            // Another run took it up, or settled it.
            _ => settled.left += 1,
        }
    }
    Ok(settled)
}

/// An error with what caused it, in one line.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
