//! Every error of this crate, as it reads in a log: a text under review, `errors.txt`.
#![allow(clippy::unwrap_used)]

use std::error::Error;
use std::fmt::Write as _;

use oncekey::protocol::DecodeError;
use oncekey::store::StoreError as _;
use rusqlite::ffi;

use crate::{SqliteError as E, SqliteStep};

/// What SQLite says by this code, in this step.
fn of(code: i32, step: SqliteStep) -> E {
    E::of(rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some("SQLite's own words".to_owned())), step)
}

fn damaged() -> DecodeError {
    oncekey::protocol::Record::decode(&b""[..]).unwrap_err()
}

fn errors() -> Vec<E> {
    vec![
        E::NotAFile { path: ":memory:".into() },
        E::LibraryTooOld { found: "3.31.0" },
        E::NotWal { found: "delete".to_owned() },
        E::SchemaNewer { found: 9, known: 1 },
        E::SchemaOlder { found: 0, known: 1 },
        E::QueueFull { waiting: 1024, bound: 1024 },
        E::RecordsFull { records: 100, bound: 100 },
        of(ffi::SQLITE_TOOBIG, SqliteStep::Write).of_record(2_000_000_000),
        of(ffi::SQLITE_BUSY, SqliteStep::Write),
        of(ffi::SQLITE_FULL, SqliteStep::Write),
        of(ffi::SQLITE_FULL, SqliteStep::Commit),
        of(ffi::SQLITE_IOERR, SqliteStep::Read),
        of(ffi::SQLITE_CORRUPT, SqliteStep::Read),
        of(ffi::SQLITE_READONLY, SqliteStep::Write),
        of(ffi::SQLITE_CANTOPEN, SqliteStep::Open),
        of(ffi::SQLITE_NOMEM, SqliteStep::Write),
        E::Replaced { path: "orders.db".into(), committed: false },
        E::Record { scope: "payments.charge".to_owned(), row: 7, source: DecodeError::Newer { found: 9 } },
        E::Record { scope: "payments.charge".to_owned(), row: 7, source: damaged() },
        E::KeyDamaged { row: 7 },
        E::Closed,
        E::ThreadGone,
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
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/errors.txt");
    if std::env::var_os("ONCEKEY_BLESS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let reviewed = std::fs::read_to_string(path).unwrap();
    assert!(text == reviewed, "errors.txt differs; if you meant it, run with ONCEKEY_BLESS=1. Now:\n{text}");
}
