//! Asking somebody what became of an attempt that stopped in the middle.

use async_trait::async_trait;

use crate::protocol::{
    Entry, FencingToken, Fingerprint, Key, OperationId, Payload, Policy, Resolution, UnixMillis,
};

/// An attempt that stopped in the middle, as a [`Resolver`] is told of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Doubt {
    /// The key.
    pub key: Key,
    /// The id that the attempt handed downstream: ask there what became of it.
    pub operation_id: OperationId,
    /// The number of the attempt.
    pub attempt: u32,
    /// Its fencing token.
    pub token: FencingToken,
    /// What happens if nobody resolves it.
    pub policy: Policy,
    /// An attempt before this one is in doubt too.
    pub after_doubt: bool,
    /// How far the attempt said it got.
    pub checkpoint: Payload,
    /// The fingerprint of the request.
    pub fingerprint: Option<Fingerprint>,
    /// When the generation began, by its owner's wall clock.
    pub created_at: UnixMillis,
}

impl Doubt {
    pub(in crate::engine) fn of(key: &Key, entry: &Entry) -> Self {
        let record = &entry.record;
        Self {
            key: key.clone(),
            operation_id: record.operation_id(),
            attempt: record.attempt(),
            token: entry.fencing_token(),
            policy: record.policy(),
            after_doubt: record.doubt(),
            checkpoint: record.checkpoint(),
            fingerprint: record.fingerprint(),
            created_at: record.created_at(),
        }
    }
}

/// Is asked when a claim meets an attempt that stopped in the middle, before the policy is applied: it may know, or
/// find out downstream, whether the effect happened.
///
/// Several callers may ask at once; the first answer that is stored stands.
///
/// One that takes longer than [`resolver_timeout`](crate::DeduplicatorBuilder::resolver_timeout),
/// or panics, has not said that it cannot tell. The call fails with
/// [`Error::Resolver`](crate::Error::Resolver) then, and the next one asks again. The limit cannot
/// end one that blocks its thread.
///
/// # Cancel safety
/// The future is dropped when its time is over, and when the call that asks is: it must be free to
/// stop at any await.
/// # Example
/// ```
/// # use oncekey::{Answer, ClaimAnswer, Deduplicator, Key, MemoryStore, Outcome, Policy};
/// use oncekey::admin::{Doubt, Resolution, Resolver};
///
/// /// Asks the bank what became of a charge.
/// struct AskTheBank;
///
/// #[async_trait::async_trait]
/// impl Resolver for AskTheBank {
///     async fn resolve(&self, doubt: &Doubt) -> Option<Resolution> {
///         // A real one sends `doubt.operation_id` to the bank. `None` leaves it to the policy.
///         let receipt = format!("receipt {}", doubt.operation_id);
///         Some(Resolution::Completed(Outcome::success(receipt)))
///     }
/// }
///
/// # futures::executor::block_on(async {
/// let dedup = Deduplicator::builder(MemoryStore::new())
///     .policy(Policy::Hold)
///     .resolver(AskTheBank)
///     .build()?;
/// # let key = Key::new("payments.charge", "7f3a-91")?;
/// # let ClaimAnswer::Granted(mut claim) = dedup.request(key.clone()).claim().await? else { return Ok(()) };
/// # let expected = format!("receipt {}", claim.operation_id());
/// # claim.abandon().await?;
/// # let answer = dedup.request(key).run(|_| async { Ok::<_, std::io::Error>("charged twice".to_owned()) }).await?;
/// # assert_eq!(answer.into_value()?, expected);
/// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
#[async_trait]
pub trait Resolver: Send + Sync + 'static {
    /// What happened; `None` if it cannot be told, and the policy shall decide. Under
    /// [`Policy::Reclaim`] that runs the operation again.
    async fn resolve(&self, doubt: &Doubt) -> Option<Resolution>;
}
