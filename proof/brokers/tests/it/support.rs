//! The drills, and the checks that all brokers share.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use oncekey_brokers::drill::{ATTEMPTS_MAX, Broker, Drill, Mode, Nats, RabbitMq, Report, Wrong, run};
use oncekey_brokers::server;

/// Room for all kills. More of them only wait: RabbitMQ's delayed copies queue up behind those that were not delivered.
const MESSAGES: usize = 2_000;
/// With their duplicates: a fifth of them.
const PUBLISHED: usize = 2_400;
const KILLS: u32 = 12;
/// Messages that are never shipped: poison, and two that are refused.
const NEVER: usize = 3;

/// A broker with a server for these tests: one for all of them, ended with this process.
pub(crate) trait Served: Broker {
    /// The ignored test that is a consumer.
    const CHILD: &'static [&'static str];

    fn url() -> &'static str;
}

impl Served for Nats {
    const CHILD: &'static [&'static str] = &["nats::child", "--exact", "--include-ignored", "--nocapture"];

    fn url() -> &'static str {
        static SERVER: OnceLock<server::Nats> = OnceLock::new();
        SERVER.get_or_init(server::Nats::start).url()
    }
}

impl Served for RabbitMq {
    const CHILD: &'static [&'static str] =
        &["rabbitmq::child", "--exact", "--include-ignored", "--nocapture"];

    fn url() -> &'static str {
        static SERVER: OnceLock<server::RabbitMq> = OnceLock::new();
        SERVER.get_or_init(server::RabbitMq::start).url()
    }
}

pub(crate) fn drill<B: Served>(mode: Mode) -> Report {
    drilled::<B>(&Drill { messages: MESSAGES, kills: KILLS, mode, wrong: None, child: B::CHILD })
}

/// A smaller drill of a consumer that does something wrong.
pub(crate) fn wrongly<B: Served>(wrong: Wrong) -> Report {
    let (mode, wrong) = (Mode::Together, Some(wrong));
    drilled::<B>(&Drill { messages: 1_000, kills: 4, mode, wrong, child: B::CHILD })
}

fn drilled<B: Served>(drill: &Drill) -> Report {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let report = runtime.block_on(run::<B>(drill, B::url())).unwrap_or_else(|failed| panic!("{failed}"));
    println!("{report}");
    report
}

/// Checks that hold wherever the effect is.
fn kept(report: &Report) {
    let tally = &report.tally;
    assert_eq!(report.violations, Vec::<String>::new(), "{report}");
    assert_eq!((tally.messages, tally.published), (MESSAGES, PUBLISHED + 1), "{report}");
    // Or it was no drill.
    assert_eq!(tally.kills, usize::try_from(KILLS).unwrap(), "{report}");
    assert!(tally.kills_inside >= 3, "few of the kills cut anything: {report}");
    assert!(tally.after_takeover > 0, "nothing was taken over: {report}");
    assert!(tally.deliveries > tally.published, "nothing was delivered again: {report}");
    assert!(tally.replayed >= MESSAGES / 10 && tally.retried > 0, "{report}");
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
    let tally = &report.tally;
    assert_eq!((tally.effects, tally.twice), (MESSAGES - NEVER, 0), "{report}");
    assert!(tally.kills - tally.kills_inside >= 3, "few of the kills came after a COMMIT: {report}");
    assert!(tally.extended > 0, "no two copies in one poll: {report}");
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
    assert_eq!((tally.messages, tally.published), (MESSAGES, PUBLISHED), "{report}");
    assert_eq!(tally.kills, usize::try_from(KILLS).unwrap(), "{report}");
    assert!(tally.twice > tally.twice_in_doubt, "no race was lost: {report}");
}

/// That the drill says so, by these words.
pub(crate) fn found(report: &Report, words: &str) {
    let saying = report.violations.iter().filter(|violation| violation.contains(words)).count();
    assert!(saying > 0, "{report}");
}
