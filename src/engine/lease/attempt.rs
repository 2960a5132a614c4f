//! What an operation knows of the attempt it runs in.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use futures::future::{BoxFuture, Either, select};

use super::inside::inside;
use super::{Facts, Lease, Lost, Step};
use crate::engine::error::ClaimError;
use crate::protocol::{FencingToken, OperationId, Payload, UnixMillis};
use crate::store::Store;

/// The attempt that an operation runs in: what it may hand downstream, and how it keeps in touch with its claim. It
/// cannot complete or release the claim; what the operation returns does that.
///
/// Cheap to clone, and free of the engine's type parameter. One that outlives its run is told that it is lost.
#[derive(Clone)]
pub struct Attempt {
    claim: Arc<dyn AnyLease>,
}

/// A claim with its store's type erased.
pub(in crate::engine) trait AnyLease: Send + Sync {
    fn facts(&self) -> &Facts;
    fn time_left(&self) -> Duration;
    fn is_lost(&self) -> bool;
    fn lost(self: Arc<Self>) -> BoxFuture<'static, ()>;
    fn checkpoint(self: Arc<Self>, bytes: Payload) -> BoxFuture<'static, Result<(), ClaimError>>;
}

impl Attempt {
    pub(in crate::engine) fn new(claim: Arc<dyn AnyLease>) -> Self {
        Self { claim }
    }

    /// The id of this generation, the same for all of its attempts: the idempotency key to hand downstream.
    pub fn operation_id(&self) -> OperationId {
        self.claim.facts().operation_id()
    }

    /// The number of this attempt, from 1.
    pub fn number(&self) -> u32 {
        self.claim.facts().holder.attempt
    }

    /// The fencing token: greater than that of every earlier attempt of this key. Hand it to a resource that refuses
    /// smaller ones. A call that runs unprotected has token 0, smaller than all.
    pub fn fence(&self) -> FencingToken {
        self.claim.facts().holder.token
    }

    /// Whether an earlier attempt was taken over, so that its effect may have happened.
    pub fn after_doubt(&self) -> bool {
        self.claim.facts().after_doubt()
    }

    /// When the generation began, by its first owner's wall clock.
    pub fn created_at(&self) -> UnixMillis {
        self.claim.facts().grant.created_at()
    }

    /// How far the attempt before said it got; empty if it never said.
    pub fn last_checkpoint(&self) -> Payload {
        self.claim.facts().grant.checkpoint()
    }

    /// How long the attempt may act unless the lease is renewed; zero once it is lost.
    pub fn time_left(&self) -> Duration {
        self.claim.time_left()
    }

    /// Whether the attempt may no longer act: its deadline has passed, or another attempt has the key. A deadline that
    /// passed is final once [`Attempt::lost`] said so; until then a renewal that succeeds takes it back.
    pub fn is_lost(&self) -> bool {
        self.claim.is_lost()
    }

    /// Runs this as a part of the attempt's operation, for work that the operation hands to another thread. A request
    /// for the attempt's own key that is polled in it does not [`wait`](crate::Request::wait) for the attempt, which
    /// would be to wait for itself.
    ///
    /// ```
    /// # use oncekey::{Answer, Deduplicator, Earlier, Key, MemoryStore};
    /// # use std::time::Duration;
    /// # futures::executor::block_on(async {
    /// # let dedup = Deduplicator::new(MemoryStore::new());
    /// let key = Key::new("reports.render", "2026-11")?;
    /// let (engine, same) = (dedup.clone(), key.clone());
    /// let answer = dedup.request(key).run(|attempt| async move {
    ///     let again = std::thread::spawn(move || {
    ///         let request = engine.request(same).wait(Duration::MAX);
    ///         let run = request.run(|_| async { Ok::<_, std::io::Error>("again".to_owned()) });
    ///         attempt.inside(|| futures::executor::block_on(run))
    ///     });
    ///     let again = again.join().expect("it does not panic");
    ///     assert!(matches!(again, Ok(Answer::Earlier(Earlier::InProgress { here: true, .. }))));
    ///     Ok::<_, std::io::Error>("rendered".to_owned())
    /// });
    /// assert!(answer.await?.ran_now());
    /// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    pub fn inside<T>(&self, work: impl FnOnce() -> T) -> T {
        inside(self.claim.facts().holder, work)
    }

    /// Resolves when the lease is lost: the deadline passed without a renewal, or another attempt has the key.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn lost(&self) {
        Arc::clone(&self.claim).lost().await;
    }

    /// Records how far the attempt got, for the attempt that may follow, and renews the lease.
    ///
    /// # Errors
    /// [`ClaimError`] if it is too large, the claim was superseded, or the store failed until the deadline.
    ///
    /// # Cancel safety
    /// If dropped, the checkpoint may or may not be recorded. One that was begun and is neither polled nor dropped holds
    /// up renewals of the claim, and its completion for twice the engine's `store_timeout`.
    pub async fn checkpoint(&self, bytes: impl Into<Payload>) -> Result<(), ClaimError> {
        Arc::clone(&self.claim).checkpoint(bytes.into()).await
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.claim.facts().fmt(f)
    }
}

impl<S: Store + 'static> AnyLease for Lease<S> {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn time_left(&self) -> Duration {
        Lease::time_left(self)
    }

    fn is_lost(&self) -> bool {
        let now = self.engine.clock().now();
        self.times().map_or(true, |(deadline, _)| now >= deadline)
    }

    fn lost(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let mut told = Told { claim: &*self, number: None };
            loop {
                let Ok((deadline, _)) = self.times() else { return };
                if self.engine.clock().now() >= deadline {
                    // Nobody renews a claim whose holder was told so.
                    self.mark_lost(Lost::Deadline);
                    return;
                }
                let sleep = self.engine.clock().sleep_until(deadline);
                let told = poll_fn(|cx: &mut Context<'_>| self.poll_lost(&mut told.number, cx));
                if let Either::Right(((), _)) = select(sleep, told).await {
                    return;
                }
            }
        })
    }

    fn checkpoint(self: Arc<Self>, bytes: Payload) -> BoxFuture<'static, Result<(), ClaimError>> {
        Box::pin(async move { self.write_checkpoint(bytes).await })
    }
}

/// One who waits to be told that the lease is lost; dropped, it leaves nothing behind.
struct Told<'a, S: Store + 'static> {
    claim: &'a Lease<S>,
    number: Option<u64>,
}

impl<S: Store + 'static> Drop for Told<'_, S> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.claim.forget_lost(number);
        }
    }
}

impl<S: Store + 'static> Lease<S> {
    pub(in crate::engine) async fn write_checkpoint(
        self: &Arc<Self>,
        bytes: Payload,
    ) -> Result<(), ClaimError> {
        let max = self.engine.options.checkpoint_len_max;
        if bytes.len() > max {
            return Err(ClaimError::CheckpointTooLarge { scope: self.scope(), len: bytes.len(), max });
        }
        self.write_while_held(Step::Checkpoint(bytes)).await
    }

    /// A write that makes sense only while the claim is held.
    pub(in crate::engine) async fn write_while_held(self: &Arc<Self>, step: Step) -> Result<(), ClaimError> {
        let (deadline, _) = self.times().map_err(|lost| self.lost_error(lost, Some(&step)))?;
        let Some(turn) = self.turn_to_keep(deadline).await else {
            return Err(self.lost_error(Lost::Deadline, Some(&step)));
        };
        self.check_writable()?;
        let (deadline, _) = self.times().map_err(|lost| self.lost_error(lost, Some(&step)))?;
        self.write_in(&turn, step, None, deadline).await
    }
}

/// The attempt of a call that runs without a claim.
pub(in crate::engine) struct Unprotected(pub(in crate::engine) Facts);

impl AnyLease for Unprotected {
    fn facts(&self) -> &Facts {
        &self.0
    }

    fn time_left(&self) -> Duration {
        Duration::MAX
    }

    fn is_lost(&self) -> bool {
        false
    }

    fn lost(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }

    fn checkpoint(self: Arc<Self>, _bytes: Payload) -> BoxFuture<'static, Result<(), ClaimError>> {
        Box::pin(async { Err(ClaimError::Unprotected) })
    }
}
