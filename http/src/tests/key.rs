use http::HeaderValue;
use proptest::prelude::*;

use crate::key::{KEY_LEN_MAX, KeyProblem, Syntax, read};

fn one(value: &[u8], syntax: Syntax) -> Result<String, KeyProblem> {
    let value = HeaderValue::from_bytes(value).unwrap();
    read([&value], syntax).map(|key| key.expect("there is a field"))
}

/// A key as a structured-field string.
fn quoted(key: &str) -> String {
    format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\""))
}

#[test]
fn no_field_is_no_key() {
    assert_eq!(read([], Syntax::Lenient), Ok(None));
    assert_eq!(read([], Syntax::Strict), Ok(None));
}

#[test]
fn more_than_one_field_is_refused_even_if_they_agree() {
    let value = HeaderValue::from_static("\"k\"");
    for syntax in [Syntax::Lenient, Syntax::Strict] {
        assert_eq!(read([&value, &value], syntax), Err(KeyProblem::Several));
    }
}

/// (what is sent, read leniently, read strictly)
#[test]
fn examples() {
    use KeyProblem::*;
    let long = "x".repeat(KEY_LEN_MAX);
    let longer = "x".repeat(KEY_LEN_MAX + 1);
    let (long_string, longer_string) = (quoted(&long), quoted(&longer));
    // 255 characters, each of them escaped.
    let escaped = "\\".repeat(KEY_LEN_MAX);
    let escaped_string = quoted(&escaped);
    type Read<'a> = Result<&'a str, KeyProblem>;
    let cases: &[(&str, Read<'_>, Read<'_>)] = &[
        (r#""k""#, Ok("k"), Ok("k")),
        ("k", Ok("k"), Err(NotAString)),
        ("8e03978e-40d5-43e8-bc93-6894a57f9324", Ok("8e03978e-40d5-43e8-bc93-6894a57f9324"), Err(NotAString)),
        (r#"  "k"  "#, Ok("k"), Ok("k")),
        ("\tk\t", Ok("k"), Err(NotAString)),
        ("", Err(Empty), Err(Empty)),
        ("  ", Err(Empty), Err(Empty)),
        (r#""""#, Err(Empty), Err(Empty)),
        (r#""a\"b\\c""#, Ok(r#"a"b\c"#), Ok(r#"a"b\c"#)),
        (r#"a"b\c"#, Ok(r#"a"b\c"#), Err(NotAString)),
        (r#""k";v=1"#, Ok("k"), Ok("k")),
        (r#""k" ;v=1"#, Ok("k"), Err(BadString)),
        (r#""k";V"#, Ok("k"), Err(BadString)),
        (r#""a", "b""#, Err(BadString), Err(BadString)),
        (r#""a" b"#, Err(BadString), Err(BadString)),
        (r#""a""b""#, Err(BadString), Err(BadString)),
        ("a, b", Err(Character), Err(NotAString)),
        (r#"""#, Err(BadString), Err(BadString)),
        (r#""k"#, Err(BadString), Err(BadString)),
        (r#""k\"#, Err(BadString), Err(BadString)),
        (r#""k\n""#, Err(BadString), Err(BadString)),
        (r#""a b""#, Err(Character), Err(Character)),
        ("\"a\tb\"", Err(Character), Err(Character)),
        ("clé", Err(Character), Err(NotAString)),
        ("\"clé\"", Err(Character), Err(Character)),
        ("'k'", Ok("'k'"), Err(NotAString)),
        (":aGk=:", Ok(":aGk=:"), Err(NotAString)),
        (&long, Ok(&long), Err(NotAString)),
        (&longer, Err(TooLong), Err(NotAString)),
        (&long_string, Ok(&long), Ok(&long)),
        (&longer_string, Err(TooLong), Err(TooLong)),
        (&escaped_string, Ok(&escaped), Ok(&escaped)),
    ];
    for (sent, lenient, strict) in cases {
        let owned = |read: &Read<'_>| read.map(str::to_owned);
        assert_eq!(one(sent.as_bytes(), Syntax::Lenient), owned(lenient), "{sent:?}, leniently");
        assert_eq!(one(sent.as_bytes(), Syntax::Strict), owned(strict), "{sent:?}, strictly");
    }
}

#[test]
fn a_problem_does_not_repeat_what_was_sent() {
    let problem = one("se\u{e9}cret".as_bytes(), Syntax::Lenient).unwrap_err();
    assert!(!problem.to_string().contains("cret"));
}

proptest! {
    #[test]
    fn a_key_is_the_same_quoted_or_bare(key in "[!-~]{1,255}") {
        prop_assert_eq!(one(quoted(&key).as_bytes(), Syntax::Strict), Ok(key.clone()));
        prop_assert_eq!(one(quoted(&key).as_bytes(), Syntax::Lenient), Ok(key.clone()));
        if !key.starts_with('"') {
            prop_assert_eq!(one(key.as_bytes(), Syntax::Lenient), Ok(key));
        }
    }

    #[test]
    fn whatever_reads_is_a_key(bytes in prop::collection::vec(prop_oneof![Just(b'"'), Just(b'\\'), Just(b';'), any::<u8>()], 0..300)) {
        let Ok(value) = HeaderValue::from_bytes(&bytes) else { return Ok(()) };
        let lenient = read([&value], Syntax::Lenient);
        let strict = read([&value], Syntax::Strict);
        if let Ok(Some(key)) = &lenient {
            prop_assert!((1..=KEY_LEN_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert_eq!(one(quoted(key).as_bytes(), Syntax::Strict), Ok(key.clone()));
        }
        // Whoever reads strictly reads nothing else than others do.
        if strict.is_ok() {
            prop_assert_eq!(strict, lenient);
        }
    }
}
