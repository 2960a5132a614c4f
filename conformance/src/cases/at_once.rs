//! The short way, where a store has it, and the methods of `Store` are two doors to one register: S1 to S9 hold across them.
//! An error, and a panic of the step, mean that nothing was done. Random histories by both doors in `history`.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, mpsc};
use std::thread;

use crate::lab::{Bench, Checked, FOR_EVER, Lab, NOTHING, demand, key};
use crate::short_way::look;
use crate::{Clause, Harness, Violation, samples};
use oncekey::protocol::{Entry, Expected, Key};
use oncekey::store::{Exchange, Put, Step, StepPut, Store, StoreError as _, StoreErrorKind};

use super::s1::{count_of, count_up, counter, losers_see_the_winner};

/// Threads that claim one fresh key together, half of them by each door: one is done, and the others see its entry.
pub(super) fn s1_of_racing_claims_by_both_doors_one_is_done<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    bench.short_way()?;
    for round in 0..lab.effort.races {
        let key = key(format!("race-{round}"));
        let racers = lab.effort.racers;
        let records: Vec<_> = (1..).take(racers).map(samples::in_progress).collect();
        let answers = bench.race(racers, |racer| {
            let lives = (FOR_EVER, NOTHING);
            match racer % 2 {
                0 => bench.exchange(&key, Expected::Vacant, &records[racer], lives),
                _ => {
                    write_at_once(&bench, &key, Expected::Vacant, Put::new(&records[racer], lives.0, lives.1))
                }
            }
        });
        let answers = answers.into_iter().collect::<Checked<Vec<_>>>()?;
        let done = answers.iter().zip(&records).filter_map(|(answer, record)| match answer {
            Exchange::Done(version) => Some((record, *version)),
            Exchange::Conflict(_) => None,
        });
        let done: Vec<_> = done.collect();
        let [(record, version)] = done[..] else {
            let what = format!("{racers} threads claimed one key by two doors, and {} were done", done.len());
            return demand(false, Clause::S1, || what);
        };
        for answer in &answers {
            losers_see_the_winner(answer, record, version)?;
        }
        bench.expect_entry(&key, Clause::S1, record, version)?;
    }
    Ok(())
}

/// Writers that add to what is there, half of them in one step and half by exchanges: no update is lost.
pub(super) fn s1_no_update_by_either_door_is_lost<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    const EACH: u64 = 5;
    let bench = lab.fresh();
    bench.short_way()?;
    for round in 0..lab.effort.races.div_ceil(4) {
        let key = key(format!("counter-{round}"));
        bench.write(&key, Expected::Vacant, &counter(0), (NOTHING, FOR_EVER))?;
        let racers = lab.effort.racers;
        let total = racers as u64 * EACH;
        let added = bench.race(racers, |racer| {
            (0..EACH).try_for_each(|_| match racer % 2 {
                0 => count_up(&bench, &key, total),
                _ => add_at_once(&bench, &key),
            })
        });
        added.into_iter().collect::<Checked<()>>()?;
        let found = bench.load(&key)?;
        let same = found.as_ref().is_some_and(|entry| entry.record == counter(total));
        demand(same, Clause::S1, || {
            format!(
                "{racers} threads added {EACH} each to a counter by two doors, and it reads {found:?}, not {total}"
            )
        })?;
    }
    Ok(())
}

/// A step at the bound: one that only looks succeeds, one that writes over an entry is not refused, and one that is
/// refused has changed nothing.
pub(super) fn s8_a_full_store_refuses_steps_that_need_room_only<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    const BOUND: usize = 8;
    let bench = lab.fresh_bounded(BOUND)?;
    bench.short_way()?;
    let record = samples::in_progress(1);
    let put = Put::new(&record, FOR_EVER, NOTHING);
    let keys: Vec<_> = (0..BOUND).map(|index| key(format!("held-{index}"))).collect();
    let mut versions = Vec::new();
    for key in &keys {
        versions.push(done(write_at_once(&bench, key, Expected::Vacant, put)?)?);
    }
    let fresh = key("one too many");
    for _ in 0..2 {
        let answer = bench.exchange_at_once(&fresh, Expected::Vacant, put)?;
        let full = answer.as_ref().is_err_and(|error| error.kind() == StoreErrorKind::Full);
        demand(full, Clause::S8, || {
            format!(
                "a store at its bound answered a step that writes a new key with {answer:?}; an error of kind Full is due"
            )
        })?;
        let (read, seen) = (bench.load(&fresh)?, bench.load_at_once(&fresh)?);
        demand(read.is_none() && seen.is_none(), Clause::S10, || {
            format!("a step was refused as full, so nothing was done, and the key reads {read:?}, {seen:?}")
        })?;
        for (key, version) in keys.iter().zip(&mut versions) {
            let seen = bench.load_at_once(key)?;
            demand(seen.is_some_and(|entry| entry.version == *version), Clause::S8, || {
                format!("an entry at {version:?} is held at the bound, and a step does not see it")
            })?;
            *version = done(write_at_once(&bench, key, Expected::At(*version), put)?)?;
            bench.expect_entry(key, Clause::S8, &record, *version)?;
        }
    }
    Ok(())
}

/// A step that panics has done nothing, to a key that has an entry and to one that has none; and the store goes on.
pub(super) fn s10_a_step_that_panics_has_done_nothing<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    bench.short_way()?;
    let record = samples::in_progress(1);
    let (held, vacant) = (key("held"), key("vacant"));
    let version = bench.write(&held, Expected::Vacant, &record, (FOR_EVER, NOTHING))?;
    for key in [&held, &vacant] {
        let door = bench.short_way()?;
        let ended = catch_unwind(AssertUnwindSafe(|| door.update(key, &mut Panics)));
        demand(!matches!(ended, Ok(Ok(_))), Clause::S10, || {
            format!("a step panicked, and the update answers {ended:?}")
        })?;
        look_elsewhere(&bench, key)?;
    }
    bench.expect_entry(&held, Clause::S10, &record, version)?;
    let read = bench.load(&vacant)?;
    demand(read.is_none(), Clause::S10, || {
        format!("a step of a vacant key panicked, and it reads {read:?}")
    })?;
    let put = Put::new(&record, FOR_EVER, NOTHING);
    let next = done(write_at_once(&bench, &held, Expected::At(version), put)?)?;
    bench.expect_entry(&held, Clause::S10, &record, next)?;
    bench.write(&vacant, Expected::Vacant, &record, (FOR_EVER, NOTHING))?;
    Ok(())
}

/// A look by a thread of its own: after a panic, the store may block whoever calls, or panic itself.
fn look_elsewhere<H: Harness>(bench: &Bench<'_, H>, key: &Key) -> Checked<Option<Entry>> {
    let broken =
        |what: String| Violation::new(Clause::S10, format!("a step panicked, and the next call {what}"));
    let (store, key) = (Arc::clone(&bench.store), key.clone());
    let (tell, told) = mpsc::channel();
    // Not a scoped thread: one that hangs is left behind.
    thread::spawn(move || {
        let looked = catch_unwind(AssertUnwindSafe(|| store.at_once().map(|door| look(door, &key))));
        drop(tell.send(looked));
    });
    let patience = bench.lab.patience;
    match told.recv_timeout(patience) {
        Ok(Ok(Some(looked))) => looked?.map_err(|error| broken(format!("answers an error: {error}")).into()),
        Ok(Ok(None)) => Err(broken("says that the store has no short way".to_owned()).into()),
        Ok(Err(_)) => Err(broken("panics".to_owned()).into()),
        Err(_) => Err(broken(format!("has no answer after {patience:?}")).into()),
    }
}

struct Panics;

impl Step for Panics {
    fn next(&mut self, _: Option<Entry>) -> Option<StepPut<'_>> {
        // Without a word from the panic hook.
        resume_unwind(Box::new("a step that panics, as a case of the kit wants it"))
    }
}

/// Adds one to the counter in one step.
fn add_at_once<H: Harness>(bench: &Bench<'_, H>, key: &Key) -> Checked {
    struct Adds;
    impl Step for Adds {
        fn next(&mut self, found: Option<Entry>) -> Option<StepPut<'_>> {
            let count = count_of(&found?);
            Some(StepPut::new(counter(count + 1).into(), NOTHING, FOR_EVER))
        }
    }
    let added = bench.short_way()?.update(key, &mut Adds);
    let added = added.map_err(|error| bench.lab.failed("a step", &error))?;
    demand(added.is_some(), Clause::S8, || "the counter is gone".to_owned())
}

/// A write by the short way, which must not fail.
fn write_at_once<H: Harness>(
    bench: &Bench<'_, H>,
    key: &Key,
    expected: Expected,
    put: Put<'_>,
) -> Checked<Exchange> {
    bench.exchange_at_once(key, expected, put)?.map_err(|error| bench.lab.failed("a step", &error))
}

fn done(answer: Exchange) -> Checked<oncekey::protocol::Version> {
    match answer {
        Exchange::Done(version) => Ok(version),
        Exchange::Conflict(found) => {
            let what =
                format!("nobody else writes this key, and a step that goes by what is there found {found:?}");
            Err(Violation::new(Clause::S4, what).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::ManuallyDrop;
    use std::time::Duration;

    use async_trait::async_trait;
    use oncekey::MemoryStore;
    use oncekey::memory::MemoryError;
    use oncekey::store::AtOnce;
    use oncekey::time::ManualClock;
    use parking_lot::Mutex;

    use super::*;
    use crate::lab::Stop;
    use crate::{Subject, Time};

    /// Does not give its lock up when a step panics.
    struct Blocks {
        store: MemoryStore,
        lock: Mutex<()>,
    }

    impl AtOnce for Blocks {
        type Error = MemoryError;

        fn update(&self, key: &Key, step: &mut (dyn Step + Send)) -> Result<Option<Entry>, MemoryError> {
            let lock = ManuallyDrop::new(self.lock.lock());
            let written = self.store.update(key, step);
            drop(ManuallyDrop::into_inner(lock));
            written
        }
    }

    #[async_trait]
    impl Store for Blocks {
        type Error = MemoryError;

        async fn load(&self, key: &Key) -> Result<Option<Entry>, MemoryError> {
            self.store.load(key).await
        }

        async fn compare_exchange(
            &self,
            key: &Key,
            expected: Expected,
            put: Put<'_>,
        ) -> Result<Exchange, MemoryError> {
            self.store.compare_exchange(key, expected, put).await
        }

        fn at_once(&self) -> Option<&dyn AtOnce<Error = MemoryError>> {
            Some(self)
        }
    }

    struct Harnessed;

    impl Harness for Harnessed {
        type Store = Blocks;
        type Guard = ();

        fn fresh(&self) -> Subject<Blocks> {
            let clock = ManualClock::new();
            let store = MemoryStore::builder().clock(clock.clone()).build();
            Subject::new(Blocks { store, lock: Mutex::new(()) }, Time::manual(clock))
        }
    }

    #[test]
    fn a_store_that_blocks_after_a_panic_is_a_violation_and_not_a_hung_kit() {
        let patience = Duration::from_millis(30);
        let lab = Lab { patience, ..Lab::new(&Harnessed, Clause::S10) };
        let Err(Stop::Violated(violation)) = s10_a_step_that_panics_has_done_nothing(&lab) else {
            panic!("the store's lock was never given up, and the case has nothing to say");
        };
        assert_eq!(violation.clause, Clause::S10);
        assert_eq!(violation.what, "a step panicked, and the next call has no answer after 30ms");
    }
}
