//! What goes wrong in the engine. Expected answers are values, not errors.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use super::failure::FailureKind;
use crate::codec::CodecError;
use crate::kept::Kept;
use crate::protocol::Conclusion;
use crate::store::StoreFailure;
use crate::words::InWords;

/// A claim, or an operator's call, that could not be answered. The operation was not run.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store failed until the call's time was over, or for good. If the claim may have been written all the same, the
    /// clean-up releases it, and it ends with its lease at the latest.
    #[error("the store could not answer for a key in scope `{scope}` ({}); {}{}", source.cause(),
        if source.maybe_applied() { "a write of this call may have been applied; " } else { "" },
        source.kind().advice())]
    #[non_exhaustive]
    Store {
        /// The scope of the key.
        scope: String,
        /// The store's last error.
        source: StoreFailure,
    },
    /// The store answered in ways that do not fit together, again and again: it breaks its contract.
    #[error(
        "the store returned inconsistent answers for a key in scope `{scope}`; nothing was run. Run the conformance kit \
         against it"
    )]
    #[non_exhaustive]
    Inconsistent {
        /// The scope of the key.
        scope: String,
    },
    /// The record is bound to a fingerprint by another algorithm, so nobody can tell whether the requests are the
    /// same. Nothing was run.
    #[error(
        "the record of a key in scope `{scope}` has a fingerprint of another algorithm, so the requests cannot be \
         compared; nothing was run. Keep one algorithm for as long as outcomes are retained"
    )]
    #[non_exhaustive]
    Incomparable {
        /// The scope of the key.
        scope: String,
    },
    /// An attempt stopped in the middle, and the resolver did not say what became of it. Nothing
    /// was granted: what the resolver would have said is not known, so neither the policy nor
    /// [`fail_open`](crate::Request::fail_open) decides in its place.
    #[error(
        "the resolver did not say what became of an attempt in scope `{scope}` ({source}); nothing was run, and the \
         operation is still in doubt. Try again, or resolve it"
    )]
    #[non_exhaustive]
    Resolver {
        /// The scope of the key.
        scope: String,
        /// Why it did not.
        source: ResolverFailure,
    },
}

/// Why a resolver said nothing, not even that it cannot tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolverFailure {
    /// It was not done in time.
    #[error("it took longer than `resolver_timeout`, {}", InWords(*timeout))]
    #[non_exhaustive]
    TimedOut {
        /// The option.
        timeout: Duration,
    },
    /// It panicked.
    #[error("it panicked")]
    Panicked,
}

/// A write of the holder of a claim that was refused, or could not be stored.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// Another attempt, or an operator, has the key now. What this attempt does no longer counts.
    #[error("the claim in scope `{scope}` was superseded{}; stop, and let the other attempt answer",
        if *possibly_applied { ", and this write may have been applied before that" } else { ", and this write was not applied" })]
    #[non_exhaustive]
    Superseded {
        /// The scope of the key.
        scope: String,
        /// An earlier copy of this write, whose reply was lost, may have been applied before the other took over.
        possibly_applied: bool,
    },
    /// The operation is completed already, with another outcome where this write was a completion.
    #[error(
        "the operation in scope `{scope}` is completed already; claim the key again to get its recorded outcome"
    )]
    #[non_exhaustive]
    AlreadyCompleted {
        /// The scope of the key.
        scope: String,
    },
    /// The claim was released already, by its owner or by an operator.
    #[error("the claim in scope `{scope}` was released already; claim again")]
    #[non_exhaustive]
    AlreadyReleased {
        /// The scope of the key.
        scope: String,
    },
    /// Nothing is on record any more, and this write was not applied.
    #[error(
        "the record in scope `{scope}` is gone, past all its lifetimes, and this write was not applied; claim again only \
         if the operation may run anew"
    )]
    #[non_exhaustive]
    Gone {
        /// The scope of the key.
        scope: String,
    },
    /// Nothing is on record any more, and whether this write was applied before cannot be known.
    #[error(
        "the record in scope `{scope}` is gone, and whether this write was applied cannot be known; ask the system that the \
         operation acts on"
    )]
    #[non_exhaustive]
    Unknown {
        /// The scope of the key.
        scope: String,
    },
    /// The store failed until the time for this write was over.
    #[error("a write for the claim in scope `{scope}` failed in the store ({}), and {}; {}", source.cause(),
        if source.maybe_applied() { "may have been applied" } else { "was not applied" },
        source.kind().advice())]
    #[non_exhaustive]
    Store {
        /// The scope of the key.
        scope: String,
        /// The store's last error.
        source: StoreFailure,
    },
    /// The store answered in ways that do not fit together, again and again: it breaks its contract.
    #[error(
        "the store returned inconsistent answers for the claim in scope `{scope}`; run the conformance kit against it"
    )]
    #[non_exhaustive]
    Inconsistent {
        /// The scope of the key.
        scope: String,
    },
    /// The owner's own deadline passed before a renewal was confirmed.
    #[error(
        "the lease in scope `{scope}` ended before it could be renewed; do no more for it, since \
         another attempt may start as the policy says"
    )]
    #[non_exhaustive]
    DeadlinePassed {
        /// The scope of the key.
        scope: String,
    },
    /// The checkpoint is too large. Nothing was written.
    #[error(
        "a checkpoint of {len} bytes in scope `{scope}` is over `checkpoint_len_max`, {max} bytes; nothing was written. Store \
         the data elsewhere, and checkpoint a reference to it"
    )]
    #[non_exhaustive]
    CheckpointTooLarge {
        /// The scope of the key.
        scope: String,
        /// Its length in bytes.
        len: usize,
        /// The option.
        max: usize,
    },
    /// A completion is prepared for a transaction: nothing else may be written until it is settled.
    #[error(
        "the claim in scope `{scope}` has a prepared completion, and nothing else can be written; settle it first"
    )]
    #[non_exhaustive]
    Prepared {
        /// The scope of the key.
        scope: String,
    },
    /// What is to be settled was not prepared by this claim, or is settled already. Nothing was changed.
    #[error(
        "this completion was not prepared by this claim in scope `{scope}`, or is already settled; nothing was changed. \
         Settle each prepared completion once, with the claim that prepared it"
    )]
    #[non_exhaustive]
    NotPrepared {
        /// The scope of the key.
        scope: String,
    },
    /// The call runs unprotected (it chose to fail open), so there is no claim to write to.
    #[error(
        "this call runs without a claim, since the store could not answer and the call chose to fail open; do not renew or \
         checkpoint it"
    )]
    Unprotected,
}

/// What a run ends with when something went wrong.
#[non_exhaustive]
pub enum RunError<E> {
    /// The operation failed, with this error.
    #[non_exhaustive]
    Operation {
        /// The operation's own error.
        error: E,
        /// How it said that it failed: unknown effect, for an operation that does not say.
        kind: FailureKind,
        /// What became of the claim.
        claim: ClaimFate,
    },
    /// The lease was lost, and the operation was dropped before it ended. Its effect may be under way: whoever
    /// claims next goes by the policy.
    #[non_exhaustive]
    LeaseLost {
        /// How it was lost.
        source: ClaimError,
    },
    /// The claim could not be answered. The operation was not run.
    #[non_exhaustive]
    Claim {
        /// Why.
        source: Error,
    },
    /// The outcome on record does not decode. The operation was not run, and the record stays.
    #[non_exhaustive]
    Decode {
        /// The scope of the key.
        scope: String,
        /// Whether the operation succeeded, or failed for good.
        conclusion: Conclusion,
        /// What the codec said.
        source: CodecError,
    },
}

/// What became of the claim of an operation that failed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ClaimFate {
    /// Released: nothing happened, the next call runs it.
    Released,
    /// That it failed for good is on record: no later call runs it again.
    #[non_exhaustive]
    Recorded {
        /// Whether the failure itself is on record with that, so that later calls get it.
        kept: Kept,
    },
    /// Its effect is in doubt; the policy decides.
    InDoubt,
    /// The call ran unprotected; there was no claim.
    Unprotected,
    /// This could not be stored, so the claim is left to its lease.
    NotStored(ClaimError),
}

impl<E> RunError<E> {
    /// The operation's own error, if that is what it is.
    pub fn into_operation(self) -> Option<E> {
        match self {
            Self::Operation { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl<E: Into<Box<dyn StdError + Send + Sync>>> RunError<E> {
    /// The same for `?`, where the operation's error is no [`std::error::Error`] itself: `anyhow::Error`, a box, text.
    ///
    /// ```
    /// # use oncekey::{Deduplicator, Key, MemoryStore, RunError};
    /// # async fn charge() -> anyhow::Result<String> { anyhow::bail!("card network down") }
    /// async fn pay(dedup: &Deduplicator<MemoryStore>, key: Key) -> Result<String, Box<dyn std::error::Error>> {
    ///     let answer = dedup.request(key).run(|_| charge()).await.map_err(RunError::boxed)?;
    ///     Ok(answer.into_value()?)
    /// }
    /// # let dedup = Deduplicator::new(MemoryStore::new());
    /// # let error = futures::executor::block_on(pay(&dedup, Key::new("a", "b").unwrap())).unwrap_err();
    /// # assert!(error.to_string().ends_with("card network down"), "{error}");
    /// ```
    pub fn boxed(self) -> RunError<BoxedError> {
        match self {
            Self::Operation { error, kind, claim } => {
                RunError::Operation { error: BoxedError::new(error), kind, claim }
            }
            Self::LeaseLost { source } => RunError::LeaseLost { source },
            Self::Claim { source } => RunError::Claim { source },
            Self::Decode { scope, conclusion, source } => RunError::Decode { scope, conclusion, source },
        }
    }
}

/// An operation's own error in a box, as an error, which a box is not. What it shows is the box's own.
pub struct BoxedError(Box<dyn StdError + Send + Sync>);

impl BoxedError {
    pub(super) fn new(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self(error.into())
    }

    /// The error, if it is an `E`.
    pub fn downcast_ref<E: StdError + 'static>(&self) -> Option<&E> {
        self.0.downcast_ref()
    }

    /// The box.
    pub fn into_inner(self) -> Box<dyn StdError + Send + Sync> {
        self.0
    }
}

impl fmt::Debug for BoxedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for BoxedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl StdError for BoxedError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

impl<E> From<Error> for RunError<E> {
    fn from(source: Error) -> Self {
        Self::Claim { source }
    }
}

impl ClaimFate {
    /// What became of an operation that failed for good.
    pub(super) fn of_final_failure(&self) -> &'static str {
        match self {
            Self::NotStored(_) | Self::Unprotected => {
                "the operation failed for good, and that is not on record; a later call may run it again"
            }
            _ => self.of_failure(),
        }
    }

    /// What became of an operation that failed.
    fn of_failure(&self) -> &'static str {
        match self {
            Self::Released => "the operation failed without effect, and was released",
            Self::Recorded { kept: Kept::Whole } => {
                "the operation failed for good, and its failure is on record"
            }
            Self::Recorded { kept: Kept::Shortened { .. } } => {
                "the operation failed for good, and a part of its failure is on record"
            }
            Self::Recorded { .. } => {
                "the operation failed for good, and that is on record, without the failure"
            }
            Self::InDoubt => "the operation failed, and its effect is in doubt",
            Self::Unprotected => "the operation failed, and it ran unprotected, with nothing on record",
            Self::NotStored(_) => {
                "the operation failed, and that could not be stored; it is in doubt once its lease ends"
            }
        }
    }
}

/// One line that names the cause too. So whoever prints all [sources](StdError::source) prints the cause twice.
///
/// Not so for an outcome that does not decode: what a codec says may quote it.
impl<E: fmt::Display> fmt::Display for RunError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operation { error, claim, .. } => write!(f, "{}: {error}", claim.of_failure()),
            Self::LeaseLost { source } => {
                write!(f, "the lease was lost, and the operation dropped: {source}")
            }
            Self::Claim { source } => write!(f, "the operation was not run: {source}"),
            Self::Decode { scope, .. } => write!(
                f,
                "the outcome on record in scope `{scope}` does not decode; the operation was not run. Use the codec and the \
                 type that wrote it"
            ),
        }
    }
}

impl<E: fmt::Debug> fmt::Debug for RunError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operation { error, kind, claim } => f
                .debug_struct("Operation")
                .field("error", error)
                .field("kind", kind)
                .field("claim", claim)
                .finish(),
            Self::LeaseLost { source } => f.debug_struct("LeaseLost").field("source", source).finish(),
            Self::Claim { source } => f.debug_struct("Claim").field("source", source).finish(),
            // What a codec says may quote the outcome, as serde_json does. Ask for the source by name.
            Self::Decode { scope, .. } => {
                f.debug_struct("Decode").field("scope", scope).finish_non_exhaustive()
            }
        }
    }
}

impl<E: StdError + 'static> StdError for RunError<E> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Operation { error, .. } => Some(error),
            Self::LeaseLost { source } => Some(source),
            Self::Claim { source } => Some(source),
            Self::Decode { source, .. } => Some(&**source),
        }
    }
}
