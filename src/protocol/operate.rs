//! The table of who operates the service, and of resolvers.

use std::time::Duration;

use super::transition::{Command, Decision, Lifetimes, Plan, completed, expire, released, write};
use super::{Draft, Entry, Expected, ExpiredBecause, Outcome, State, Status, UnixMillis, Version};

/// What somebody found out about an operation in doubt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Resolution {
    /// The effect happened, and this is its outcome.
    Completed(Outcome),
    /// The effect did not happen, and will not: the next claim may run the operation.
    NoEffect,
}

/// What an operator, or a resolver, asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OperatorCommand<'a> {
    /// The version that was looked at: at any other, the answer is [`OperatorVerdict::Changed`]. `None`: whatever is there.
    pub at: Option<Version>,
    /// What is asked.
    pub order: Order<'a>,
}

/// What can be ordered from outside of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order<'a> {
    /// Somebody knows what happened.
    Resolve(&'a Resolution, UnixMillis),
    /// End the generation.
    Forget(UnixMillis),
    /// Let the limit of attempts count anew.
    ResetAttempts,
}

/// The answers to an operator that need no write.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum OperatorVerdict {
    /// The command took effect before.
    AlreadyDone,
    /// The operation is completed.
    AlreadyCompleted,
    /// An attempt is running; not now.
    Live,
    /// There is no doubt to resolve.
    NotInDoubt,
    /// Nothing is on record.
    Absent,
    /// It is not as it was when it was looked at.
    Changed,
}

impl Command for OperatorCommand<'_> {
    type Verdict = OperatorVerdict;

    fn plan<'a>(&'a self, entry: Option<&'a Entry>, lifetimes: &Lifetimes) -> Plan<'a, OperatorVerdict> {
        operate(entry, self, lifetimes)
    }
}

pub(super) fn operate<'a>(
    entry: Option<&'a Entry>,
    OperatorCommand { at, order }: &OperatorCommand<'a>,
    lifetimes: &Lifetimes,
) -> Plan<'a, OperatorVerdict> {
    use OperatorVerdict::{Absent, AlreadyCompleted, AlreadyDone, Changed, Live, NotInDoubt};
    if at.is_some_and(|at| entry.is_none_or(|entry| entry.version != at)) {
        return Decision::Answer(Changed);
    }
    let Some(entry) = entry else { return Decision::Answer(Absent) };
    let verdict = match (*order, entry.status()) {
        (_, Status::InProgress) => Live,
        (Order::Resolve(resolution, now), Status::Expired(ExpiredBecause::Abandoned)) => {
            return match resolution {
                Resolution::Completed(outcome) => completed(entry, outcome.borrowed(), false, now, lifetimes),
                Resolution::NoEffect => released(entry, false, now, lifetimes),
            };
        }
        (Order::Resolve(..), Status::Expired(ExpiredBecause::Released | ExpiredBecause::Forgotten)) => {
            NotInDoubt
        }
        (Order::Forget(_), Status::Expired(ExpiredBecause::Forgotten)) => AlreadyDone,
        (Order::Forget(now), _) => return forgotten(entry, now, lifetimes),
        (
            Order::Resolve(..) | Order::ResetAttempts,
            Status::Completed | Status::Expired(ExpiredBecause::Completed),
        ) => AlreadyCompleted,
        (Order::ResetAttempts, Status::Expired(ExpiredBecause::Forgotten)) => Absent,
        (Order::ResetAttempts, Status::Expired(_)) if entry.record.attempts_counted() == 0 => AlreadyDone,
        (Order::ResetAttempts, Status::Expired(cause)) => {
            let record = Draft { forgiven: entry.record.attempt(), ..written_out(entry) };
            return match cause {
                ExpiredBecause::Abandoned => expire(entry, record, lifetimes),
                _ => write(Expected::At(entry.version), record, Duration::ZERO, lifetimes.linger_undone()),
            };
        }
    };
    Decision::Answer(verdict)
}

fn forgotten<'a>(entry: &'a Entry, now: UnixMillis, lifetimes: &Lifetimes) -> Plan<'a, OperatorVerdict> {
    let record = Draft {
        state: State::Forgotten,
        fingerprint: None,
        checkpoint: &[],
        finished_at: Some(now),
        ..written_out(entry)
    };
    write(Expected::At(entry.version), record, Duration::ZERO, lifetimes.retention)
}

/// The record of `entry`, with its attempt's token.
fn written_out(entry: &Entry) -> Draft<'_> {
    Draft { token: Some(entry.fencing_token()), ..entry.record.draft() }
}
