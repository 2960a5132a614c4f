//! The end of a call in one type: its value, or why there is none.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt::{self, Debug, Display};
use std::time::Duration;

use super::answer::{Answer, Earlier, Unavailable};
use super::error::{BoxedError, ClaimFate, RunError};
use super::failure::FailureKind;
use crate::protocol::{OperationId, Payload};
use crate::words::roughly;

/// Why a call got no value: everything that a run can end with but a value, whether it is an answer or an error.
///
/// `E` is the operation's own error, and `F` what is kept of a final one. [`IntoValue`] makes it of a run's result.
#[derive(Debug)]
#[non_exhaustive]
pub enum NoValue<E = Infallible, F = Payload> {
    /// The operation failed for good, in this call or in an earlier one. A new call will not run it.
    Failed(FinalFailure<E, F>),
    /// The operation is done, without an outcome to give.
    Done(Unavailable),
    /// Another attempt is running.
    #[non_exhaustive]
    InProgress {
        /// When asking again may be worth it: see [`Earlier::InProgress`].
        retry_after: Duration,
    },
    /// The key is bound to another request.
    Mismatch,
    /// It is not known whether the effect happened, and somebody must find out.
    InDoubt(OperationId),
    /// The attempts are used up. This many.
    Exhausted(u32),
    /// Something went wrong in this call: the operation failed, and not for good; the lease was lost; the store did not
    /// answer; what is on record does not decode.
    Run(RunError<E>),
}

/// A final failure, for its first caller and for every later one.
///
/// Where the failure is kept as its [`Text`](crate::codec::Text), both hear the same from `to_string`. Where it is kept as
/// a [value](crate::codec::AsValue), [`into_failure`](Self::into_failure) gives both the same.
#[derive(Debug)]
pub enum FinalFailure<E, F> {
    /// The operation failed in this call.
    #[non_exhaustive]
    Now {
        /// Its own error.
        error: E,
        /// Whether that is on record. If it is not, a later call may run the operation again.
        claim: ClaimFate,
    },
    /// It failed in an earlier call, and was not run in this one.
    #[non_exhaustive]
    Before {
        /// What was kept of the failure; `None` if nothing was, or is not any more.
        failure: Option<F>,
    },
}

impl<E, F> FinalFailure<E, F> {
    /// Whether the operation failed in this very call.
    pub fn is_now(&self) -> bool {
        matches!(self, Self::Now { .. })
    }
}

impl<E> FinalFailure<E, E> {
    /// The failure, where it is kept as a value: `None` if it could not be kept, or is not kept any more.
    pub fn into_failure(self) -> Option<E> {
        match self {
            Self::Now { error, .. } => Some(error),
            Self::Before { failure } => failure,
        }
    }
}

/// The failure's own text, the same for the first caller and for later ones where its text is what is kept.
impl<E: Display, F: Display> Display for FinalFailure<E, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now { error, .. } => Display::fmt(error, f),
            Self::Before { failure: Some(failure) } => Display::fmt(failure, f),
            Self::Before { failure: None } => {
                f.write_str("the operation failed for good before; its failure is not kept")
            }
        }
    }
}

/// From all that a run can end with, its value: for callers who want only that, and the rest as one error.
///
/// The first caller of a final failure and every later one are one case, [`NoValue::Failed`], which still tells them apart.
///
/// ```
/// use oncekey::answer::NoValue;
/// use oncekey::{Deduplicator, Failure, IntoValue as _, Key, MemoryStore};
///
/// # async fn charge(cents: u32) -> Result<String, std::io::Error> { Err(std::io::Error::other("card declined")) }
/// async fn pay(dedup: &Deduplicator<MemoryStore>, id: &str) -> (u16, String) {
///     let key = Key::new("payments.charge", id).expect("the router checks ids");
///     let run = dedup.request(key).run_or_fail(|_| async { charge(5000).await.map_err(Failure::Final) });
///     match run.await.into_value() {
///         Ok(receipt) => (201, receipt),
///         // Now or before: the same answer.
///         Err(NoValue::Failed(failure)) => (402, failure.to_string()),
///         Err(NoValue::InProgress { retry_after, .. }) => (409, format!("ask again in {retry_after:?}")),
///         Err(NoValue::Mismatch) => (422, "this key is another payment's".to_owned()),
///         Err(other) => (500, other.to_string()),
///     }
/// }
///
/// # futures::executor::block_on(async {
/// let dedup = Deduplicator::new(MemoryStore::new());
/// assert_eq!(pay(&dedup, "7f3a-91").await, (402, "card declined".to_owned()));
/// assert_eq!(pay(&dedup, "7f3a-91").await, (402, "card declined".to_owned()));
/// # });
/// ```
///
/// # `anyhow` and boxes
///
/// [`NoValue`] and [`RunError`] are errors where the operation's error is one, and `?` takes them. Where that is
/// `anyhow::Error`, a box or text, `boxed` makes it one:
///
/// ```
/// # use oncekey::{Deduplicator, IntoValue as _, Key, MemoryStore, answer::NoValue};
/// # async fn charge() -> anyhow::Result<String> { anyhow::bail!("card network down") }
/// async fn pay(dedup: &Deduplicator<MemoryStore>, key: Key) -> anyhow::Result<String> {
///     Ok(dedup.request(key).run(|_| charge()).await.into_value().map_err(NoValue::boxed)?)
/// }
/// # let dedup = Deduplicator::new(MemoryStore::new());
/// # let error = futures::executor::block_on(pay(&dedup, Key::new("a", "b").unwrap())).unwrap_err();
/// # assert!(error.to_string().ends_with("card network down"), "{error}");
/// ```
pub trait IntoValue<T, E, F> {
    /// The value: executed now, replayed, or executed and not on record.
    ///
    /// # Errors
    /// [`NoValue`] for everything else.
    fn into_value(self) -> Result<T, NoValue<E, F>>;
}

impl<T, E, F> IntoValue<T, E, F> for Result<Answer<T, F>, RunError<E>> {
    fn into_value(self) -> Result<T, NoValue<E, F>> {
        match self {
            Ok(Answer::Executed { value, .. } | Answer::Unrecorded { value, .. }) => Ok(value),
            Ok(Answer::Earlier(earlier)) => earlier.into_value_or(),
            Err(error) => Err(error.into()),
        }
    }
}

impl<T, F> Answer<T, F> {
    /// The value, for callers who want only that: executed now, replayed, or executed and not on record. [`IntoValue`]
    /// does the same for a run's whole result.
    ///
    /// # Errors
    /// [`NoValue`] for every other answer; never [`NoValue::Run`].
    pub fn into_value(self) -> Result<T, NoValue<Infallible, F>> {
        Ok::<_, RunError<Infallible>>(self).into_value()
    }
}

impl<T, F> Earlier<T, F> {
    /// The value, for callers who want only that.
    ///
    /// # Errors
    /// [`NoValue`] if this is not a replay; never [`NoValue::Run`].
    pub fn into_value(self) -> Result<T, NoValue<Infallible, F>> {
        self.into_value_or()
    }

    fn into_value_or<E>(self) -> Result<T, NoValue<E, F>> {
        Err(match self {
            Self::Replayed { value, .. } => return Ok(value),
            Self::Done { why, .. } => NoValue::Done(why),
            Self::FailedBefore { failure, .. } => NoValue::Failed(FinalFailure::Before { failure }),
            Self::InProgress { retry_after, .. } => NoValue::InProgress { retry_after },
            Self::Mismatch => NoValue::Mismatch,
            Self::InDoubt { operation_id, .. } => NoValue::InDoubt(operation_id),
            Self::Exhausted { attempts } => NoValue::Exhausted(attempts),
        })
    }
}

/// So `?` works on a run in a function that returns this.
impl<E, F> From<RunError<E>> for NoValue<E, F> {
    fn from(error: RunError<E>) -> Self {
        match error {
            RunError::Operation { error, kind: FailureKind::Final, claim } => {
                Self::Failed(FinalFailure::Now { error, claim })
            }
            other => Self::Run(other),
        }
    }
}

impl<E, F> NoValue<E, F> {
    /// The operation's own error, if it failed in this call.
    pub fn into_operation(self) -> Option<E> {
        match self {
            Self::Failed(FinalFailure::Now { error, .. }) => Some(error),
            Self::Run(error) => error.into_operation(),
            _ => None,
        }
    }
}

impl<E: Into<Box<dyn StdError + Send + Sync>>, F> NoValue<E, F> {
    /// The same for `?`, where the operation's error is no [`std::error::Error`] itself: see [`RunError::boxed`].
    pub fn boxed(self) -> NoValue<BoxedError, F> {
        match self {
            Self::Failed(FinalFailure::Now { error, claim }) => {
                NoValue::Failed(FinalFailure::Now { error: BoxedError::new(error), claim })
            }
            Self::Failed(FinalFailure::Before { failure }) => {
                NoValue::Failed(FinalFailure::Before { failure })
            }
            Self::Run(error) => NoValue::Run(error.boxed()),
            Self::Done(why) => NoValue::Done(why),
            Self::InProgress { retry_after } => NoValue::InProgress { retry_after },
            Self::Mismatch => NoValue::Mismatch,
            Self::InDoubt(operation_id) => NoValue::InDoubt(operation_id),
            Self::Exhausted(attempts) => NoValue::Exhausted(attempts),
        }
    }
}

impl<E: Display, F: Debug> Display for NoValue<E, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(FinalFailure::Now { error, claim }) => {
                write!(f, "{}: {error}", claim.of_final_failure())
            }
            Self::Failed(FinalFailure::Before { failure: Some(failure) }) => {
                write!(f, "the operation failed for good before: {failure:?}")
            }
            Self::Failed(FinalFailure::Before { failure: None }) => {
                f.write_str("the operation failed for good before; its failure is not kept")
            }
            Self::Done(why) => {
                write!(
                    f,
                    "the operation is done, and its outcome is not available ({why}); do not run it again"
                )
            }
            Self::InProgress { retry_after } => {
                write!(f, "another attempt is running; ask again in {}", roughly(*retry_after))
            }
            Self::Mismatch => {
                f.write_str("the key was used for another request; use a new key for a new request")
            }
            Self::InDoubt(operation_id) => write!(
                f,
                "an earlier attempt stopped in the middle, and operation {operation_id} may or may not have happened; find \
                 out, and `resolve` it"
            ),
            Self::Exhausted(attempts) => {
                write!(
                    f,
                    "the attempts are used up ({attempts}); find out why they failed, then `reset_attempts`"
                )
            }
            Self::Run(error) => Display::fmt(error, f),
        }
    }
}

impl<E: StdError + 'static, F: Debug> StdError for NoValue<E, F> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Failed(FinalFailure::Now { error, .. }) => Some(error),
            Self::Run(error) => error.source(),
            _ => None,
        }
    }
}
