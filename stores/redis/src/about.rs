//! What a record says to somebody who looks at it with redis-cli. Nothing is decided by it, but which records a listing
//! of those in doubt looks at.
//!
//! Times and ids are written digit by digit: the formatter would take more time than all else that a put does here.

use oncekey::Policy;
use oncekey::protocol::{Conclusion, OutcomeBody, Record, State, UnixMillis};

const HEX: &[u8; 16] = b"0123456789abcdef";

/// The stored state in one word.
pub(crate) fn state(record: &Record) -> &'static str {
    match record.state() {
        State::InProgress => "in_progress",
        State::Completed(_) => "completed",
        State::Released { .. } => "released",
        State::Forgotten => "forgotten",
    }
}

/// The rest in one line.
pub(crate) fn about(record: &Record) -> String {
    let mut line = String::with_capacity(200);
    line.push_str("attempt=");
    push_number(&mut line, u64::from(record.attempt()), 1);
    line.push_str(match record.policy() {
        Policy::Reclaim => " policy=reclaim operation_id=",
        Policy::Hold => " policy=hold operation_id=",
    });
    for byte in record.operation_id().to_bytes() {
        line.push(char::from(HEX[usize::from(byte >> 4)]));
        line.push(char::from(HEX[usize::from(byte & 15)]));
    }
    line.push_str(" created=");
    push_time(&mut line, record.created_at());
    if let Some(finished) = record.finished_at() {
        line.push_str(" finished=");
        push_time(&mut line, finished);
    }
    if let Some(outcome) = record.outcome() {
        line.push_str(match outcome.conclusion {
            Conclusion::Succeeded => " succeeded",
            Conclusion::Failed => " failed",
        });
        match &outcome.body {
            OutcomeBody::Kept(bytes) => {
                line.push_str(" outcome_bytes=");
                push_number(&mut line, bytes.len() as u64, 1);
            }
            OutcomeBody::TooLarge { len } => {
                line.push_str(" outcome_too_large_bytes=");
                push_number(&mut line, *len, 1);
            }
            OutcomeBody::Unencodable => line.push_str(" outcome_unencodable"),
            OutcomeBody::Dropped { len } => {
                line.push_str(" outcome_dropped_bytes=");
                push_number(&mut line, *len, 1);
            }
        }
    }
    if record.doubt() {
        line.push_str(" after_doubt");
    }
    line
}

/// A number with at least so many digits.
fn push_number(line: &mut String, mut number: u64, least: usize) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    while number > 0 || digits.len() - at < least {
        at -= 1;
        digits[at] = HEX[usize::try_from(number % 10).expect("a digit")];
        number /= 10;
    }
    line.extend(digits[at..].iter().map(|&digit| char::from(digit)));
}

/// As `UnixMillis` displays itself: RFC 3339 in UTC.
fn push_time(line: &mut String, time: UnixMillis) {
    // The days of the Gregorian calendar, in years that begin with March, so that the leap day comes last.
    let (days, of_day) = (time.0 / 86_400_000 + 719_468, time.0 % 86_400_000);
    let (cycle, of_cycle) = (days / 146_097, days % 146_097);
    let year = (of_cycle - of_cycle / 1_460 + of_cycle / 36_524 - of_cycle / 146_096) / 365;
    let of_year = of_cycle - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    for (number, digits, after) in [
        (cycle * 400 + year + u64::from(month <= 2), 4, '-'),
        (month, 2, '-'),
        (of_year - (153 * from_march + 2) / 5 + 1, 2, 'T'),
        (of_day / 3_600_000, 2, ':'),
        (of_day / 60_000 % 60, 2, ':'),
        (of_day / 1000 % 60, 2, '.'),
        (of_day % 1000, 3, 'Z'),
    ] {
        push_number(line, number, digits);
        line.push(after);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_they_display() {
        let mut times = vec![0, 1, 999, 951_782_399_999, 951_782_400_000, 951_868_800_000, u64::MAX];
        // All days for a century and more, at odd times.
        times.extend((0..60_000).map(|day| day * 86_400_000 + day * 7919 % 86_400_000));
        for time in times.into_iter().map(UnixMillis) {
            let mut line = String::new();
            push_time(&mut line, time);
            assert_eq!(line, time.to_string());
        }
    }

    #[test]
    fn numbers_read_as_they_display() {
        for number in [0, 1, 9, 10, 12_345, u64::MAX] {
            let mut line = String::new();
            push_number(&mut line, number, 1);
            assert_eq!(line, number.to_string());
        }
    }
}
