//! The rule: from the engine's answer, what to do with the delivery. `rule.txt` beside this file has it as a table.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use oncekey::answer::{ClaimFate, FailureKind, Kept};
use oncekey::protocol::Conclusion;
use oncekey::store::StoreErrorKind;
use oncekey::{
    Answer, Attempt, Claim, ClaimAnswer, ClaimError, Earlier, Error, Payload, RunError, Settled, Store,
};

use super::delivery_action::{Acknowledged, Dead, DeliveryAction, Later};

/// How long what failed is put off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    pub(super) backoff_first: Duration,
    pub(super) backoff_most: Duration,
    /// How often the message was delivered, this time included.
    pub(super) deliveries: u32,
    /// By which a delay is spread, so that messages which failed together do not come back together.
    pub(super) random: u64,
}

impl Rule {
    /// The delay before retry number `times`.
    pub(super) fn after(&self, times: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(times.saturating_sub(1));
        spread(self.backoff_first.saturating_mul(doubled).min(self.backoff_most), self.random)
    }
}

/// The pause, and up to half as much again by a random number: messages that failed together do not come back together.
fn spread(pause: Duration, random: u64) -> Duration {
    let share = random as f64 / u64::MAX as f64;
    pause.saturating_add(pause.mul_f64(share / 2.0))
}

/// The number of the attempt of a handler that ran; 0 if none did. The engine's answer does not say it of a failure.
#[derive(Debug, Default)]
pub(super) struct Ran(AtomicU32);

impl Ran {
    /// Runs the handler, and notes its attempt.
    pub(super) fn noting<R>(&self, attempt: Attempt, handler: impl FnOnce(Attempt) -> R) -> R {
        self.0.store(attempt.number(), Ordering::Relaxed);
        handler(attempt)
    }

    fn attempt(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The rule for what a run answers.
pub(super) fn of_run<T, E, F>(
    answer: Result<Answer<T, F>, RunError<E>>,
    rule: &Rule,
    ran: &Ran,
) -> DeliveryAction<T, E, F> {
    let later = |because| DeliveryAction::RetryLater { after: rule.after(ran.attempt()), because };
    match answer {
        Ok(Answer::Executed { value, kept, .. }) => {
            DeliveryAction::Acknowledge(Acknowledged::Executed { value, kept })
        }
        Ok(Answer::Unrecorded { value, .. }) => DeliveryAction::Acknowledge(Acknowledged::Unrecorded(value)),
        Ok(Answer::Earlier(earlier)) => of_earlier(earlier),
        Err(RunError::Operation { error, kind, claim, .. }) => of_failure(error, kind, claim, later),
        Err(RunError::LeaseLost { source, .. }) => later(Later::LeaseLost(source)),
        // It is done, or failed, whatever this consumer can read of it.
        Err(RunError::Decode { conclusion: Conclusion::Succeeded, .. }) => {
            DeliveryAction::Acknowledge(Acknowledged::Done)
        }
        Err(RunError::Decode { .. }) => DeliveryAction::DeadLetter(Dead::FailedBefore(None)),
        Err(RunError::Claim { source, .. }) => unanswered(source, rule),
        // An error of a later release of the engine: the next delivery finds out what is on record.
        Err(_) => later(Later::Other),
    }
}

/// The rule for a handler that failed, from how it failed and what became of its claim.
///
/// A message leaves its source only when its final failure is on record. Otherwise another consumer may have
/// handled the message meanwhile, or may still do so: the next delivery finds out what is on record.
fn of_failure<T, E, F>(
    error: E,
    kind: FailureKind,
    claim: ClaimFate,
    later: impl FnOnce(Later<E>) -> DeliveryAction<T, E, F>,
) -> DeliveryAction<T, E, F> {
    match (kind, claim) {
        (FailureKind::Final, ClaimFate::Recorded { .. }) => DeliveryAction::DeadLetter(Dead::Failed(error)),
        (FailureKind::Final, ClaimFate::NotStored(source)) => later(Later::LeaseLost(source)),
        (FailureKind::Final, ClaimFate::Unprotected) => later(Later::LeaseLost(ClaimError::Unprotected)),
        (FailureKind::NoEffect, ClaimFate::Released) => later(Later::NoEffect(error)),
        _ => later(Later::Unknown(error)),
    }
}

/// The rule for what a claim answers; the claim itself, if it was granted.
pub(super) fn of_claim<S: Store + 'static>(
    answer: Result<ClaimAnswer<Claim<S>>, Error>,
    rule: &Rule,
) -> Result<Claim<S>, DeliveryAction<Payload, Payload, Payload>> {
    Err(match answer {
        Ok(ClaimAnswer::Granted(claim)) => return Ok(claim),
        Ok(ClaimAnswer::Answered(earlier)) => of_earlier(earlier),
        Err(error) => unanswered(error, rule),
    })
}

/// The rule for what an earlier delivery left.
fn of_earlier<T, E, F>(earlier: Earlier<T, F>) -> DeliveryAction<T, E, F> {
    match earlier {
        Earlier::Replayed { value, .. } => DeliveryAction::Acknowledge(Acknowledged::Replayed(value)),
        Earlier::Done { .. } => DeliveryAction::Acknowledge(Acknowledged::Done),
        Earlier::FailedBefore { failure, .. } => DeliveryAction::DeadLetter(Dead::FailedBefore(failure)),
        Earlier::InProgress { left, here: true, .. } => DeliveryAction::Extend { by: left },
        Earlier::InProgress { retry_after, .. } => {
            DeliveryAction::RetryLater { after: retry_after, because: Later::InProgress }
        }
        Earlier::Mismatch => DeliveryAction::DeadLetter(Dead::Mismatch),
        Earlier::InDoubt { operation_id, .. } => DeliveryAction::DeadLetter(Dead::InDoubt { operation_id }),
        Earlier::Exhausted { attempts, .. } => DeliveryAction::DeadLetter(Dead::Exhausted { attempts }),
    }
}

/// The rule for how a completion inside the caller's own transaction ended.
pub(super) fn of_settled<T, E, F>(
    settled: Result<Settled, ClaimError>,
    (value, kept): (T, Kept),
    attempt: u32,
    rule: &Rule,
) -> DeliveryAction<T, E, F> {
    match settled {
        Ok(Settled::Committed) => DeliveryAction::Acknowledge(Acknowledged::Executed { value, kept }),
        Ok(Settled::NotCommitted) => {
            DeliveryAction::RetryLater { after: rule.after(attempt), because: Later::NotCommitted }
        }
        // Effect and outcome are both there, or neither is: whoever has the message next finds out.
        Err(lost) => {
            DeliveryAction::RetryLater { after: rule.after(attempt), because: Later::LeaseLost(lost) }
        }
    }
}

/// The rule for a handler that panicked in a poll.
pub(super) fn of_panic<T, E, F>(rule: &Rule, ran: &Ran) -> DeliveryAction<T, E, F> {
    DeliveryAction::RetryLater { after: rule.after(ran.attempt()), because: Later::Panicked }
}

/// No claim, for want of an answer: tried again later, unless trying again would meet the same record.
fn unanswered<T, E, F>(error: Error, rule: &Rule) -> DeliveryAction<T, E, F> {
    match &error {
        Error::Incomparable { .. } => DeliveryAction::DeadLetter(Dead::Unreadable(error.to_string())),
        Error::Store { source, .. } if source.kind() == StoreErrorKind::Corrupt => {
            DeliveryAction::DeadLetter(Dead::Unreadable(source.to_string()))
        }
        _ => DeliveryAction::RetryLater { after: rule.after(rule.deliveries), because: Later::Store(error) },
    }
}

#[cfg(test)]
#[path = "rule_table.rs"]
mod table;
