//! Stores that drop the bytes of outcomes: what a trim may change, and what not.

use super::lab::{Bench, Checked, FOR_EVER, Lab, NOTHING, Stop, demand, key};
use super::{Clause, Harness, Violation};
use crate::samples;
use oncekey::protocol::{Expected, Key, Outcome, Record, Version};
use oncekey::store::{Exchange, Put, Store as _, TrimOutcomes, Trimmed};

/// Checks a store's [`TrimOutcomes`] on fresh stores of the harness: that it drops the bytes of outcomes past their
/// retention, all of them in the end, and changes nothing else; also beside writers.
///
/// # Errors
/// The violation that it saw.
///
/// # Panics
/// As the harness does when it cannot build a store.
pub fn check_trimming<H: Harness>(harness: &H) -> Result<(), Violation>
where
    H::Store: TrimOutcomes,
{
    for case in [drops_what_is_past_its_retention_and_nothing_else, loses_to_a_writer] {
        match case(&Lab::new(harness, Clause::S8)) {
            Ok(()) | Err(Stop::NotShown(_)) => {}
            Err(Stop::Violated(violation)) => return Err(violation),
        }
    }
    Ok(())
}

const LARGE: usize = 5_000;

fn trim<H: Harness>(bench: &Bench<'_, H>, cursor: Option<u64>, limit: usize) -> Checked<Trimmed>
where
    H::Store: TrimOutcomes,
{
    let answer = bench.answer("trim_outcomes", bench.store.trim_outcomes(cursor, limit))?;
    answer.map_err(|error| bench.lab.failed("trim_outcomes", &error))
}

/// From beginning to end, seven at a time.
fn trim_all<H: Harness>(bench: &Bench<'_, H>) -> Checked<usize>
where
    H::Store: TrimOutcomes,
{
    let (mut trimmed, mut cursor) = (0, None);
    for _ in 0..1000 {
        let done = trim(bench, cursor, 7)?;
        demand(done.trimmed <= 7, Clause::S8, || format!("a trim of at most 7 trimmed {}", done.trimmed))?;
        trimmed += done.trimmed;
        cursor = done.next;
        if cursor.is_none() {
            return Ok(trimmed);
        }
    }
    Err(Violation::new(Clause::S8, "1,000 trims of 7 each did not come to the end").into())
}

fn drops_what_is_past_its_retention_and_nothing_else<H: Harness>(lab: &Lab<'_, H>) -> Checked
where
    H::Store: TrimOutcomes,
{
    let bench = lab.fresh();
    let large = vec![7; LARGE];
    let tail = (NOTHING, FOR_EVER);
    let kept: [(&str, Record, _); 5] = [
        ("live", samples::completed_with(2, &large), (FOR_EVER, NOTHING)),
        ("abandoned", samples::in_progress_with(1, &large), tail),
        ("released", samples::released(3), tail),
        ("forgotten", samples::forgotten(4), tail),
        ("too large", samples::completed(5, &too_large()), tail),
    ];
    let mut written = Vec::new();
    for (id, record, lives) in &kept {
        written.push((key(id), record, bench.write(&key(id), Expected::Vacant, record, *lives)?));
    }
    let mut trimmed: Vec<(Key, Record, Version)> = Vec::new();
    for index in 0..30_u64 {
        let key = key(format!("done-{index}"));
        let record = match index % 3 {
            0 => samples::completed(index, &Outcome::failure(large.clone())),
            _ => samples::completed_with(index, &large),
        };
        let version = bench.write(&key, Expected::Vacant, &record, tail)?;
        trimmed.push((key, record, version));
    }
    bench.pass(5);
    let none = trim(&bench, None, 0)?;
    demand(none.trimmed == 0, Clause::S8, || format!("a trim of at most 0 trimmed {}", none.trimmed))?;
    let count = trim_all(&bench)?;
    demand(count == trimmed.len(), Clause::S8, || {
        format!("{} outcomes were past their retention, and {count} were dropped", trimmed.len())
    })?;
    for (key, record, version) in &trimmed {
        let shorter = record.without_outcome().expect("it has an outcome");
        let seen = bench.expect_entry(key, Clause::S8, &shorter, *version)?;
        demand(seen.entry.left == NOTHING, Clause::S8, || format!("it lives again: {:?}", seen.entry.left))?;
    }
    for (key, record, version) in written {
        bench.expect_entry(&key, Clause::S8, record, version)?;
    }
    let again = trim_all(&bench)?;
    demand(again == 0, Clause::S8, || format!("{again} outcomes were dropped a second time"))?;
    // Until the same time, not longer and not less.
    let ending = key("ending");
    let record = samples::completed_with(77, &large);
    let version = bench.write(&ending, Expected::Vacant, &record, (NOTHING, bench.steps(20)))?;
    bench.pass(2);
    let count = trim_all(&bench)?;
    demand(count == 1, Clause::S8, || format!("one more was past its retention, and {count} were dropped"))?;
    let shorter = record.without_outcome().expect("it has an outcome");
    bench.expect_entry(&ending, Clause::S8, &shorter, version)?;
    bench.pass(20);
    let found = bench.load(&ending)?;
    demand(found.is_none(), Clause::S3, || format!("trimmed, it lives past its time: {found:?}"))?;
    // Its version is what it was: whoever read it before may write.
    let (key, _, version) = &trimmed[0];
    bench.write(key, Expected::At(*version), &samples::forgotten(9), tail)?;
    Ok(())
}

/// A write that comes between a trim's look and its own write stands.
fn loses_to_a_writer<H: Harness>(lab: &Lab<'_, H>) -> Checked
where
    H::Store: TrimOutcomes,
{
    let bench = lab.fresh();
    let large = vec![7; LARGE];
    for round in 0..lab.effort.races.div_ceil(20) {
        let keys: Vec<_> = (0..8).map(|index| key(format!("{round}-{index}"))).collect();
        let mut versions = Vec::new();
        for key in &keys {
            let record = samples::completed_with(1, &large);
            versions.push(bench.write(key, Expected::Vacant, &record, (NOTHING, FOR_EVER))?);
        }
        let written = samples::forgotten(2);
        let answers = bench.race(2, |racer| -> Checked {
            if racer == 0 {
                trim_all(&bench)?;
                return Ok(());
            }
            for (key, version) in keys.iter().zip(&versions) {
                let put = Put::new(&written, NOTHING, FOR_EVER);
                let call = bench.store.compare_exchange(key, Expected::At(*version), put);
                let answer = bench.answer("compare_exchange", call)?;
                let answer = answer.map_err(|error| bench.lab.failed("compare_exchange", &error))?;
                demand(matches!(answer, Exchange::Done(_)), Clause::S4, || {
                    format!("a write beside a trim conflicted: {answer:?}")
                })?;
            }
            Ok(())
        });
        answers.into_iter().collect::<Checked>()?;
        for key in &keys {
            let found = bench.load(key)?.map(|entry| entry.record);
            demand(found.as_ref() == Some(&written), Clause::S4, || {
                format!("a trim undid a write: {found:?}")
            })?;
        }
    }
    Ok(())
}

fn too_large() -> Outcome {
    Outcome { body: oncekey::protocol::OutcomeBody::TooLarge { len: 1 << 40 }, ..Outcome::success("") }
}
