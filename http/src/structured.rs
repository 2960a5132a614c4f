//! As much of structured fields (RFC 8941, section 4.2) as an item that is a string has.

/// What is in a string, after its opening quote, and what follows its closing one (section 4.2.5);
/// `None` if it is not one.
pub(crate) fn string(quoted: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut text = Vec::with_capacity(quoted.len());
    let mut bytes = quoted.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return Some((text, bytes.as_slice())),
            b'\\' => text.push(*bytes.next().filter(|escaped| matches!(escaped, b'"' | b'\\'))?),
            b' '..=b'~' => text.push(*byte),
            _ => return None,
        }
    }
    None
}

/// Whether this is an item's parameters, of which there may be none (section 4.2.3.2).
pub(crate) fn parameters(mut rest: &[u8]) -> bool {
    while let [b';', more @ ..] = rest {
        let name = skip(more, |byte| byte == b' ');
        let Some(value) = after_name(name) else { return false };
        rest = match value {
            [b'=', value @ ..] => match after_bare_item(value) {
                Some(rest) => rest,
                None => return false,
            },
            // A name alone is true.
            rest => rest,
        };
    }
    rest.is_empty()
}

fn skip(bytes: &[u8], is: impl Fn(u8) -> bool) -> &[u8] {
    let count = bytes.iter().take_while(|byte| is(**byte)).count();
    &bytes[count..]
}

/// Section 4.2.3.3.
fn after_name(bytes: &[u8]) -> Option<&[u8]> {
    let first = bytes.first()?;
    (first.is_ascii_lowercase() || *first == b'*').then(|| {
        skip(bytes, |byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-' | b'.' | b'*')
        })
    })
}

/// Section 4.2.3.1.
fn after_bare_item(bytes: &[u8]) -> Option<&[u8]> {
    match bytes {
        [b'"', quoted @ ..] => Some(string(quoted)?.1),
        [b'?', b'0' | b'1', rest @ ..] => Some(rest),
        [b':', base64 @ ..] => {
            let rest =
                skip(base64, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='));
            rest.strip_prefix(b":")
        }
        [b'-' | b'0'..=b'9', ..] => after_number(bytes),
        [first, ..] if first.is_ascii_alphabetic() || *first == b'*' => Some(skip(bytes, is_of_a_token)),
        _ => None,
    }
}

/// Section 4.2.4: at most 15 digits, or 12 and a fraction of 1 to 3.
fn after_number(bytes: &[u8]) -> Option<&[u8]> {
    let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
    let rest = skip(digits, |byte| byte.is_ascii_digit());
    let whole = digits.len() - rest.len();
    match rest {
        [b'.', fraction @ ..] => {
            let rest = skip(fraction, |byte| byte.is_ascii_digit());
            let fraction = fraction.len() - rest.len();
            ((1..=12).contains(&whole) && (1..=3).contains(&fraction)).then_some(rest)
        }
        rest => (1..=15).contains(&whole).then_some(rest),
    }
}

/// Section 3.3.4: a `tchar` (RFC 9110, section 5.6.2), a colon or a slash.
fn is_of_a_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_those_of_rfc_8941() {
        for good in [
            "",
            ";a",
            ";a;b",
            "; a",
            ";*a=1",
            ";a_-.*9=-1",
            ";a=123456789012345",
            ";a=1.5",
            ";a=-123456789012.123",
            r#";a="x\"y";b"#,
            ";a=?0",
            ";a=tok:en/*",
            ";a=:aGk=:",
            ";a=::",
            ";a=*",
        ] {
            assert!(parameters(good.as_bytes()), "{good}");
        }
        for bad in [
            "a",
            " ;a",
            ";",
            ";A",
            ";1",
            ";a=",
            ";a =1",
            ";a= 1",
            ";a=1234567890123456",
            ";a=1.",
            ";a=.5",
            ";a=1.1234",
            ";a=1234567890123.1",
            ";a=-",
            r#";a="x"#,
            ";a=?2",
            ";a=?",
            ";a=:aGk",
            ";a=:a*:",
            ";a=@1",
            ";a;",
            ";a,b",
        ] {
            assert!(!parameters(bad.as_bytes()), "{bad}");
        }
    }
}
