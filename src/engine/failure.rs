//! How an operation says that it failed.

/// How an operation failed, when it can tell. The error may be of any type.
///
/// [`OrFailure`] says it of a result, in the middle of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure<E> {
    /// Nothing happened: the next call runs it.
    NoEffect(E),
    /// It failed for good: kept, and replayed as a failure.
    Final(E),
    /// Whether something happened is unknown: the policy decides.
    Unknown(E),
}

/// How an operation failed, without the error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Nothing happened: the next call runs it.
    NoEffect,
    /// It failed for good: kept, and replayed as a failure.
    Final,
    /// Whether something happened is unknown: the policy decides.
    Unknown,
}

impl<E> Failure<E> {
    /// How it failed.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::NoEffect(_) => FailureKind::NoEffect,
            Self::Final(_) => FailureKind::Final,
            Self::Unknown(_) => FailureKind::Unknown,
        }
    }

    /// The error.
    pub fn into_error(self) -> E {
        match self {
            Self::NoEffect(error) | Self::Final(error) | Self::Unknown(error) => error,
        }
    }
}

/// An error that says nothing about itself is of unknown effect, so `?` works on a result whose error is just `E`. For
/// results with other errors there is [`OrFailure`].
impl<E> From<E> for Failure<E> {
    fn from(error: E) -> Self {
        Self::Unknown(error)
    }
}

/// Says of a result how it failed, for [`run_or_fail`](crate::Request::run_or_fail). The error becomes the operation's own
/// as `?` would have it, by [`From`].
///
/// ```
/// use oncekey::{Attempt, Failure, OrFailure as _};
///
/// # async fn reserve(order: u32) -> Result<(), std::num::ParseIntError> { "7".parse::<u32>().map(drop) }
/// # async fn charge(id: oncekey::OperationId) -> Result<String, std::io::Error> { Ok(id.to_string()) }
/// # async fn note(receipt: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>> { Ok(()) }
/// type AnyError = Box<dyn std::error::Error + Send + Sync>;
///
/// async fn pay(attempt: Attempt) -> Result<String, Failure<AnyError>> {
///     reserve(7).await.or_no_effect()?; // nothing was charged yet: the next call may try
///     let receipt = charge(attempt.operation_id()).await.or_unknown()?;
///     note(&receipt).await?; // its error is the operation's own: of unknown effect
///     if receipt.is_empty() {
///         return Err("the bank declined").or_final(); // kept: no call tries again
///     }
///     Ok(receipt)
/// }
/// # let dedup = oncekey::Deduplicator::new(oncekey::MemoryStore::new());
/// # futures::executor::block_on(async {
/// # let run = dedup.request(oncekey::Key::new("payments.charge", "7")?).run_or_fail(pay).await;
/// # run.map_err(oncekey::RunError::boxed)?.into_value().map(drop)?;
/// # Ok::<(), AnyError>(()) }).unwrap();
/// ```
///
/// Where the error itself tells, map it with a function of yours that makes a [`Failure`] of it:
/// `charge().await.map_err(classify)?`.
pub trait OrFailure<T, X> {
    /// An error means that nothing happened: [`Failure::NoEffect`].
    ///
    /// # Errors
    /// The result's own.
    fn or_no_effect<E: From<X>>(self) -> Result<T, Failure<E>>;

    /// An error is for good: [`Failure::Final`].
    ///
    /// # Errors
    /// The result's own.
    fn or_final<E: From<X>>(self) -> Result<T, Failure<E>>;

    /// After an error nobody knows what happened: [`Failure::Unknown`].
    ///
    /// # Errors
    /// The result's own.
    fn or_unknown<E: From<X>>(self) -> Result<T, Failure<E>>;
}

impl<T, X> OrFailure<T, X> for Result<T, X> {
    fn or_no_effect<E: From<X>>(self) -> Result<T, Failure<E>> {
        self.map_err(|error| Failure::NoEffect(error.into()))
    }

    fn or_final<E: From<X>>(self) -> Result<T, Failure<E>> {
        self.map_err(|error| Failure::Final(error.into()))
    }

    fn or_unknown<E: From<X>>(self) -> Result<T, Failure<E>> {
        self.map_err(|error| Failure::Unknown(error.into()))
    }
}
