//! What the tests of all brokers have in common.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use oncekey_brokers::drill::{ATTEMPTS_MAX, Broker, Drill, Mode, Report, Wrong, run};

const MESSAGES: usize = 5_000;
const KILLS: u32 = 12;
/// Messages that are never shipped: poison, and two that are refused.
const NEVER: usize = 3;

/// Starts the ignored test that is a consumer.
const CHILD: &[&str] = &["child", "--exact", "--include-ignored", "--nocapture", "--test-threads=1"];

/// Drills, one after the other: each has three processes, and leases that a busy machine must renew.
pub(crate) fn drill<B: Broker>(mode: Mode, url: &str) -> Report {
    let child = CHILD;
    alone::<B>(&Drill { messages: MESSAGES, kills: KILLS, mode, wrong: None, child }, url)
}

fn alone<B: Broker>(drill: &Drill, url: &str) -> Report {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let report = runtime.block_on(run::<B>(drill, url)).unwrap_or_else(|failed| panic!("{failed}"));
    println!("{report}");
    report
}

/// What holds wherever the effect is.
fn kept(report: &Report) {
    let tally = &report.tally;
    assert_eq!(report.violations, Vec::<String>::new(), "{report}");
    assert_eq!((tally.messages, tally.published), (MESSAGES, 6_001), "{report}");
    // Or it was no drill.
    assert_eq!(tally.kills, usize::try_from(KILLS).unwrap(), "{report}");
    assert!(tally.kills_inside >= 3, "few of the kills cut anything: {report}");
    assert!(tally.after_takeover > 0, "nothing was taken over: {report}");
    assert!(tally.deliveries > tally.published, "nothing was delivered again: {report}");
    assert!(tally.replayed >= 500 && tally.retried > 0, "{report}");
    let failed = ["no-effect", "unknown-effect"].map(|why| report.put_off.contains_key(why));
    assert!(failed.contains(&true), "nothing failed without effect: {report}");
    // One that is killed by the drill while it handles the poison is counted there.
    let crashes = 1..=usize::try_from(ATTEMPTS_MAX).unwrap();
    assert!(crashes.contains(&tally.crashes), "{report}");
    let reasons: BTreeSet<_> = report.dead_letters.iter().map(|letter| letter.reason.as_str()).collect();
    assert!(reasons.is_superset(&BTreeSet::from(["exhausted", "failed-before", "mismatch"])), "{report}");
}

/// Exactly once: effect and completion in one transaction.
pub(crate) fn once_each(report: &Report) {
    kept(report);
    assert_eq!((report.tally.effects, report.tally.twice), (MESSAGES - NEVER, 0), "{report}");
}

/// Never two at once; twice only where a process was stopped between the effect and its record.
pub(crate) fn never_two_at_once(report: &Report) {
    kept(report);
    let tally = &report.tally;
    assert_eq!(tally.twice, tally.twice_in_doubt, "{report}");
    assert_eq!(tally.effects, MESSAGES - NEVER + tally.twice, "{report}");
    // Its polls are of 50.
    assert!(tally.twice <= 50 * (tally.kills + tally.crashes) + tally.leases_lost, "{report}");
}

/// The contrast: what a consumer without oncekey does.
pub(crate) fn twice_by_races(report: &Report) {
    let tally = &report.tally;
    assert_eq!((tally.messages, tally.published), (MESSAGES, 6_000), "{report}");
    assert_eq!(tally.kills, usize::try_from(KILLS).unwrap(), "{report}");
    assert!(tally.twice > tally.twice_in_doubt, "no race was lost: {report}");
}

/// A smaller drill of a consumer that does something wrong.
pub(crate) fn wrongly<B: Broker>(wrong: Wrong, mode: Mode, url: &str) -> Report {
    let drill = Drill { messages: 1_000, kills: 4, mode, wrong: Some(wrong), child: CHILD };
    alone::<B>(&drill, url)
}

/// That the drill says so, by these words.
pub(crate) fn found(report: &Report, words: &str) {
    let saying = report.violations.iter().filter(|violation| violation.contains(words)).count();
    assert!(saying > 0, "{report}");
}
