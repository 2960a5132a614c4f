//! The engine over the store, with faults between them.

use crate::lab::{Checked, Lab, Tally};
use crate::{Harness, simulate, simulate_at_once};

/// P1 to P6 and T1: three clients that lose requests and replies, crash and stall, over a fresh store for each seed.
pub(super) fn p1_to_t1_hold_with_faults_between<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    for index in 0..u64::from(lab.effort.seeds) {
        simulate(lab.harness, lab.seed.wrapping_add(index))?;
        Tally::count(&lab.tally.seeds, 1);
    }
    Ok(())
}

/// The same with clients in the store's process, by its short way: they crash, stall and are refused, and lose nothing.
pub(super) fn p1_to_t1_hold_at_once<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    lab.fresh().short_way()?;
    for index in 0..u64::from(lab.effort.seeds) {
        simulate_at_once(lab.harness, lab.seed.wrapping_add(index))?;
        Tally::count(&lab.tally.seeds, 1);
    }
    Ok(())
}
