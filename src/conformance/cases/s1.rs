//! S1: calls on one key are atomic and linearizable.

use std::time::Duration;

use crate::conformance::lab::{Bench, Checked, Lab, demand, key};
use crate::conformance::{Clause, Harness};
use crate::protocol::{Expected, Key, Version, samples};
use crate::store::Exchange;

/// Threads that claim one fresh key together: one is done, and all others are answered its entry.
pub(super) fn s1_of_racing_claims_one_is_done<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    for round in 0..lab.effort.races {
        let key = key(format!("race-{round}"));
        one_wins(&bench, &key, Expected::Vacant)?;
    }
    Ok(())
}

/// Of all racers that expect the same, one is done, and the others see what it wrote.
fn one_wins<H: Harness>(bench: &Bench<'_, H>, key: &Key, expected: Expected) -> Checked<Version> {
    let racers = bench.lab.effort.racers;
    let records: Vec<_> = (1..).take(racers).map(samples::in_progress).collect();
    let lives = (bench.steps(1000), Duration::MAX);
    let answers = bench.race(racers, |racer| bench.exchange(key, expected, &records[racer], lives));
    let answers: Vec<_> = answers.into_iter().collect::<Checked<_>>()?;
    let winners: Vec<_> = (0..racers).filter(|&racer| matches!(answers[racer], Exchange::Done(_))).collect();
    demand(winners.len() == 1, Clause::S1, || {
        format!("{racers} threads raced with puts expecting {expected:?}, and {} were done", winners.len())
    })?;
    let winner = winners[0];
    let Exchange::Done(version) = answers[winner] else { unreachable!("the winner is done") };
    for answer in &answers {
        let Exchange::Conflict(found) = answer else { continue };
        let seen = found.as_ref().map(|entry| (&entry.record, entry.version));
        demand(seen == Some((&records[winner], version)), Clause::S5, || {
            format!(
                "the winner wrote {:?} at {version:?}, and a loser was answered {found:?}",
                records[winner]
            )
        })?;
    }
    Ok(version)
}
