//! Completion inside somebody else's transaction: what is handed out, and how it is found out what became of it.

use std::sync::Arc;
use std::time::Duration;

use super::error::ClaimError;
use super::held::{CONFLICTS_MAX, Held, Lost, Step};
use crate::kept::Kept;
use crate::observe::Event;
use crate::protocol::{Decision, Entry, Key, Record, State, Version};
use crate::store::{Exchange, Store, StoreFailure};
use crate::time::Moment;

/// A completion to be written by somebody else, in a transaction of theirs: from [`Claim::prepare`](super::Claim::prepare).
///
/// Write `record` under `key` if and only if its version is `expected`, in the store's own way, and give it a version,
/// `live` and `linger` as the store's `compare_exchange` would. Then settle the claim.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is written until a transaction writes it"]
#[non_exhaustive]
pub struct Prepared {
    /// The key.
    pub key: Key,
    /// The version that must be there, or the transaction must not commit.
    pub expected: Version,
    /// What to put there.
    pub record: Record,
    /// How long it stays live.
    pub live: Duration,
    /// How much longer it stays readable.
    pub linger: Duration,
}

impl Prepared {
    /// Whether later calls get the outcome, once this is committed: bytes over the engine's `outcome_len_max` are not
    /// kept.
    pub fn kept(&self) -> Kept {
        self.record.outcome().map_or(Kept::Whole, |outcome| Kept::of(&outcome.body))
    }
}

/// How a prepared completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the transaction may not have committed"]
pub enum Settled {
    /// The transaction committed: effect and outcome are there.
    Committed,
    /// The transaction did not commit, and no longer can: neither effect nor outcome is there. The claim is held on,
    /// renewed, and may be tried again.
    NotCommitted,
}

impl<S: Store + 'static> Held<S> {
    /// See [`Claim::settle`](super::Claim::settle).
    pub(super) async fn settle(self: &Arc<Self>, prepared: &Prepared) -> Result<Settled, ClaimError> {
        let _turn = self.turn_to_conclude().await;
        let until = self.completion_until(self.engine.clock().now());
        let settled = self.settle_until(prepared, until).await;
        // Only a store that does not answer leaves it unsettled.
        if !matches!(
            settled,
            Err(ClaimError::Store { .. } | ClaimError::Inconsistent { .. }) | Ok(Settled::Committed)
        ) {
            self.unprepare();
        }
        settled
    }

    async fn settle_until(
        self: &Arc<Self>,
        prepared: &Prepared,
        until: Moment,
    ) -> Result<Settled, ClaimError> {
        let mut backoff = self.engine.first_backoff();
        let mut conflicts = 0;
        while conflicts <= CONFLICTS_MAX {
            let (entry, sent) = self.load_until(until, &mut backoff).await?;
            let Some(entry) = entry else {
                self.mark_lost(Lost::Superseded);
                return Err(ClaimError::Unknown { scope: self.scope() });
            };
            if !entry.is_held_by(&self.holder) {
                self.mark_lost(Lost::Superseded);
                return Err(ClaimError::Superseded { scope: self.scope(), possibly_applied: true });
            }
            match entry.record.state() {
                State::Completed(outcome)
                    if prepared.record.outcome().is_some_and(|prepared| outcome.is_again(&prepared)) =>
                {
                    self.landed_elsewhere(entry);
                    return Ok(Settled::Committed);
                }
                State::Completed(_) => return Err(ClaimError::AlreadyCompleted { scope: self.scope() }),
                State::Released { .. } => return Err(ClaimError::AlreadyReleased { scope: self.scope() }),
                State::Forgotten => {
                    return Err(ClaimError::Superseded { scope: self.scope(), possibly_applied: false });
                }
                State::InProgress => {}
            }
            // Not there. A renewal moves the version on, so that it cannot come any more.
            let Decision::Write(write) = self.decide(Some(&entry), &Step::Renew) else {
                unreachable!("a record of ours in progress can be renewed")
            };
            // Should this be dropped before the answer, the claim is unsure of its version.
            self.sent_unanswered(&Step::Renew);
            match self.engine.exchange(&self.key, &write).await {
                Ok(Exchange::Done(version)) => {
                    self.landed(&Step::Renew, write, version, sent);
                    return Ok(Settled::NotCommitted);
                }
                // It committed in between: look again.
                Ok(Exchange::Conflict(_)) => conflicts += 1,
                // The reply may be lost: look again.
                Err(source) => self.tried(source, until, &mut backoff).await?,
            }
        }
        Err(ClaimError::Inconsistent { scope: self.scope() })
    }

    /// What is on record, and the moment before the request was sent whose answer that is.
    async fn load_until(
        &self,
        until: Moment,
        backoff: &mut Duration,
    ) -> Result<(Option<Entry>, Moment), ClaimError> {
        loop {
            let sent = self.engine.clock().now();
            match self.engine.load(&self.key).await {
                Ok(entry) => return Ok((entry, sent)),
                Err(source) => self.tried(source, until, backoff).await?,
            }
        }
    }

    /// Pauses after a failure, or gives up.
    async fn tried(
        &self,
        failure: StoreFailure,
        until: Moment,
        backoff: &mut Duration,
    ) -> Result<(), ClaimError> {
        let gives_up = self.engine.clock().now() >= until || !failure.kind().is_transient();
        let retry_in = (!gives_up).then_some(*backoff);
        self.engine.tell(&self.key, || Event::StoreFailed { failure: &failure, retry_in });
        if gives_up {
            return Err(ClaimError::Store { scope: self.scope(), source: failure });
        }
        self.back_off(backoff).await;
        Ok(())
    }

    async fn back_off(&self, backoff: &mut Duration) {
        let clock = self.engine.clock();
        clock.sleep_until(clock.now() + *backoff).await;
        *backoff = self.engine.next_backoff(*backoff);
    }
}
