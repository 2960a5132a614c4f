//! The transition function. Its commands are of three audiences, a file each: whoever claims a key, whoever holds it, and
//! who operates the service. Here is what they share.

use std::time::Duration;

use super::follow_up::FollowUp;
use super::{Entry, Expected, Outcome, Policy, Record, State, UnixMillis, Unwritten};

/// How long what is written lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lifetimes {
    /// How long a claim is honoured without renewal.
    pub lease: Duration,
    /// How long an outcome is kept, from completion.
    pub retention: Duration,
    /// How much longer the fact that it is done is kept.
    pub tail: Duration,
}

impl Lifetimes {
    /// How long a record in progress stays readable after its lease: forever under `Hold`, which waits for a
    /// resolver, and under `Reclaim` as long as what is not done.
    fn linger_in_progress(&self, policy: Policy) -> Duration {
        match policy {
            Policy::Hold => Duration::MAX,
            Policy::Reclaim => self.linger_undone(),
        }
    }

    /// How long what is not done stays readable: as long as what is. A delivery may come that late, and finds the same
    /// operation id, and the attempts that were used.
    pub(super) fn linger_undone(&self) -> Duration {
        self.retention.saturating_add(self.tail)
    }
}

/// Something that can be asked of a key: [`ClaimCommand`](super::ClaimCommand), [`HolderCommand`](super::HolderCommand) or
/// [`OperatorCommand`](super::OperatorCommand).
pub trait Command {
    /// The answers that need no write.
    type Verdict;

    /// As [`decide`], with the record not written out yet.
    fn plan<'a>(&'a self, entry: Option<&'a Entry>, lifetimes: &Lifetimes) -> Plan<'a, Self::Verdict>;
}

impl<C: Command> Command for &C {
    type Verdict = C::Verdict;

    fn plan<'a>(&'a self, entry: Option<&'a Entry>, lifetimes: &Lifetimes) -> Plan<'a, Self::Verdict> {
        (**self).plan(entry, lifetimes)
    }
}

/// What to do about a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision<V, R = Record> {
    /// Send this write. If it is done, so is the command; on a conflict, decide again on the entry it carries.
    Write(Write<R>),
    /// Write nothing; this is the answer.
    Answer(V),
}

/// One write for a store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write<R = Record> {
    /// What it expects to find.
    pub expected: Expected,
    /// What it puts there.
    pub record: R,
    /// How long that stays live.
    pub live: Duration,
    /// How much longer it stays readable.
    pub linger: Duration,
}

/// What `command` does to a key that holds `entry`.
///
/// Pure, and total: every state has an answer to every command. A caller sends the write it gets and, on a
/// conflict, asks again with the entry that the conflict carried.
pub fn decide<C: Command>(entry: Option<&Entry>, command: &C, lifetimes: &Lifetimes) -> Decision<C::Verdict> {
    command.plan(entry, lifetimes).written_out()
}

/// A [`Decision`] whose record is not written out yet.
pub type Plan<'a, V> = Decision<V, Unwritten<'a>>;

impl<V> Plan<'_, V> {
    /// The same, with the record as bytes.
    pub fn written_out(self) -> Decision<V> {
        match self {
            Self::Write(Write { expected, record, live, linger }) => {
                Decision::Write(Write { expected, record: record.to_record(), live, linger })
            }
            Self::Answer(verdict) => Decision::Answer(verdict),
        }
    }
}

impl<V> From<Decision<V>> for Plan<'_, V> {
    fn from(decision: Decision<V>) -> Self {
        match decision {
            Decision::Write(Write { expected, record, live, linger }) => {
                Self::Write(Write { expected, record: record.into(), live, linger })
            }
            Decision::Answer(verdict) => Self::Answer(verdict),
        }
    }
}

#[inline]
pub(super) fn write<'a, V>(
    expected: Expected,
    record: impl Into<Unwritten<'a>>,
    live: Duration,
    linger: Duration,
) -> Plan<'a, V> {
    Decision::Write(Write { expected, record: record.into(), live, linger })
}

/// In progress, for a lease.
#[inline]
pub(super) fn grant<'a, V>(
    expected: Expected,
    record: impl Into<Unwritten<'a>>,
    lifetimes: &Lifetimes,
) -> Plan<'a, V> {
    let record = record.into();
    let linger = lifetimes.linger_in_progress(record.policy());
    write(expected, record, lifetimes.lease, linger)
}

/// In progress with nothing left to live.
pub(super) fn expire<'a, V>(
    entry: &Entry,
    record: impl Into<Unwritten<'a>>,
    lifetimes: &Lifetimes,
) -> Plan<'a, V> {
    let record = record.into();
    let linger = lifetimes.linger_in_progress(record.policy());
    write(Expected::At(entry.version), record, Duration::ZERO, linger)
}

/// The record of `entry` with its attempt's token written out, as every write after the grant has it.
#[inline]
pub(super) fn follow_up(entry: &Entry) -> FollowUp<'_> {
    let before = &entry.record;
    FollowUp {
        before,
        token: entry.fencing_token(),
        state: before.state(),
        doubt: before.doubt(),
        checkpoint: before.checkpoint_bytes(),
        finished_at: before.finished_at(),
    }
}

#[inline]
pub(super) fn completed<'a, V>(
    entry: &'a Entry,
    outcome: Outcome<&'a [u8]>,
    doubt: bool,
    now: UnixMillis,
    lifetimes: &Lifetimes,
) -> Plan<'a, V> {
    let record = FollowUp {
        state: State::Completed(outcome),
        doubt,
        finished_at: Some(now),
        // A recovery point is of no use to a finished operation.
        checkpoint: &[],
        ..follow_up(entry)
    };
    write(Expected::At(entry.version), record, lifetimes.retention, lifetimes.tail)
}

pub(super) fn released<'a, V>(
    entry: &'a Entry,
    fresh_operation_id: bool,
    now: UnixMillis,
    lifetimes: &Lifetimes,
) -> Plan<'a, V> {
    let record = FollowUp {
        state: State::Released { fresh_operation_id },
        doubt: false,
        finished_at: Some(now),
        ..follow_up(entry)
    };
    write(Expected::At(entry.version), record, Duration::ZERO, lifetimes.linger_undone())
}
