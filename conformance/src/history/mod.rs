//! Random histories of one caller, against a reference written from the contract, and shrunk to the fewest steps that
//! fail.

mod doors;
mod play;
mod reference;
mod steps;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::time::Duration;

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use super::clause::Violation;
use super::harness::{Harness, Time};
use super::lab::{Bench, Checked, Lab, Stop, Tally};
pub(super) use steps::Kind;

use doors::Doors;
use play::{Failed, Rules, play};
use steps::{Menu, Step};

/// Steps of a history before it is shrunk.
const STEPS_MAX: usize = 40;

/// All that one caller can do, with every key read after every step.
pub(super) fn s1_random_histories_of_one_caller<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    let rules = Rules { watched: true, bound: None, waits_max: 1 };
    histories(lab, 1, &everything(&bench.time), |number, steps| play(&bench, rules, number, steps))
}

/// The same, and only what a step asks for is read: what a decorator remembers is not refreshed all the time.
pub(super) fn s1_random_histories_that_look_rarely<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    let rules = Rules { watched: false, bound: None, waits_max: 1 };
    histories(lab, 2, &replays(&bench.time), |number, steps| play(&bench, rules, number, steps))
}

/// All that one caller can do, by the store's methods and by its short way in turn: they are doors to one register.
pub(super) fn s1_random_histories_by_both_doors<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    bench.short_way()?;
    let rules = Rules { watched: true, bound: None, waits_max: 1 };
    histories(lab, 4, &everything(&bench.time), |number, steps| {
        play(&Doors::new(&bench), rules, number, steps)
    })
}

/// A store that holds fewer entries than there are keys.
pub(super) fn s8_random_histories_at_the_bound<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    const RECORDS_MAX: usize = 3;
    let time = lab.fresh_bounded(RECORDS_MAX)?.time;
    let rules = Rules { watched: true, bound: Some(RECORDS_MAX), waits_max: 1 };
    histories(lab, 3, &everything(&time), |number, steps| {
        let bench = lab.fresh_bounded(RECORDS_MAX);
        let bench: Bench<'_, H> = bench.map_err(|stop| Failed { stop, played: Vec::new() })?;
        play(&bench, rules, number, steps)
    })
}

const FOR_EVER: Duration = Duration::MAX;
const HOUR: Duration = Duration::from_secs(3600);
const YEARS: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

fn millis<const N: usize>(all: [u64; N]) -> Vec<Duration> {
    all.into_iter().map(Duration::from_millis).collect()
}

fn everything(time: &Time) -> Menu {
    if time.manual_clock().is_none() {
        return running(time);
    }
    // Those around 67 ms are the ends of a step of the memory store's queue: any store that rounds has some such step.
    let spans = [1000, 0, 1, 10, 66, 67, 68, 100, 134, 999, 1001, 2000, 5000, 60_000];
    let mut lives = millis(spans);
    lives.extend([HOUR, YEARS, FOR_EVER, FOR_EVER, FOR_EVER - Duration::from_nanos(1), Duration::ZERO]);
    let mut passes = millis(spans);
    passes.push(HOUR);
    Menu { lives, passes, ends: true, passing: 2, loading: 1, putting: 5, completed: 4 }
}

/// Completed entries, read again and again at times where a cache lets go of them.
fn replays(time: &Time) -> Menu {
    if time.manual_clock().is_none() {
        return Menu { loading: 4, completed: 8, ..running(time) };
    }
    let ages = [1000, 999, 1001, 1, 500, 1999, 2000, 2001, 4999, 5000, 5001, 9_999, 10_000, 10_001];
    let mut lives = millis(ages);
    lives.extend([Duration::ZERO, HOUR, HOUR, FOR_EVER, FOR_EVER, FOR_EVER]);
    Menu { lives, passes: millis(ages), ends: true, passing: 3, loading: 4, putting: 3, completed: 8 }
}

/// What can be said on a clock that runs: what ends at once, never, far off, or after a wait.
fn running(time: &Time) -> Menu {
    let step = time.step();
    let lives = vec![HOUR, Duration::ZERO, FOR_EVER, FOR_EVER, YEARS, step, Duration::ZERO];
    let passes = vec![step + time.resolution(), step * 2 + time.resolution() * 2];
    Menu { lives, passes, ends: false, passing: 1, loading: 1, putting: 5, completed: 4 }
}

/// Plays as many histories as the effort has. The first that fails is shrunk, and told.
fn histories<H: Harness>(
    lab: &Lab<'_, H>,
    salt: u8,
    menu: &Menu,
    play: impl Fn(u32, &[Step]) -> Result<(), Failed>,
) -> Checked {
    let mut seed = [salt; 32];
    seed[..8].copy_from_slice(&lab.seed.to_le_bytes());
    let ended = drawn(lab.effort.histories, &seed, menu, &lab.tally, &play);
    ended.map_err(|stop| stop.again(|| lab.replay()))
}

/// Plays the history of this number.
type Play<'p> = dyn Fn(u32, &[Step]) -> Result<(), Failed> + 'p;

/// Knows nothing of the store, so that proptest's runner is built once and not for each.
fn drawn(cases: u32, seed: &[u8; 32], menu: &Menu, tally: &Tally, play: &Play<'_>) -> Checked {
    let config = Config {
        cases,
        failure_persistence: None,
        // A store that is slow, or waits, is shrunk less.
        max_shrink_iters: 4000,
        max_shrink_time: 20_000,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, seed);
    // Each play has a number, and so keys of its own; the last one that failed is the shortest.
    let (plays, failed) = (Cell::new(0), RefCell::new(None));
    let ended = TestRunner::new_with_rng(config, rng).run(&menu.history(STEPS_MAX), |steps| {
        plays.set(plays.get() + 1);
        if failed.borrow().is_none() {
            Tally::count(&tally.histories, 1);
        }
        play(plays.get(), &steps).map_err(|failure| {
            failed.replace(Some(failure));
            TestCaseError::fail("it fails")
        })
    });
    match (ended, failed.into_inner()) {
        (Ok(()), _) => Ok(()),
        (Err(_), Some(Failed { stop: Stop::Violated(violation), played })) => {
            let what = format!("{}\nafter these steps of one caller:\n{}", violation.what, played.join("\n"));
            Err(Violation { what, ..violation }.into())
        }
        (Err(_), Some(Failed { stop, .. })) => Err(stop),
        (Err(TestError::Abort(reason)), None) => panic!("no history could be drawn: {reason}"),
        (Err(TestError::Fail(reason, steps)), None) => {
            panic!("the store, or its harness, panicked: {reason}, playing {steps:?}")
        }
    }
}
