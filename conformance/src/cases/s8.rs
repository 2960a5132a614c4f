//! S8: nothing is dropped before live + linger; at a bound of its own a store refuses `Vacant` puts only, and evicts
//! nothing.

use crate::lab::{Bench, Checked, FOR_EVER, Lab, NOTHING, demand, key};
use crate::samples;
use crate::{Clause, Harness};
use oncekey::protocol::{Expected, Key, Record, Version};
use oncekey::store::{BatchPut, Exchange, Put, Store, StoreError as _, StoreErrorKind};

/// Entries that are live, expired and lingering, or completed stay through purges and many writes to other keys.
pub(super) fn s8_nothing_readable_is_dropped<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    let lingering = (NOTHING, bench.long());
    let kept: [(&str, Record, _); 6] = [
        ("in progress", samples::in_progress(1), (FOR_EVER, NOTHING)),
        ("abandoned", samples::in_progress(2), (NOTHING, FOR_EVER)),
        ("completed", samples::completed_with(3, b"kept"), (bench.long(), NOTHING)),
        ("completed, in its tail", samples::completed_with(4, b"kept"), lingering),
        ("released", samples::released(5), lingering),
        ("forgotten", samples::forgotten(6), lingering),
    ];
    let mut written = Vec::new();
    for (id, record, lives) in &kept {
        written.push((id, record, bench.write(&key(id), Expected::Vacant, record, *lives)?));
    }
    for other in 0..300 {
        let key = key(format!("other-{other}"));
        let lives = if other % 2 == 0 { (NOTHING, NOTHING) } else { (FOR_EVER, NOTHING) };
        bench.write(&key, Expected::Vacant, &samples::in_progress(other), lives)?;
        if other % 50 == 0 {
            bench.pass(1);
            bench.purge_all()?;
        }
    }
    for (id, record, version) in written {
        let still = bench.expect_entry(&key(id), Clause::S8, record, version);
        still.map_err(|stop| stop.about(id))?;
    }
    Ok(())
}

/// A purge removes no more than it was allowed to, and nothing that can be read; repeated until there is no more, it
/// has removed all that is gone, if this store's purge counts.
pub(super) fn s8_purge_removes_what_is_gone_in_bounded_steps<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    const GONE: usize = 100;
    let kept = write_many(&bench, "kept", 20, (FOR_EVER, NOTHING))?;
    let lingering = write_many(&bench, "lingering", 20, (NOTHING, FOR_EVER))?;
    // Gone after the last of the writes: a store may reclaim what is gone on the way of a write.
    let all_there = write_gone(&bench, GONE)?;
    bench.pass(5);
    let none = bench.purge(0)?;
    demand(none.removed == 0, Clause::S8, || format!("a purge of at most 0 removed {}", none.removed))?;
    let mut removed = 0;
    for round in 0.. {
        let purged = bench.purge(7)?;
        demand(purged.removed <= 7, Clause::S8, || {
            format!("a purge of at most 7 removed {}", purged.removed)
        })?;
        removed += purged.removed;
        if !purged.more {
            break;
        }
        demand(round < 1000, Clause::S8, || "1,000 purges of 7 each, and still there is more".to_owned())?;
    }
    let fits = if lab.abilities.purges && all_there { removed == GONE } else { removed <= GONE };
    demand(fits, Clause::S8, || format!("{GONE} entries were gone, and {removed} were removed"))?;
    for (key, record, version) in kept.iter().chain(&lingering) {
        bench.expect_entry(key, Clause::S8, record, *version)?;
    }
    Ok(())
}

/// Several purgers at once count each entry once, and remove nothing else.
pub(super) fn s8_purgers_beside_each_other<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    for _ in 0..lab.effort.races.div_ceil(20) {
        let bench = lab.fresh();
        const GONE: usize = 60;
        let kept = write_many(&bench, "kept", 10, (NOTHING, FOR_EVER))?;
        let all_there = write_gone(&bench, GONE)?;
        bench.pass(5);
        let removed = bench.race(lab.effort.racers.min(4), |_| bench.purge_all());
        let removed: usize = removed.into_iter().sum::<Checked<usize>>()?;
        let rest = bench.purge_all()?;
        let removed = removed + rest;
        let fits = if lab.abilities.purges && all_there { removed == GONE } else { removed <= GONE };
        demand(fits, Clause::S8, || {
            format!("{GONE} entries were gone, and purgers beside each other removed {removed}")
        })?;
        for (key, record, version) in &kept {
            bench.expect_entry(key, Clause::S8, record, *version)?;
        }
    }
    Ok(())
}

/// A key whose entry is gone is claimed while a purge runs: the new claim stays.
pub(super) fn s8_a_purge_never_removes_a_new_claim<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    const KEYS: usize = 48;
    for _ in 0..lab.effort.races.div_ceil(2) {
        let bench = lab.fresh();
        write_many(&bench, "claimed again", KEYS, (NOTHING, NOTHING))?;
        bench.pass(1);
        let claims = bench.race(3, |racer| {
            if racer < 2 {
                bench.purge_all().map(|_| Vec::new())
            } else {
                write_many(&bench, "claimed again", KEYS, (FOR_EVER, NOTHING))
            }
        });
        for (key, record, version) in claims.into_iter().collect::<Checked<Vec<_>>>()?.into_iter().flatten() {
            bench.expect_entry(&key, Clause::S8, &record, version)?;
        }
    }
    Ok(())
}

/// An entry that is about to be gone is written again while a purge runs: what was written stays.
pub(super) fn s8_a_purge_never_removes_a_renewed_entry<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    const KEYS: usize = 16;
    for _ in 0..lab.effort.races.div_ceil(4) {
        let bench = lab.fresh();
        let old = write_many(&bench, "renewed", KEYS, (NOTHING, bench.steps(1)))?;
        let renewed = bench.race(3, |racer| match racer {
            0 => bench.purge_all().map(|_| Vec::new()),
            1 => {
                bench.pass(1);
                bench.purge_all().map(|_| Vec::new())
            }
            _ => renew_all(&bench, &old),
        });
        for (key, record, version) in renewed.into_iter().collect::<Checked<Vec<_>>>()?.into_iter().flatten()
        {
            bench.expect_entry(&key, Clause::S8, &record, version)?;
        }
    }
    Ok(())
}

/// A full store refuses new keys with an error that says so, and takes every write to the keys it has; it drops none of
/// them for a new one, and has room again when one is gone.
pub(super) fn s8_a_full_store_refuses_new_keys_only<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    const BOUND: usize = 8;
    let bench = lab.fresh_bounded(BOUND)?;
    let mut held = write_many(&bench, "held", BOUND - 1, (FOR_EVER, NOTHING))?;
    let leaving = key("leaving");
    let first = bench.write(&leaving, Expected::Vacant, &samples::in_progress(1), (NOTHING, FOR_EVER))?;
    full(&bench, &key("one too many"))?;
    for (key, record, version) in &mut held {
        *record = samples::completed_with(9, &[7; 1000]);
        *version = bench.write(key, Expected::At(*version), record, (FOR_EVER, NOTHING))?;
    }
    full(&bench, &key("another too many"))?;
    batch_at_the_bound(&bench, &mut held)?;
    for (key, record, version) in &held {
        bench.expect_entry(key, Clause::S8, record, *version)?;
    }
    bench.write(&leaving, Expected::At(first), &samples::in_progress(1), (NOTHING, NOTHING))?;
    bench.pass(1);
    bench.purge_all()?;
    bench.write(&key("in its place"), Expected::Vacant, &samples::in_progress(1), (FOR_EVER, NOTHING))?;
    full(&bench, &key("too many again"))
}

/// In a batch, each item is refused or done on its own.
fn batch_at_the_bound<H: Harness>(bench: &Bench<'_, H>, held: &mut [Written]) -> Checked {
    let (first, second) = (key("too many in a batch"), key("and another"));
    let record = samples::in_progress(3);
    let [(known, old, version), ..] = held else { unreachable!("some are held") };
    let put = Put::new(&record, FOR_EVER, NOTHING);
    let batch = [
        BatchPut::new(&first, Expected::Vacant, put),
        BatchPut::new(known, Expected::At(*version), put),
        BatchPut::new(&second, Expected::Vacant, put),
        BatchPut::new(&second, Expected::At(*version), put),
    ];
    // Of distinct keys, as batches are: the last item is another batch.
    let (three, last) = batch.split_at(3);
    let mut answers = bench.batch_answers(three)?;
    answers.extend(bench.batch_answers(last)?);
    let is_full = |error: &<H::Store as Store>::Error| error.kind() == StoreErrorKind::Full;
    let [Err(one), Ok(Exchange::Done(next)), Err(another), Ok(Exchange::Conflict(None))] = &answers[..]
    else {
        let what = format!(
            "at the bound, a batch of a new key, a known one and a new one answered {:?}, and a put that expects \
             a version of a new key {:?}; due are full, done, full, and a conflict with nothing",
            &answers[..3],
            &answers[3],
        );
        return demand(false, Clause::S8, || what);
    };
    demand(is_full(one) && is_full(another), Clause::S8, || {
        format!("at the bound, new keys of a batch were refused as {one:?} and {another:?}; kind Full is due")
    })?;
    for new in [&first, &second] {
        let read = bench.load(new)?;
        demand(read.is_none(), Clause::S8, || {
            format!("a put was refused as full, and the key reads {read:?}")
        })?;
    }
    (*old, *version) = (record.clone(), *next);
    Ok(())
}

/// Writes entries that are live for four steps and then gone. Says whether all of them were surely there when the last
/// was written: on a machine that is busy they may not be, and a store may reclaim what is gone on the way of a write.
fn write_gone<H: Harness>(bench: &Bench<'_, H>, count: usize) -> Checked<bool> {
    let live = bench.steps(4);
    let (written, span) = bench.timed(|| write_many(bench, "gone", count, (live, NOTHING)));
    written?;
    Ok(span.answered.saturating_since(span.sent) < live)
}

type Written = (Key, Record, Version);

fn write_many<H: Harness>(
    bench: &Bench<'_, H>,
    name: &str,
    count: usize,
    lives: (std::time::Duration, std::time::Duration),
) -> Checked<Vec<Written>> {
    let write = |index| {
        let (key, record) = (key(format!("{name}-{index}")), samples::in_progress(index as u64));
        let version = bench.write(&key, Expected::Vacant, &record, lives)?;
        Ok((key, record, version))
    };
    (0..count).map(write).collect()
}

/// Renews those that are still there; the others were gone, and may be.
fn renew_all<H: Harness>(bench: &Bench<'_, H>, old: &[Written]) -> Checked<Vec<Written>> {
    let mut renewed = Vec::new();
    for (key, record, version) in old {
        match bench.exchange(key, Expected::At(*version), record, (FOR_EVER, NOTHING))? {
            Exchange::Done(version) => renewed.push((key.clone(), record.clone(), version)),
            Exchange::Conflict(None) => {}
            Exchange::Conflict(Some(entry)) => {
                demand(false, Clause::S8, || format!("nobody else wrote this key, and it holds {entry:?}"))?;
            }
        }
    }
    Ok(renewed)
}

/// A put of a new key is refused, as full, and leaves nothing behind.
fn full<H: Harness>(bench: &Bench<'_, H>, key: &Key) -> Checked {
    let record = samples::in_progress(1);
    let call = bench.store.compare_exchange(key, Expected::Vacant, Put::new(&record, FOR_EVER, NOTHING));
    let answer = bench.answer("compare_exchange", call)?;
    let kind = answer.as_ref().err().map(|error| (error.kind(), error.maybe_applied()));
    demand(kind.is_some_and(|(kind, _)| kind == StoreErrorKind::Full), Clause::S8, || {
        format!(
            "a store at its bound answered a put of a new key with {answer:?}; an error of kind Full is due"
        )
    })?;
    let read = bench.load(key)?;
    demand(read.is_none() || kind.is_some_and(|(_, maybe)| maybe), Clause::S10, || {
        format!("a put was refused as not applied, and the key reads {read:?}")
    })?;
    demand(read.is_none(), Clause::S8, || format!("a put was refused as full, and the key reads {read:?}"))
}
