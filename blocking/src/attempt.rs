//! What a blocking operation knows of the attempt it runs in.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use oncekey::protocol::UnixMillis;
use oncekey::time::Clock;
use oncekey::{ClaimError, FencingToken, OperationId, Payload};

use super::host::Driver;

/// The attempt that a blocking operation runs in: what it may hand downstream, and how it keeps in touch with its claim.
/// Its lease is renewed by the face's own thread.
///
/// **Ask it.** Nobody can stop a closure from outside. When its lease is lost (the store did not answer renewals for so
/// long, or another attempt has the key), the operation goes on until it returns, and is told only if it asks: by
/// [`is_lost`](Self::is_lost) before each step that matters, by [`wait_lost`](Self::wait_lost) instead of a sleep. So T1,
/// that no two attempts of a key run at once, holds for a blocking operation as far as it asks and then stops. P1 and P2
/// hold whatever it does: what it returns is refused once another attempt has the key. For what it does elsewhere, hand
/// on [`fence`](Self::fence) or [`operation_id`](Self::operation_id).
///
/// Cheap to clone. One that outlives its run is told that it is lost.
#[derive(Clone)]
pub struct Attempt {
    attempt: oncekey::Attempt,
    clock: Arc<dyn Clock>,
    driver: Driver,
}

impl Attempt {
    pub(super) fn new(attempt: oncekey::Attempt, clock: Arc<dyn Clock>, driver: Driver) -> Self {
        Self { attempt, clock, driver }
    }

    /// The id of this generation, the same for all of its attempts: the idempotency key to hand downstream.
    pub fn operation_id(&self) -> OperationId {
        self.attempt.operation_id()
    }

    /// The number of this attempt, from 1.
    pub fn number(&self) -> u32 {
        self.attempt.number()
    }

    /// The fencing token: greater than that of every earlier attempt of this key. Hand it to a resource that refuses
    /// smaller ones. A call that runs unprotected has token 0, smaller than all.
    pub fn fence(&self) -> FencingToken {
        self.attempt.fence()
    }

    /// Whether an earlier attempt was taken over, so that its effect may have happened.
    pub fn after_doubt(&self) -> bool {
        self.attempt.after_doubt()
    }

    /// When the generation began, by its first owner's wall clock.
    pub fn created_at(&self) -> UnixMillis {
        self.attempt.created_at()
    }

    /// How far the attempt before said it got; empty if it never said.
    pub fn last_checkpoint(&self) -> Payload {
        self.attempt.last_checkpoint()
    }

    /// How long the attempt may act unless the lease is renewed; zero once it is lost.
    pub fn time_left(&self) -> Duration {
        self.attempt.time_left()
    }

    /// Whether the attempt may no longer act: its deadline has passed, or another attempt has the key. Asks no store and
    /// takes no time worth counting. A deadline that passed is final once [`wait_lost`](Self::wait_lost) said so; until
    /// then a renewal that succeeds takes it back.
    pub fn is_lost(&self) -> bool {
        self.attempt.is_lost()
    }

    /// Sleeps for so long, by the engine's clock, or until the lease is lost; whether it is.
    ///
    /// # Panics
    /// Where this thread must not be blocked: see the [crate](crate).
    #[track_caller]
    pub fn wait_lost(&self, at_most: Duration) -> bool {
        let sleep = self.clock.sleep_until(self.clock.now() + at_most);
        self.driver.drive(async {
            let lost = pin!(self.attempt.lost());
            matches!(select(lost, sleep).await, Either::Left(_))
        })
    }

    /// Records how far the attempt got, for the attempt that may follow, and renews the lease.
    ///
    /// # Errors
    /// [`ClaimError`] if it is too large, the claim was superseded, or the store failed until the deadline.
    ///
    /// # Panics
    /// Where this thread must not be blocked: see the [crate](crate).
    #[track_caller]
    pub fn checkpoint(&self, bytes: impl Into<Payload>) -> Result<(), ClaimError> {
        self.driver.drive(self.attempt.checkpoint(bytes))
    }

    /// The same attempt for async code.
    pub fn as_async(&self) -> &oncekey::Attempt {
        &self.attempt
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.attempt.fmt(f)
    }
}
