//! The kinds of faults, and the kinds of calls that they meet.

use std::fmt;
use std::time::Duration;

/// A fault that one call meets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// Not applied, and the error says so.
    Refused,
    /// Not applied, and nobody knows: an error that says "maybe applied".
    RequestLost,
    /// Applied, and then an error that says "maybe applied".
    ReplyLost,
    /// Applied after this time, and then answered. Dropped meanwhile: not applied. To stall past a lease, make it longer
    /// than one.
    DelayedBefore(Duration),
    /// Applied, and answered after this time. Dropped meanwhile: applied.
    DelayedAfter(Duration),
    /// Applied twice, as when a network repeats a request. The second answer is the one that arrives.
    Twice,
    /// An error that says "maybe applied"; the write arrives right before the `after_calls`-th later call, of any kind. A
    /// call that writes nothing is just lost.
    #[non_exhaustive]
    LateCopy {
        /// How many calls later, from 1; zero is taken as one.
        after_calls: u32,
    },
    /// Applied and answered; a copy of the write arrives right before the `after_calls`-th later call, of any kind.
    #[non_exhaustive]
    Echo {
        /// How many calls later, from 1; zero is taken as one.
        after_calls: u32,
    },
    /// Not applied, and never answered.
    HangsBefore,
    /// Applied, and never answered.
    HangsAfter,
}

impl Fault {
    /// [`Fault::LateCopy`].
    pub fn late_copy(after_calls: u32) -> Self {
        Self::LateCopy { after_calls }
    }

    /// [`Fault::Echo`].
    pub fn echo(after_calls: u32) -> Self {
        Self::Echo { after_calls }
    }

    /// Whether the store gets the call.
    pub(super) fn arrives(self) -> bool {
        !matches!(self, Self::Refused | Self::RequestLost | Self::LateCopy { .. } | Self::HangsBefore)
    }

    pub(super) fn hangs(self) -> bool {
        matches!(self, Self::HangsBefore | Self::HangsAfter)
    }

    pub(super) fn delay_before(self) -> Option<Duration> {
        if let Self::DelayedBefore(duration) = self { Some(duration) } else { None }
    }

    pub(super) fn delay_after(self) -> Option<Duration> {
        if let Self::DelayedAfter(duration) = self { Some(duration) } else { None }
    }

    pub(super) fn copy_after(self) -> Option<u32> {
        match self {
            Self::LateCopy { after_calls } | Self::Echo { after_calls } => Some(after_calls.max(1)),
            _ => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("refused"),
            Self::RequestLost => f.write_str("the request lost"),
            Self::ReplyLost => f.write_str("applied, and the reply lost"),
            Self::DelayedBefore(duration) => write!(f, "applied after {duration:?}"),
            Self::DelayedAfter(duration) => write!(f, "applied, and answered after {duration:?}"),
            Self::Twice => f.write_str("applied twice"),
            Self::LateCopy { after_calls } => write!(f, "lost, to arrive {after_calls} calls later"),
            Self::Echo { after_calls } => {
                write!(f, "applied, and a copy to arrive {after_calls} calls later")
            }
            Self::HangsBefore => f.write_str("not applied, and never answered"),
            Self::HangsAfter => f.write_str("applied, and never answered"),
        }
    }
}

/// The kind of a call.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum CallKind {
    /// A load, or a listing.
    Load,
    /// A compare-and-exchange.
    Exchange,
    /// An item of a batch.
    BatchItem,
    /// A purge.
    Purge,
}

impl CallKind {
    pub(super) const ALL: [Self; 4] = [Self::Load, Self::Exchange, Self::BatchItem, Self::Purge];
}

impl fmt::Display for CallKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Load => "load",
            Self::Exchange => "exchange",
            Self::BatchItem => "batch item",
            Self::Purge => "purge",
        })
    }
}
