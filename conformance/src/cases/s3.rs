//! S3: a put expecting `Vacant` succeeds exactly when no entry is readable.

use crate::lab::{Bench, Checked, FOR_EVER, Lab, NOTHING, demand, key};
use crate::samples;
use crate::{Clause, Harness};
use oncekey::protocol::{Expected, Key, Version};
use oncekey::store::Exchange;

/// A key that was never written is claimed, and what is read is what was written.
pub(super) fn s3_a_fresh_key_is_claimed<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    let key = key("fresh");
    let before = bench.load(&key)?;
    demand(before.is_none(), Clause::S3, || format!("a key that was never written reads {before:?}"))?;
    let record = samples::in_progress(1);
    let version = bench.write(&key, Expected::Vacant, &record, (FOR_EVER, NOTHING))?;
    bench.expect_entry(&key, Clause::S3, &record, version)?;
    Ok(())
}

/// While an entry is readable, live or expired, a second claim conflicts.
pub(super) fn s3_a_readable_entry_is_not_vacant<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    let states = [
        ("live", (FOR_EVER, NOTHING)),
        ("expired, and lingering", (NOTHING, FOR_EVER)),
        ("expired, and lingering for a while", (NOTHING, bench.long())),
    ];
    for (index, (state, lives)) in states.into_iter().enumerate() {
        let key = key(format!("readable-{index}"));
        let record = samples::in_progress(1);
        let version = bench.write(&key, Expected::Vacant, &record, lives)?;
        let second = bench.exchange(&key, Expected::Vacant, &samples::in_progress(2), (FOR_EVER, NOTHING))?;
        demand(matches!(second, Exchange::Conflict(_)), Clause::S3, || {
            format!("a put expecting Vacant over an entry that is {state} answered {second:?}")
        })?;
        bench.expect_entry(&key, Clause::S3, &record, version)?;
    }
    Ok(())
}

/// An entry whose live + linger is over is as if absent, before any purge and after.
pub(super) fn s3_past_live_and_linger_is_vacant<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    for purged in [false, true] {
        let bench = lab.fresh();
        let lives = (bench.steps(1), bench.steps(1));
        let keys = ["over", "over at once"].map(key);
        bench.write(&keys[0], Expected::Vacant, &samples::in_progress(1), lives)?;
        bench.write(&keys[1], Expected::Vacant, &samples::in_progress(2), (NOTHING, NOTHING))?;
        bench.pass(2);
        if purged {
            bench.purge_all()?;
        }
        for (tag, key) in (3..).zip(&keys) {
            let read = bench.load(key)?;
            demand(read.is_none(), Clause::S3, || {
                format!("an entry past live + linger (purged: {purged}) still reads {read:?}")
            })?;
            let record = samples::in_progress(tag);
            let version = bench.write(key, Expected::Vacant, &record, (FOR_EVER, NOTHING))?;
            bench.expect_entry(key, Clause::S3, &record, version)?;
        }
    }
    Ok(())
}

/// Claim, complete, expire, claim, complete another: the second outcome is read.
pub(super) fn s3_a_second_life_reads_its_own_outcome<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    let key = key("second life");
    for life in 1..=3 {
        let claimed =
            bench.write(&key, Expected::Vacant, &samples::in_progress(life), (FOR_EVER, NOTHING))?;
        let record = samples::completed_with(life, format!("outcome {life}").as_bytes());
        let live = bench.steps(2);
        let ((version, read), span) = bench.timed(|| {
            let version = bench.write(&key, Expected::At(claimed), &record, (live, NOTHING));
            (version, bench.load(&key))
        });
        let version = version?;
        match read? {
            Some(entry) => bench.same_entry(Clause::S3, &entry, &record, version)?,
            None => demand(span.answered.saturating_since(span.sent) >= live, Clause::S8, || {
                format!("of {live:?} to live, less have passed, and a load finds nothing")
            })?,
        }
        bench.pass(2);
    }
    Ok(())
}

/// Threads that claim one key with claims that are gone at once: each claim is done, since there is never anything in
/// its way, and nobody ever reads one.
pub(super) fn s3_what_is_gone_at_once_is_in_nobodys_way<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    for round in 0..lab.effort.races.div_ceil(5) {
        let key = key(format!("gone at once-{round}"));
        let given = bench.race(lab.effort.racers, |racer| claims_gone_at_once(&bench, &key, racer));
        let mut given = given.into_iter().collect::<Checked<Vec<_>>>()?.concat();
        given.sort_unstable();
        let twice = given.windows(2).find(|pair| pair[0] == pair[1]);
        demand(twice.is_none(), Clause::S2, || format!("two claims of a key got {twice:?}"))?;
    }
    Ok(())
}

fn claims_gone_at_once<H: Harness>(bench: &Bench<'_, H>, key: &Key, racer: usize) -> Checked<Vec<Version>> {
    let record = samples::in_progress(racer as u64);
    let mut given = Vec::new();
    for _ in 0..5 {
        let version = bench.write(key, Expected::Vacant, &record, (NOTHING, NOTHING))?;
        let last = given.last().copied();
        demand(last < Some(version), Clause::S2, || format!("{version:?} follows {last:?}"))?;
        given.push(version);
        let read = bench.load(key)?;
        demand(read.is_none(), Clause::S3, || {
            format!("all claims are gone at once, and a load reads {read:?}")
        })?;
        let late = bench.exchange(key, Expected::At(version), &record, (FOR_EVER, FOR_EVER))?;
        demand(late == Exchange::Conflict(None), Clause::S4, || {
            format!("the claim at {version:?} is gone, and a put expecting it answered {late:?}")
        })?;
    }
    Ok(given)
}
