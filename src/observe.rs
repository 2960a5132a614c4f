//! What the engine tells logs and metrics.

use std::time::Duration;

use crate::protocol::{FencingToken, Key, OperationId};
use crate::store::StoreFailure;

/// Hears what happens in an engine: one trait, for logs and metrics alike.
///
/// Called in the middle of things and on any thread: return soon, do not block, do not call back into the engine.
/// A panic in an observer ends the call that it watched.
pub trait Observer: Send + Sync + 'static {
    /// Something happened to this key.
    fn event(&self, key: &Key, event: &Event<'_>);
}

impl<F: Fn(&Key, &Event<'_>) + Send + Sync + 'static> Observer for F {
    fn event(&self, key: &Key, event: &Event<'_>) {
        self(key, event);
    }
}

/// One thing that happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A claim was granted.
    #[non_exhaustive]
    Granted {
        /// The number of the attempt.
        attempt: u32,
        /// Its fencing token.
        token: FencingToken,
        /// The id of the generation.
        operation_id: OperationId,
        /// An earlier attempt was taken over, and its effect is unknown.
        after_doubt: bool,
        /// The reply to the claim was lost, and the claim found again by its owner.
        reply_lost: bool,
    },
    /// A claim was answered otherwise.
    #[non_exhaustive]
    Answered {
        /// `replay`, `done`, `in progress`, `mismatch`, `in doubt` or `exhausted`.
        answer: &'static str,
    },
    /// A claim joined the waiters of its key.
    Waiting,
    /// A lease was renewed, by whoever did.
    Renewed,
    /// The holder of a claim may no longer act.
    #[non_exhaustive]
    LeaseLost {
        /// Somebody else has the key; otherwise the deadline passed without a renewal.
        superseded: bool,
    },
    /// An outcome was stored.
    Completed,
    /// An operation ran, and its outcome could not be stored.
    Unrecorded,
    /// A claim was released: nothing happened.
    Released,
    /// A claim was given up in doubt.
    Abandoned,
    /// A resolver or an operator settled a doubt.
    Resolved,
    /// An operator ended a generation.
    Forgotten,
    /// A call to the store failed; it may be tried again.
    #[non_exhaustive]
    StoreFailed {
        /// What went wrong.
        failure: &'a StoreFailure,
        /// When the next try is, if there is one.
        retry_in: Option<Duration>,
    },
    /// The store could not answer a claim, and the caller chose to run unprotected.
    FailedOpen,
}
