//! Every error of this crate, as it reads in a log: a text under review, `errors.txt`.
#![allow(clippy::unwrap_used)]

use std::error::Error;
use std::fmt::Write as _;

use oncekey::protocol::DecodeError;
use oncekey::store::StoreError as _;
use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::RedisStoreError as E;

fn client(text: &'static str) -> RedisError {
    RedisError::from((ErrorKind::Io, text))
}

fn damaged() -> DecodeError {
    oncekey::protocol::Record::decode(&b""[..]).unwrap_err()
}

fn errors() -> Vec<E> {
    let source = || client("the client's error");
    let server = || RedisError::from((ServerErrorKind::ResponseError.into(), "the server's answer"));
    vec![
        E::Unreachable { source: source() },
        E::Disconnected { source: source() },
        E::TimedOut { source: source() },
        E::NotNow { code: "LOADING".to_owned(), source: server(), resent: false },
        E::Full { source: server(), resent: false },
        E::Refused { code: "NOPERM".to_owned(), source: server() },
        E::TooFewReplicas { confirmed: 0, wanted: 2 },
        E::Corrupt { what: "a string and not a hash".to_owned() },
        E::Undecodable(DecodeError::Newer { found: 9 }),
        E::Undecodable(damaged()),
        E::Evicts { policy: "allkeys-lru".to_owned() },
        E::TooOld { version: "6.2.6".to_owned() },
        E::Replica,
        E::Unknown { what: "maxmemory-policy" },
        E::Other { source: source() },
        E::Unexpected { what: "an integer".to_owned() },
    ]
}

#[test]
fn each_error_reads_as_reviewed() {
    let mut text =
        "# Written by the test `errors::each_error_reads_as_reviewed`; ONCEKEY_BLESS=1 renews it.\n"
            .to_owned();
    for error in errors() {
        let name = format!("{error:?}");
        let name = name.split([' ', '(', '{']).next().unwrap();
        write!(text, "\n{name} ({}; maybe applied: {})\n    {error}\n", error.kind(), error.maybe_applied())
            .unwrap();
        let mut source = error.source();
        while let Some(error) = source {
            writeln!(text, "    caused by: {error}").unwrap();
            source = error.source();
        }
        // Reads fail with it too.
        assert!(!error.to_string().contains("the write may have been applied"), "{error}");
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/errors.txt");
    if std::env::var_os("ONCEKEY_BLESS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let reviewed = std::fs::read_to_string(path).unwrap();
    assert!(text == reviewed, "errors.txt differs; if you meant it, run with ONCEKEY_BLESS=1. Now:\n{text}");
}
