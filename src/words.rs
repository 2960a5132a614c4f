//! Times in words that people read: "14 days", not "1209600s".

use std::fmt;
use std::time::Duration;

const UNITS: [(u64, &str); 3] = [(86_400, "day"), (3600, "hour"), (60, "minute")];

/// A duration in words, to the last nanosecond: "1 hour 30 minutes", "2.5 seconds", "250 ms".
pub(crate) struct InWords(pub(crate) Duration);

impl fmt::Display for InWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == Duration::MAX {
            return f.write_str("forever");
        }
        if self.0 < Duration::from_secs(1) {
            return below_a_second(self.0, f);
        }
        let mut rest = self.0.as_secs();
        let mut gap = "";
        for (len, unit) in UNITS {
            let count = rest / len;
            rest %= len;
            if count > 0 {
                write!(f, "{gap}{count} {unit}{}", plural(count == 1))?;
                gap = " ";
            }
        }
        let seconds = Duration::new(rest, self.0.subsec_nanos());
        if seconds.is_zero() {
            return Ok(());
        }
        f.write_str(gap)?;
        if rest == 0 {
            return below_a_second(seconds, f);
        }
        // `Duration` shows these as "2.5s", without zeros at the end.
        let shown = format!("{seconds:?}");
        let number = shown.strip_suffix('s').expect("a duration of seconds is shown in seconds");
        write!(f, "{number} second{}", plural(number == "1"))
    }
}

/// A duration as somebody would say it: whole seconds from ten seconds on, whole minutes from ten
/// minutes on, whole hours from ten days on. Cut, not rounded.
pub(crate) fn roughly(duration: Duration) -> InWords {
    let step = match duration.as_secs() {
        _ if duration == Duration::MAX => return InWords(duration),
        0 if duration.subsec_millis() == 0 => return InWords(duration),
        0..10 => {
            return InWords(Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)));
        }
        10..600 => 1,
        600..864_000 => 60,
        _ => 3600,
    };
    InWords(Duration::from_secs(duration.as_secs() / step * step))
}

fn below_a_second(duration: Duration, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let shown = format!("{duration:?}");
    match shown.find(|sign: char| !sign.is_ascii_digit() && sign != '.') {
        Some(unit) if !duration.is_zero() => write!(f, "{} {}", &shown[..unit], &shown[unit..]),
        _ => f.write_str("0 seconds"),
    }
}

fn plural(one: bool) -> &'static str {
    if one { "" } else { "s" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_say_them() {
        for (duration, exactly, about) in [
            (Duration::ZERO, "0 seconds", "0 seconds"),
            (Duration::from_nanos(1), "1 ns", "1 ns"),
            (Duration::from_micros(1500), "1.5 ms", "1 ms"),
            (Duration::from_millis(250), "250 ms", "250 ms"),
            (Duration::from_secs(1), "1 second", "1 second"),
            (Duration::from_millis(2500), "2.5 seconds", "2.5 seconds"),
            (Duration::from_millis(29_999), "29.999 seconds", "29 seconds"),
            (Duration::from_secs(60), "1 minute", "1 minute"),
            (Duration::from_millis(60_020), "1 minute 20 ms", "1 minute"),
            (Duration::from_secs(90), "1 minute 30 seconds", "1 minute 30 seconds"),
            (Duration::from_secs(3601), "1 hour 1 second", "1 hour"),
            (Duration::from_secs(14 * 86_400), "14 days", "14 days"),
            (Duration::from_secs(14 * 86_400 + 3661), "14 days 1 hour 1 minute 1 second", "14 days 1 hour"),
            (Duration::MAX, "forever", "forever"),
        ] {
            assert_eq!(InWords(duration).to_string(), exactly);
            assert_eq!(roughly(duration).to_string(), about);
        }
    }
}
