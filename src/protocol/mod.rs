//! The state machine: what is stored, what it means, and what each command does to it.
//!
//! Everything here is pure. No clock is read, no lock taken, nothing awaited, nothing logged. [`decide`] is the
//! whole protocol: it looks at an entry and a command and says what to write and what to expect, or what the
//! answer is. The engine carries decisions out, the tests tabulate them, and a model checker can call them.

mod encoding;
mod entry;
mod fingerprint;
mod ids;
mod key;
mod key_map;
mod payload;
mod record;
mod transition;

#[cfg(test)]
mod matrix;

pub use encoding::DecodeError;
pub use entry::{Entry, Expected, ExpiredBecause, Holder, Status};
pub use fingerprint::{Algorithm, Fingerprint, FingerprintError};
pub use ids::{FencingToken, OperationId, Owner, ParseOperationIdError, Version};
pub use key::{Key, KeyError};
pub(crate) use key_map::KeyMap;
pub use payload::Payload;
#[doc(hidden)]
pub use record::Fields as RecordFields;
pub use record::{Conclusion, Outcome, OutcomeBody, Policy, Record, State, UnixMillis};
pub use transition::{ClaimCommand, Command, Decision, Lifetimes, Resolution, Verdict, Write, decide};
