//! The kit says nothing about right stores, however often it runs.
//!
//! `ONCEKEY_KIT_RUNS` sets how often the whole kit runs over each store (1). A thousand times:
//!
//! ```text
//! ONCEKEY_KIT_RUNS=1000 cargo test --release -p oncekey-conformance --test sabotage flakes -- --nocapture
//! ```

use std::time::Instant;

use oncekey::MemoryStore;
use oncekey_conformance::{Abilities, Effort, Harness, Subject, cases, check};

use super::harnesses::Memory;
use super::kit::Kit;
use super::number;

/// Much less of each than by default: what matters here is how often everything begins anew.
fn effort() -> Effort {
    let mut effort = Effort::modest();
    effort.seeds = 8;
    effort
}

/// The memory store, with less effort.
struct Quick;

impl Harness for Quick {
    type Store = MemoryStore;
    type Guard = ();

    fn fresh(&self) -> Subject<MemoryStore> {
        Memory.fresh()
    }

    fn fresh_bounded(&self, records_max: usize) -> Option<Subject<MemoryStore>> {
        Memory.fresh_bounded(records_max)
    }

    fn abilities(&self) -> Abilities {
        Memory.abilities()
    }

    fn effort(&self) -> Effort {
        effort()
    }
}

fn runs(name: &str, harness: &impl Harness) {
    let runs = number("ONCEKEY_KIT_RUNS").unwrap_or(1);
    let begun = Instant::now();
    let (mut calls, mut histories, mut races, mut seeds) = (0, 0, 0, 0);
    for run in 1..=runs {
        for (case, _) in cases() {
            let held = check(harness, case);
            let held = held.unwrap_or_else(|violation| panic!("\nin run {run} over {name}: {violation}\n"));
            calls += held.calls;
            histories += held.histories;
            races += held.races;
            seeds += held.seeds;
        }
    }
    println!(
        "{name}: {runs} runs of {} cases in {:.1?}, and no violation: {calls} calls, {histories} histories, {races} \
         races, {seeds} seeds",
        cases().len(),
        begun.elapsed()
    );
}

#[test]
fn the_kit_says_nothing_about_the_memory_store() {
    runs("the memory store", &Quick);
}

#[test]
fn the_kit_says_nothing_about_the_register() {
    runs("the register", &Kit { effort: effort(), ..Kit::new(None) });
}
