//! S7: expiry is judged by the store's own clock; never early, and never undone at the same version.

use std::time::Duration;

use crate::lab::{Bench, Checked, FOR_EVER, Lab, NOTHING, demand, key};
use crate::samples;
use crate::{Clause, Harness};
use oncekey::protocol::{Expected, Key, Record, Version};

/// The time left counts down with the clock, to nothing when the lifetime is over and not before; then it stays so.
pub(super) fn s7_time_left_counts_down_to_nothing<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    let key = key("counts down");
    let (record, live) = (samples::in_progress(1), bench.steps(6));
    let (version, span) = bench.timed(|| bench.write(&key, Expected::Vacant, &record, (live, FOR_EVER)));
    let version = version?;
    let mut before = FOR_EVER;
    for _ in 0..8 {
        let seen = bench.expect_entry(&key, Clause::S7, &record, version)?;
        bench.on_time(Clause::S7, &seen, live, span)?;
        demand(seen.entry.left <= before, Clause::S7, || {
            format!("{before:?} were left, and later, at the same version, {:?}", seen.entry.left)
        })?;
        before = seen.entry.left;
        bench.pass(1);
    }
    expired(&bench, &key, &record, version)
}

/// To the nanosecond, on a clock moved by hand: live one before its end, expired at it; readable one before the end of
/// its linger, gone at it.
pub(super) fn s7_ends_are_exact_on_a_clock_moved_by_hand<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    let Some(clock) = bench.time.manual_clock().cloned() else {
        return bench.not_shown("the store's clock runs by itself");
    };
    let nano = Duration::from_nanos(1);
    let (key, record) = (key("exact"), samples::in_progress(1));
    let (live, linger) = (Duration::from_millis(1500), Duration::from_millis(700));
    let version = bench.write(&key, Expected::Vacant, &record, (live, linger))?;
    clock.advance(live - nano);
    let seen = bench.expect_entry(&key, Clause::S7, &record, version)?;
    demand(seen.entry.left == nano, Clause::S7, || {
        format!("one nanosecond before its end, {:?} are left", seen.entry.left)
    })?;
    clock.advance(nano);
    expired(&bench, &key, &record, version)?;
    clock.advance(linger - nano);
    expired(&bench, &key, &record, version)?;
    clock.advance(nano);
    let found = bench.load(&key)?;
    demand(found.is_none(), Clause::S3, || format!("at the end of its linger the key reads {found:?}"))
}

/// What is expired stays so, and what is live forever too, over the ages at which counters of milliseconds and seconds
/// wrap around.
pub(super) fn s7_an_expired_entry_stays_so_for_ages<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    const DAY: Duration = Duration::from_secs(86_400);
    let bench = lab.fresh();
    if bench.time.manual_clock().is_none() {
        return bench.not_shown("the store's clock runs by itself");
    }
    let record = samples::in_progress(1);
    // Long enough that an age which wraps around falls into it.
    let lives = [("at once", (NOTHING, FOR_EVER)), ("in a while", (DAY * 20, FOR_EVER))];
    let mut ended = Vec::new();
    for (id, lives) in lives {
        ended.push((key(id), bench.write(&key(id), Expected::Vacant, &record, lives)?));
    }
    let stays = key("forever");
    let version = bench.write(&stays, Expected::Vacant, &record, (FOR_EVER, NOTHING))?;
    // Just past the ends of 31 and 32 bits of milliseconds, and of 31 and 32 bits of seconds.
    let mut today = 0;
    for day in [21, 30, 55, 24_860, 49_720, 70_000] {
        bench.time.pass(DAY * (day - today));
        today = day;
        bench.purge_all()?;
        for (key, version) in &ended {
            expired(&bench, key, &record, *version)?;
        }
        let seen = bench.expect_entry(&stays, Clause::S7, &record, version)?;
        demand(seen.entry.left == FOR_EVER, Clause::S7, || {
            format!("written to live forever, and {:?} are left", seen.entry.left)
        })?;
    }
    Ok(())
}

/// Each write restamps: a renewal cannot be taken for expired at the old end, and a shorter life ends sooner.
pub(super) fn s7_every_write_stamps_anew<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    let record = samples::in_progress(1);
    let renewed = key("renewed");
    let first = bench.write(&renewed, Expected::Vacant, &record, (bench.steps(2), FOR_EVER))?;
    let (second, span) =
        bench.timed(|| bench.write(&renewed, Expected::At(first), &record, (bench.long(), FOR_EVER)));
    let second = second?;
    bench.pass(3);
    let seen = bench.expect_entry(&renewed, Clause::S7, &record, second)?;
    bench.on_time(Clause::S7, &seen, bench.long(), span)?;

    let cut = key("cut short");
    let first = bench.write(&cut, Expected::Vacant, &record, (bench.long(), FOR_EVER))?;
    let second = bench.write(&cut, Expected::At(first), &record, (bench.steps(1), FOR_EVER))?;
    bench.pass(1);
    expired(&bench, &cut, &record, second)?;
    let third = bench.write(&cut, Expected::At(second), &record, (NOTHING, FOR_EVER))?;
    expired(&bench, &cut, &record, third)?;
    let fourth = bench.write(&cut, Expected::At(third), &record, (FOR_EVER, NOTHING))?;
    let seen = bench.expect_entry(&cut, Clause::S7, &record, fourth)?;
    demand(seen.entry.left == FOR_EVER, Clause::S7, || {
        format!("written anew to live forever, {:?} are left", seen.entry.left)
    })
}

/// Lifetimes at the ends of what can be said: nothing is expired at once and readable, forever stays forever, and
/// sums do not wrap around.
pub(super) fn s7_lifetimes_at_their_ends<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    let record = samples::in_progress(1);
    let nano = Duration::from_nanos(1);
    let for_ever = [(FOR_EVER, NOTHING), (FOR_EVER, FOR_EVER), (FOR_EVER, nano)];
    let long = [FOR_EVER - nano, Duration::from_secs(u64::MAX), Duration::from_secs(u64::MAX / 1000)];
    let ages = Duration::from_secs(1000 * 365 * 86_400);
    let mut written = Vec::new();
    for (index, lives) in for_ever.into_iter().enumerate() {
        let key = key(format!("forever-{index}"));
        let version = bench.write(&key, Expected::Vacant, &record, lives)?;
        written.push((key, version, lives));
    }
    for (index, (live, linger)) in
        long.iter().flat_map(|live| [(*live, NOTHING), (*live, FOR_EVER)]).enumerate()
    {
        let key = key(format!("long-{index}"));
        let version = bench.write(&key, Expected::Vacant, &record, (live, linger))?;
        written.push((key, version, (live, linger)));
    }
    for lingers in [FOR_EVER, FOR_EVER - nano] {
        let key = key(format!("lingers-{lingers:?}"));
        let version = bench.write(&key, Expected::Vacant, &record, (NOTHING, lingers))?;
        expired(&bench, &key, &record, version)?;
        written.push((key, version, (NOTHING, lingers)));
    }
    bench.pass(1);
    bench.purge_all()?;
    for (key, version, (live, linger)) in written {
        let seen = bench.expect_entry(&key, Clause::S7, &record, version)?;
        let left = seen.entry.left;
        let fits = match live {
            FOR_EVER => left == FOR_EVER,
            NOTHING => left.is_zero(),
            // Longer than a store counts may be kept as forever, or as the longest it knows.
            _ => left >= ages,
        };
        demand(fits, Clause::S7, || format!("of {live:?} live and {linger:?} linger, {left:?} are left"))?;
    }
    Ok(())
}

/// Readable, expired, and not live again however long it lingers.
fn expired<H: Harness>(bench: &Bench<'_, H>, key: &Key, record: &Record, version: Version) -> Checked {
    let seen = bench.expect_entry(key, Clause::S7, record, version)?;
    demand(seen.entry.left.is_zero(), Clause::S7, || {
        format!("its time to live is over, and {:?} are left", seen.entry.left)
    })
}
