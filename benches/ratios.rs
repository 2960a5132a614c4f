//! How near the engine on its memory store comes to the raw limit: a sharded table with insert-if-absent, update and
//! look-up, measured in the same run.
//!
//! ```text
//! cargo bench --bench ratios                       # about a minute
//! cargo bench --bench ratios -- --quick            # a few seconds, for a smoke test
//! cargo bench --bench ratios -- --only replay      # sections whose name contains a word
//! ```
//!
//! Calls go through the whole engine: a key built from a prepared id, `request(key).run(..)` with default options, the
//! raw codec and an outcome of 100 bytes, polled once with a waker that does nothing (races run as tasks). The raw side
//! builds the same key and makes, keeps and returns the same outcome.
//!
//! Ratios are raw time over engine time, taken pair by pair; nanoseconds are of the machine at hand, and mean little on
//! another. A bench is no gate: it ends with success whatever it reached, but it panics if an answer was wrong.
//!
//! In the last two lines the floor stands in place of the raw side: the least that keeps the promises, written by hand for
//! this one case (`ratios/floor.rs`).
//!
//! Cargo builds `hashbrown` once, with the default features that the raw side wants, so the store here has its
//! `inline-more` too.
#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]
#![expect(clippy::cast_possible_truncation, reason = "shard and key numbers are small")]

#[path = "ratios/contended.rs"]
mod contended;
#[path = "ratios/floor.rs"]
mod floor;
#[path = "ratios/measure.rs"]
mod measure;
#[path = "ratios/memory.rs"]
mod memory;
#[path = "ratios/raw.rs"]
mod raw;
#[path = "ratios/work.rs"]
mod work;

use contended::Operation;
use measure::{Effort, Ratios};
use memory::Side;
use oncekey::Payload;

/// One line of the table.
struct Section {
    name: &'static str,
    /// The ratio to reach.
    goal: f64,
    measure: fn(&Effort) -> Ratios,
}

const SECTIONS: [Section; 10] = [
    Section { name: "fresh, 1 thread, Vec<u8>", goal: 0.50, measure: |e| work::fresh::<Vec<u8>>(e, 1) },
    Section { name: "fresh, 1 thread, Payload", goal: 0.50, measure: |e| work::fresh::<Payload>(e, 1) },
    Section { name: "fresh, 2 threads, Vec<u8>", goal: 0.50, measure: |e| work::fresh::<Vec<u8>>(e, 2) },
    Section { name: "fresh, 2 threads, Payload", goal: 0.50, measure: |e| work::fresh::<Payload>(e, 2) },
    Section { name: "replay, 1 hot key, Vec<u8>", goal: 0.30, measure: |e| work::replay::<Vec<u8>>(e, 1) },
    Section { name: "replay, 1 hot key, Payload", goal: 0.30, measure: |e| work::replay::<Payload>(e, 1) },
    Section {
        name: "replay, 100,000 keys, Vec<u8>",
        goal: 0.60,
        measure: |e| work::replay::<Vec<u8>>(e, 100_000),
    },
    Section {
        name: "replay, 100,000 keys, Payload",
        goal: 0.60,
        measure: |e| work::replay::<Payload>(e, 100_000),
    },
    Section {
        name: "contended, 64 tasks, at once",
        goal: 0.70,
        measure: |e| contended::races(e, Operation::AtOnce),
    },
    Section {
        name: "contended, 64 tasks, op yields",
        goal: 0.70,
        measure: |e| contended::races(e, Operation::GivesWay),
    },
];

/// The engine beside the floor, which shows what can be done by hand.
const BESIDE_FLOOR: [Section; 2] = [
    Section { name: "fresh, 1 thread, floor", goal: 0.60, measure: work::fresh_beside_floor },
    Section { name: "replay, 1 hot key, floor", goal: 0.50, measure: work::replay_beside_floor },
];

const BYTES_GOAL: f64 = 320.0;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (mut quick, mut bench, mut only) = (false, false, String::new());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            memory::CHILD => {
                println!("{}", memory::fill(arguments));
                return;
            }
            "--quick" => quick = true,
            "--bench" => bench = true,
            "--only" => only = arguments.next().unwrap_or_default(),
            _ => {} // what a test harness would take
        }
    }
    // Without cargo's `--bench` this is `cargo test` seeing whether benches still run.
    let effort = if quick || !bench { Effort::QUICK } else { Effort::FULL };
    print_ratios(&effort, &only);
    if "bytes a record".contains(&only) {
        print_bytes(&effort);
    }
}

fn print_ratios(effort: &Effort, only: &str) {
    println!(
        "raw time / engine time: median of {} pairs of rounds; ns on this machine, indicative",
        effort.pairs
    );
    println!(
        "{:<31} {:>5} {:>8}  {:<13} {:>10} {:>10}",
        "section", "goal", "reached", "(min - max)", "raw ns", "engine ns"
    );
    for section in SECTIONS.iter().chain(&BESIDE_FLOOR).filter(|section| section.name.contains(only)) {
        let ratios = (section.measure)(effort);
        println!(
            "{:<31} {:>5.2} {:>8.2}  ({:.2} - {:.2}) {:>10.0} {:>10.0}{}",
            section.name,
            section.goal,
            ratios.median,
            ratios.least,
            ratios.most,
            ratios.raw_ns,
            ratios.engine_ns,
            note(ratios.median >= section.goal),
        );
    }
}

fn print_bytes(effort: &Effort) {
    println!();
    println!("bytes a record at {} records: growth of the process's resident memory", effort.records);
    println!("{:<31} {:>5} {:>8}", "section", "goal", "reached");
    for (name, side, goal) in [
        ("raw", Side::Raw, None),
        ("engine", Side::Engine, Some(BYTES_GOAL)),
        ("engine, with a fingerprint", Side::EngineWithFingerprint, Some(BYTES_GOAL)),
    ] {
        let goal_text = goal.map_or_else(String::new, |goal| format!("{goal:.0}"));
        match memory::bytes_per_record(side, effort.records) {
            Some(bytes) => {
                let note = note(goal.is_none_or(|goal| bytes <= goal));
                println!("{name:<31} {goal_text:>5} {bytes:>8.0}{note}");
            }
            None => println!("{name:<31} {goal_text:>5} {:>8}  this system does not tell", "-"),
        }
    }
}

fn note(met: bool) -> &'static str {
    if met { "" } else { "  goal missed" }
}
