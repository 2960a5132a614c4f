//! S9: what was acknowledged is as durable as the store declares.

use std::time::Duration;

use crate::lab::{Checked, FOR_EVER, Lab, NOTHING, Stop, demand, key};
use crate::samples;
use crate::{Clause, Harness};
use oncekey::protocol::{Expected, Record};
use oncekey::store::{DurabilityClass, Exchange, Store as _};

/// A store that declares more than "gone with the process" is opened again: everything acknowledged is there, with its
/// time counted on, and versions go on rising.
pub(super) fn s9_what_was_acknowledged_outlives_the_store<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    // Where the greatest version is of an entry that is gone, it must be known all the same; where it is of the latest
    // entry, that one must not be lost.
    [true, false].into_iter().try_for_each(|gone_is_last| outlives(lab, gone_is_last))
}

fn outlives<H: Harness>(lab: &Lab<'_, H>, gone_is_last: bool) -> Checked {
    let bench = lab.fresh();
    let declared = bench.store.durability();
    let kept = [
        ("in progress", samples::in_progress(1), (bench.long(), FOR_EVER)),
        ("abandoned", samples::in_progress(2), (NOTHING, FOR_EVER)),
        ("completed", samples::completed_with(3, &[5; 10_000]), (FOR_EVER, NOTHING)),
        ("released", samples::released(4), (NOTHING, bench.long())),
    ];
    let mut written = Vec::new();
    let write = |(id, record, lives): &(&'static str, Record, (Duration, Duration))| {
        let (version, span) = bench.timed(|| bench.write(&key(id), Expected::Vacant, record, *lives));
        Ok::<_, Stop>((*id, record.clone(), lives.0, version?, span))
    };
    for entry in &kept {
        written.push(write(entry)?);
    }
    let gone = key("gone");
    let last = bench.write(&gone, Expected::Vacant, &samples::in_progress(5), (NOTHING, NOTHING))?;
    bench.pass(1);
    bench.purge_all()?;
    if !gone_is_last {
        written.push(write(&("latest", samples::in_progress(7), (bench.long(), FOR_EVER)))?);
    }
    let Some(bench) = bench.reopened() else {
        return match declared.class {
            DurabilityClass::Undeclared | DurabilityClass::Process => {
                Err(Stop::NotShown("nothing is declared to outlive the process"))
            }
            class => demand(false, Clause::S9, || {
                format!(
                    "the store declares {class}, and the harness cannot open it again: implement `reopen`"
                )
            }),
        };
    };
    // First, before other writes have raised a counter that began anew.
    match bench.exchange(&gone, Expected::Vacant, &samples::in_progress(6), (FOR_EVER, NOTHING))? {
        Exchange::Done(version) => demand(version > last, Clause::S2, || {
            format!("purged and restarted, the key got {version:?} after {last:?}")
        })?,
        conflict => {
            demand(false, Clause::S3, || format!("the key was gone before the restart: {conflict:?}"))?;
        }
    }
    for (id, record, live, version, span) in written {
        let seen = bench.expect_entry(&key(id), Clause::S9, &record, version)?;
        bench.on_time(Clause::S9, &seen, live, span)?;
        let next = bench.write(&key(id), Expected::At(version), &record, (FOR_EVER, NOTHING))?;
        demand(next > version, Clause::S2, || format!("after a restart {next:?} follows {version:?}"))?;
    }
    Ok(())
}
