//! What the engine tells logs and metrics.

use std::time::Duration;

use crate::kept::Kept;
use crate::protocol::{FencingToken, Key, OperationId};
use crate::store::{StoreErrorKind, StoreFailure};

/// Hears what happens in an engine: one trait, for logs, metrics and traces alike.
///
/// Called in the middle of things and on any thread: return soon, do not block, do not call back into the engine.
/// A panic in an observer ends the call that it watched. An operation that is running is dropped
/// then; the outcome of one that has ended is stored all the same, by the engine's clean-up.
/// [`builder`](crate::builder) has this for all code of yours.
///
/// Two observers are one as a pair: `builder.observer((traces, metrics))`.
/// # Example
/// A closure is an observer of events.
///
/// ```
/// # use oncekey::{Deduplicator, Key, MemoryStore};
/// use oncekey::observe::Event;
/// # use std::sync::Arc;
/// # use std::sync::atomic::{AtomicUsize, Ordering};
///
/// # futures::executor::block_on(async {
/// # let granted = Arc::new(AtomicUsize::new(0));
/// # let count = Arc::clone(&granted);
/// let dedup = Deduplicator::builder(MemoryStore::new())
///     .observer(move |key: &Key, event: &Event<'_>| {
///         if let Event::Granted { attempt, .. } = event {
///             println!("{key:?}: attempt {attempt} begins");
/// #             count.fetch_add(1, Ordering::Relaxed);
///         }
///     })
///     .build()?;
/// # let key = Key::new("payments.charge", "7f3a-91")?;
/// # dedup.request(key).run(|_| async { Ok::<_, std::io::Error>(()) }).await?.into_value()?;
/// # assert_eq!(granted.load(Ordering::Relaxed), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
pub trait Observer: Send + Sync + 'static {
    /// Something happened to this key.
    fn event(&self, key: &Key, event: &Event<'_>);

    /// A phase of a call begins. Whoever wants to know how long it takes, or whose work is done meanwhile, returns a
    /// [`Span`].
    fn begin(&self, key: &Key, phase: CallPhase) -> Option<Box<dyn Span>> {
        let _unused = (key, phase);
        None
    }

    /// A call to the store ended: a load, or a write by an exchange. What is done by the short way of a store
    /// ([`Store::at_once`](crate::Store::at_once)) is no such call and not told here; where it fails, [`Event::StoreFailed`] is.
    fn store_call(&self, call: &StoreCall) {
        let _unused = call;
    }

    /// A [keeper](crate::Deduplicator::keeper) did something that is about no one key.
    fn housekeeping(&self, done: &Housekeeping<'_>) {
        let _unused = done;
    }
}

impl<F: Fn(&Key, &Event<'_>) + Send + Sync + 'static> Observer for F {
    fn event(&self, key: &Key, event: &Event<'_>) {
        self(key, event);
    }
}

impl<A: Observer, B: Observer> Observer for (A, B) {
    fn event(&self, key: &Key, event: &Event<'_>) {
        self.0.event(key, event);
        self.1.event(key, event);
    }

    fn begin(&self, key: &Key, phase: CallPhase) -> Option<Box<dyn Span>> {
        match (self.0.begin(key, phase), self.1.begin(key, phase)) {
            (Some(one), Some(other)) => Some(Box::new((one, other))),
            (one, other) => one.or(other),
        }
    }

    fn store_call(&self, call: &StoreCall) {
        self.0.store_call(call);
        self.1.store_call(call);
    }

    fn housekeeping(&self, done: &Housekeeping<'_>) {
        self.0.housekeeping(done);
        self.1.housekeeping(done);
    }
}

/// A part of what a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CallPhase {
    /// Claiming the key, and waiting for who holds it.
    Claim,
    /// The operation, while this engine drives it: not for explicit claims.
    #[non_exhaustive]
    Run {
        /// The number of the attempt.
        attempt: u32,
    },
    /// Putting on record how it ended: completed, failed, released or in doubt.
    #[non_exhaustive]
    Complete {
        /// The number of the attempt.
        attempt: u32,
    },
}

impl CallPhase {
    /// `claim`, `run` or `complete`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Claim => "claim",
            Self::Run { .. } => "run",
            Self::Complete { .. } => "complete",
        }
    }
}

/// A phase that is watched: entered when it is worked on, left when it waits, dropped when it is over or cancelled. What
/// happens between `enter` and `exit`, on the same thread, is part of it: events too.
pub trait Span: Send {
    /// Work on it goes on, on this thread.
    fn enter(&mut self);
    /// It waits, or is over.
    fn exit(&mut self);
}

impl Span for (Box<dyn Span>, Box<dyn Span>) {
    fn enter(&mut self) {
        self.0.enter();
        self.1.enter();
    }

    fn exit(&mut self) {
        self.1.exit();
        self.0.exit();
    }
}

/// One call to the store.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoreCall {
    /// Which: `load`, `compare_exchange` or `compare_exchange_many`.
    pub method: &'static str,
    /// How many keys it was about.
    pub keys: usize,
    /// How long it took, by the engine's clock.
    pub took: Duration,
    /// What went wrong, with the first of its keys that it went wrong with.
    pub failure: Option<StoreErrorKind>,
}

/// What a keeper did that is about no one key.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Housekeeping<'a> {
    /// A round of purges ended.
    #[non_exhaustive]
    Purged {
        /// How many records it removed.
        removed: usize,
        /// It stopped at its time limit, and left some that could be removed: purges are behind.
        behind: bool,
    },
    /// A purge failed; the next one is at its time.
    #[non_exhaustive]
    PurgeFailed {
        /// What went wrong.
        failure: &'a StoreFailure,
        /// How many keys it had removed before.
        removed: usize,
    },
    /// A round of trims ended: of a store that can trim, for an engine with a tail.
    #[non_exhaustive]
    Trimmed {
        /// How many outcomes lost their bytes.
        trimmed: usize,
        /// The next round goes on from here; else it begins anew.
        more: bool,
    },
    /// A trim failed; the next one is at its time.
    #[non_exhaustive]
    TrimFailed {
        /// What went wrong.
        failure: &'a StoreFailure,
        /// How many outcomes had lost their bytes before.
        trimmed: usize,
    },
    /// A part of the keeper panicked, by a store, a clock or an observer that did. It begins anew, and the other parts go on.
    #[non_exhaustive]
    Panicked {
        /// Which: `renewal`, `helping` or `purge`.
        lane: &'static str,
    },
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
        /// `replay`, `done` (there is no outcome to replay), `in progress`, `mismatch`, `in doubt`, `exhausted`, or
        /// `incomparable`: the fingerprints are of different algorithms, which is an error.
        answer: &'static str,
    },
    /// A claim could not be answered: the store failed, as often as it was tried, or returned
    /// inconsistent answers; or the resolver did not answer.
    Unanswered,
    /// A claim joined the waiters of its key.
    Waiting,
    /// A claim that waited does so no more: answered, out of time or dropped. One for each [`Event::Waiting`].
    Waited,
    /// A granted claim is no longer held by its call: concluded, lost or dropped. One for each [`Event::Granted`]. What it
    /// left undone is clean-up.
    LetGo,
    /// A lease was renewed, by whoever did.
    Renewed,
    /// The holder of a claim may no longer act.
    #[non_exhaustive]
    LeaseLost {
        /// Somebody else has the key; otherwise the deadline passed without a renewal.
        superseded: bool,
    },
    /// It was stored that an operation is done.
    #[non_exhaustive]
    Completed {
        /// Whether its outcome is on record with that, so that later calls get it.
        kept: Kept,
    },
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
