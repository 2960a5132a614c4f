//! The log through the engine.

use std::cell::Cell;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::executor::block_on;
use oncekey::codec::{Codec as _, Json};
use oncekey::{
    AdminAnswer, Answer, Attempt, Deduplicator, Event, Failure, Key, MemoryStore, Outcome, Policy,
    Resolution, RunError,
};

use super::audit::{Column, Reply, Settled};
use super::gateway::{Gateway, Receipt, Refusal};
use super::input::Request;
use super::{progress, race};

/// How long a duplicate waits for the one that runs. Far longer than the slowest charge.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Operations whose gateway can be asked at once what became of a charge, by our operation id.
const ASKABLE: [&str; 2] = ["payments.charge", "subscriptions.renew"];

/// After a timeout, a charge that can be asked for is taken up again, and asks first. Any other (a bank transfer, which
/// shows in tomorrow's statement) is held until somebody resolves it.
fn policy(operation: &str) -> Policy {
    if ASKABLE.contains(&operation) { Policy::Reclaim } else { Policy::Hold }
}

/// Replays the log, and then settles what is still in doubt.
pub(crate) fn replay(
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
    let dedup = Deduplicator::builder(MemoryStore::new()).observer(count_waits).build()?;
    let gateway = Gateway::new();
    let begun = Instant::now();
    let replies = progress::show(style, "oncekey", requests.len(), |progress| {
        race::run(requests, workers, progress, |request| block_on(answer(&dedup, &gateway, request)))
    });
    let elapsed = begun.elapsed();
    let settled = block_on(settle(&dedup, &gateway))?;
    Ok(Column {
        replies,
        charges: gateway.into_charges(),
        waited: Some(waited.load(Ordering::Relaxed)),
        settled: Some(settled),
        elapsed,
    })
}

/// One request, as a handler would answer it.
async fn answer(dedup: &Deduplicator<MemoryStore>, gateway: &Gateway, request: &Request) -> Reply {
    let found = Cell::new(false);
    let answer = dedup
        .request(request.key.clone())
        .fingerprint_of(&request.payload)
        .policy(policy(&request.operation))
        .wait(WAIT_MAX)
        .json()
        .run_or_fail(|attempt| charge(gateway, request, attempt, &found))
        .await;
    match answer {
        Ok(Answer::Executed { value, .. }) if found.get() => Reply::Found(value),
        Ok(Answer::Executed { value, .. }) => Reply::Charged(value),
        Ok(Answer::Replayed { value, .. }) => Reply::Replayed(value),
        Ok(Answer::FailedBefore { failure: Some(Refusal::Declined), .. }) => Reply::ReplayedDecline,
        Ok(Answer::Mismatch) => Reply::Mismatched,
        Ok(Answer::InDoubt { .. }) => Reply::InDoubt,
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
    // The attempt before this one timed out: what became of its charge?
    if attempt.after_doubt() {
        if let Some(receipt) = gateway.find(reference) {
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
async fn settle(
    dedup: &Deduplicator<MemoryStore>,
    gateway: &Gateway,
) -> Result<Settled, Box<dyn Error + Send + Sync>> {
    let mut doubts = Vec::new();
    let mut cursor = None;
    loop {
        let page = dedup.list_in_doubt(cursor, 256).await?;
        doubts.extend(page.entries);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    let mut settled = Settled::default();
    for (key, entry) in doubts {
        let resolution = match gateway.find(entry.record.operation_id()) {
            Some(receipt) => {
                settled.charged += 1;
                Resolution::Completed(Outcome::success(Json.encode(&receipt)?))
            }
            None => {
                settled.not_charged += 1;
                Resolution::NoEffect
            }
        };
        if dedup.resolve(&key, &resolution).await? != AdminAnswer::Done {
            return Err("an operation in doubt could not be resolved, though nobody else was at it".into());
        }
    }
    Ok(settled)
}

fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
