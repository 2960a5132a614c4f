//! How final failures are kept, and what later callers get of them.

use std::fmt::Display;

use super::{Codec, CodecError};
use crate::protocol::Payload;

/// How the final failures of an operation are kept: errors of `E`, which need no codec of their own. Chosen by
/// [`Request::failures`](crate::Request::failures); [`Text`] by default.
///
/// Only a [`Failure::Final`](crate::Failure::Final) is kept. One without effect, or of unknown effect, goes to its caller
/// and no further.
///
/// | codec | keeps | errors | later callers get |
/// |---|---|---|---|
/// | [`Text`], the default | their text | with a [`Display`] | a `String` |
/// | [`AsValue`] | the whole failure | in any [`Codec`], such as [`Json`](super::Json) | an equal error |
/// | [`FactOnly`] | that it failed | any | `()` |
///
/// ```
/// use oncekey::codec::{CodecError, FailureCodec};
/// use oncekey::{Answer, Earlier, Deduplicator, Failure, Key, MemoryStore, Payload, RunError};
///
/// #[derive(Debug)]
/// enum ChargeError { Declined(u16), Timeout(std::io::Error) }
///
/// /// Keeps the bank's code, and nothing else.
/// struct DeclineCode;
///
/// impl FailureCodec<ChargeError> for DeclineCode {
///     type Kept = u16;
///
///     fn encode(&self, error: &ChargeError) -> Result<Payload, CodecError> {
///         match error {
///             ChargeError::Declined(code) => Ok(Payload::from(&code.to_be_bytes()[..])),
///             ChargeError::Timeout(_) => Err("a timeout is never final".into()),
///         }
///     }
///
///     fn decode(&self, bytes: &Payload) -> Result<u16, CodecError> {
///         Ok(u16::from_be_bytes(bytes[..].try_into()?))
///     }
/// }
///
/// # futures::executor::block_on(async {
/// let dedup = Deduplicator::new(MemoryStore::new());
/// let charge = || {
///     dedup.request(Key::new("payments.charge", "7f3a-91").unwrap()).failures(DeclineCode).run_or_fail(|_| async {
///         Err::<String, _>(Failure::Final(ChargeError::Declined(51)))
///     })
/// };
/// assert!(matches!(charge().await, Err(RunError::Operation { error: ChargeError::Declined(51), .. })));
/// assert!(matches!(charge().await, Ok(Answer::Earlier(Earlier::FailedBefore { failure: Some(51), .. }))));
/// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot keep a final failure of type `{E}`",
    note = "`Text`, the default, keeps the text of an error with a `Display`; `.failures(FactOnly)` keeps that it failed",
    note = "to keep the whole error, wrap a codec of values: `.failures(AsValue(Json))`"
)]
pub trait FailureCodec<E: ?Sized> {
    /// What a later caller gets of a failure.
    type Kept;

    /// The bytes to keep of `error`.
    ///
    /// It runs once, after the operation. If it panics, it is recorded that the operation failed for good, without the
    /// failure, and then the panic goes on to the caller.
    ///
    /// # Errors
    /// If there is nothing to keep of it. That the operation failed for good goes on record all the same.
    fn encode(&self, error: &E) -> Result<Payload, CodecError>;

    /// What a later caller gets of these bytes. A panic goes on to the caller; nothing was run.
    ///
    /// # Errors
    /// If another codec wrote them. The record stays, and the operation is not run.
    fn decode(&self, bytes: &Payload) -> Result<Self::Kept, CodecError>;

    /// What to keep of `bytes`, which are more than `len_max`, the engine's
    /// [`outcome_len_max`](crate::DeduplicatorBuilder::outcome_len_max). `None`, the default: nothing of them, only that
    /// the operation failed for good.
    fn shortened(&self, bytes: &Payload, len_max: usize) -> Option<Payload> {
        let _ = (bytes, len_max);
        None
    }
}

/// The text of a failure, as its [`Display`] gives it: for errors of any type that has one, `anyhow::Error` and
/// `Box<dyn Error + Send + Sync>` too. Later callers get a `String`.
///
/// A text over the engine's [`outcome_len_max`](crate::DeduplicatorBuilder::outcome_len_max) is cut between two
/// characters.
///
/// # Every later caller gets it
///
/// The text goes on record, and each later caller of the key gets it. If those may be strangers to what your errors
/// say (host names, queries, a customer's data), keep [`FactOnly`], or a codec of your own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Text;

impl<E: Display + ?Sized> FailureCodec<E> for Text {
    type Kept = String;

    fn encode(&self, error: &E) -> Result<Payload, CodecError> {
        Ok(error.to_string().into())
    }

    fn decode(&self, bytes: &Payload) -> Result<String, CodecError> {
        // Not `String::from_utf8`, whose error shows all the bytes in its `Debug`.
        Ok(std::str::from_utf8(bytes)?.to_owned())
    }

    fn shortened(&self, bytes: &Payload, len_max: usize) -> Option<Payload> {
        let is_boundary = |at: &usize| bytes.get(*at).is_none_or(|byte| byte & 0xC0 != 0x80);
        let end = (0..=len_max.min(bytes.len())).rev().find(is_boundary)?;
        // A copy: a slice would keep the whole text in memory.
        Some(bytes[..end].into())
    }
}

impl<E: ?Sized, F: FailureCodec<E> + ?Sized> FailureCodec<E> for &F {
    type Kept = F::Kept;

    fn encode(&self, error: &E) -> Result<Payload, CodecError> {
        (**self).encode(error)
    }

    fn decode(&self, bytes: &Payload) -> Result<F::Kept, CodecError> {
        (**self).decode(bytes)
    }

    fn shortened(&self, bytes: &Payload, len_max: usize) -> Option<Payload> {
        (**self).shortened(bytes, len_max)
    }
}

/// That the operation failed for good, and nothing of the failure: for errors of any type. Later callers get `()`.
#[derive(Clone, Copy, Debug, Default)]
pub struct FactOnly;

impl<E: ?Sized> FailureCodec<E> for FactOnly {
    type Kept = ();

    fn encode(&self, _: &E) -> Result<Payload, CodecError> {
        Ok(Payload::empty())
    }

    fn decode(&self, _: &Payload) -> Result<(), CodecError> {
        Ok(())
    }
}

/// The failure itself, as a value in this [`Codec`]: `AsValue(Json)` for errors that serde can write and read. Later
/// callers get an equal one.
#[derive(Clone, Copy, Debug, Default)]
pub struct AsValue<C>(pub C);

impl<E, C: Codec<E>> FailureCodec<E> for AsValue<C> {
    type Kept = E;

    fn encode(&self, error: &E) -> Result<Payload, CodecError> {
        self.0.encode(error)
    }

    fn decode(&self, bytes: &Payload) -> Result<E, CodecError> {
        self.0.decode(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str, len_max: usize) -> Option<String> {
        let bytes = FailureCodec::<str>::shortened(&Text, &text.into(), len_max)?;
        Some(FailureCodec::<str>::decode(&Text, &bytes).expect("what is cut is still text"))
    }

    #[test]
    fn a_text_is_cut_between_two_characters() {
        let text = "naïve 🦀";
        let cuts: Vec<_> = (0..text.len()).map(|len_max| cut(text, len_max).unwrap()).collect();
        assert_eq!(
            cuts,
            ["", "n", "na", "na", "naï", "naïv", "naïve", "naïve ", "naïve ", "naïve ", "naïve "]
        );
    }
}
