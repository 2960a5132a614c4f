//! The value of an `Idempotency-Key` field, read.

use std::fmt;

use http::HeaderValue;

use crate::structured;

/// Most characters of a key.
pub const KEY_LEN_MAX: usize = 255;

/// How the field is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Syntax {
    /// A structured-field string, or a bare token as most clients send it: `"k"` and `k` are one
    /// key.
    #[default]
    Lenient,
    /// A structured-field string only, as the draft's section 2.1 says: "Idempotency-Key is an Item
    /// Structured Header \[RFC8941\]. Its value MUST be a String (Section 3.3.3 of \[RFC8941\])."
    Strict,
}

/// Why a value is no key. What was sent is not repeated: it may be secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyProblem {
    /// There is more than one field; an item has one (RFC 8941, section 4.2).
    #[error("the request has more than one such field; send one")]
    Several,
    /// The value is empty, or an empty string.
    #[error("the key is empty; send 1 to 255 visible ASCII characters, such as a UUID")]
    Empty,
    /// The key is longer than 255 characters.
    #[error("the key has more than 255 characters")]
    TooLong,
    /// The key has a character that is not visible ASCII.
    #[error(
        "the key may have visible ASCII characters only: no space, no control character, nothing beyond `~`"
    )]
    Character,
    /// The value is not a structured-field string, and strict syntax asks for one.
    #[error("the value must be a string in double quotes (RFC 8941, section 3.3.3)")]
    NotAString,
    /// The value begins as a structured-field string and does not go on as one.
    #[error("the value begins with a double quote and is not a string as RFC 8941, section 3.3.3, has it")]
    BadString,
}

/// Reads the key out of the fields of a request: `None` if there is no such field.
///
/// ```
/// use http::HeaderValue;
/// use oncekey_http::Syntax;
/// use oncekey_http::key::{KeyProblem, read};
///
/// let (quoted, bare) = (HeaderValue::from_static("\"k-1\""), HeaderValue::from_static("k-1"));
/// assert_eq!(read([&quoted], Syntax::Lenient), Ok(Some("k-1".to_owned())));
/// assert_eq!(read([&bare], Syntax::Lenient), Ok(Some("k-1".to_owned())));
/// assert_eq!(read([&bare], Syntax::Strict), Err(KeyProblem::NotAString));
/// ```
///
/// # Errors
/// [`KeyProblem`] if there is a field, and no key in it.
pub fn read<'v>(
    values: impl IntoIterator<Item = &'v HeaderValue>,
    syntax: Syntax,
) -> Result<Option<String>, KeyProblem> {
    let mut values = values.into_iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(KeyProblem::Several);
    }
    // Spaces around a value are not part of it (RFC 9110, section 5.5; RFC 8941, section 4.2).
    let value = value.as_bytes().trim_ascii();
    let key = match value {
        [] => return Err(KeyProblem::Empty),
        [b'"', quoted @ ..] => string(quoted, syntax)?,
        _ if syntax == Syntax::Strict => return Err(KeyProblem::NotAString),
        bare => bare.to_vec(),
    };
    if key.is_empty() {
        return Err(KeyProblem::Empty);
    }
    if !key.iter().all(u8::is_ascii_graphic) {
        return Err(KeyProblem::Character);
    }
    if key.len() > KEY_LEN_MAX {
        return Err(KeyProblem::TooLong);
    }
    Ok(Some(String::from_utf8(key).expect("visible ASCII is text")))
}

/// What is in a structured-field string, after its opening quote, and nothing after it but
/// parameters, which an item may have (RFC 8941, section 3.3) and which mean nothing here.
fn string(quoted: &[u8], syntax: Syntax) -> Result<Vec<u8>, KeyProblem> {
    let (key, rest) =
        structured::string(quoted).ok_or_else(|| match quoted.iter().find(|byte| !is_text(**byte)) {
            Some(_) => KeyProblem::Character,
            None => KeyProblem::BadString,
        })?;
    let fits = match syntax {
        Syntax::Strict => structured::parameters(rest),
        Syntax::Lenient => matches!(rest.trim_ascii_start(), [] | [b';', ..]),
    };
    if fits { Ok(key) } else { Err(KeyProblem::BadString) }
}

/// What a string may have. A key may not have the space, and is refused for that.
fn is_text(byte: u8) -> bool {
    byte == b' ' || byte.is_ascii_graphic()
}

impl fmt::Display for Syntax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lenient => "lenient",
            Self::Strict => "strict",
        })
    }
}
