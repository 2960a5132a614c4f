//! Completion inside somebody else's transaction: what is handed out, and how it is found out what became of it.

use std::sync::Arc;
use std::time::Duration;

use super::{Lease, Lost, Step, Turn};
use crate::engine::error::ClaimError;
use crate::engine::port::{Applied, Start};
use crate::kept::Kept;
use crate::protocol::{HolderVerdict, Key, Record, Version};
use crate::store::Store;

/// A completion to be written by somebody else, in a transaction of theirs: from [`Claim::prepare`](crate::engine::Claim::prepare).
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

impl<S: Store + 'static> Lease<S> {
    /// See [`Claim::settle`](crate::engine::Claim::settle).
    pub(in crate::engine) async fn settle(
        self: &Arc<Self>,
        prepared: &Prepared,
    ) -> Result<Settled, ClaimError> {
        let turn = self.turn_to_conclude().await;
        let settled = self.settle_in(&turn, prepared).await;
        // Only a store that does not answer leaves it unsettled.
        if !matches!(
            settled,
            Err(ClaimError::Store { .. } | ClaimError::Inconsistent { .. }) | Ok(Settled::Committed)
        ) {
            self.unprepare();
        }
        settled
    }

    async fn settle_in(&self, turn: &Turn<S>, prepared: &Prepared) -> Result<Settled, ClaimError> {
        let outcome = prepared.record.outcome();
        let outcome = outcome.ok_or_else(|| ClaimError::NotPrepared { scope: self.scope() })?;
        let (step, now) = (Step::Settle(outcome), self.engine.clock().now());
        let (verdict, entry) =
            match self.apply(turn, &step, Start::Look, now, self.completion_until(now)).await {
                Err(unapplied) => return Err(self.unapplied(&step, unapplied)),
                // Not there. The renewal moved the version on, so that it cannot come any more.
                Ok(Applied::Written { entry, sent }) => {
                    self.landed(&step, entry, sent);
                    return Ok(Settled::NotCommitted);
                }
                Ok(Applied::Answered { verdict, entry, .. }) => (verdict, entry),
            };
        let scope = self.scope();
        match (verdict, entry) {
            (HolderVerdict::AlreadyDone, Some(entry)) => {
                self.landed_elsewhere(entry);
                Ok(Settled::Committed)
            }
            (HolderVerdict::AlreadyCompleted, _) => Err(ClaimError::AlreadyCompleted { scope }),
            (HolderVerdict::AlreadyReleased, _) => Err(ClaimError::AlreadyReleased { scope }),
            // An operator ended it, and there was no outcome then.
            (HolderVerdict::Superseded, Some(entry)) if entry.is_held_by(&self.facts.holder) => {
                Err(ClaimError::Superseded { scope, possibly_applied: false })
            }
            (HolderVerdict::Superseded, _) => {
                self.mark_lost(Lost::Superseded);
                Err(ClaimError::Superseded { scope, possibly_applied: true })
            }
            (HolderVerdict::Absent | HolderVerdict::AlreadyDone, _) => {
                self.mark_lost(Lost::Superseded);
                Err(ClaimError::Unknown { scope })
            }
        }
    }
}
