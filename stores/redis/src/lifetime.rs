//! Lifetimes in microseconds, as the scripts count them.

use std::time::Duration;

/// Longer lifetimes are kept as forever. Two of them, after any now until 2150, stay below 2^53.
const LONGEST: Duration = Duration::from_secs(50 * 365 * 86_400);

/// Microseconds, rounded up so that nothing ends early; `None` forever.
pub(crate) fn micros(lifetime: Duration) -> Option<u64> {
    if lifetime > LONGEST {
        return None;
    }
    let micros = lifetime.as_nanos().div_ceil(1000);
    Some(u64::try_from(micros).expect("fifty years of microseconds are far below 2^64"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_ends_early_and_zero_is_zero() {
        assert_eq!(micros(Duration::ZERO), Some(0));
        assert_eq!(micros(Duration::from_nanos(1)), Some(1));
        assert_eq!(micros(Duration::from_nanos(1000)), Some(1));
        assert_eq!(micros(Duration::from_nanos(1001)), Some(2));
        assert_eq!(micros(LONGEST + Duration::from_nanos(1)), None);
        assert_eq!(micros(Duration::MAX), None);
    }

    #[test]
    fn a_double_holds_every_sum() {
        let micros = micros(LONGEST).unwrap_or_default();
        let year_2150 = 5_680_281_600_000_000;
        assert!(year_2150 + 2 * micros < 1 << 53, "{micros}");
    }
}
