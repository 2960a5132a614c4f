//! The stored state of a record, and what its owner wants to happen after a crash.

use super::Outcome;

/// What may happen after an attempt stopped in the middle: a property of the operation, written into its record
/// by the owner and obeyed by every challenger.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Policy {
    /// The next claim takes over and runs the operation again: at least once, never two at a time.
    #[default]
    Reclaim,
    /// Nobody runs it again until somebody resolved whether the effect happened: at most once.
    Hold,
}

/// The stored state of a record. What it means now also depends on the time it has left: see
/// [`Status`](super::Status).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum State<'a> {
    /// An attempt was granted, and has not concluded.
    InProgress,
    /// The operation concluded.
    Completed(Outcome<&'a [u8]>),
    /// The owner, or an operator, said that nothing happened.
    Released {
        /// The next attempt gets a new operation id.
        fresh_operation_id: bool,
    },
    /// An operator ended the generation.
    Forgotten,
}
