//! Numbers from the environment.

/// A number from the environment; `None` if the variable is not set.
///
/// # Panics
/// If it is set to anything but a number: a run that was meant to be another must not pass for it.
pub(super) fn env_number(name: &str) -> Option<u64> {
    let text = std::env::var_os(name)?;
    Some(
        number(&text.to_string_lossy()).unwrap_or_else(|| panic!("{name} is {text:?}, and must be a number")),
    )
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        // The parser takes a sign, which nobody means behind 0x.
        Some(digits) if !digits.starts_with('+') => u64::from_str_radix(digits, 16).ok(),
        Some(_) => None,
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_decimal_or_hexadecimal_and_nothing_else() {
        let numbers = [("0", 0), ("17", 17), ("0x1f", 31), ("0xFFFFFFFFFFFFFFFF", u64::MAX)];
        for (text, expected) in numbers {
            assert_eq!(number(text), Some(expected), "{text:?}");
        }
        for junk in ["", " 1", "1 ", "-1", "1e3", "ten", "0x", "0x+1", "1f", "18446744073709551616"] {
            assert_eq!(number(junk), None, "{junk:?}");
        }
    }

    #[test]
    #[should_panic(expected = ", and must be a number")]
    fn a_variable_that_is_no_number_is_not_taken_for_unset() {
        // Set for every process, and nowhere to a number.
        env_number("PATH");
    }

    #[test]
    fn a_variable_that_is_not_set_is_no_number() {
        assert_eq!(env_number("ONCEKEY_KIT_NO_SUCH_VARIABLE"), None);
    }
}
