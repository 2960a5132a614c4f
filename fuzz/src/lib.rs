//! The bodies of the fuzz targets, as plain functions: `tests/corpus.rs` feeds them the committed corpus on a stable
//! toolchain.
//!
//! - `cargo test --manifest-path fuzz/Cargo.toml --no-default-features` runs the corpus, on stable and without a C++ compiler.
//! - `cargo +nightly fuzz run -s none history -- -max_len=400` goes on from it. All is safe code, so the address
//!   sanitizer finds little here and costs most of the speed.
//! - `cargo +nightly fuzz cmin -s none history` keeps the corpus small.

#[path = "../../tests/reference/mod.rs"]
mod reference;

use http::HeaderValue;
use oncekey::Key;
use oncekey::protocol::Record;
use oncekey_http::key;
use reference::way::Way;
use reference::{register, steps, world};

/// Most steps of one history: long ones find nothing that short ones do not, and are slow.
const STEPS_MAX: usize = 100;

/// Arbitrary bytes as a stored record, and as a stored key. What decodes has one stored form, these very bytes.
pub fn record(data: &[u8]) {
    if let Ok(record) = Record::decode(data) {
        assert_eq!(Record::from(record.draft()).as_bytes(), data, "a record has one stored form");
        assert!(record.attempts_counted() <= record.attempt());
        assert_eq!(record.outcome().is_some(), record.is_completed());
    }
    if let Ok(key) = Key::from_bytes(data) {
        assert_eq!(key.as_bytes(), data, "a key has one stored form");
        let again = Key::scoped(key.scope(), key.id()).expect("the parts of a key make a key");
        assert_eq!(again, key, "a key is its parts");
        assert!(data.len() <= Key::LEN_MAX, "a key has a longest stored form");
    }
}

/// Arbitrary bytes as the value of an `Idempotency-Key` field. Whatever reads as a key is 1 to 255 visible ASCII characters,
/// and the same key when it is sent as a string; whatever reads strictly, reads leniently.
pub fn http_key(data: &[u8]) {
    let read = |value: &[u8], syntax| {
        let value = HeaderValue::from_bytes(value).ok()?;
        key::read([&value], syntax).ok().map(|key| key.expect("there is a field"))
    };
    let lenient = read(data, key::Syntax::Lenient);
    let strict = read(data, key::Syntax::Strict);
    if strict.is_some() {
        assert_eq!(strict, lenient, "strict and lenient are of one mind");
    }
    if let Some(key) = lenient {
        assert!(
            (1..=key::KEY_LEN_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
        );
        let string = format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\""));
        assert_eq!(read(string.as_bytes(), key::Syntax::Strict), Some(key), "a key is the same as a string");
    }
}

/// Arbitrary bytes as a kept HTTP response.
pub fn http_kept(data: &[u8]) {
    oncekey_http::fuzzing::kept(data);
}

/// A history of the engine, against the reference.
pub fn history(data: &[u8]) {
    let steps: Vec<_> = in_fours(data).map(steps::Step::from_bytes).collect();
    for way in Way::ALL {
        if let Err(difference) = world::play(&steps, way) {
            panic!("{way:?}: {difference}\nhistory: {steps:#?}");
        }
    }
}

/// A history of the memory store, against a plain register.
pub fn register(data: &[u8]) {
    let steps: Vec<_> = in_fours(data).map(register::Step::from_bytes).collect();
    if let Err(difference) = register::play(&steps) {
        panic!("{difference}\nhistory: {steps:#?}");
    }
}

fn in_fours(data: &[u8]) -> impl Iterator<Item = [u8; 4]> {
    let fours = data.chunks_exact(4).map(|four| [four[0], four[1], four[2], four[3]]);
    fours.take(STEPS_MAX)
}
