//! The program itself over real stores: run twice, killed in the middle and run again, and two at once.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use oncekey_store_testing::server;

const REQUESTS: &str = "3000";
/// Only ends a hang: longer than a busy machine takes.
const PATIENCE: Duration = Duration::from_secs(600);

/// A day, and where its records and its ledger are. Other days may be there too.
struct Day<'a> {
    store: &'a str,
    ledger: &'a Path,
    seed: u32,
    /// The charges of other days on the ledger.
    before: usize,
}

impl<'a> Day<'a> {
    fn new(store: &'a str, ledger: &'a Path, seed: u32) -> Self {
        Self { store, ledger, seed, before: lines(ledger) }
    }

    fn start(&self, workers: u32) -> Child {
        Command::new(env!("CARGO_BIN_EXE_replay_log"))
            .args(["--store", self.store, "--requests", REQUESTS, "--seed", &self.seed.to_string()])
            .args(["--workers", &workers.to_string(), "--ledger"])
            .arg(self.ledger)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn charged(&self) -> usize {
        lines(self.ledger) - self.before
    }
}

fn lines(path: &Path) -> usize {
    fs::read(path).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count()
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
    let ledger = folder.path().join("ledger");
    let begun = Instant::now();
    let mut days = (9..).map(|seed| Day::new(store, &ledger, seed));
    // On a busy machine a run may go far before it is killed: then another day shows what this one does not.
    let day = days.find(|day| {
        assert!(begun.elapsed() < PATIENCE, "in no day three kills came in time");
        is_killed_three_times(day)
    });
    finishes(&day.expect("seeds go on"));
}

/// Kills a day's run three times, each time after it charged some more. Whether enough of the day is left then.
fn is_killed_three_times(day: &Day<'_>) -> bool {
    let begun = Instant::now();
    // More workers each time: those of before may wait for what the killed ones held.
    for workers in [8, 16, 24] {
        let mut child = day.start(workers);
        let until = day.charged() + 250;
        while day.charged() < until {
            if child.try_wait().unwrap().is_some() {
                // With an error it has not just come to its end.
                kept(child);
                return false;
            }
            assert!(begun.elapsed() < PATIENCE, "{workers} workers: {} charges", day.charged());
            thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    day.charged() < 1_300
}

/// Finishes a day that killed runs began.
fn finishes(day: &Day<'_>) {
    let before = day.charged() as u64;

    // Two at once finish the day.
    let runs = [day.start(32), day.start(32)];
    let tables = runs.map(kept);
    let charged: u64 = tables.iter().map(|table| ours(table, "charged")).sum();
    assert!(charged > 500, "the day went on: {}", tables.concat());

    // An operation that a killed run left in doubt was settled as not charged, and is charged now. Then nothing is left to do.
    let last = kept(day.start(8));
    assert!(ours(&last, "by other runs") >= before, "{last}");
    let total = day.charged();
    let idle = kept(day.start(8));
    assert_eq!((ours(&idle, "charged"), day.charged()), (0, total), "{idle}");
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
        let ledger = folder.path().join("ledger");
        let day = Day::new(&store, &ledger, 9);
        let output = day.start(8).wait_with_output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{store}: {err}");
        assert!(
            err.starts_with("replay_log: the replay stopped: ") && err.lines().count() == 1,
            "{store}: {err}"
        );
        assert!(!err.contains("secret"), "{err}");
        assert_eq!(day.charged(), 0);
    }
}
