//! The explicit way: a claim in the caller's hands.

use std::fmt;
use std::time::Duration;

use super::batch::Batch;
use super::error::ClaimError;
use super::lease::after_effect::guarded;
use super::lease::attempt::Attempt;
use super::lease::prepared::{Prepared, Settled};
use super::lease::{Guard, Lease, Phase, Step};
use super::port::CONFLICTS_MAX;
use crate::kept::Kept;
use crate::protocol::{
    Conclusion, Decision, Entry, FencingToken, HolderVerdict, OperationId, Outcome, OutcomeBody, Payload,
    Version, Write,
};
use crate::store::{Store, StoreFailure};

/// A granted claim in its caller's hands.
///
/// The engine assumes that its caller has begun to act once it is handed out. Conclude it with
/// [`complete`](Claim::complete), [`fail`](Claim::fail), [`release`](Claim::release) or [`abandon`](Claim::abandon);
/// each can be called again after an error. Dropped without a conclusion, it is left to its lease, or ended at once if
/// the engine's [`OnDrop`](super::OnDrop) says so.
///
/// The engine's housekeeping renews it, for [`renew_for_max`](super::DeduplicatorBuilder::renew_for_max) at most: where
/// that starts by itself ([`tokio`](super::DeduplicatorBuilder)), or where a [`keeper`](super::Deduplicator::keeper) is
/// spawned. Elsewhere call [`renew`](Claim::renew) or [`checkpoint`](Claim::checkpoint).
#[must_use = "a claim that is dropped holds its key for a lease"]
pub struct Claim<S: Store + 'static> {
    guard: Guard<S>,
}

impl<S: Store + 'static> Claim<S> {
    /// From here on its caller may act on it.
    pub(super) fn handed_out(guard: Guard<S>) -> Self {
        guard.lease.start();
        Self { guard }
    }
}

impl<S: Store + 'static> fmt::Debug for Claim<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim")
            .field("key", &self.lease().key)
            .field("facts", &self.lease().facts)
            .field("phase", &self.lease().phase())
            .finish_non_exhaustive()
    }
}

impl<S: Store + 'static> Claim<S> {
    pub(super) fn lease(&self) -> &std::sync::Arc<Lease<S>> {
        &self.guard.lease
    }

    /// What this attempt may hand downstream. It can be given to the code that acts, and outlives the claim harmlessly.
    pub fn attempt(&self) -> Attempt {
        Attempt::new(std::sync::Arc::<Lease<S>>::clone(self.lease()))
    }

    /// The id of this generation, the same for all of its attempts.
    pub fn operation_id(&self) -> OperationId {
        self.lease().facts.operation_id()
    }

    /// The number of this attempt, from 1.
    pub fn number(&self) -> u32 {
        self.lease().facts.holder.attempt
    }

    /// The fencing token of this attempt.
    pub fn fence(&self) -> FencingToken {
        self.lease().facts.holder.token
    }

    /// Whether an earlier attempt was taken over, so that its effect may have happened.
    pub fn after_doubt(&self) -> bool {
        self.lease().facts.after_doubt()
    }

    /// How far the attempt before said it got; empty if it never said.
    pub fn last_checkpoint(&self) -> Payload {
        self.lease().facts.grant.checkpoint()
    }

    /// How long this attempt may act unless renewed; zero once it is lost.
    pub fn time_left(&self) -> Duration {
        self.lease().time_left()
    }

    /// Resolves when the lease is lost.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn lost(&self) {
        self.attempt().lost().await;
    }

    /// Keeps the claim for another lease.
    ///
    /// # Errors
    /// [`ClaimError`]: superseded, completed, released, or the store failed until the deadline.
    ///
    /// # Cancel safety
    /// If dropped, the renewal may or may not have happened; the deadline counts as not extended.
    pub async fn renew(&self) -> Result<(), ClaimError> {
        self.lease().write_while_held(Step::Renew).await
    }

    /// Records how far the attempt got, and renews.
    ///
    /// # Errors
    /// As for [`Claim::renew`], and [`ClaimError::CheckpointTooLarge`].
    ///
    /// # Cancel safety
    /// If dropped, the checkpoint may or may not be recorded.
    pub async fn checkpoint(&self, bytes: impl Into<Payload>) -> Result<(), ClaimError> {
        self.lease().write_checkpoint(bytes.into()).await
    }

    /// How much of its outcome is on record; `None` until it is completed.
    pub fn kept(&self) -> Option<Kept> {
        self.lease().entry().record.outcome().map(|outcome| Kept::of(&outcome.body))
    }

    /// Puts the claim into a batch of its engine: its writes go to the store with those of the batch's other calls, while
    /// somebody [drives](Batch::drive) that, and alone otherwise. A batch of another engine changes nothing.
    pub fn in_batch(&mut self, batch: &Batch<S>) {
        self.lease().go_by(&batch.route(&self.lease().engine));
    }

    /// Concludes with a success. Tried until it is stored, refused, or the engine's `completion_timeout` has passed;
    /// the lease need not last so long. Once this returned `Ok`, the outcome is as durable as the store says.
    ///
    /// The answer says whether later calls get the outcome. Bytes over the engine's `outcome_len_max` are not kept: the
    /// operation is recorded as done and not available.
    ///
    /// Completing again with the same bytes gives the same answer.
    ///
    /// # Errors
    /// [`ClaimError::Superseded`], [`ClaimError::AlreadyCompleted`] (with another outcome),
    /// [`ClaimError::AlreadyReleased`], [`ClaimError::Gone`], [`ClaimError::Unknown`], [`ClaimError::Store`]. The claim
    /// stays in the caller's hands, and the call may be repeated.
    ///
    /// # Panics
    /// If the value's conversion into a [`Payload`] does. The effect may have happened, so the operation is recorded as done
    /// and not available first.
    ///
    /// # Cancel safety
    /// If this is dropped, the completion may or may not be stored; it is not undone. If the claim is dropped then too,
    /// it is left to the engine's [clean-up](super::DeduplicatorBuilder::spawner), for whoever drives that.
    pub async fn complete(&mut self, value: impl Into<Payload>) -> Result<Kept, ClaimError> {
        self.conclude(Conclusion::Succeeded, value).await
    }

    /// Concludes with a final failure, which is replayed as a failure.
    ///
    /// # Errors
    /// As for [`Claim::complete`].
    ///
    /// # Panics
    /// As for [`Claim::complete`].
    ///
    /// # Cancel safety
    /// As for [`Claim::complete`].
    pub async fn fail(&mut self, failure: impl Into<Payload>) -> Result<Kept, ClaimError> {
        self.conclude(Conclusion::Failed, failure).await
    }

    async fn conclude(
        &mut self,
        conclusion: Conclusion,
        bytes: impl Into<Payload>,
    ) -> Result<Kept, ClaimError> {
        self.lease().check_writable()?;
        match guarded(conclusion, || bytes.into()) {
            Ok(bytes) => {
                let outcome = Outcome { conclusion, body: OutcomeBody::Kept(bytes) };
                self.lease().complete_after(None, outcome.into()).await
            }
            Err(panicked) => match self.lease().panic_on_record(None, panicked).await {},
        }
    }

    /// Gives the claim up: nothing happened, and the next call may run at once, under another fingerprint too. After
    /// doubt it cannot vouch for the attempt before, and is the same as [`Claim::abandon`].
    ///
    /// # Errors
    /// As for [`Claim::complete`]; tried while the lease lasts, for at most the engine's `store_timeout`.
    ///
    /// # Cancel safety
    /// If dropped, the release may or may not have happened.
    pub async fn release(&mut self) -> Result<(), ClaimError> {
        self.give_up(false).await
    }

    /// As [`Claim::release`], and the next attempt gets a new operation id: for a downstream that remembers refusals.
    ///
    /// # Errors
    /// As for [`Claim::release`].
    ///
    /// # Cancel safety
    /// As for [`Claim::release`].
    pub async fn release_with_fresh_id(&mut self) -> Result<(), ClaimError> {
        self.give_up(true).await
    }

    async fn give_up(&mut self, fresh_operation_id: bool) -> Result<(), ClaimError> {
        self.lease().check_writable()?;
        self.lease().release(None, fresh_operation_id).await
    }

    /// Gives the claim up in doubt: what happened is unknown. The next call goes by the policy at once.
    ///
    /// # Errors
    /// As for [`Claim::release`].
    ///
    /// # Cancel safety
    /// As for [`Claim::release`].
    pub async fn abandon(&mut self) -> Result<(), ClaimError> {
        self.lease().check_writable()?;
        self.lease().abandon(None).await
    }

    /// Prepares a completion that the caller's own transaction will write, on the store's own database, together with
    /// the effect: both commit or neither does. It waits for a renewal in flight, and nothing renews the claim until it
    /// is settled by [`committed`](Claim::committed), [`rolled_back`](Claim::rolled_back) or, after an unknown COMMIT,
    /// [`settle`](Claim::settle).
    ///
    /// # Errors
    /// [`ClaimError::Prepared`] if it was prepared already; [`ClaimError::AlreadyCompleted`] and the like if the claim
    /// is over; as for [`Claim::renew`] if a write before went unanswered, since the version must be known.
    ///
    /// # Panics
    /// If the value's conversion into a [`Payload`] does. Nothing is prepared.
    ///
    /// # Cancel safety
    /// If dropped, nothing is prepared.
    /// # Example
    /// The store crates write a prepared completion in one call (`complete_in`). By hand it is one compare-and-exchange:
    /// ```
    /// # use oncekey::store::{Exchange, Put, Store as _};
    /// # use oncekey::{ClaimAnswer, Deduplicator, Key, MemoryStore};
    /// # use oncekey::protocol::Expected;
    /// # futures::executor::block_on(async {
    /// # let dedup = Deduplicator::new(MemoryStore::new());
    /// let key = Key::new("payments.charge", "7f3a-91")?;
    /// let ClaimAnswer::Granted(mut claim) = dedup.request(key.clone()).claim().await? else {
    ///     return Ok(());
    /// };
    /// let prepared = claim.prepare("receipt 1").await?;
    ///
    /// // Your transaction: the effect, and this write. Here the store itself stands for it.
    /// let put = Put::new(&prepared.record, prepared.live, prepared.linger);
    /// let written = dedup.store().compare_exchange(&key, Expected::At(prepared.expected), put).await?;
    /// assert!(matches!(written, Exchange::Done(_)));
    ///
    /// // The transaction committed.
    /// claim.committed(&prepared)?;
    /// let again = dedup.request(key).run(|_| async { Ok::<_, std::io::Error>("charged twice".to_owned()) }).await?;
    /// assert_eq!(again.into_value()?, "receipt 1");
    /// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    pub async fn prepare(&mut self, value: impl Into<Payload>) -> Result<Prepared, ClaimError> {
        let lease = self.lease();
        let turn = lease.turn_to_conclude().await;
        lease.check_writable()?;
        let clock = lease.engine.clock();
        if lease.is_unsure() {
            // A renewal whose reply was lost may have moved the version that the transaction is to expect.
            let until = clock.now() + lease.engine.options.store_timeout * 2;
            lease.write_in(&turn, Step::Renew, None, until).await?;
        }
        let outcome = lease.engine.fit(Outcome::success(value));
        let step = Step::Complete(outcome.clone(), clock.unix(clock.now()));
        match lease.decide(&step) {
            Decision::Write(Write { record, live, linger, .. }) => {
                lease.set_phase(Phase::Prepared(Box::new(outcome)));
                Ok(Prepared { key: lease.key.clone(), expected: lease.entry().version, record, live, linger })
            }
            Decision::Answer(HolderVerdict::AlreadyReleased) => {
                Err(ClaimError::AlreadyReleased { scope: lease.scope() })
            }
            Decision::Answer(_) => Err(ClaimError::AlreadyCompleted { scope: lease.scope() }),
        }
    }

    /// The transaction committed, and the caller knows it.
    ///
    /// # Errors
    /// [`ClaimError::NotPrepared`] if this was not prepared by this claim, or was rolled back.
    pub fn committed(&mut self, prepared: &Prepared) -> Result<(), ClaimError> {
        self.lease().check_prepared(prepared)?;
        match self.lease().phase() {
            Phase::Prepared(outcome) if prepared.record.outcome().as_ref() == Some(&outcome) => {}
            Phase::Over if self.lease().entry().record.outcome() == prepared.record.outcome() => {
                return Ok(());
            }
            _ => return Err(ClaimError::NotPrepared { scope: self.lease().scope() }),
        }
        self.lease().landed_elsewhere(Entry {
            record: prepared.record.clone(),
            // Whatever the store gave it, it is greater.
            version: Version::new(prepared.expected.get().saturating_add(1)),
            left: prepared.live,
        });
        Ok(())
    }

    /// The transaction was rolled back, and the caller knows it: the claim is as before. Does nothing if no completion is
    /// prepared.
    pub fn rolled_back(&mut self) {
        self.lease().unprepare();
    }

    /// Learns how a prepared completion ended, after a COMMIT whose outcome is unknown. If it is not there, the claim is
    /// renewed, which moves the version on, so that a transaction still under way can no longer commit.
    ///
    /// # Errors
    /// [`ClaimError`] if the claim was superseded, this was not prepared by this claim, or the store failed until the engine's `completion_timeout`; then
    /// call it again.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    /// # Example
    /// The reply to a COMMIT was lost. The claim finds out what became of it:
    /// ```
    /// # use oncekey::store::{Exchange, Put, Store as _};
    /// # use oncekey::{ClaimAnswer, Deduplicator, Key, MemoryStore, Settled};
    /// # use oncekey::protocol::Expected;
    /// # futures::executor::block_on(async {
    /// # let dedup = Deduplicator::new(MemoryStore::new());
    /// let key = Key::new("payments.charge", "7f3a-91")?;
    /// let ClaimAnswer::Granted(mut claim) = dedup.request(key.clone()).claim().await? else {
    ///     return Ok(());
    /// };
    /// let prepared = claim.prepare("receipt 1").await?;
    ///
    /// // Your transaction: the effect, and this write. Here the store itself stands for it.
    /// let put = Put::new(&prepared.record, prepared.live, prepared.linger);
    /// let written = dedup.store().compare_exchange(&key, Expected::At(prepared.expected), put).await?;
    /// assert!(matches!(written, Exchange::Done(_)));
    ///
    /// assert_eq!(claim.settle(&prepared).await?, Settled::Committed);
    /// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    pub async fn settle(&mut self, prepared: &Prepared) -> Result<Settled, ClaimError> {
        self.lease().check_prepared(prepared)?;
        self.lease().settle(prepared).await
    }
}

impl<S: Store + 'static> Lease<S> {
    /// Refuses a write while a completion is prepared.
    pub(super) fn check_writable(&self) -> Result<(), ClaimError> {
        match self.phase() {
            Phase::Prepared(_) => Err(ClaimError::Prepared { scope: self.scope() }),
            Phase::Fresh | Phase::Started | Phase::Completing(..) | Phase::Ended | Phase::Over => Ok(()),
        }
    }

    /// Refuses what another claim prepared.
    fn check_prepared(&self, prepared: &Prepared) -> Result<(), ClaimError> {
        let record = &prepared.record;
        let ours = prepared.key == self.key
            && record.owner() == self.facts.holder.owner
            && record.token() == Some(self.facts.holder.token);
        if ours { Ok(()) } else { Err(ClaimError::NotPrepared { scope: self.scope() }) }
    }

    /// A grant that arrived past its deadline is renewed before anything starts; for one `call_timeout` at most, should the store
    /// be slower than the lease.
    pub(super) async fn renew_if_late(self: &std::sync::Arc<Self>) -> Result<(), ClaimError> {
        let mut now = self.engine.clock().now();
        let until = now + self.engine.options.call_timeout;
        for _ in 0..=CONFLICTS_MAX {
            let (deadline, _) = self.times().map_err(|lost| self.lost_error(lost, Some(&Step::Renew)))?;
            if now < deadline {
                return Ok(());
            }
            if now >= until {
                break;
            }
            Box::pin(self.write(Step::Renew, until)).await?;
            now = self.engine.clock().now();
        }
        if !self.time_left().is_zero() {
            return Ok(());
        }
        Err(ClaimError::Store { scope: self.scope(), source: StoreFailure::too_slow() })
    }
}
