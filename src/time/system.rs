//! The default clock, which needs no runtime.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::timers::{Sleep, TIMERS};
use super::{Clock, Moment, Timeline, TimelineOf, nanos};
use crate::protocol::UnixMillis;

/// The origin of all of them: so their moments can be told from each other.
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The system's monotonic clock, with sleeps on one timer thread that all of them share. Works
/// under any executor, and without one. The thread starts with the first sleep that is waited for.
///
/// # Panics
/// A sleep, where the system cannot start that thread. The next sleep tries again.
#[derive(Debug)]
pub struct SystemClock {
    /// Wall time minus monotonic time in milliseconds, and the second of monotonic time it was taken in plus one.
    wall_offset: AtomicU64,
    wall_second: AtomicU64,
}

impl SystemClock {
    /// A clock. All of a process read the same time.
    pub fn new() -> Self {
        Self { wall_offset: AtomicU64::new(0), wall_second: AtomicU64::new(0) }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[inline]
    fn now(&self) -> Moment {
        Moment::from_nanos(nanos(ORIGIN.elapsed()))
    }

    fn sleep_until(&self, until: Moment) -> BoxFuture<'static, ()> {
        if until == Moment::NEVER {
            return futures::future::pending().boxed();
        }
        match ORIGIN.checked_add(Duration::from_nanos(until.as_nanos())) {
            Some(at) => Sleep::new(&TIMERS, at).boxed(),
            // The system cannot count so far.
            None => futures::future::pending().boxed(),
        }
    }

    fn timeline(&self) -> Option<Timeline> {
        Some(Timeline(TimelineOf::System))
    }

    /// Right to within a second of a step of the wall clock: it is read once in each second of monotonic time.
    fn unix(&self, now: Moment) -> UnixMillis {
        let (millis, second) = (now.as_nanos() / 1_000_000, now.as_nanos() / 1_000_000_000 + 1);
        if self.wall_second.load(Ordering::Acquire) != second {
            let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let wall = u64::try_from(wall.as_millis()).unwrap_or(u64::MAX);
            self.wall_offset.store(wall.saturating_sub(millis), Ordering::Relaxed);
            self.wall_second.store(second, Ordering::Release);
        }
        UnixMillis(self.wall_offset.load(Ordering::Relaxed).saturating_add(millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_sleeps_as_long_as_it_says_and_knows_the_date() {
        let clock = SystemClock::new();
        let until = clock.now() + Duration::from_millis(20);
        futures::executor::block_on(clock.sleep_until(until));
        assert!(clock.now() >= until);
        assert!(clock.sleep_until(Moment::ORIGIN).now_or_never().is_some());
        for far in [Moment::NEVER, clock.now() + Duration::MAX, Moment::from_nanos(u64::MAX - 1)] {
            assert!(clock.sleep_until(far).now_or_never().is_none(), "{far:?}");
        }
        let wall = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
        let before = wall();
        let unix = u128::from(clock.unix(clock.now()).0);
        let after = wall();
        // However long this thread was put aside in between; a second for a step of the wall clock.
        assert!((before.saturating_sub(1_000)..=after + 1_000).contains(&unix), "{before}, {unix}, {after}");
    }
}
