//! S4: a put expecting a version succeeds exactly when the current entry has it and is readable.

use crate::lab::{Checked, FOR_EVER, Lab, NOTHING, demand, key};
use crate::samples;
use crate::{Clause, Harness};
use oncekey::protocol::{Expected, Version};
use oncekey::store::Exchange;

/// The current version fits, live and expired.
pub(super) fn s4_the_current_version_fits_live_or_expired<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    for (id, lives) in [("live", (FOR_EVER, NOTHING)), ("expired", (NOTHING, FOR_EVER))] {
        let key = key(id);
        let first = bench.write(&key, Expected::Vacant, &samples::in_progress(1), lives)?;
        let record = samples::completed_with(2, b"outcome");
        let second = bench.write(&key, Expected::At(first), &record, (FOR_EVER, NOTHING))?;
        bench.expect_entry(&key, Clause::S4, &record, second)?;
    }
    Ok(())
}

/// A lease that ran out by the clock can still be renewed, completed, taken over: at its version.
pub(super) fn s4_an_entry_that_ran_out_can_be_exchanged<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    let key = key("ran out");
    let first = bench.write(&key, Expected::Vacant, &samples::in_progress(1), (bench.steps(1), FOR_EVER))?;
    bench.pass(1);
    let record = samples::in_progress(2);
    let second = bench.write(&key, Expected::At(first), &record, (FOR_EVER, NOTHING))?;
    bench.expect_entry(&key, Clause::S4, &record, second)?;
    Ok(())
}

/// Neither a stale version, nor one that was never given, nor that of another key fits.
pub(super) fn s4_no_other_version_fits<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    for (at, lives) in [("live", (FOR_EVER, NOTHING)), ("expired", (NOTHING, FOR_EVER))] {
        let (key, other) = (key(at), key(format!("beside {at}")));
        let stale = bench.write(&key, Expected::Vacant, &samples::in_progress(1), lives)?;
        let record = samples::in_progress(2);
        let current = bench.write(&key, Expected::At(stale), &record, lives)?;
        let elsewhere = bench.write(&other, Expected::Vacant, &samples::in_progress(3), lives)?;
        let elsewhere = bench.write(&other, Expected::At(elsewhere), &samples::in_progress(4), lives)?;
        let never = [0, current.get().saturating_add(1), u64::MAX].map(Version::new);
        for wrong in [stale, elsewhere].into_iter().chain(never).filter(|wrong| *wrong != current) {
            let answer =
                bench.exchange(&key, Expected::At(wrong), &samples::released(5), (FOR_EVER, NOTHING))?;
            demand(matches!(answer, Exchange::Conflict(_)), Clause::S4, || {
                format!("the key ({at}) is at {current:?}, and a put expecting {wrong:?} answered {answer:?}")
            })?;
        }
        bench.expect_entry(&key, Clause::S4, &record, current)?;
    }
    Ok(())
}

/// An exchange at a version of a key that holds nothing conflicts with nothing, and creates nothing.
pub(super) fn s4_nothing_readable_conflicts_with_nothing<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    for purged in [false, true] {
        let bench = lab.fresh();
        let keys = ["never written", "over at once", "over"].map(key);
        let gone = bench.write(&keys[1], Expected::Vacant, &samples::in_progress(1), (NOTHING, NOTHING))?;
        let lives = (bench.steps(1), bench.steps(1));
        let over = bench.write(&keys[2], Expected::Vacant, &samples::in_progress(2), lives)?;
        bench.pass(2);
        if purged {
            bench.purge_all()?;
        }
        for (key, version) in keys.iter().zip([Version::new(1), gone, over]) {
            let record = samples::in_progress(3);
            let answer = bench.exchange(key, Expected::At(version), &record, (FOR_EVER, NOTHING))?;
            demand(answer == Exchange::Conflict(None), Clause::S4, || {
                format!("nothing is readable, and a put expecting {version:?} answered {answer:?}")
            })?;
            let read = bench.load(key)?;
            demand(read.is_none(), Clause::S4, || {
                format!("a put that conflicted with nothing created an entry: {read:?}")
            })?;
        }
    }
    Ok(())
}
