//! What to do with a delivery.

use std::fmt;
use std::time::Duration;

use oncekey::answer::Kept;
use oncekey::{ClaimError, Error, OperationId};

/// What to do with a delivery.
///
/// `T` is what the handler returns, `E` its error, and `F` what is kept of a final one: its text, unless
/// [`Consumer::failures`](super::Consumer::failures) says otherwise.
#[must_use = "a delivery that nobody answers comes back, or hangs"]
#[derive(Debug)]
pub enum DeliveryAction<T, E, F = String> {
    /// Acknowledge it: the message is done.
    Acknowledge(Acknowledged<T>),
    /// Have it delivered again, after this.
    RetryLater {
        /// How long from now.
        after: Duration,
        /// Why it is not done.
        because: Later<E>,
    },
    /// Its message is being handled by this very engine, for another delivery. Tell the broker that it is at work: then
    /// this delivery comes again once the broker's own timeout is over, and is acknowledged. Where the broker has no such
    /// timeout, hand it back instead: see [`or_later`](Self::or_later).
    Extend {
        /// How long the handler's lease runs, unless it is renewed.
        by: Duration,
    },
    /// Take it out of the source, to where somebody will look at it: it would never be done here.
    DeadLetter(Dead<E, F>),
}

/// Why a delivery is to be acknowledged.
#[derive(Debug)]
#[non_exhaustive]
pub enum Acknowledged<T> {
    /// The handler ran now, and that the message is done is on record.
    Executed {
        /// What it returned.
        value: T,
        /// Whether that is on record too: a later delivery is [`Replayed`](Self::Replayed) then, and otherwise
        /// [`Done`](Self::Done).
        kept: Kept,
    },
    /// It ran for an earlier delivery; this is what it returned.
    Replayed(T),
    /// It ran for an earlier delivery; what it returned is not available.
    Done,
    /// It ran now, and that could not be put on record: another delivery of the same message may run it again.
    Unrecorded(T),
}

/// Why a message is not done.
#[derive(Debug)]
#[non_exhaustive]
pub enum Later<E> {
    /// Another consumer is handling it. The delay is short, and grows with the time that it has taken so far: see
    /// [`Earlier::InProgress`](oncekey::Earlier::InProgress).
    InProgress,
    /// An earlier message of the same poll is the same, and is not done.
    NotDoneBefore,
    /// The transaction that would have completed it was not committed: nothing happened.
    NotCommitted,
    /// The handler failed, and said that nothing happened.
    NoEffect(E),
    /// The handler failed, and what happened is unknown. Under [`Policy::Hold`](oncekey::Policy::Hold) the next delivery is in
    /// doubt, unless a resolver knows better.
    Unknown(E),
    /// The handler lost its lease: it was stopped, or it failed for good and that could not be put on record. Another
    /// consumer may have handled the message meanwhile: the next delivery finds out. The handler's error is dropped.
    LeaseLost(ClaimError),
    /// The claim could not be answered, since the store or the engine's resolver did not; the
    /// handler did not run.
    Store(Error),
    /// The handler panicked, in a poll: what happened is unknown, and its lease runs on. Or the codec did, with what the
    /// handler returned: then the message is done, and the next delivery is acknowledged.
    Panicked,
    /// The engine gave an error that this release does not know.
    Other,
}

/// Why a message will never be done here.
#[derive(Debug)]
#[non_exhaustive]
pub enum Dead<E, F = String> {
    /// The handler failed for good, now, and that is on record. Where it could not be put on record, the message is
    /// retried later: see [`Later::LeaseLost`].
    Failed(E),
    /// It failed for good for an earlier delivery; what it said, where that was kept.
    FailedBefore(Option<F>),
    /// Its attempts are used up. An operator can look, and have it tried again:
    /// [`Deduplicator::reset_attempts`](oncekey::Deduplicator::reset_attempts).
    #[non_exhaustive]
    Exhausted {
        /// How many were used.
        attempts: u32,
    },
    /// Its key belongs to another message.
    Mismatch,
    /// An attempt stopped in the middle, under [`Policy::Hold`](oncekey::Policy::Hold). Somebody must find out what happened:
    /// [`Deduplicator::resolve`](oncekey::Deduplicator::resolve).
    #[non_exhaustive]
    InDoubt {
        /// The id that it handed downstream.
        operation_id: OperationId,
    },
    /// What is on record under its key cannot be used: the record does not decode, or its fingerprint is of another
    /// algorithm.
    Unreadable(String),
}

impl<T, E, F> DeliveryAction<T, E, F> {
    /// The same, for a broker that knows no extension, such as RabbitMQ: what would be extended is retried later.
    pub fn or_later(self) -> Self {
        match self {
            Self::Extend { by } => Self::RetryLater { after: by, because: Later::InProgress },
            other => other,
        }
    }

    /// Why, as one word for a log, a metric or the header of a dead letter: `executed`, `replayed`, `done`, `unrecorded`,
    /// `in-progress`, `not-done-before`, `not-committed`, `no-effect`, `unknown-effect`, `lease-lost`, `store`, `panicked`, `other`, `in-progress-here`,
    /// `failed`, `failed-before`, `exhausted`, `mismatch`, `in-doubt`, `unreadable`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Acknowledge(why) => match why {
                Acknowledged::Executed { .. } => "executed",
                Acknowledged::Replayed(_) => "replayed",
                Acknowledged::Done => "done",
                Acknowledged::Unrecorded(_) => "unrecorded",
            },
            Self::RetryLater { because, .. } => match because {
                Later::InProgress => "in-progress",
                Later::NotDoneBefore => "not-done-before",
                Later::NotCommitted => "not-committed",
                Later::NoEffect(_) => "no-effect",
                Later::Unknown(_) => "unknown-effect",
                Later::LeaseLost(_) => "lease-lost",
                Later::Store(_) => "store",
                Later::Panicked => "panicked",
                Later::Other => "other",
            },
            Self::Extend { .. } => "in-progress-here",
            Self::DeadLetter(why) => why.reason(),
        }
    }

    /// What the handler returned, now or before, where it is at hand.
    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Acknowledge(
                Acknowledged::Executed { value, .. }
                | Acknowledged::Replayed(value)
                | Acknowledged::Unrecorded(value),
            ) => Some(value),
            _ => None,
        }
    }
}

impl<E, F> Dead<E, F> {
    /// Why, as one word: see [`DeliveryAction::reason`].
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Failed(_) => "failed",
            Self::FailedBefore(_) => "failed-before",
            Self::Exhausted { .. } => "exhausted",
            Self::Mismatch => "mismatch",
            Self::InDoubt { .. } => "in-doubt",
            Self::Unreadable(_) => "unreadable",
        }
    }
}

/// A sentence for whoever looks at the dead letter. What a handler said of itself is not shown: it may hold a customer's
/// data.
impl<E, F> fmt::Display for Dead<E, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(_) => f.write_str("its handler failed for good"),
            Self::FailedBefore(_) => f.write_str("its handler failed for good, for an earlier delivery"),
            Self::Exhausted { attempts } => {
                write!(f, "its attempts are used up ({attempts}); find out why, and reset them to have it tried again")
            }
            Self::Mismatch => f.write_str(
                "its key belongs to a message with another fingerprint; the producer used one key for two messages",
            ),
            Self::InDoubt { operation_id } => write!(
                f,
                "an attempt stopped in the middle, and whether operation {operation_id} happened must be found out; then \
                 resolve it, and hand the message in again"
            ),
            Self::Unreadable(why) => write!(f, "its record cannot be used: {why}"),
        }
    }
}
