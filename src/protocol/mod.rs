//! The state machine: what is stored, what it means, and what each command does to it.
//!
//! Everything here is pure. No clock is read, no lock taken, nothing awaited, nothing logged. [`decide`] is the
//! whole protocol: it looks at an entry and a command and says what to write and what to expect, or what the
//! answer is. The engine carries decisions out, the tests tabulate them, and a model checker can call them.

mod claim;
mod claim_command;
mod draft;
mod encoding;
mod entry;
mod fingerprint;
mod follow_up;
mod hold;
mod ids;
mod key;
mod key_map;
mod operate;
mod outcome;
mod payload;
mod record;
mod state;
mod transition;
mod unix_millis;
mod unwritten;

#[cfg(test)]
mod matrix;

pub use claim::{ClaimVerdict, Found};
pub use claim_command::{ClaimCommand, OnDoubt};
#[doc(hidden)]
pub use draft::Draft;
pub use encoding::DecodeError;
pub use entry::{Entry, Expected, ExpiredBecause, Holder, Status};
pub use fingerprint::{Algorithm, Fingerprint, FingerprintError};
pub use hold::{Act, HolderCommand, HolderVerdict};
pub use ids::{FencingToken, OperationId, Owner, ParseOperationIdError, Version};
pub use key::{Key, KeyError};
pub(crate) use key_map::KeyMap;
pub use operate::{OperatorCommand, OperatorVerdict, Order, Resolution};
pub(crate) use outcome::Lent;
pub use outcome::{Conclusion, Outcome, OutcomeBody};
pub use payload::Payload;
pub(crate) use payload::{filled, put};
pub use record::Record;
pub use state::{Policy, State};
pub use transition::{Command, Decision, Lifetimes, Plan, Write, decide};
pub use unix_millis::UnixMillis;
pub use unwritten::Unwritten;
