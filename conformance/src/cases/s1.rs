//! S1: calls on one key are atomic and linearizable. Races here; random histories in `linear`.

use crate::lab::{Bench, Checked, FOR_EVER, Lab, NOTHING, demand, key};
use crate::samples;
use crate::{Clause, Harness};
use oncekey::protocol::{Entry, Expected, Key, Record, Version};
use oncekey::store::{BatchPut, Exchange, Put};

/// Threads that claim one fresh key together: one is done, and all others are answered its entry.
pub(super) fn s1_of_racing_claims_one_is_done<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    for round in 0..lab.effort.races {
        one_wins(&bench, &key(format!("race-{round}")), Expected::Vacant)?;
    }
    Ok(())
}

/// Threads that claim a key whose entry is gone: the same.
pub(super) fn s1_of_racing_claims_of_a_gone_key_one_is_done<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    for round in 0..lab.effort.races {
        let key = key(format!("race-{round}"));
        let gone = bench.write(&key, Expected::Vacant, &samples::in_progress(99), (NOTHING, NOTHING))?;
        let version = one_wins(&bench, &key, Expected::Vacant)?;
        demand(version > gone, Clause::S2, || format!("{version:?} follows {gone:?}"))?;
    }
    Ok(())
}

/// Thieves of one expired claim: one takes it over.
pub(super) fn s1_of_racing_takeovers_one_is_done<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    for round in 0..lab.effort.races {
        let key = key(format!("race-{round}"));
        let old = bench.write(&key, Expected::Vacant, &samples::in_progress(99), (NOTHING, FOR_EVER))?;
        one_wins(&bench, &key, Expected::At(old))?;
    }
    Ok(())
}

/// A late completion races with takeovers: one of them is done, and what is read is whole and its own.
pub(super) fn s1_a_late_completion_or_a_takeover<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    for round in 0..lab.effort.races {
        let key = key(format!("race-{round}"));
        let old = bench.write(&key, Expected::Vacant, &samples::in_progress(99), (NOTHING, FOR_EVER))?;
        let racers = lab.effort.racers;
        let record = |racer: usize| match racer {
            0 => samples::completed_with(1, b"late"),
            _ => samples::in_progress(racer as u64),
        };
        let lives = (FOR_EVER, NOTHING);
        let answers =
            bench.race(racers, |racer| bench.exchange(&key, Expected::At(old), &record(racer), lives));
        let answers: Vec<_> = answers.into_iter().collect::<Checked<_>>()?;
        let done = answers.iter().zip(0..).filter_map(|(answer, racer)| match answer {
            Exchange::Done(version) => Some((racer, *version)),
            Exchange::Conflict(_) => None,
        });
        let done: Vec<_> = done.collect();
        let [(winner, version)] = done[..] else {
            let what =
                format!("a completion raced with {} takeovers, and {} were done", racers - 1, done.len());
            return demand(false, Clause::S1, || what);
        };
        bench.expect_entry(&key, Clause::S1, &record(winner), version)?;
    }
    Ok(())
}

/// Writers that each go on from what they saw: no update is lost, so that as many versions exist as writes were done.
pub(super) fn s1_no_update_is_lost<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    const EACH: u64 = 5;
    let bench = lab.fresh();
    for round in 0..lab.effort.races.div_ceil(10) {
        let key = key(format!("counter-{round}"));
        // The record's tag is the count.
        bench.write(&key, Expected::Vacant, &counter(0), (NOTHING, FOR_EVER))?;
        let racers = lab.effort.racers;
        let total = racers as u64 * EACH;
        for added in bench.race(racers, |_| (0..EACH).try_for_each(|_| count_up(&bench, &key, total))) {
            added?;
        }
        let found = bench.load(&key)?;
        let same = found.as_ref().is_some_and(|entry| entry.record == counter(total));
        demand(same, Clause::S1, || {
            format!("{racers} threads added {EACH} each to a counter, and it reads {found:?}, not {total}")
        })?;
    }
    Ok(())
}

/// What one thread was told is done, the next call of any other sees.
pub(super) fn s1_an_acknowledged_write_is_seen_by_everybody<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    for round in 0..lab.effort.races {
        let key = key(format!("seen-{round}"));
        let record = samples::in_progress(1);
        let old = bench.write(&key, Expected::Vacant, &record, (NOTHING, FOR_EVER))?;
        bench.load(&key)?;
        let next = samples::in_progress(2);
        let version = bench.write(&key, Expected::At(old), &next, (FOR_EVER, NOTHING))?;
        for seen in
            bench.race(lab.effort.racers.min(4), |_| bench.expect_entry(&key, Clause::S1, &next, version))
        {
            seen?;
        }
    }
    Ok(())
}

/// One answer per item, in order, each item on its own: fresh keys, keys that are there, stale versions, all mixed.
pub(super) fn s1_a_batch_answers_item_by_item<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    for len in [0, 1, 2, 7, 40, 300] {
        // Not in the order of the keys: who sorts them against deadlock must still answer in the order of the batch.
        let keys: Vec<_> =
            (0..len).map(|item| key(format!("batch-{len}-{}", (item * 37 + 11) % 311))).collect();
        let mut expected = Vec::new();
        let mut fits = Vec::new();
        for (item, key) in keys.iter().enumerate() {
            let there = match item % 3 {
                0 => None,
                _ => Some(bench.write(key, Expected::Vacant, &samples::released(7), (NOTHING, FOR_EVER))?),
            };
            expected.push(match (there, item % 2) {
                (Some(version), 0) => Expected::At(version),
                (Some(_), _) => Expected::Vacant,
                (None, 0) => Expected::Vacant,
                (None, _) => Expected::At(Version::new(1)),
            });
            fits.push(item % 2 == 0);
        }
        let records: Vec<_> = (0..len).map(|item| samples::in_progress(item as u64)).collect();
        let batch: Vec<_> = (0..len)
            .map(|item| {
                let put = Put::new(&records[item], FOR_EVER, NOTHING);
                BatchPut::new(&keys[item], expected[item], put)
            })
            .collect();
        let answers = bench.batch(&batch)?;
        for (item, answer) in answers.into_iter().enumerate() {
            let done = matches!(answer, Exchange::Done(_));
            demand(done == fits[item], Clause::S1, || {
                format!(
                    "item {item} of a batch of {len}, expecting {:?}, answered {answer:?}",
                    expected[item]
                )
            })?;
            match answer {
                Exchange::Done(version) => {
                    bench.expect_entry(&keys[item], Clause::S1, &records[item], version)?;
                }
                Exchange::Conflict(Some(entry)) => {
                    bench.same_entry(Clause::S5, &entry, &samples::released(7), entry.version)?;
                    bench.expect_entry(&keys[item], Clause::S5, &samples::released(7), entry.version)?;
                }
                Exchange::Conflict(None) => {
                    let read = bench.load(&keys[item])?;
                    demand(read.is_none(), Clause::S5, || {
                        format!("item {item} conflicted with nothing, and its key reads {read:?}")
                    })?;
                }
            }
        }
    }
    Ok(())
}

/// Batches over the same keys in opposite orders, at once: each key has one winner, and nobody waits forever.
pub(super) fn s1_batches_that_cross_each_other<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    for round in 0..lab.effort.races.div_ceil(4) {
        let claims = Claims::new(lab, &format!("crossed-{round}"));
        let answers = bench.race(claims.records.len(), |racer| {
            let mut batch = claims.batch(racer);
            if racer % 2 == 1 {
                batch.reverse();
            }
            let mut answers = bench.batch(&batch)?;
            if racer % 2 == 1 {
                answers.reverse();
            }
            Ok(answers)
        });
        claims.each_has_one_winner(&bench, answers)?;
    }
    Ok(())
}

/// Batches beside single puts of the same keys, from the other end: each key has one winner, and a batch does not go by
/// what it saw before.
pub(super) fn s1_a_batch_beside_single_puts<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    for round in 0..lab.effort.races.div_ceil(2) {
        let claims = Claims::new(lab, &format!("beside-{round}"));
        let answers = bench.race(claims.records.len(), |racer| {
            if racer % 2 == 0 {
                return bench.batch(&claims.batch(racer));
            }
            let put =
                |key| bench.exchange(key, Expected::Vacant, &claims.records[racer], (FOR_EVER, NOTHING));
            let mut answers = claims.keys.iter().rev().map(put).collect::<Checked<Vec<_>>>()?;
            answers.reverse();
            Ok(answers)
        });
        claims.each_has_one_winner(&bench, answers)?;
    }
    Ok(())
}

/// Keys that several racers claim, each with a record of its own.
struct Claims {
    keys: Vec<Key>,
    records: Vec<Record>,
}

impl Claims {
    fn new<H: Harness>(lab: &Lab<'_, H>, name: &str) -> Self {
        let racers = lab.effort.racers.min(4) as u64;
        Self {
            keys: (0..12).map(|item| key(format!("{name}-{item}"))).collect(),
            records: (0..racers).map(samples::in_progress).collect(),
        }
    }

    fn batch(&self, racer: usize) -> Vec<BatchPut<'_>> {
        let put = Put::new(&self.records[racer], FOR_EVER, NOTHING);
        self.keys.iter().map(|key| BatchPut::new(key, Expected::Vacant, put)).collect()
    }

    /// The answers are those of each racer, in the order of the keys.
    fn each_has_one_winner<H: Harness>(
        &self,
        bench: &Bench<'_, H>,
        answers: Vec<Checked<Vec<Exchange>>>,
    ) -> Checked {
        let answers = answers.into_iter().collect::<Checked<Vec<_>>>()?;
        for (item, key) in self.keys.iter().enumerate() {
            let answers: Vec<_> = answers.iter().map(|answers| &answers[item]).collect();
            let done = answers.iter().zip(&self.records).filter_map(|(answer, record)| match answer {
                Exchange::Done(version) => Some((record, *version)),
                Exchange::Conflict(_) => None,
            });
            let done: Vec<_> = done.collect();
            let [(record, version)] = done[..] else {
                let what =
                    format!("{} racers claimed one key, and {} were done", self.records.len(), done.len());
                return demand(false, Clause::S1, || what);
            };
            for answer in answers {
                losers_see_the_winner(answer, record, version)?;
            }
            bench.expect_entry(key, Clause::S1, record, version)?;
        }
        Ok(())
    }
}

/// Of all racers that expect the same, one is done, and the others see what it wrote.
fn one_wins<H: Harness>(bench: &Bench<'_, H>, key: &Key, expected: Expected) -> Checked<Version> {
    let racers = bench.lab.effort.racers;
    let records: Vec<_> = (1..).take(racers).map(samples::in_progress).collect();
    let lives = (FOR_EVER, NOTHING);
    let answers = bench.race(racers, |racer| bench.exchange(key, expected, &records[racer], lives));
    let answers: Vec<_> = answers.into_iter().collect::<Checked<_>>()?;
    let winners: Vec<_> = (0..racers).filter(|&racer| matches!(answers[racer], Exchange::Done(_))).collect();
    demand(winners.len() == 1, Clause::S1, || {
        format!("{racers} threads raced with puts expecting {expected:?}, and {} were done", winners.len())
    })?;
    let winner = winners[0];
    let Exchange::Done(version) = answers[winner] else { unreachable!("the winner is done") };
    for answer in &answers {
        losers_see_the_winner(answer, &records[winner], version)?;
    }
    Ok(version)
}

pub(super) fn losers_see_the_winner(answer: &Exchange, record: &Record, version: Version) -> Checked {
    let Exchange::Conflict(found) = answer else { return Ok(()) };
    let seen = found.as_ref().map(|entry| (&entry.record, entry.version));
    demand(seen == Some((record, version)), Clause::S5, || {
        format!("the winner wrote {record:?} at {version:?}, and a loser was answered {found:?}")
    })
}

pub(super) fn counter(count: u64) -> Record {
    samples::in_progress(count)
}

pub(super) fn count_of(entry: &Entry) -> u64 {
    entry.record.created_at().0 / 1009
}

/// Adds one to the counter, going on from what a conflict carries. Each conflict is somebody else's write, and there are
/// no more of those than `total`.
pub(super) fn count_up<H: Harness>(bench: &Bench<'_, H>, key: &Key, total: u64) -> Checked {
    let mut seen = bench.load(key)?;
    for _ in 0..=total {
        let Some(entry) = seen else {
            return demand(false, Clause::S8, || "the counter is gone".to_owned());
        };
        let count = count_of(&entry);
        match bench.exchange(key, Expected::At(entry.version), &counter(count + 1), (NOTHING, FOR_EVER))? {
            Exchange::Done(_) => return Ok(()),
            Exchange::Conflict(found) => seen = found,
        }
    }
    demand(false, Clause::S4, || {
        format!(
            "{total} writes of a key, and one that went on from each conflict was refused more often: {seen:?}"
        )
    })
}
