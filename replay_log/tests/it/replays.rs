//! The code of `replay_log`: its generator, its parser, and whole replays.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::replay_log::audit::{self, Column, Reply};
use crate::replay_log::generate::{self, Day, SHIPPED};
use crate::replay_log::input::{self, Channel, GatewayReply, LINE_LEN_MAX, Log, Request};
use crate::replay_log::job::Anywhere;
use crate::replay_log::ledger::Ledger;
use crate::replay_log::progress::{self, Style};
use crate::replay_log::{cli, job, naive, race};
use oncekey::{Fingerprint, Key, MemoryStore};

const SMALL: Day = Day { requests: 2_000, seed: 11 };

/// The digest of the shipped log. Whoever changes the generator ships another log, and should know it.
const SHIPPED_SHA256: &str = "6c4b46b50dc4dee9e7aa60559c125ad0350835a35e2caff6652d18fe66a0a350";

fn read(bytes: &[u8]) -> Log {
    input::read(&mut &bytes[..]).unwrap()
}

/// A line as a person would write it.
fn line(at_ms: u64, key: &str, cents: u64, latency_ms: u32, reply: &str) -> String {
    format!(
        r#"{{"at_ms":{at_ms},"operation":"payments.charge","tenant":"acme","key":"{key}","body":{{"amount_cents":{cents},"currency":"USD","source":"card_1"}},"gateway":{{"latency_ms":{latency_ms},"reply":"{reply}"}}}}"#
    )
}

fn requests(lines: &[String]) -> Vec<Request> {
    let log = read(lines.join("\n").as_bytes());
    assert!(log.malformed.is_empty(), "{:?}", log.malformed);
    log.requests
}

/// Over a fresh memory store.
fn replayed(requests: &[Request], workers: usize) -> Column {
    let (store, ledger) = (MemoryStore::new(), Ledger::default());
    job::replay(store, &Anywhere, ledger, requests, workers, Style::Silent).unwrap()
}

/// The exit status, standard output and standard error.
fn run(args: &[&str], stdin: &[u8]) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = args.iter().map(OsString::from);
    let status = cli::run(args, &mut &stdin[..], &mut out, &mut err, Style::Silent);
    (status, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

/// The numbers of a row of the table: ours, and those of check-then-store.
fn row(table: &str, label: &str) -> (u64, u64) {
    let line = table
        .lines()
        .find(|line| line.trim_start().starts_with(label))
        .unwrap_or_else(|| panic!("{label}: {table}"));
    let cells: Vec<_> = line.trim_start()[label.len()..].split_whitespace().collect();
    let number = |cell: &str| if cell == "-" { 0 } else { cell.replace(',', "").parse().unwrap() };
    (number(cells[0]), number(cells[1]))
}

#[test]
fn a_seed_means_one_log() {
    let shipped = generate::log(SHIPPED);
    let hex: String =
        Fingerprint::sha256(&shipped).digest().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, SHIPPED_SHA256);
    assert_eq!(generate::log(SMALL), generate::log(SMALL));
    assert_ne!(generate::log(SMALL), generate::log(Day { seed: 12, ..SMALL }));
    for length in [0, 1, 2, 777] {
        let log = read(&generate::log(Day { requests: length, ..SMALL }));
        assert_eq!((log.requests.len(), log.malformed.len()), (length as usize, 0));
    }
}

#[test]
fn the_shipped_day_has_every_shape() {
    let log = read(&generate::log(SHIPPED));
    assert!(log.requests.len() >= 20_000 && log.malformed.is_empty());
    assert!(log.requests.is_sorted_by_key(|request| request.at_ms));

    let mut by_key: HashMap<&Key, Vec<&Request>> = HashMap::new();
    let mut uses: HashMap<&str, BTreeSet<Vec<&str>>> = HashMap::new();
    for request in &log.requests {
        by_key.entry(&request.key).or_default().push(request);
        uses.entry(request.key.id()).or_default().insert(request.key.scope().collect());
    }
    // How many operations have two neighbouring lines like this.
    let count = |shape: &dyn Fn(&Request, &Request) -> bool| {
        by_key.values().filter(|lines| lines.windows(2).any(|pair| shape(pair[0], pair[1]))).count()
    };
    let both = |a: &Request, b: &Request, channel| a.channel == channel && b.channel == channel;
    let gap = |a: &Request, b: &Request| b.at_ms - a.at_ms;
    let answered = |a: &Request, b: &Request| gap(a, b) > u64::from(a.script.latency_ms);
    let times_out = |r: &Request| {
        matches!(r.script.reply, GatewayReply::TimeoutCharged | GatewayReply::TimeoutNotCharged)
    };
    let retried_after = |reply| {
        move |a: &Request, b: &Request| {
            a.script.reply == reply && b.channel == Channel::Retry && b.script.reply == GatewayReply::Approved
        }
    };
    let approved = |a: &Request, b: &Request| [a, b].iter().all(|r| r.script.reply == GatewayReply::Approved);
    let shapes = [
        (
            "double clicks",
            count(&|a, b| gap(a, b) < 250 && b.channel == Channel::Click && a.payload == b.payload),
            1_500,
        ),
        ("lost replies", count(&|a, b| approved(a, b) && answered(a, b) && b.channel == Channel::Retry), 800),
        ("impatient retries", count(&|a, b| !answered(a, b) && b.channel == Channel::Retry), 100),
        ("redeliveries", count(&|a, b| both(a, b, Channel::Queue) && gap(a, b) >= 120_000), 500),
        ("redelivered twice at once", count(&|a, b| both(a, b, Channel::Queue) && gap(a, b) <= 5), 100),
        ("other bodies", count(&|a, b| a.payload != b.payload), 100),
        (
            "declines asked again",
            count(&|a, b| [a, b].iter().all(|r| r.script.reply == GatewayReply::Declined)),
            100,
        ),
        ("timeouts that charged", count(&retried_after(GatewayReply::TimeoutCharged)), 50),
        ("timeouts that did not", count(&retried_after(GatewayReply::TimeoutNotCharged)), 50),
        ("timeouts clicked twice", count(&|a, b| times_out(a) && times_out(b)), 20),
        ("unreachable", count(&retried_after(GatewayReply::Unreachable)), 100),
        ("two operations", uses.values().filter(|u| u.len() == 2 && !one(u, 0) && one(u, 1)).count(), 100),
        ("two tenants", uses.values().filter(|u| u.len() == 2 && one(u, 0) && !one(u, 1)).count(), 30),
    ];
    for (shape, found, least) in shapes {
        assert!(found >= least, "{shape}: {found}, want {least}");
    }
    let once = by_key.values().filter(|lines| lines.len() == 1).count();
    assert!(once * 2 > by_key.len(), "most operations come once, here {once} of {}", by_key.len());
}

/// Whether all uses of a key have the same component of the scope.
fn one(uses: &BTreeSet<Vec<&str>>, component: usize) -> bool {
    uses.iter().map(|scope| scope[component]).collect::<BTreeSet<_>>().len() == 1
}

#[test]
fn malformed_lines_are_reported_by_number_and_the_rest_is_read() {
    let good = line(1, "k", 5, 100, "approved");
    let long = format!("{}{}", good, " ".repeat(LINE_LEN_MAX));
    let bad = [
        ("not JSON", "not JSON".to_owned(), "at column 2"),
        ("cut off", good[..40].to_owned(), "EOF"),
        ("no key", good.replace(r#""key":"k","#, ""), "missing field `key`"),
        ("an empty key", good.replace(r#""key":"k""#, r#""key":"""#), "the id of the key is empty"),
        (
            "a field of the body that is not known",
            good.replace("currency", "currencies"),
            "unknown field `currencies`",
        ),
        ("a field that is not known", good.replace("at_ms", "when"), "unknown field `when`"),
        ("a negative amount", good.replace(":5,", ":-5,"), "invalid value"),
        ("a reply that is not known", good.replace("approved", "perhaps"), "unknown variant `perhaps`"),
        ("too slow", good.replace(":100,", ":60001,"), "60001 ms is over 60000"),
        ("two values", format!("{good} {good}"), "trailing characters"),
        ("too long", long, "longer than 65536 bytes"),
    ];
    let mut text = Vec::new();
    for (_, bad, _) in &bad {
        text.extend_from_slice(format!("{good}\r\n \t\n{bad}\n").as_bytes());
    }
    text.extend_from_slice(b"\xff\xfe\n");
    text.extend_from_slice(good.as_bytes()); // and no newline at the end
    let log = read(&text);

    let mut malformed = log.malformed.iter();
    for (index, (what, _, problem)) in bad.iter().enumerate() {
        let found = malformed.next().unwrap_or_else(|| panic!("{what} was taken"));
        assert_eq!(found.number, index as u64 * 3 + 3, "{what}: {}", found.problem);
        assert!(found.problem.contains(problem), "{what}: {}", found.problem);
    }
    assert_eq!(
        malformed.next().map(|found| found.number),
        Some(bad.len() as u64 * 3 + 1),
        "bytes that are not text"
    );
    assert!(malformed.next().is_none());
    let numbers: Vec<_> = log.requests.iter().map(|request| request.number).collect();
    let mut expected: Vec<_> = (0..bad.len() as u64).map(|index| index * 3 + 1).collect();
    expected.push(bad.len() as u64 * 3 + 2);
    assert_eq!(numbers, expected);
}

#[test]
fn a_body_is_the_same_however_it_is_spelled() {
    let plain = line(1, "k", 5000, 100, "approved");
    let spaced = plain.replace(
        r#"{"amount_cents":5000,"currency":"USD","source":"card_1"}"#,
        r#"{ "source":"card_1", "currency":"\u0055SD", "amount_cents":5000 }"#,
    );
    let other = line(1, "k", 5001, 100, "approved");
    let read = requests(&[plain, spaced, other]);
    assert_eq!(read[0].payload, read[1].payload);
    assert_ne!(read[0].payload, read[2].payload);
}

#[test]
fn lines_that_did_not_overlap_on_the_day_do_not_overlap_here() {
    let lines: Vec<_> = (0..300).map(|i| line(i * 101, "k", 5, 100, "approved")).collect();
    let requests = requests(&lines);
    let busy = AtomicBool::new(false);
    let answers = progress::show(Style::Silent, "test", requests.len(), |progress| {
        race::run(&requests, 8, progress, |request| {
            assert!(!busy.swap(true, Ordering::SeqCst), "line {} was let in early", request.number);
            thread::yield_now();
            busy.store(false, Ordering::SeqCst);
            request.number
        })
    });
    assert_eq!(answers, (1..=300).collect::<Vec<_>>(), "each line once, in the order of the log");
}

#[test]
fn a_double_click_is_charged_once_by_the_engine_and_twice_by_check_then_store() {
    // So slow that both clicks come in while the first is under way.
    let requests =
        requests(&[line(0, "k", 5000, 60_000, "approved"), line(30, "k", 5000, 60_000, "approved")]);
    until_met("a click that waits for the other", || {
        let ours = replayed(&requests, 2);
        assert_eq!(ours.charges.len(), 1);
        let receipt = ours.charges[0].receipt.clone();
        let (ran, replayed) = (Reply::Charged(receipt.clone()), Reply::Replayed(receipt));
        assert!(
            ours.replies == [ran.clone(), replayed.clone()] || ours.replies == [replayed, ran],
            "{:?}",
            ours.replies
        );
        ours.waited == Some(1)
    });
    until_met("two clicks that look before either is stored", || {
        let tally = audit::tally(&requests, &naive::replay(&requests, 2, Style::Silent));
        assert_eq!((tally.charges - tally.double_raced, tally.distinct), (1, 1));
        tally.double_raced == 1
    });
}

/// Tries again until a race was met: the workers are threads, and on a busy machine one may come when the other is done.
fn until_met(race: &str, mut is_met: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_met() {
        assert!(begun.elapsed() < Duration::from_secs(300), "not met in so many tries: {race}");
    }
}

#[test]
fn a_timeout_is_settled_by_asking_the_ledger() {
    let mut lines = Vec::new();
    for (key, reply) in [("charged", "timeout_charged"), ("not", "timeout_not_charged")] {
        lines.extend([line(0, key, 5000, 100, reply), line(5000, key, 5000, 100, "approved")]);
    }
    // The same as bank transfers, which are held.
    let held: Vec<_> = lines.iter().map(|line| line.replace("payments.charge", "payouts.send")).collect();
    lines.extend(held);
    let requests = requests(&lines);
    let ours = replayed(&requests, 4);
    assert_eq!(audit::violations(&requests, &ours), Vec::<String>::new());
    let tally = audit::tally(&requests, &ours);
    assert_eq!((tally.no_reply, tally.found, tally.charged, tally.in_doubt), (4, 1, 1, 2));
    let settled = ours.settled.unwrap();
    assert_eq!((settled.charged, settled.not_charged), (1, 1));
    assert_eq!((tally.charges, tally.distinct, tally.distinct_charged), (3, 4, 3));

    let tally = audit::tally(&requests, &naive::replay(&requests, 4, Style::Silent));
    assert_eq!((tally.charges, tally.double_after_timeout, tally.double_raced), (6, 2, 0));
}

#[test]
fn a_replay_keeps_the_promise_and_its_table_adds_up() {
    let log = generate::log(SMALL);
    let (status, table, err) = run(&["-", "--workers", "8"], &log);
    assert_eq!((status, err.as_str()), (0, ""), "{table}");
    assert!(
        table.contains("log: standard input") && table.contains("kept: no operation was charged twice"),
        "{table}"
    );
    let distinct =
        read(&log).requests.into_iter().map(|request| request.key).collect::<BTreeSet<_>>().len() as u64;
    for pick in [|pair: (u64, u64)| pair.0, |pair: (u64, u64)| pair.1] {
        let number = |label: &str| pick(row(&table, label));
        assert_eq!(number("requests"), 2_000);
        let answers = ["executed", "replayed", "mismatched", "in doubt"].map(number);
        assert_eq!(answers.iter().sum::<u64>(), 2_000, "{table}");
        assert_eq!(number("distinct operations"), distinct);
        assert_eq!(number("on the ledger") + number("not on it"), distinct);
        assert_eq!(
            number("charges on the ledger"),
            number("on the ledger") + number("double charges"),
            "{table}"
        );
    }
    assert_eq!(row(&table, "double charges").0, 0);
    assert!(row(&table, "of operations that had a timeout").1 > 0, "{table}");
    for label in ["executed", "replayed", "mismatched", "in doubt"] {
        assert!(row(&table, label).0 > 0, "{label}: {table}");
    }
}

#[test]
fn the_ledger_and_the_receipts_agree_line_by_line() {
    let requests = read(&generate::log(SMALL)).requests;
    let ours = replayed(&requests, 16);
    let mut receipts = HashMap::new();
    for charge in &ours.charges {
        assert_eq!(receipts.insert(&charge.key, &charge.receipt), None, "charged twice");
    }
    let mut given = 0;
    for (request, reply) in requests.iter().zip(&ours.replies) {
        if let Reply::Charged(receipt) | Reply::Found(receipt) | Reply::Replayed(receipt) = reply {
            assert_eq!(receipts.get(&request.key), Some(&receipt), "line {}", request.number);
            given += 1;
        }
    }
    assert!(given > 1_800, "most requests get a receipt, here {given}");
    assert_eq!(audit::violations(&requests, &ours), Vec::<String>::new());
}

#[test]
fn a_malformed_line_changes_the_exit_status_and_nothing_else() {
    let log = generate::log(Day { requests: 300, ..SMALL });
    let mut lines: Vec<_> = log.split_inclusive(|byte| *byte == b'\n').collect();
    lines.insert(7, b"{\"at_ms\":1}\n");
    lines.insert(200, b"oops\n");
    let (status, table, err) = run(&["-"], &lines.concat());
    assert_eq!(status, 2);
    let reports: Vec<_> = err.lines().collect();
    assert_eq!(reports.len(), 2, "{err}");
    assert!(
        reports[0].starts_with("line 8: missing field `operation`") && reports[0].ends_with("skipped"),
        "{err}"
    );
    assert!(reports[1].starts_with("line 201: "), "{err}");
    assert_eq!(row(&table, "requests").0, 300);
    assert!(table.ends_with("2 malformed line(s) skipped\n"), "{table}");
}

/// A kept replay of one operation (charged, then replayed), and of a decline.
fn kept() -> (Vec<Request>, Column) {
    let requests = requests(&[
        line(0, "k", 5, 100, "approved"),
        line(5_000, "k", 5, 100, "approved"),
        line(9_000, "k", 6, 100, "approved"),
        line(9_500, "poor", 7, 100, "declined"),
    ]);
    let column = replayed(&requests, 1);
    assert_eq!(audit::violations(&requests, &column), Vec::<String>::new());
    (requests, column)
}

#[test]
fn the_audit_sees_every_way_to_break_the_promise() {
    type Break = fn(&mut Column);
    let breaks: [(&str, Break); 10] = [
        ("charged 2 times", |c| c.charges.push(c.charges[0].clone())),
        ("executed 2 times", |c| c.replies[1] = c.replies[0].clone()),
        ("a receipt that is not the one on the ledger", |c| c.charges.clear()),
        ("a receipt that is not the one on the ledger", |c| c.charges[0].receipt.number += 1),
        ("the receipt of another amount", |c| c.replies[2] = c.replies[1].clone()),
        ("line 3 was answered for the body of line 1", |c| c.replies[2] = c.replies[1].clone()),
        ("line 2 was answered for the body of line 1", |c| c.replies[1] = Reply::Mismatched),
        ("line 2 was declined, and charged", |c| c.replies[1] = Reply::ReplayedDecline),
        ("charged, and nobody was told", |c| c.replies[0] = Reply::Mismatched),
        ("line 1 got no answer: gone", |c| c.replies[0] = Reply::Failed("gone".to_owned())),
    ];
    for (what, broken) in breaks {
        let (requests, mut column) = kept();
        broken(&mut column);
        let found = audit::violations(&requests, &column);
        assert!(found.iter().any(|violation| violation.contains(what)), "{what}: {found:?}");
    }
    let (requests, mut column) = kept();
    column.replies.pop();
    assert!(!audit::violations(&requests, &column).is_empty(), "a request without an answer");
    assert_eq!(
        [(false, false), (false, true), (true, false), (true, true)].map(|(b, m)| cli::status(b, m)),
        [0, 2, 1, 1]
    );
}

#[test]
fn nothing_to_replay_is_a_table_of_zeros() {
    for empty in ["", "\n \n"] {
        let (status, table, err) = run(&["-"], empty.as_bytes());
        assert_eq!((status, err.as_str()), (0, ""));
        for label in
            ["requests", "executed", "distinct operations", "charges on the ledger", "double charges"]
        {
            assert_eq!(row(&table, label), (0, 0), "{table}");
        }
        assert!(table.contains("nothing to replay"), "{table}");
    }
}

#[test]
fn bad_arguments_are_refused_with_a_reason() {
    let cases: [(&[&str], &str); 19] = [
        (&["no/such/log.jsonl"], "cannot read no/such/log.jsonl: "),
        (&["--workers", "0"], "--workers takes a number from 1 to 256, not `0`"),
        (&["--workers"], "--workers needs a number"),
        (&["--requests", "many"], "--requests takes a number from 0 to 1000000, not `many`"),
        (&["--wrokers", "3"], "no option --wrokers"),
        (&["a.jsonl", "b.jsonl"], "one log at a time"),
        (&["a.jsonl", "--seed", "3"], "for the generated log"),
        (&["--generate"], "--generate needs a file"),
        (&["--generate", "no/such/folder/a.jsonl"], "cannot write no/such/folder/a.jsonl: "),
        (&["--generate", "-", "a.jsonl"], "writes a log and reads none"),
        (&["--generate", "-", "--store", "memory"], "--store and --ledger are for a replay"),
        (&["--store"], "--store needs a store"),
        (&["--store", "sqlite:"], "needs the path of a file"),
        (&["--store", "oracle:x"], "--store takes memory, sqlite:PATH, postgres://.. or redis://.."),
        (&["--store", "mysql://u:secret@h/d"], "not `mysql://u@h/d`"),
        (&["--store", "mysql://h/d?password=secret"], "not `mysql://h/d`"),
        (&["--store", "postgres:nowhere"], "not `postgres:nowhere`"),
        (&["--ledger", "a.ledger"], "a ledger that outlives the run needs records that do"),
        (&["--ledger"], "--ledger needs a file"),
    ];
    for (args, problem) in cases {
        let (status, out, err) = run(args, b"");
        assert_eq!((status, out.as_str()), (2, ""), "{args:?}");
        assert!(err.starts_with("replay_log: ") && err.contains(problem), "{args:?}: {err}");
    }
    let (status, out, _) = run(&["--help"], b"");
    assert!(status == 0 && out.contains("exit status") && out.contains("--generate"));
    let (status, out, _) = run(&["--generate", "-", "--requests", "50", "--seed", "11"], b"");
    assert!(status == 0 && out.as_bytes() == generate::log(Day { requests: 50, seed: 11 }));
}
