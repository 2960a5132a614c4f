//! S2: versions of a key rise strictly, forever.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::lab::{Bench, Checked, FOR_EVER, Lab, NOTHING, demand, key};
use crate::samples;
use crate::{Clause, Harness};
use oncekey::protocol::{Expected, Key, Version};
use oncekey::store::Exchange;
use oncekey::time::{Clock as _, SystemClock};

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
        let written = bench.race(racers, |racer| writes_of(&bench, &key, racer, racers * EACH));
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

/// Threads that claim a key, end their claim, and claim again: whoever comes later in the key's life has the greater
/// version, though a number may have been drawn for it, or a counter read, long before its turn came.
pub(super) fn s2_versions_rise_from_claim_to_claim_under_races<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    const CLAIMS: usize = 10;
    let bench = lab.fresh();
    for round in 0..lab.effort.races.div_ceil(2) {
        let key = key(format!("again and again-{round}"));
        // Counted while a claim is held, so that the counts are in the order of the claims.
        let turns = AtomicU64::new(0);
        let racers = lab.effort.racers;
        let held = bench.race(racers, |racer| {
            let held = claims_of(&bench, &key, racer, &turns, (racers * CLAIMS) as u64);
            if held.is_err() {
                // The others would wait for a claim that nobody ends.
                turns.store(u64::MAX / 2, Ordering::SeqCst);
            }
            held
        });
        let held = held.into_iter().collect::<Checked<Vec<_>>>()?;
        let mut held: Vec<_> = held.into_iter().flatten().collect();
        held.sort_unstable();
        let mut before = None;
        for (_, first, last) in held {
            if let Some(before) = before {
                rises(before, first, "a claim of a key whose entry was gone, under races,")?;
            }
            rises(first, last, "a write over a claim, under races,")?;
            before = Some(last);
        }
    }
    Ok(())
}

/// Whoever holds a claim may be put aside by a busy machine, and not for so long.
const PUT_ASIDE_MAX: Duration = Duration::from_secs(5 * 60);

/// Expired at once, and readable forever: what a takeover goes by, without a clock.
const NOTHING_FOR_EVER: (Duration, Duration) = (NOTHING, FOR_EVER);

/// How often each thread writes.
const EACH: usize = 10;

/// The writes of one thread, of so many in all: what each was written over, and the version it got.
fn writes_of<H: Harness>(
    bench: &Bench<'_, H>,
    key: &Key,
    racer: usize,
    total: usize,
) -> Checked<Vec<(Version, Version)>> {
    let mut done = Vec::new();
    let mut expected = match bench.load(key)? {
        Some(entry) => entry.version,
        None => return Ok(done),
    };
    let mut refused = 0;
    while done.len() < EACH {
        let record = samples::in_progress(racer as u64 + 2);
        match bench.exchange(key, Expected::At(expected), &record, NOTHING_FOR_EVER)? {
            Exchange::Done(version) => {
                done.push((expected, version));
                expected = version;
            }
            Exchange::Conflict(found) => {
                refused += 1;
                // Each conflict is somebody else's write.
                demand(found.is_some() && refused <= total, Clause::S5, || {
                    format!(
                        "of {total} writes of a key that stays, one was refused {refused} times: {found:?}"
                    )
                })?;
                let Some(entry) = found else { break };
                expected = entry.version;
            }
        }
    }
    Ok(done)
}

/// The claims of one thread, until there were so many turns of all: the number of each turn, the version of the claim and
/// that of the write that ended it.
fn claims_of<H: Harness>(
    bench: &Bench<'_, H>,
    key: &Key,
    racer: usize,
    turns: &AtomicU64,
    most: u64,
) -> Checked<Vec<(u64, Version, Version)>> {
    let record = samples::in_progress(racer as u64 + 1);
    let mut held = Vec::new();
    let clock = SystemClock::new();
    let mut refused = (0, clock.now());
    loop {
        let taken = turns.load(Ordering::SeqCst);
        if taken >= most {
            return Ok(held);
        }
        match bench.exchange(key, Expected::Vacant, &record, (FOR_EVER, NOTHING))? {
            Exchange::Done(first) => {
                let turn = turns.fetch_add(1, Ordering::SeqCst);
                let last = bench.write(key, Expected::At(first), &record, (NOTHING, NOTHING))?;
                held.push((turn, first, last));
                // Now the key is vacant, for whoever has been on the way for long.
                std::thread::yield_now();
            }
            Exchange::Conflict(found) => {
                if refused.0 != taken {
                    refused = (taken, clock.now());
                }
                // By the clock and not by the count: whoever holds the claim may be put aside by a busy machine.
                let since = clock.now().saturating_since(refused.1);
                demand(since < PUT_ASIDE_MAX, Clause::S3, || {
                    format!(
                        "claims are ended at once, and for {since:?} all were refused, the last by {found:?}"
                    )
                })?;
                std::thread::yield_now();
            }
        }
    }
}

fn rises(last: Version, next: Version, what: &str) -> Checked {
    demand(next > last, Clause::S2, || format!("{what} got {next:?}, and one before it had {last:?}"))
}
