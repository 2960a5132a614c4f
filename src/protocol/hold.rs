//! The table of who holds a key.

use super::follow_up::FollowUp;
use super::transition::{Command, Decision, Lifetimes, Plan, completed, expire, follow_up, grant, released};
use super::{Entry, Expected, Holder, Outcome, Payload, State, UnixMillis};

/// What the holder of an attempt asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HolderCommand<'a> {
    /// Whose attempt it is.
    pub holder: Holder,
    /// What is asked.
    pub act: Act<'a>,
}

/// What can be done with an attempt that one holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act<'a> {
    /// Keep the claim for another lease.
    Renew,
    /// Record how far the attempt got, and renew.
    Checkpoint(&'a Payload),
    /// Conclude with this outcome.
    Complete(Outcome<&'a [u8]>, UnixMillis),
    /// Give up: nothing happened.
    Release {
        /// The next attempt shall get a new operation id.
        fresh_operation_id: bool,
        /// The wall clock, for people.
        now: UnixMillis,
    },
    /// Give up: what happened is unknown.
    Abandon,
    /// Find out whether a transaction concluded with this outcome ([`HolderVerdict::AlreadyDone`]); if it did not, renew, so
    /// that it no longer can.
    Settle(Outcome<&'a [u8]>),
}

impl Act<'_> {
    /// Whether it keeps the claim, rather than conclude it.
    pub fn keeps(self) -> bool {
        matches!(self, Self::Renew | Self::Checkpoint(_) | Self::Settle(_))
    }
}

/// The answers to a holder that need no write.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum HolderVerdict {
    /// The command took effect before.
    AlreadyDone,
    /// The operation is completed, and not as this holder would.
    AlreadyCompleted,
    /// The attempt was released.
    AlreadyReleased,
    /// Another attempt, or an operator, has the key now.
    Superseded,
    /// Nothing is on record.
    Absent,
}

impl Command for HolderCommand<'_> {
    type Verdict = HolderVerdict;

    fn plan<'a>(&'a self, entry: Option<&'a Entry>, lifetimes: &Lifetimes) -> Plan<'a, HolderVerdict> {
        hold(entry, self, lifetimes)
    }
}

pub(super) fn hold<'a>(
    entry: Option<&'a Entry>,
    HolderCommand { holder, act }: &HolderCommand<'a>,
    lifetimes: &Lifetimes,
) -> Plan<'a, HolderVerdict> {
    use HolderVerdict::{Absent, AlreadyCompleted, AlreadyDone, AlreadyReleased, Superseded};
    let Some(entry) = entry else { return Decision::Answer(Absent) };
    // Commands of a holder reach only a record that is its own.
    if !entry.is_held_by(holder) {
        return Decision::Answer(Superseded);
    }
    let keep = |record: FollowUp<'a>| grant(Expected::At(entry.version), record, lifetimes);
    let verdict = match (entry.record.state(), *act) {
        (State::InProgress, Act::Renew | Act::Settle(_)) => return keep(follow_up(entry)),
        (State::InProgress, Act::Checkpoint(checkpoint)) => {
            return keep(FollowUp { checkpoint, ..follow_up(entry) });
        }
        // Late, but nobody took over: accepted.
        (State::InProgress, Act::Complete(outcome, now)) => {
            return completed(entry, outcome, entry.record.doubt(), now, lifetimes);
        }
        (State::InProgress, Act::Release { fresh_operation_id, now }) if !entry.record.doubt() => {
            return released(entry, fresh_operation_id, now, lifetimes);
        }
        (State::InProgress, Act::Release { .. } | Act::Abandon) if entry.left.is_zero() => AlreadyDone,
        // An attempt that did nothing cannot vouch for the one before it.
        (State::InProgress, Act::Release { .. } | Act::Abandon) => {
            return expire(entry, follow_up(entry), lifetimes);
        }
        (State::Completed(recorded), Act::Complete(outcome, _) | Act::Settle(outcome))
            if recorded.is_again(outcome) =>
        {
            AlreadyDone
        }
        (State::Completed(_), _) => AlreadyCompleted,
        (State::Released { .. }, Act::Release { .. }) => AlreadyDone,
        (State::Released { .. }, _) => AlreadyReleased,
        (State::Forgotten, _) => Superseded,
    };
    Decision::Answer(verdict)
}
