//! The program itself over real stores: run twice, killed in the middle and run again, and two at once.
#![cfg(all(feature = "sqlite", feature = "postgres", feature = "redis"))]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use oncekey_store_testing::server;

const REQUESTS: &str = "3000";

/// One place for records, and one for the ledger.
struct Place<'a> {
    store: &'a str,
    folder: &'a Path,
}

impl Place<'_> {
    fn start(&self) -> Child {
        Command::new(env!("CARGO_BIN_EXE_replay_log"))
            .args(["--store", self.store, "--requests", REQUESTS, "--seed", "9", "--ledger"])
            .arg(self.ledger())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn ledger(&self) -> std::path::PathBuf {
        self.folder.join("ledger")
    }

    fn charged(&self) -> usize {
        fs::read(self.ledger()).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count()
    }
}

/// The table of a run that came to its end and kept the promise.
fn kept(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success() && out.contains("\nkept: "), "{}\n{out}\n{err}", output.status);
    assert_eq!(ours(&out, "double charges"), 0, "{out}");
    out
}

/// The engine's number in a row of the table.
fn ours(table: &str, label: &str) -> u64 {
    let line = table
        .lines()
        .find(|line| line.trim_start().starts_with(label))
        .unwrap_or_else(|| panic!("{label}: {table}"));
    let cell = line.trim_start()[label.len()..].split_whitespace().next().unwrap();
    cell.replace(',', "").parse().unwrap()
}

fn again_and_after_kills_and_beside_each_other(store: &str) {
    let folder = tempfile::tempdir().unwrap();
    let place = Place { store, folder: folder.path() };

    // Killed three times, each time after it charged some more.
    for round in 1..=3 {
        let mut child = place.start();
        let until = place.charged() + 250;
        let begun = Instant::now();
        while place.charged() < until {
            assert!(child.try_wait().unwrap().is_none(), "round {round}: it ended before it was killed");
            assert!(begun.elapsed() < Duration::from_secs(120), "round {round}: {} charges", place.charged());
            thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let before = place.charged() as u64;

    // Two at once finish the day.
    let runs = [place.start(), place.start()];
    let tables = runs.map(kept);
    let charged: u64 = tables.iter().map(|table| ours(table, "charged")).sum();
    assert!(charged > 500, "the day went on: {}", tables.concat());

    // What a killed run left in doubt was settled as not charged, and is charged now; then there is nothing left to do.
    let last = kept(place.start());
    assert!(ours(&last, "by other runs") >= before, "{last}");
    let total = place.charged();
    let idle = kept(place.start());
    assert_eq!((ours(&idle, "charged"), place.charged()), (0, total), "{idle}");
    assert!(ours(&idle, "replayed") > 2_500, "{idle}");
}

#[test]
fn over_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    again_and_after_kills_and_beside_each_other(&format!(
        "sqlite:{}",
        folder.path().join("day.db").display()
    ));
}

#[test]
fn over_redis() {
    let server = server::Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    again_and_after_kills_and_beside_each_other(server.url());
}

#[test]
fn over_postgres() {
    let database = server::Postgres::shared().database();
    again_and_after_kills_and_beside_each_other(database.url());
}

#[test]
fn a_store_that_cannot_be_reached_is_said_in_one_line_and_nothing_is_run() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = [
        format!("sqlite:{}", folder.path().join("no/such/folder/day.db").display()),
        "redis://127.0.0.1:1/".to_owned(),
        "postgres://nobody:secret@127.0.0.1:1/none".to_owned(),
    ];
    for store in nowhere {
        let place = Place { store: &store, folder: folder.path() };
        let output = place.start().wait_with_output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{store}: {err}");
        assert!(
            err.starts_with("replay_log: the replay stopped: ") && err.lines().count() == 1,
            "{store}: {err}"
        );
        assert!(!err.contains("secret"), "{err}");
        assert_eq!(place.charged(), 0);
    }
}
