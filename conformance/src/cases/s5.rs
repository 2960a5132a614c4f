//! S5: a conflict changes nothing, and carries an entry that was current; never one that equals the expectation.

use crate::lab::{Bench, Checked, FOR_EVER, Lab, NOTHING, demand, key};
use crate::samples;
use crate::{Clause, Harness};
use oncekey::protocol::{Expected, Key, Version};
use oncekey::store::Exchange;

/// Whoever is refused is answered the entry, whole, that stands in its way.
pub(super) fn s5_a_conflict_carries_what_is_current<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    for (id, lives) in [("live", (FOR_EVER, NOTHING)), ("expired", (NOTHING, FOR_EVER))] {
        let key = key(id);
        let stale = bench.write(&key, Expected::Vacant, &samples::in_progress(1), lives)?;
        let record = samples::completed_with(2, b"the outcome that is current");
        let current = bench.write(&key, Expected::At(stale), &record, lives)?;
        for expected in [Expected::Vacant, Expected::At(stale), Expected::At(Version::new(u64::MAX))] {
            let answer = bench.exchange(&key, expected, &samples::in_progress(3), lives)?;
            let Exchange::Conflict(Some(entry)) = answer else {
                let what =
                    format!("a put expecting {expected:?} of a key at {current:?} answered {answer:?}");
                return demand(false, Clause::S5, || what);
            };
            bench.same_entry(Clause::S5, &entry, &record, current)?;
            demand(entry.left == lives.0, Clause::S5, || {
                format!("the conflict says that {:?} are left, of {:?}", entry.left, lives.0)
            })?;
        }
    }
    Ok(())
}

/// A refused write changes neither bytes nor version, and does not give the entry more time.
pub(super) fn s5_a_conflict_changes_nothing<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    let key = key("unchanged");
    let lives = (bench.steps(4), FOR_EVER);
    let record = samples::in_progress(1);
    let (version, span) = bench.timed(|| bench.write(&key, Expected::Vacant, &record, lives));
    let version = version?;
    bench.pass(1);
    for expected in [Expected::Vacant, Expected::At(Version::new(u64::MAX))] {
        bench.exchange(&key, expected, &samples::in_progress(2), (FOR_EVER, FOR_EVER))?;
        let seen = bench.expect_entry(&key, Clause::S5, &record, version)?;
        bench.on_time(Clause::S5, &seen, lives.0, span)?;
    }
    // Whatever was refused, the entry ends when it was to end.
    bench.pass(3);
    let seen = bench.expect_entry(&key, Clause::S5, &record, version)?;
    demand(seen.entry.left.is_zero(), Clause::S5, || {
        format!("the lease of an entry was over, and after conflicts {:?} are left", seen.entry.left)
    })
}

/// Threads that take one expired entry over: no loser is answered the version that it expected.
pub(super) fn s5_a_conflict_never_looks_like_a_match<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    for round in 0..lab.effort.races {
        let key = key(format!("taken-{round}"));
        let old = bench.write(&key, Expected::Vacant, &samples::in_progress(1), (NOTHING, FOR_EVER))?;
        let racers = lab.effort.racers;
        let answers = bench.race(racers, |racer| take_over(&bench, &key, old, racer));
        for answer in answers {
            match answer? {
                Exchange::Done(version) => {
                    demand(version > old, Clause::S2, || format!("a takeover of {old:?} got {version:?}"))?;
                }
                Exchange::Conflict(Some(entry)) => demand(entry.version > old, Clause::S5, || {
                    format!("a put expecting {old:?} conflicted with an entry at {:?}", entry.version)
                })?,
                Exchange::Conflict(None) => demand(false, Clause::S5, || {
                    "a takeover of an entry that lingers forever conflicted with nothing".to_owned()
                })?,
            }
        }
    }
    Ok(())
}

fn take_over<H: Harness>(bench: &Bench<'_, H>, key: &Key, old: Version, racer: usize) -> Checked<Exchange> {
    bench.exchange(key, Expected::At(old), &samples::in_progress(racer as u64 + 2), (FOR_EVER, NOTHING))
}
