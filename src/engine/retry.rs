//! When to ask again.

use std::time::Duration;

/// The bounds of a hint, before it is spread.
const SOONEST: Duration = Duration::from_millis(100);
const LATEST: Duration = Duration::from_secs(5);

/// When asking again about an attempt in progress may be worth it: after as long as it has run so far, within the bounds,
/// and within what is `left` of its lease. `lease` is this engine's own.
///
/// The age of an attempt is not on record. It is at least the time since its lease was renewed last, and a first attempt is
/// as old as its generation: `generation`, for a first attempt. That is by another machine's wall clock, which can move the
/// hint within its bounds only.
pub(super) fn retry_after(
    lease: Duration,
    left: Duration,
    generation: Option<Duration>,
    random: u64,
) -> Duration {
    let age = lease.saturating_sub(left).max(generation.unwrap_or_default());
    // A lease that ends just now is as good as renewed, or taken over.
    let hint = age.clamp(SOONEST, LATEST).min(left.max(SOONEST));
    spread(hint, random)
}

/// The pause, and up to half as much again by a random number: callers that were sent away together do not come back
/// together.
fn spread(pause: Duration, random: u64) -> Duration {
    let share = random as f64 / u64::MAX as f64;
    pause.saturating_add(pause.mul_f64(share / 2.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_hint_grows_with_the_attempts_age_within_its_bounds_and_its_lease() {
        for (left, generation, hint) in [
            // Just granted.
            (30_000, Some(0), 100),
            (30_000, None, 100),
            // As long as it has run.
            (29_300, Some(700), 700),
            (28_000, None, 2_000),
            (20_000, None, 5_000),
            // Renewed just now: only a first attempt is known to be old.
            (30_000, Some(3_000), 3_000),
            (30_000, Some(86_400_000), 5_000),
            // A wall clock that is behind, or far ahead.
            (27_000, Some(0), 3_000),
            (27_000, Some(u64::MAX), 5_000),
            // No longer than the lease runs, and no shorter than the least.
            (900, Some(29_100), 900),
            (40, None, 100),
            (0, None, 100),
            // A lease longer than this engine's own.
            (90_000, None, 100),
        ] {
            let told = retry_after(LEASE, ms(left), generation.map(ms), 0);
            assert_eq!(told, ms(hint), "{left} ms left of an attempt, generation {generation:?}");
        }
        assert_eq!(retry_after(Duration::MAX, Duration::MAX, None, 0), ms(100));
        assert_eq!(retry_after(Duration::MAX, ms(1_000), None, 0), ms(1_000));
    }

    #[test]
    fn a_pause_is_spread_over_half_of_itself_and_never_overflows() {
        assert_eq!(spread(ms(1_000), 0), ms(1_000));
        assert_eq!(spread(ms(1_000), u64::MAX), ms(1_500));
        let middle = spread(ms(1_000), u64::MAX / 2);
        assert!(middle > ms(1_249) && middle < ms(1_251), "{middle:?}");
        assert_eq!(spread(Duration::MAX, u64::MAX), Duration::MAX);
        assert_eq!(spread(Duration::ZERO, u64::MAX), Duration::ZERO);
    }
}
