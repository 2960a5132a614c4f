//! Random histories of several clients, checked for linearizability key by key.

mod check;
mod drive;
mod events;
mod keyed;
mod program;
#[cfg(test)]
mod tests;

use super::harness::Harness;
use super::lab::{Bench, Checked, Lab, Stop, Tally, key};
use drive::{in_flight, in_threads};
use events::{Answer, Event};
use keyed::{Outcome, judge};
use program::{Dice, Plan, Style};

/// Threads that call at once, and hear every answer.
pub(super) fn s1_concurrent_histories_are_linearizable<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    histories(lab, 11, Style { clients_max: 4, calls_max: 12, unheard: 0, gone: true }, Way::Threads)
}

/// Threads whose calls are dropped half-way, or whose answers are lost, every fourth or so.
pub(super) fn s1_concurrent_histories_with_lost_calls_are_linearizable<H: Harness>(
    lab: &Lab<'_, H>,
) -> Checked {
    histories(lab, 12, Style { clients_max: 4, calls_max: 12, unheard: 25, gone: true }, Way::Threads)
}

/// Calls in flight together on one thread, polled in a drawn order, some of them dropped half-way. For a store that
/// answers without threads of its own each history is the same in every run.
pub(super) fn s1_calls_in_flight_on_one_thread_are_linearizable<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    histories(lab, 13, Style { clients_max: 4, calls_max: 10, unheard: 12, gone: true }, Way::OneThread)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Threads,
    OneThread,
}

/// Errors are answers whose effect is unknown here; where most calls fail, nothing is shown.
#[derive(Clone, Copy, Default, Debug)]
struct Heard {
    answers: u64,
    errors: u64,
}

fn histories<H: Harness>(lab: &Lab<'_, H>, salt: u64, style: Style, way: Way) -> Checked {
    let bench = lab.fresh();
    // What is gone at once by the contract may be gone a little later by a store that rounds times.
    let style = Style { gone: style.gone && bench.time.resolution().is_zero(), ..style };
    let (mut undecided, mut heard) = (false, Heard::default());
    let mut plays = 0;
    for number in 0..lab.effort.histories {
        let mut dice = Dice::new(lab.seed, [salt, number.into()]);
        let plan = Plan::draw(&mut dice, style);
        let mut play = |plan: &Plan| {
            plays += 1;
            played(&bench, way, plan, &dice, salt * 1_000_000 + plays, &mut heard)
        };
        match play(&plan) {
            Outcome::Linearizable => Tally::count(&lab.tally.histories, 1),
            Outcome::Undecided => undecided = true,
            Outcome::Violated(violation) => {
                let violation = match way {
                    Way::Threads => violation,
                    Way::OneThread => shrunk(plan, violation, &mut play),
                };
                let how = format!("{}; history {number}", lab.replay());
                return Err(Stop::from(violation).again(|| how));
            }
        }
    }
    if undecided {
        return Err(Stop::NotShown("a history could not be checked within the bound of the search"));
    }
    if heard.errors > heard.answers {
        return Err(Stop::NotShown("the store answered more errors than anything else"));
    }
    Ok(())
}

/// Leaves out one call after the other as long as the history stays wrong.
fn shrunk(
    mut plan: Plan,
    mut violation: super::clause::Violation,
    play: &mut impl FnMut(&Plan) -> Outcome,
) -> super::clause::Violation {
    for client in 0..plan.clients.len() {
        let mut index = plan.clients[client].len();
        while index > 0 {
            index -= 1;
            let less = plan.without(client, index);
            if let Outcome::Violated(found) = play(&less) {
                (plan, violation) = (less, found);
            }
        }
    }
    violation
}

/// Plays a history on keys of its own, and judges it.
fn played<H: Harness>(
    bench: &Bench<'_, H>,
    way: Way,
    plan: &Plan,
    dice: &Dice,
    number: u64,
    heard: &mut Heard,
) -> Outcome {
    let keys: Vec<_> = (0..plan.keys).map(|index| key(format!("{number}-{index}"))).collect();
    let events = match way {
        Way::Threads => in_threads(bench, plan, &keys, number),
        Way::OneThread => in_flight(bench, plan, &keys, dice.clone(), number),
    };
    Tally::count(&bench.lab.tally.calls, events.len() as u64);
    if way == Way::Threads {
        Tally::count(&bench.lab.tally.races, 1);
    }
    for Event { answered, .. } in &events {
        let failed = match answered {
            None => continue,
            Some((_, Answer::Loaded(answer))) => answer.is_err(),
            Some((_, Answer::Purged(answer))) => answer.is_err(),
            Some((_, Answer::Put(answers))) => answers.iter().any(Result::is_err),
        };
        heard.answers += u64::from(!failed);
        heard.errors += u64::from(failed);
    }
    judge(&events, plan.keys, bench.time.resolution())
}
