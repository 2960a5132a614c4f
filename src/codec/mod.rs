//! How values become outcome bytes and come back.

mod failure;
#[cfg(feature = "json")]
mod json;

use crate::protocol::Payload;

pub use failure::{AsValue, FactOnly, FailureCodec, Text};
#[cfg(feature = "json")]
pub use json::Json;

/// What goes wrong in a codec.
pub type CodecError = Box<dyn std::error::Error + Send + Sync>;

/// Turns values of `T` into bytes and back; failures have a [`FailureCodec`]. An outcome is kept in this form, so a change of codec or of `T` must
/// still read what is on record for as long as outcomes are retained.
#[diagnostic::on_unimplemented(
    message = "values of type `{T}` cannot be recorded by the codec `{Self}`",
    note = "`Raw`, the default, records `String`, `Vec<u8>`, `Payload` and `()`; a `&str` needs `.to_owned()`",
    note = "call `.json()` on the request if the type has serde's `Serialize` and `Deserialize`; for others write a codec, \
            and choose it by `.codec(..)`"
)]
pub trait Codec<T> {
    /// The bytes of `value`, which [`decode`](Self::decode) gives back: each later caller gets what comes of them.
    ///
    /// It runs after the operation. So if it panics, the operation is recorded as done and not available, and then the
    /// panic goes on to the caller.
    ///
    /// # Errors
    /// If the value has no such form. Its outcome is then recorded as done and not available; the operation is not
    /// run again.
    fn encode(&self, value: &T) -> Result<Payload, CodecError>;

    /// The bytes that [`encode`](Self::encode) gives, where `value` has them already: they need not be copied then before a
    /// store in this process keeps them. `None`, as by default: they are to be made.
    fn lend<'v>(&self, value: &'v T) -> Option<&'v [u8]> {
        let _unused = value;
        None
    }

    /// The value of `bytes`. A panic goes on to the caller; nothing was run.
    ///
    /// # Errors
    /// If these are not the bytes of a `T`. The record stays as it is, and the operation is not run.
    ///
    /// # Panics
    /// If it does, the call panics with it. Again the record stays, and nothing is run.
    fn decode(&self, bytes: &Payload) -> Result<T, CodecError>;
}

/// Bytes and text as they are: for `Vec<u8>`, `String`, [`Payload`] and `()`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Raw;

impl Codec<Vec<u8>> for Raw {
    fn encode(&self, value: &Vec<u8>) -> Result<Payload, CodecError> {
        Ok(value.as_slice().into())
    }

    fn lend<'v>(&self, value: &'v Vec<u8>) -> Option<&'v [u8]> {
        Some(value)
    }

    fn decode(&self, bytes: &Payload) -> Result<Vec<u8>, CodecError> {
        Ok(bytes.to_vec())
    }
}

impl Codec<Payload> for Raw {
    fn encode(&self, value: &Payload) -> Result<Payload, CodecError> {
        Ok(value.clone())
    }

    fn lend<'v>(&self, value: &'v Payload) -> Option<&'v [u8]> {
        Some(value)
    }

    fn decode(&self, bytes: &Payload) -> Result<Payload, CodecError> {
        Ok(bytes.clone())
    }
}

impl Codec<String> for Raw {
    fn encode(&self, value: &String) -> Result<Payload, CodecError> {
        Ok(value.as_str().into())
    }

    fn lend<'v>(&self, value: &'v String) -> Option<&'v [u8]> {
        Some(value.as_bytes())
    }

    fn decode(&self, bytes: &Payload) -> Result<String, CodecError> {
        // Not `String::from_utf8`, whose error shows all the bytes in its `Debug`.
        Ok(std::str::from_utf8(bytes)?.to_owned())
    }
}

impl Codec<()> for Raw {
    fn encode(&self, (): &()) -> Result<Payload, CodecError> {
        Ok(Payload::empty())
    }

    fn decode(&self, bytes: &Payload) -> Result<(), CodecError> {
        if bytes.is_empty() { Ok(()) } else { Err("the outcome on record has bytes, () has none".into()) }
    }
}
