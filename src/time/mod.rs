//! Time: one small trait for now and sleep. Nothing else in this crate reads a clock.

mod manual;
mod system;
mod timers;
#[cfg(feature = "tokio")]
mod tokio;

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use futures::future::BoxFuture;

pub use manual::ManualClock;
pub use system::SystemClock;
#[cfg(feature = "tokio")]
pub use tokio::TokioClock;

use crate::protocol::UnixMillis;

/// A moment on one clock's monotonic time, as nanoseconds since an origin of that clock's own choosing. Moments of
/// two clocks have nothing to do with each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(u64);

impl Moment {
    /// The origin of the clock.
    pub const ORIGIN: Self = Self(0);
    /// A moment that never comes.
    pub const NEVER: Self = Self(u64::MAX);

    /// Nanoseconds since the origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is not.
    #[inline]
    pub fn saturating_since(self, earlier: Self) -> Duration {
        if self == Self::NEVER {
            Duration::MAX
        } else {
            Duration::from_nanos(self.0.saturating_sub(earlier.0))
        }
    }
}

/// As `Duration::as_nanos`, in 64 bits: 584 years; saturates.
#[inline]
fn nanos(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(duration.subsec_nanos()))
}

impl Add<Duration> for Moment {
    type Output = Self;
    /// Saturates: a moment that cannot be counted never comes.
    #[inline]
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

impl Sub<Duration> for Moment {
    type Output = Self;
    /// Saturates at the origin; a moment that never comes stays so.
    #[inline]
    fn sub(self, duration: Duration) -> Self {
        match self {
            Self::NEVER => self,
            _ => Self(self.0.saturating_sub(nanos(duration))),
        }
    }
}

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+{:?}", Duration::from_nanos(self.0))
    }
}

/// A clock to read and to sleep by.
///
/// The engine measures its own deadlines on [`Clock::now`], which must never go back and must run at the rate of
/// real time within the engine's margin. [`Clock::unix`] is for people to read: nothing is decided by it.
///
/// It is read in the middle of things, in drops, and by the memory store under a lock: it must not
/// block, not call back, and not panic. A call whose clock panics ends there, and its claim is left
/// to its lease at the worst. A sleep that never ends is a timeout that never comes.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The monotonic time now.
    fn now(&self) -> Moment;

    /// Resolves when [`Clock::now`] has reached `until`; at once if it has. A sleep to [`Moment::NEVER`] never ends.
    ///
    /// # Cancel safety
    /// Dropping the future gives the sleep up; nothing else happens.
    fn sleep_until(&self, until: Moment) -> BoxFuture<'static, ()>;

    /// The wall clock, for people; `now` is a reading of [`Clock::now`] taken just before, which an implementation
    /// may use instead of a second look at a clock. May be off by as much as people would not mind.
    fn unix(&self, now: Moment) -> UnixMillis;

    /// Whose moments these are, for clocks of this crate: a store's reading then serves the engine too.
    #[doc(hidden)]
    fn timeline(&self) -> Option<Timeline> {
        None
    }
}

/// Says whether two clocks read the same time. Only clocks of this crate have one: a clock that adds something to another's
/// time must not pass for it.
#[doc(hidden)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeline(TimelineOf);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum TimelineOf {
    /// Of all system clocks of the process.
    System,
    /// Of a manual clock and its clones, by their address. Both are alive when they are compared.
    Manual(usize),
}
