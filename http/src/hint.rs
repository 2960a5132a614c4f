//! When a duplicate should ask again: a guess at when the first request will have ended.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const HINT_MIN: Duration = Duration::from_millis(100);
const HINT_MAX: Duration = Duration::from_secs(5);
/// Up to a quarter more, so that duplicates that were told together do not come back together.
const JITTER: f64 = 0.25;

/// When to ask again for what has been running for `age`, and whose lease ends in `left` unless it
/// is renewed: once it has run for as long again, within bounds, and not after its lease. `chance`
/// is from 0 to 1.
///
/// What just began is mostly over soon; what has run for long is asked for less often.
pub(crate) fn retry_hint(age: Duration, left: Duration, chance: f64) -> Duration {
    let hint = age.clamp(HINT_MIN, HINT_MAX).min(left);
    hint + hint.mul_f64(JITTER * chance.clamp(0.0, 1.0))
}

/// A number from 0 to 1 that is another each time.
pub(crate) fn chance() -> f64 {
    let random = RandomState::new().hash_one(0_u8) >> 32;
    f64::from(u32::try_from(random).expect("half of the bits")) / f64::from(u32::MAX)
}

/// The longest time that a lease was seen to run: the engine does not tell its lease.
#[derive(Default)]
pub(crate) struct LeaseSeen(AtomicU64);

impl LeaseSeen {
    /// Looks at a grant, unless one was seen before.
    pub(crate) fn see(&self, left: impl FnOnce() -> Duration) {
        if self.0.load(Ordering::Relaxed) == 0 {
            self.0.fetch_max(nanos(left()), Ordering::Relaxed);
        }
    }

    /// For how long a lease has run that ends in `left`: since the claim, or its last renewal.
    pub(crate) fn age(&self, left: Duration) -> Duration {
        let seen = self.0.fetch_max(nanos(left), Ordering::Relaxed);
        Duration::from_nanos(seen.saturating_sub(nanos(left)))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
