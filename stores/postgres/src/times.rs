//! Lifetimes and moments as the database keeps them: whole microseconds, with infinity for ever.

use std::error::Error;
use std::time::Duration;

use oncekey::protocol::UnixMillis;
use tokio_postgres::types::{FromSql, Type};

/// What PostgreSQL multiplies an interval by is a double: up to here each microsecond is exact. It is 285 years.
pub(crate) const LIFETIME_MAX_US: i64 = 1 << 53;

/// The last millisecond of the year 9999, which is as far as times for people go.
const PEOPLE_MAX_MS: i64 = 253_402_300_799_999;

/// Microseconds, rounded up, so that nothing ends early; `None`: for ever, as is whatever is longer than 285 years.
pub(crate) fn micros(duration: Duration) -> Option<i64> {
    let whole = duration.as_nanos().div_ceil(1000);
    i64::try_from(whole).ok().filter(|micros| *micros <= LIFETIME_MAX_US)
}

/// A wall-clock time for people, in milliseconds since 1970.
pub(crate) fn millis(at: UnixMillis) -> i64 {
    i64::try_from(at.0).map_or(PEOPLE_MAX_MS, |millis| millis.min(PEOPLE_MAX_MS))
}

/// A `timestamptz`: microseconds since 2000, or infinity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Stamp(i64);

impl Stamp {
    const FOR_EVER: Self = Self(i64::MAX);

    /// How long it is until then from `now`.
    pub(crate) fn left_at(self, now: Self) -> Duration {
        if self == Self::FOR_EVER {
            return Duration::MAX;
        }
        let micros = self.0.saturating_sub(now.0);
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }
}

impl FromSql<'_> for Stamp {
    fn from_sql(_: &Type, raw: &[u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(i64::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_round_up_and_end_at_for_ever() {
        assert_eq!(micros(Duration::ZERO), Some(0));
        assert_eq!(micros(Duration::from_nanos(1)), Some(1));
        assert_eq!(micros(Duration::from_nanos(1000)), Some(1));
        assert_eq!(micros(Duration::from_nanos(1001)), Some(2));
        assert_eq!(micros(Duration::from_micros(1 << 53)), Some(1 << 53));
        assert_eq!(micros(Duration::from_nanos((1 << 53) * 1000 + 1)), None);
        assert_eq!(micros(Duration::MAX - Duration::from_nanos(1)), None);
        assert_eq!(micros(Duration::MAX), None);
    }

    #[test]
    fn what_is_left_is_never_negative_and_for_ever_stays_so() {
        assert_eq!(Stamp(7).left_at(Stamp(5)), Duration::from_micros(2));
        assert_eq!(Stamp(5).left_at(Stamp(5)), Duration::ZERO);
        assert_eq!(Stamp(5).left_at(Stamp(7)), Duration::ZERO);
        assert_eq!(Stamp(-7).left_at(Stamp(i64::MAX - 1)), Duration::ZERO);
        assert_eq!(Stamp::FOR_EVER.left_at(Stamp(7)), Duration::MAX);
    }

    #[test]
    fn times_for_people_are_in_range() {
        assert_eq!(millis(UnixMillis(1_795_478_400_123)), 1_795_478_400_123);
        assert_eq!(millis(UnixMillis(u64::MAX)), PEOPLE_MAX_MS);
    }
}
