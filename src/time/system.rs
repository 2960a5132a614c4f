//! The default clock, which needs no runtime.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::{Clock, Moment};
use crate::protocol::UnixMillis;

/// The system's monotonic clock, with sleeps on one timer thread that all of them share (the `futures-timer` crate).
/// Works under any executor, and without one.
#[derive(Debug)]
pub struct SystemClock {
    origin: Instant,
    /// Wall time minus monotonic time in milliseconds, and the second of monotonic time it was taken in plus one.
    wall_offset: AtomicU64,
    wall_second: AtomicU64,
}

impl SystemClock {
    /// A clock whose origin is now.
    pub fn new() -> Self {
        Self { origin: Instant::now(), wall_offset: AtomicU64::new(0), wall_second: AtomicU64::new(0) }
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
        let elapsed = self.origin.elapsed();
        // 584 years fit into 64 bits of nanoseconds.
        Moment::from_nanos(
            elapsed.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(elapsed.subsec_nanos())),
        )
    }

    fn sleep_until(&self, until: Moment) -> BoxFuture<'static, ()> {
        if until == Moment::NEVER {
            return futures::future::pending().boxed();
        }
        // The timer thread adds the duration to an instant, which a year at a time cannot overflow.
        let (origin, longest) = (self.origin, Duration::from_secs(365 * 86_400));
        async move {
            loop {
                let left = Duration::from_nanos(until.as_nanos()).saturating_sub(origin.elapsed());
                if left.is_zero() {
                    return;
                }
                futures_timer::Delay::new(left.min(longest)).await;
            }
        }
        .boxed()
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
        assert!(clock.sleep_until(Moment::NEVER).now_or_never().is_none());
        let wall = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
        let before = wall();
        let unix = u128::from(clock.unix(clock.now()).0);
        let after = wall();
        // However long this thread was put aside in between; a second for a step of the wall clock.
        assert!((before.saturating_sub(1_000)..=after + 1_000).contains(&unix), "{before}, {unix}, {after}");
    }
}
