//! The state machine: what is stored, what it means, and what each command does to it.
//!
//! Everything here is pure. No clock is read, no lock taken, nothing awaited, nothing logged. [`decide`] is the
//! whole protocol: it looks at an entry and a command and says what to write and what to expect, or what the
//! answer is. The engine carries decisions out, the tests tabulate them, and a model checker can call them.

mod draft;
mod encoding;
mod entry;
mod fingerprint;
mod ids;
mod key;
mod key_map;
mod outcome;
mod payload;
mod record;
mod state;
mod transition;
mod unix_millis;

#[cfg(test)]
mod matrix;

#[doc(hidden)]
pub use draft::Draft;
pub use encoding::DecodeError;
pub use entry::{Entry, Expected, ExpiredBecause, Holder, Status};
pub use fingerprint::{Algorithm, Fingerprint, FingerprintError};
pub use ids::{FencingToken, OperationId, Owner, ParseOperationIdError, Version};
pub use key::{Key, KeyError};
pub(crate) use key_map::KeyMap;
pub use outcome::{Conclusion, Outcome, OutcomeBody};
pub use payload::Payload;
pub(crate) use payload::joined;
pub use record::Record;
pub use state::{Policy, State};
pub use transition::{ClaimCommand, Command, Decision, Lifetimes, Resolution, Verdict, Write, decide};
pub use unix_millis::UnixMillis;
