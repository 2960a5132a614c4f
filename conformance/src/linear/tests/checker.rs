//! Histories that are known to be legal or not, and random ones judged by a plainer search as well.

use crate::linear::check::{Act, Demands, Op, Verdict, check, check_within};
use crate::linear::program::Dice;

fn load(invoked: u64, answered: u64, found: Option<u64>) -> Op {
    Op { invoked, answered: Some(answered), act: Act::Read { found, conflict: false } }
}

fn conflict(invoked: u64, answered: u64, found: Option<u64>) -> Op {
    Op { invoked, answered: Some(answered), act: Act::Read { found, conflict: true } }
}

fn done(invoked: u64, answered: u64, expected: Option<u64>, version: u64) -> Op {
    let act = Act::Write { expected, version: Some(version), lasts: true };
    Op { invoked, answered: Some(answered), act }
}

/// Done, and gone at once.
fn ended(invoked: u64, answered: u64, expected: Option<u64>, version: u64) -> Op {
    let act = Act::Write { expected, version: Some(version), lasts: false };
    Op { invoked, answered: Some(answered), act }
}

/// A write without an answer; somebody may have read it.
fn unheard(invoked: u64, expected: Option<u64>, version: Option<u64>, lasts: bool) -> Op {
    Op { invoked, answered: None, act: Act::Write { expected, version, lasts } }
}

fn legal(ops: &[Op]) {
    assert_eq!(check(ops, Demands::ALL), Verdict::Legal, "{ops:#?}");
}

fn illegal(ops: &[Op]) {
    assert_eq!(check(ops, Demands::ALL), Verdict::Illegal, "{ops:#?}");
}

#[test]
fn one_after_the_other() {
    legal(&[]);
    legal(&[load(0, 1, None), done(2, 3, None, 7), load(4, 5, Some(7)), done(6, 7, Some(7), 9)]);
    illegal(&[done(0, 1, None, 7), load(2, 3, None)]);
    illegal(&[done(0, 1, None, 7), done(2, 3, None, 8)]);
    illegal(&[done(0, 1, None, 7), done(2, 3, Some(6), 8)]);
}

#[test]
fn a_stale_read_is_refused_once_the_write_was_answered() {
    legal(&[done(0, 1, None, 1), done(2, 5, Some(1), 2), load(3, 4, Some(1)), load(6, 7, Some(2))]);
    illegal(&[done(0, 1, None, 1), done(2, 3, Some(1), 2), load(4, 5, Some(1))]);
    // The first reader saw it: the second must as well, though the write has no answer yet.
    illegal(&[done(0, 1, None, 1), done(2, 9, Some(1), 2), load(3, 4, Some(2)), load(5, 6, Some(1))]);
}

#[test]
fn a_read_before_the_write_was_sent_is_refused() {
    illegal(&[load(0, 1, Some(1)), done(2, 3, None, 1)]);
    legal(&[load(0, 3, Some(1)), done(1, 2, None, 1)]);
}

#[test]
fn of_two_writes_that_expect_the_same_one_is_done() {
    illegal(&[done(0, 2, None, 1), done(1, 3, None, 2)]);
    illegal(&[done(0, 1, None, 1), done(2, 4, Some(1), 2), done(3, 5, Some(1), 3)]);
    legal(&[done(0, 2, None, 1), conflict(1, 3, Some(1))]);
}

#[test]
fn a_lost_update_is_refused() {
    illegal(&[done(0, 1, None, 1), done(2, 4, Some(1), 2), done(3, 5, Some(1), 3), load(6, 7, Some(2))]);
    // Overwritten by nobody, and not there in the end.
    illegal(&[done(0, 1, None, 1), done(2, 3, Some(1), 2), load(4, 5, Some(1))]);
}

#[test]
fn a_conflict_carries_what_was_current() {
    legal(&[done(0, 1, None, 1), done(2, 5, Some(1), 2), conflict(3, 4, Some(2))]);
    illegal(&[done(0, 1, None, 1), conflict(2, 3, None)]);
    illegal(&[done(0, 1, None, 1), done(2, 3, Some(1), 2), conflict(4, 5, Some(1))]);
    illegal(&[conflict(0, 1, Some(3)), done(2, 3, None, 3)]);
}

#[test]
fn versions_rise() {
    illegal(&[done(0, 1, None, 5), done(2, 3, Some(5), 4)]);
    illegal(&[ended(0, 1, None, 5), done(2, 3, None, 5)]);
    illegal(&[ended(0, 1, None, 5), done(2, 3, None, 4)]);
    legal(&[ended(0, 1, None, 5), done(2, 3, None, 6)]);
    // No number is left between 5 and 6 for the write that must have ended the entry.
    illegal(&[done(0, 1, None, 5), unheard(2, Some(5), None, false), done(3, 4, None, 6)]);
    legal(&[done(0, 1, None, 5), unheard(2, Some(5), None, false), done(3, 4, None, 7)]);
}

#[test]
fn what_is_gone_at_once_is_never_read() {
    legal(&[ended(0, 1, None, 1), load(2, 3, None)]);
    legal(&[done(0, 1, None, 1), ended(2, 3, Some(1), 2), load(4, 5, None), done(6, 7, None, 3)]);
    illegal(&[done(0, 1, None, 1), ended(2, 3, Some(1), 2), load(4, 5, Some(1))]);
    illegal(&[ended(0, 1, None, 1), load(2, 3, Some(1))]);
}

#[test]
fn a_write_without_an_answer_may_have_happened_or_not() {
    let unseen = unheard(2, Some(1), None, true);
    legal(&[done(0, 1, None, 1), unseen, load(3, 4, Some(1))]);
    // Seen by one, it has happened for all who come later, and not for those who ended before it was sent.
    let seen = unheard(2, Some(1), Some(2), true);
    legal(&[done(0, 1, None, 1), seen.clone(), load(3, 4, Some(1)), load(5, 6, Some(2))]);
    illegal(&[done(0, 1, None, 1), seen.clone(), load(3, 4, Some(2)), load(5, 6, Some(1))]);
    illegal(&[done(0, 1, None, 1), seen.clone(), done(3, 4, Some(1), 3), load(5, 6, Some(2))]);
    legal(&[done(0, 1, None, 1), seen, done(3, 4, Some(2), 3)]);
    // It must have happened, and could not: what it expects was never there.
    illegal(&[done(0, 1, None, 1), unheard(2, Some(9), Some(2), true), load(3, 4, Some(2))]);
    illegal(&[done(0, 1, None, 1), unheard(4, Some(1), Some(2), true), load(2, 3, Some(2))]);
    // The entry can only be gone by the write that nobody heard of.
    legal(&[done(0, 1, None, 1), unheard(2, Some(1), None, false), load(3, 4, None)]);
    illegal(&[done(0, 1, None, 1), unheard(2, Some(9), None, false), load(3, 4, None)]);
    illegal(&[done(0, 1, None, 1), unheard(4, Some(1), None, false), load(2, 3, None)]);
}

#[test]
fn a_search_that_ends_early_says_so() {
    // Any of the writes that nobody heard of may have come first, second, and so on, and none explains the last read.
    let mut ops: Vec<_> = (0..8).map(|n| unheard(n, None, Some(n + 1), true)).collect();
    ops.extend((0..20).map(|n| unheard(20 + n, Some(1 + n % 8), None, false)));
    ops.push(load(100, 101, Some(99)));
    assert_eq!(check_within(&ops, Demands::ALL, 100), Verdict::Undecided);
    let too_many: Vec<_> = (0..70).map(|n| load(2 * n, 2 * n + 1, None)).collect();
    assert_eq!(check(&too_many, Demands::ALL), Verdict::Undecided);
}

/// The plainest search: any call that nobody's answer forbids comes next, or a call without an answer never.
fn plain(ops: &[Op], current: Current, floor: u64) -> bool {
    if ops.iter().all(|op| op.answered.is_none()) {
        return true;
    }
    ops.iter().enumerate().any(|(index, op)| {
        if ops.iter().any(|other| other.answered.is_some_and(|answered| answered < op.invoked)) {
            return false;
        }
        let mut rest = ops.to_vec();
        rest.remove(index);
        match op.act {
            Act::Read { found, .. } => {
                let fits = match current {
                    Current::Nothing => found.is_none(),
                    Current::Version(version) => found == Some(version),
                    Current::Unknown => false,
                };
                (op.answered.is_none() || fits) && plain(&rest, current, floor)
            }
            Act::Write { expected, version, lasts } => {
                let fits = match current {
                    Current::Nothing => expected.is_none(),
                    Current::Version(version) => expected == Some(version),
                    Current::Unknown => false,
                };
                if !fits || version.is_some_and(|version| version < floor) {
                    return false;
                }
                let next = match version {
                    _ if !lasts => Current::Nothing,
                    Some(version) => Current::Version(version),
                    None => Current::Unknown,
                };
                plain(&rest, next, version.unwrap_or(floor) + 1)
            }
        }
    })
}

#[derive(Clone, Copy)]
enum Current {
    Nothing,
    Version(u64),
    /// That of a write whose version nobody heard.
    Unknown,
}

/// What a right register answers to random calls: each takes effect at a random moment between its two ends.
fn simulated(dice: &mut Dice, calls: usize) -> Vec<Op> {
    let mut spans: Vec<_> = (0..calls)
        .map(|_| {
            let mut at = [dice.next() % 1000, dice.next() % 1000, dice.next() % 1000];
            at.sort_unstable();
            at
        })
        .collect();
    // Two ends never share a moment.
    let mut all: Vec<_> = spans.iter().enumerate().flat_map(|(n, at)| at.map(|at| (at, n))).collect();
    all.sort_unstable();
    for (n, at) in spans.iter_mut().enumerate() {
        let mut places =
            all.iter().enumerate().filter(|(_, (_, of))| *of == n).map(|(place, _)| place as u64);
        *at = std::array::from_fn(|_| places.next().unwrap());
    }
    spans.sort_unstable_by_key(|at| at[1]);
    let (mut current, mut last) = (None, 0);
    let mut ops: Vec<Op> = Vec::new();
    for [invoked, _, answered] in spans {
        let expected = match dice.below(4) {
            0 => None,
            1 => Some(1 + dice.next() % 9),
            _ => current,
        };
        let act = if dice.percent(40) {
            Act::Read { found: current, conflict: false }
        } else if expected != current {
            Act::Read { found: current, conflict: true }
        } else {
            last += 1 + dice.next() % 2;
            let lasts = dice.percent(75);
            current = lasts.then_some(last);
            Act::Write { expected, version: Some(last), lasts }
        };
        ops.push(Op { invoked, answered: Some(answered), act });
    }
    // Some answers are not heard. The version of a write is then known if it was read.
    let read = ops.iter().filter_map(|op| match op.act {
        Act::Read { found, .. } => found,
        Act::Write { expected, .. } => expected,
    });
    let read: Vec<u64> = read.collect();
    for op in &mut ops {
        if dice.percent(20) {
            op.answered = None;
            if let Act::Write { version, .. } = &mut op.act {
                *version = version.filter(|version| read.contains(version));
            }
        }
    }
    ops
}

fn mutated(dice: &mut Dice, ops: &mut [Op]) {
    let index = dice.below(ops.len());
    let other = dice.next() % 9;
    let op = &mut ops[index];
    match &mut op.act {
        _ if dice.percent(30) => {
            // The call is over at once.
            op.answered = op.answered.map(|_| op.invoked);
        }
        Act::Read { found, .. } => *found = (other > 0).then_some(other),
        Act::Write { version, .. } if dice.percent(40) => *version = version.map(|_| other + 1),
        Act::Write { expected, .. } => *expected = (other > 0).then_some(other),
    }
}

#[test]
fn random_histories_of_a_right_register_are_legal() {
    let mut dice = Dice::new(1, [0, 0]);
    for _ in 0..20_000 {
        let calls = 1 + dice.below(40);
        legal(&simulated(&mut dice, calls));
    }
}

#[test]
fn mutated_histories_are_judged_as_a_plainer_search_judges_them() {
    let mut dice = Dice::new(2, [0, 0]);
    let (mut refused, mut still_legal) = (0, 0);
    for _ in 0..20_000 {
        let calls = 1 + dice.below(7);
        let mut ops = simulated(&mut dice, calls);
        assert!(plain(&ops, Current::Nothing, 0), "the plain search refuses a legal history: {ops:#?}");
        for _ in 0..=dice.below(2) {
            mutated(&mut dice, &mut ops);
        }
        let found = check(&ops, Demands::ALL);
        let expected = if plain(&ops, Current::Nothing, 0) { Verdict::Legal } else { Verdict::Illegal };
        assert_eq!(found, expected, "{ops:#?}");
        match found {
            Verdict::Illegal => refused += 1,
            _ => still_legal += 1,
        }
    }
    assert!(refused > 5000 && still_legal > 2000, "{refused} refused, {still_legal} still legal");
}
