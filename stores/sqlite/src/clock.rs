//! Times as the database keeps them, and what they mean now.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Nanoseconds since the Unix epoch. An `i64` of them lasts until the year 2262.
pub(crate) type Nanos = i64;

/// The clock that expiry is judged by: the host's wall clock, unless a test gave another.
#[derive(Clone)]
pub(crate) struct WallClock(Arc<dyn Fn() -> Duration + Send + Sync>);

impl WallClock {
    pub(crate) fn host() -> Self {
        // A clock that was set before 1970 reads as 1970.
        Self::new(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    pub(crate) fn new(since_epoch: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(since_epoch))
    }

    pub(crate) fn now(&self) -> Nanos {
        Nanos::try_from((self.0)().as_nanos()).unwrap_or(Nanos::MAX)
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WallClock({} ns)", self.now())
    }
}

/// The times of one write. `None` is forever.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Times {
    pub(crate) written: Nanos,
    pub(crate) live_until: Option<Nanos>,
    pub(crate) gone_at: Option<Nanos>,
}

impl Times {
    /// The times of a write at `now`. A time that cannot be counted is forever.
    pub(crate) fn new(now: Nanos, live: Duration, linger: Duration) -> Self {
        let live_until = later(Some(now), live);
        Self { written: now, live_until, gone_at: later(live_until, linger) }
    }

    pub(crate) fn is_readable(self, now: Nanos) -> bool {
        let now = self.not_before_written(now);
        self.gone_at.is_none_or(|gone_at| now < gone_at)
    }

    /// How much is left to live; zero: expired.
    pub(crate) fn left(self, now: Nanos) -> Duration {
        let now = self.not_before_written(now);
        let Some(live_until) = self.live_until else { return Duration::MAX };
        Duration::from_nanos(u64::try_from(live_until.saturating_sub(now)).unwrap_or(0))
    }

    /// A reader may have looked at the clock before this was written, and a clock may step back. Neither makes more of
    /// a lifetime than it was written with: what was written as expired reads as expired.
    fn not_before_written(self, now: Nanos) -> Nanos {
        now.max(self.written)
    }
}

fn later(time: Option<Nanos>, by: Duration) -> Option<Nanos> {
    time?.checked_add(Nanos::try_from(by.as_nanos()).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    #[test]
    fn lifetimes_end_to_the_nanosecond() {
        let times = Times::new(SECOND, Duration::from_nanos(5), Duration::from_nanos(3));
        assert_eq!(times.left(SECOND + 4), Duration::from_nanos(1));
        assert_eq!(times.left(SECOND + 5), Duration::ZERO);
        assert!(times.is_readable(SECOND + 7) && !times.is_readable(SECOND + 8));
    }

    #[test]
    fn a_time_that_cannot_be_counted_is_forever() {
        let ages = Duration::from_secs(u64::MAX / 1000);
        for (live, linger) in [(Duration::MAX, Duration::ZERO), (ages, Duration::ZERO), (ages, Duration::MAX)]
        {
            let times = Times::new(SECOND, live, linger);
            assert_eq!((times.live_until, times.gone_at), (None, None));
            assert_eq!(times.left(Nanos::MAX), Duration::MAX);
            assert!(times.is_readable(Nanos::MAX));
        }
        let expired = Times::new(SECOND, Duration::ZERO, Duration::MAX);
        assert_eq!((expired.left(SECOND), expired.is_readable(Nanos::MAX)), (Duration::ZERO, true));
    }

    #[test]
    fn a_step_back_of_the_clock_only_delays() {
        let expired = Times::new(5 * SECOND, Duration::ZERO, Duration::from_secs(1));
        assert_eq!((expired.left(SECOND), expired.is_readable(SECOND)), (Duration::ZERO, true));
        let gone = Times::new(5 * SECOND, Duration::ZERO, Duration::ZERO);
        assert!(!gone.is_readable(SECOND));
        let live = Times::new(5 * SECOND, Duration::from_secs(2), Duration::ZERO);
        assert_eq!(live.left(SECOND), Duration::from_secs(2), "the step adds nothing");
    }
}
