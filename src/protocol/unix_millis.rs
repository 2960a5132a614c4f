//! The wall clock, for people.

use std::fmt;

/// A moment on the wall clock, in milliseconds since 1970-01-01 UTC, for people to read. Nothing is decided by it. A record
/// has room for 48 bits, until the year 10889; what is later is kept as that.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct UnixMillis(pub u64);

impl fmt::Display for UnixMillis {
    /// RFC 3339 in UTC, with milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, of_day) = (self.0 / 86_400_000, self.0 % 86_400_000);
        let (year, month, day) = civil_from_days(days);
        let (hour, minute, second) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1000 % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", of_day % 1000)
    }
}

/// Days since 1970-01-01 as a date of the proleptic Gregorian calendar. Years are counted from March, so that the
/// leap day comes last; a cycle of 400 years has 146,097 days.
///
/// This is `civil_from_days` of Howard Hinnant's [date algorithms], for days from 1970 on.
///
/// [date algorithms]: https://howardhinnant.github.io/date_algorithms.html#civil_from_days
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468; // from 0000-03-01
    let (cycle, day_of_cycle) = (shifted / 146_097, shifted % 146_097);
    let year_of_cycle =
        (day_of_cycle - day_of_cycle / 1_460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
    let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (cycle * 400 + year_of_cycle + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_times_read_as_rfc_3339() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_799_999, "2000-02-29T23:59:59.999Z"),
            (1_795_478_400_123, "2026-11-24T00:00:00.123Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(UnixMillis(millis).to_string(), text);
        }
    }

    /// Each day up to the end of the year 9999, the last one that RFC 3339 can write.
    #[test]
    fn each_day_is_that_of_a_calendar_library() {
        let mut date = time::UtcDateTime::UNIX_EPOCH.date();
        for days in 0..=2_932_896 {
            let (year, month, day) = (date.year().unsigned_abs(), u8::from(date.month()), date.day());
            assert_eq!(civil_from_days(days), (year.into(), month.into(), day.into()));
            // The library may have no day after 9999-12-31.
            date = date.next_day().unwrap_or(date);
        }
    }

    proptest::proptest! {
        #[test]
        fn times_are_those_of_a_calendar_library(millis in 0..253_402_300_800_000_u64) {
            let date = time::UtcDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).unwrap();
            let expected = format!(
                "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
                date.year(),
                u8::from(date.month()),
                date.day(),
                date.hour(),
                date.minute(),
                date.second(),
                date.millisecond()
            );
            proptest::prop_assert_eq!(UnixMillis(millis).to_string(), expected);
        }
    }
}
