//! S2: versions of a key rise strictly, for ever.

use std::time::Duration;

use crate::conformance::lab::{Bench, Checked, FOR_EVER, Lab, NOTHING, demand, key};
use crate::conformance::{Clause, Harness};
use crate::protocol::{Expected, Key, Version, samples};
use crate::store::Exchange;

/// Overwritten again and again, live and expired, every write of a key has a greater version than all before it.
pub(super) fn s2_versions_rise_with_every_write<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    let key = key("rises");
    let mut last = bench.write(&key, Expected::Vacant, &samples::in_progress(1), NOTHING_FOR_EVER)?;
    for tag in 2..50 {
        let lives = if tag % 2 == 0 { (FOR_EVER, NOTHING) } else { NOTHING_FOR_EVER };
        let next = bench.write(&key, Expected::At(last), &samples::in_progress(tag), lives)?;
        rises(last, next, "a write over an entry")?;
        last = next;
    }
    Ok(())
}

/// A key that is claimed again after its entry is gone goes on with its versions, purged or not.
pub(super) fn s2_versions_rise_over_the_end_of_an_entry<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    for purged in [false, true] {
        let bench = lab.fresh();
        let key = key("lives again");
        let gone = (NOTHING, NOTHING);
        let mut last = bench.write(&key, Expected::Vacant, &samples::in_progress(1), gone)?;
        for tag in 2..=30 {
            let next = bench.write(&key, Expected::Vacant, &samples::in_progress(tag), gone)?;
            rises(last, next, "a write of a key whose entry was gone")?;
            last = next;
            if purged {
                bench.purge_all()?;
            }
        }
    }
    Ok(())
}

/// What somebody knows of an earlier life of a key never fits a later one (the ABA problem).
pub(super) fn s2_a_version_of_an_earlier_life_never_fits_again<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    let key = key("aba");
    let mut known: Vec<Version> = Vec::new();
    for tag in 1..=10 {
        let first = bench.write(&key, Expected::Vacant, &samples::in_progress(tag), (FOR_EVER, NOTHING))?;
        for stale in &known {
            let answer =
                bench.exchange(&key, Expected::At(*stale), &samples::released(tag), (FOR_EVER, NOTHING))?;
            demand(matches!(answer, Exchange::Conflict(_)), Clause::S2, || {
                format!("a put expecting {stale:?}, of an earlier life of the key, answered {answer:?}")
            })?;
        }
        let gone = bench.write(&key, Expected::At(first), &samples::in_progress(tag), (NOTHING, NOTHING))?;
        known.extend([first, gone]);
        bench.purge_all()?;
    }
    Ok(())
}

/// Threads that write one key, each over what it saw last: no version is given twice, and each is greater than the one
/// it was written over.
pub(super) fn s2_versions_rise_under_races<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    for round in 0..lab.effort.races.div_ceil(10) {
        let key = key(format!("raced-{round}"));
        bench.write(&key, Expected::Vacant, &samples::in_progress(1), NOTHING_FOR_EVER)?;
        let racers = lab.effort.racers;
        let written = bench.race(racers, |racer| writes_of(&bench, &key, racer));
        let mut all: Vec<(Version, Version)> = Vec::new();
        for pairs in written {
            all.extend(pairs?);
        }
        for (over, got) in &all {
            rises(*over, *got, "a write under races")?;
        }
        let mut given: Vec<_> = all.iter().map(|(_, got)| *got).collect();
        given.sort_unstable();
        let twice = given.windows(2).find(|pair| pair[0] == pair[1]);
        demand(twice.is_none(), Clause::S2, || {
            format!("{racers} threads wrote, and two writes got {twice:?}")
        })?;
    }
    Ok(())
}

/// Expired at once, and readable for ever: what a takeover goes by, without a clock.
const NOTHING_FOR_EVER: (Duration, Duration) = (NOTHING, FOR_EVER);

/// Ten writes of one thread: what each was written over, and the version it got.
fn writes_of<H: Harness>(bench: &Bench<'_, H>, key: &Key, racer: usize) -> Checked<Vec<(Version, Version)>> {
    let mut done = Vec::new();
    let mut expected = match bench.load(key)? {
        Some(entry) => entry.version,
        None => return Ok(done),
    };
    while done.len() < 10 {
        let record = samples::in_progress(racer as u64 + 2);
        match bench.exchange(key, Expected::At(expected), &record, NOTHING_FOR_EVER)? {
            Exchange::Done(version) => {
                done.push((expected, version));
                expected = version;
            }
            Exchange::Conflict(Some(entry)) => expected = entry.version,
            Exchange::Conflict(None) => break,
        }
    }
    Ok(done)
}

fn rises(last: Version, next: Version, what: &str) -> Checked {
    demand(next > last, Clause::S2, || format!("{what} got {next:?}, and one before it had {last:?}"))
}
