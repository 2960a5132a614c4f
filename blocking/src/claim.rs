//! The explicit way: a claim in a thread's hands.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use oncekey::answer::Kept;
use oncekey::time::Clock;
use oncekey::{ClaimError, FencingToken, OperationId, Payload, Prepared, Settled, Store};

use super::attempt::Attempt;
use super::deduplicator::Deduplicator;
use super::host::Host;

/// A granted claim in a thread's hands.
///
/// Conclude it with [`complete`](Claim::complete), [`fail`](Claim::fail), [`release`](Claim::release) or
/// [`abandon`](Claim::abandon); each can be called again after an error. Dropped without a conclusion, it is left to its
/// lease, or ended at once if the engine's [`OnDrop`](oncekey::builder::OnDrop) says so.
///
/// The face's thread renews it, also when the face is gone, for at most the engine's `renew_for_max` from its grant. A
/// lease that is lost all the same is told to who asks: see [`Attempt`].
///
/// Every call of it that writes panics where its thread must not be blocked: see the [crate](crate). Dropping it does not.
#[must_use = "a claim that is dropped holds its key for a lease"]
pub struct Claim<S: Store + 'static> {
    /// Taken when it is dropped, where its store finds its runtime.
    claim: Option<oncekey::Claim<S>>,
    clock: Arc<dyn Clock>,
    host: Arc<Host>,
}

impl<S: Store + 'static> Drop for Claim<S> {
    fn drop(&mut self) {
        // What is left undone is begun here, and goes on in the face's thread.
        let _runtime = self.host.driver.enter();
        self.claim = None;
    }
}

impl<S: Store + 'static> fmt::Debug for Claim<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_async().fmt(f)
    }
}

const HELD: &str = "a claim has it until it is dropped";

impl<S: Store + 'static> Claim<S> {
    pub(super) fn of(face: &Deduplicator<S>, claim: oncekey::Claim<S>) -> Self {
        Self { claim: Some(claim), clock: face.clock(), host: Arc::clone(&face.host) }
    }

    /// The same claim for async code, and for companion crates that complete within a transaction.
    pub fn as_async(&self) -> &oncekey::Claim<S> {
        self.claim.as_ref().expect(HELD)
    }

    /// The same claim for async code, and for companion crates that complete within a transaction.
    pub fn as_async_mut(&mut self) -> &mut oncekey::Claim<S> {
        self.claim.as_mut().expect(HELD)
    }

    /// What this attempt may hand downstream. It can be given to the code that acts, and outlives the claim harmlessly.
    pub fn attempt(&self) -> Attempt {
        Attempt::new(self.as_async().attempt(), Arc::clone(&self.clock), self.host.driver.clone())
    }

    /// The id of this generation, the same for all of its attempts.
    pub fn operation_id(&self) -> OperationId {
        self.as_async().operation_id()
    }

    /// The number of this attempt, from 1.
    pub fn number(&self) -> u32 {
        self.as_async().number()
    }

    /// The fencing token of this attempt.
    pub fn fence(&self) -> FencingToken {
        self.as_async().fence()
    }

    /// Whether an earlier attempt was taken over, so that its effect may have happened.
    pub fn after_doubt(&self) -> bool {
        self.as_async().after_doubt()
    }

    /// How far the attempt before said it got; empty if it never said.
    pub fn last_checkpoint(&self) -> Payload {
        self.as_async().last_checkpoint()
    }

    /// How long this attempt may act unless renewed; zero once it is lost.
    pub fn time_left(&self) -> Duration {
        self.as_async().time_left()
    }

    /// Whether the attempt may no longer act: see [`Attempt::is_lost`].
    pub fn is_lost(&self) -> bool {
        self.as_async().attempt().is_lost()
    }

    /// Sleeps for so long, or until the lease is lost; whether it is. See [`Attempt::wait_lost`].
    #[track_caller]
    pub fn wait_lost(&self, at_most: Duration) -> bool {
        self.attempt().wait_lost(at_most)
    }

    /// Keeps the claim for another lease.
    ///
    /// # Errors
    /// [`ClaimError`]: superseded, completed, released, or the store failed until the deadline.
    #[track_caller]
    pub fn renew(&self) -> Result<(), ClaimError> {
        self.host.driver.drive(self.as_async().renew())
    }

    /// Records how far the attempt got, and renews.
    ///
    /// # Errors
    /// As for [`Claim::renew`], and [`ClaimError::CheckpointTooLarge`].
    #[track_caller]
    pub fn checkpoint(&self, bytes: impl Into<Payload>) -> Result<(), ClaimError> {
        self.host.driver.drive(self.as_async().checkpoint(bytes))
    }

    /// Concludes with a success. Tried until it is stored, refused, or the engine's `completion_timeout` has passed; see
    /// [`Claim::complete`](oncekey::Claim::complete).
    ///
    /// # Errors
    /// [`ClaimError::Superseded`], [`ClaimError::AlreadyCompleted`] (with another outcome),
    /// [`ClaimError::AlreadyReleased`], [`ClaimError::Gone`], [`ClaimError::Unknown`], [`ClaimError::Store`]. The claim
    /// stays in the caller's hands, and the call may be repeated.
    ///
    /// # Panics
    /// As for [`Claim::complete`](oncekey::Claim::complete).
    #[track_caller]
    pub fn complete(&mut self, value: impl Into<Payload>) -> Result<Kept, ClaimError> {
        let (claim, host) = self.parts();
        host.driver.drive(claim.complete(value))
    }

    /// Concludes with a final failure, which is replayed as a failure.
    ///
    /// # Errors
    /// As for [`Claim::complete`].
    ///
    /// # Panics
    /// As for [`Claim::complete`].
    #[track_caller]
    pub fn fail(&mut self, failure: impl Into<Payload>) -> Result<Kept, ClaimError> {
        let (claim, host) = self.parts();
        host.driver.drive(claim.fail(failure))
    }

    /// Gives the claim up: nothing happened, and the next call may run at once, under another fingerprint too. After
    /// doubt it cannot vouch for the attempt before, and is the same as [`Claim::abandon`].
    ///
    /// # Errors
    /// As for [`Claim::complete`]; tried while the lease lasts, for at most the engine's `store_timeout`.
    #[track_caller]
    pub fn release(&mut self) -> Result<(), ClaimError> {
        let (claim, host) = self.parts();
        host.driver.drive(claim.release())
    }

    /// As [`Claim::release`], and the next attempt gets a new operation id: for a downstream that remembers refusals.
    ///
    /// # Errors
    /// As for [`Claim::release`].
    #[track_caller]
    pub fn release_with_fresh_id(&mut self) -> Result<(), ClaimError> {
        let (claim, host) = self.parts();
        host.driver.drive(claim.release_with_fresh_id())
    }

    /// Gives the claim up in doubt: what happened is unknown. The next call goes by the policy at once.
    ///
    /// # Errors
    /// As for [`Claim::release`].
    #[track_caller]
    pub fn abandon(&mut self) -> Result<(), ClaimError> {
        let (claim, host) = self.parts();
        host.driver.drive(claim.abandon())
    }

    /// Prepares a completion that the caller's own transaction will write: see
    /// [`Claim::prepare`](oncekey::Claim::prepare). Nothing renews the claim until it is settled by
    /// [`committed`](Claim::committed), [`rolled_back`](Claim::rolled_back) or, after an unknown COMMIT,
    /// [`settle`](Claim::settle).
    ///
    /// # Errors
    /// [`ClaimError::Prepared`] if it was prepared already; [`ClaimError::AlreadyCompleted`] and the like if the claim
    /// is over; as for [`Claim::renew`] if a write before went unanswered.
    #[track_caller]
    pub fn prepare(&mut self, value: impl Into<Payload>) -> Result<Prepared, ClaimError> {
        let (claim, host) = self.parts();
        host.driver.drive(claim.prepare(value))
    }

    /// The transaction committed, and the caller knows it. Writes nothing.
    ///
    /// # Errors
    /// [`ClaimError::NotPrepared`] if this was not prepared by this claim, or was rolled back.
    pub fn committed(&mut self, prepared: &Prepared) -> Result<(), ClaimError> {
        self.as_async_mut().committed(prepared)
    }

    /// The transaction was rolled back, and the caller knows it: the claim is as before. Writes nothing, and does nothing
    /// if no completion is prepared.
    pub fn rolled_back(&mut self) {
        self.as_async_mut().rolled_back();
    }

    /// Learns how a prepared completion ended, after a COMMIT whose outcome is unknown: see
    /// [`Claim::settle`](oncekey::Claim::settle).
    ///
    /// # Errors
    /// [`ClaimError`] if the claim was superseded, this was not prepared by this claim, or the store failed until the
    /// engine's `completion_timeout`; then call it again.
    #[track_caller]
    pub fn settle(&mut self, prepared: &Prepared) -> Result<Settled, ClaimError> {
        let (claim, host) = self.parts();
        host.driver.drive(claim.settle(prepared))
    }

    fn parts(&mut self) -> (&mut oncekey::Claim<S>, &Host) {
        (self.claim.as_mut().expect(HELD), &self.host)
    }
}
