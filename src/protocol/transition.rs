//! The transition function.

use std::num::NonZeroU32;
use std::time::Duration;

use super::fingerprint::{self, Comparison};
use super::{
    Draft, Entry, Expected, ExpiredBecause, Fingerprint, Holder, OperationId, Outcome, Owner, Payload,
    Policy, Record, State, Status, UnixMillis,
};

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
    fn linger_undone(&self) -> Duration {
        self.retention.saturating_add(self.tail)
    }
}

/// What a claim brings along.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClaimCommand {
    /// The id of this call.
    pub owner: Owner,
    /// The operation id to use if this claim begins a generation.
    pub operation_id: OperationId,
    /// The fingerprint of the request.
    pub fingerprint: Option<Fingerprint>,
    /// What challengers may do if this owner stops in the middle.
    pub policy: Policy,
    /// Most attempts of one generation; `None`: no limit.
    pub attempts_max: Option<NonZeroU32>,
    /// The wall clock, for people.
    pub now: UnixMillis,
}

/// What somebody found out about an operation in doubt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Resolution {
    /// The effect happened, and this is its outcome.
    Completed(Outcome),
    /// The effect did not happen, and will not: the next claim may run the operation.
    NoEffect,
}

/// Everything that can be asked of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Command<'a> {
    /// Ask for the right to execute. Repeatable by the same owner while nothing was started.
    Claim(&'a ClaimCommand),
    /// Keep the claim for another lease.
    Renew(Holder),
    /// Record how far the attempt got, and renew.
    Checkpoint(Holder, &'a Payload),
    /// Conclude with this outcome.
    Complete(Holder, &'a Outcome, UnixMillis),
    /// Give up: nothing happened.
    Release {
        /// Who gives up.
        holder: Holder,
        /// The next attempt shall get a new operation id.
        fresh_operation_id: bool,
        /// The wall clock, for people.
        now: UnixMillis,
    },
    /// Give up: what happened is unknown.
    Abandon(Holder),
    /// An operator, or a resolver, knows what happened.
    Resolve(&'a Resolution, UnixMillis),
    /// An operator ends the generation.
    Forget(UnixMillis),
    /// An operator lets the limit of attempts count anew.
    ResetAttempts,
}

/// What to do about a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Send this write. If it is done, so is the command; on a conflict, decide again on the entry it carries.
    Write(Write),
    /// Write nothing; this is the answer.
    Answer(Verdict),
}

/// One write for a store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// What it expects to find.
    pub expected: Expected,
    /// What it puts there.
    pub record: Record,
    /// How long that stays live.
    pub live: Duration,
    /// How much longer it stays readable.
    pub linger: Duration,
}

/// The answers that need no write.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Verdict {
    /// To a claim: this very call holds it already; the reply to its write was lost.
    AlreadyGranted,
    /// To a claim: another attempt is running.
    InProgress,
    /// To a claim: here is the outcome.
    Replay,
    /// To a claim: it is done, and the outcome is no longer kept.
    Done,
    /// To a claim: the key is bound to another request.
    Mismatch,
    /// To a claim: the key is bound to a fingerprint of another algorithm, so nobody can tell.
    Incomparable,
    /// To a claim: an attempt stopped in the middle, and the operation must not run again unresolved.
    InDoubt,
    /// To a claim: the attempts are used up.
    Exhausted,
    /// The command took effect before.
    AlreadyDone,
    /// To a holder: another attempt, or an operator, has the key now.
    Superseded,
    /// The operation is completed: for a holder with another outcome than it brings, for an operator at all.
    AlreadyCompleted,
    /// To a holder: the attempt was released.
    AlreadyReleased,
    /// Nothing is on record.
    Absent,
    /// To an operator: an attempt is running; not now.
    Live,
    /// To an operator: there is no doubt to resolve.
    NotInDoubt,
}

/// What `command` does to a key that holds `entry`.
///
/// Pure, and total: every state has an answer to every command. A caller sends the write it gets and, on a
/// conflict, asks again with the entry that the conflict carried.
pub fn decide(entry: Option<&Entry>, command: &Command<'_>, lifetimes: &Lifetimes) -> Decision {
    match *command {
        Command::Claim(claim) => decide_claim(entry, claim, lifetimes),
        Command::Renew(holder) => held(entry, &holder, |entry| renew(entry, None, lifetimes)),
        Command::Checkpoint(holder, bytes) => {
            held(entry, &holder, |entry| renew(entry, Some(bytes), lifetimes))
        }
        Command::Complete(holder, outcome, now) => {
            held(entry, &holder, |entry| complete(entry, outcome, now, lifetimes))
        }
        Command::Release { holder, fresh_operation_id, now } => {
            held(entry, &holder, |entry| release(entry, fresh_operation_id, now, lifetimes))
        }
        Command::Abandon(holder) => held(entry, &holder, |entry| abandon(entry, lifetimes)),
        Command::Resolve(resolution, now) => resolve(entry, resolution, now, lifetimes),
        Command::Forget(now) => forget(entry, now, lifetimes),
        Command::ResetAttempts => reset_attempts(entry, lifetimes),
    }
}

fn decide_claim(entry: Option<&Entry>, claim: &ClaimCommand, lifetimes: &Lifetimes) -> Decision {
    let Some(entry) = entry else {
        return grant(Expected::Vacant, first_attempt(claim), lifetimes);
    };
    let judged = entry.status();
    let same = fingerprint::compare(entry.record.fingerprint().as_ref(), claim.fingerprint.as_ref());
    match (judged, same) {
        // The generation is over, or ended cleanly under another request: the key is as good as vacant.
        (Status::Expired(ExpiredBecause::Forgotten), _)
        | (Status::Expired(ExpiredBecause::Released), Comparison::Differs | Comparison::Incomparable) => {
            grant(Expected::At(entry.version), first_attempt(claim), lifetimes)
        }
        // A mismatch comes before any other answer.
        (_, Comparison::Differs) => Decision::Answer(Verdict::Mismatch),
        (_, Comparison::Incomparable) => Decision::Answer(Verdict::Incomparable),
        (Status::Completed, _) => Decision::Answer(Verdict::Replay),
        (Status::Expired(ExpiredBecause::Completed), _) => Decision::Answer(Verdict::Done),
        (Status::InProgress, _) if entry.record.owner() == claim.owner => {
            Decision::Answer(Verdict::AlreadyGranted)
        }
        (Status::InProgress, _) => Decision::Answer(Verdict::InProgress),
        // Our own, granted before and nothing started: the same attempt, for another lease.
        (Status::Expired(ExpiredBecause::Abandoned), _) if entry.record.owner() == claim.owner => {
            renew(entry, None, lifetimes)
        }
        (Status::Expired(ExpiredBecause::Abandoned), _) if entry.record.policy() == Policy::Hold => {
            Decision::Answer(Verdict::InDoubt)
        }
        (Status::Expired(ExpiredBecause::Abandoned | ExpiredBecause::Released), _)
            if used_up(entry, claim) =>
        {
            Decision::Answer(Verdict::Exhausted)
        }
        (Status::Expired(cause @ (ExpiredBecause::Abandoned | ExpiredBecause::Released)), _) => {
            grant(Expected::At(entry.version), next_attempt(entry, claim, cause), lifetimes)
        }
    }
}

fn used_up(entry: &Entry, claim: &ClaimCommand) -> bool {
    claim.attempts_max.is_some_and(|max| entry.record.attempts_counted() >= max.get())
}

fn first_attempt(claim: &ClaimCommand) -> Draft<'static> {
    Draft {
        state: State::InProgress,
        owner: claim.owner,
        token: None,
        attempt: 1,
        forgiven: 0,
        operation_id: claim.operation_id,
        doubt: false,
        policy: claim.policy,
        fingerprint: claim.fingerprint,
        checkpoint: &[],
        created_at: claim.now,
        finished_at: None,
    }
}

fn next_attempt<'a>(entry: &'a Entry, claim: &ClaimCommand, cause: ExpiredBecause) -> Draft<'a> {
    let fresh_id = matches!(entry.record.state(), State::Released { fresh_operation_id: true });
    Draft {
        state: State::InProgress,
        owner: claim.owner,
        token: None,
        attempt: entry.record.attempt().saturating_add(1),
        operation_id: if fresh_id { claim.operation_id } else { entry.record.operation_id() },
        // Who was taken over left its effect unknown, and no later attempt can vouch for it.
        doubt: entry.record.doubt() || cause == ExpiredBecause::Abandoned,
        policy: claim.policy,
        finished_at: None,
        ..entry.record.draft()
    }
}

fn grant(expected: Expected, record: Draft<'_>, lifetimes: &Lifetimes) -> Decision {
    let linger = lifetimes.linger_in_progress(record.policy);
    write(expected, record, lifetimes.lease, linger)
}

fn write(expected: Expected, record: Draft<'_>, live: Duration, linger: Duration) -> Decision {
    Decision::Write(Write { expected, record: record.into(), live, linger })
}

/// Commands of a holder reach only a record that is its own.
fn held(entry: Option<&Entry>, holder: &Holder, then: impl FnOnce(&Entry) -> Decision) -> Decision {
    match entry {
        None => Decision::Answer(Verdict::Absent),
        Some(entry) if !entry.is_held_by(holder) => Decision::Answer(Verdict::Superseded),
        Some(entry) if entry.record.state() == State::Forgotten => Decision::Answer(Verdict::Superseded),
        Some(entry) => then(entry),
    }
}

/// The record of `entry` with its attempt's token written out, as every write after the grant has it.
fn follow_up(entry: &Entry) -> Draft<'_> {
    Draft { token: Some(entry.fencing_token()), ..entry.record.draft() }
}

fn renew(entry: &Entry, checkpoint: Option<&Payload>, lifetimes: &Lifetimes) -> Decision {
    match entry.record.state() {
        State::Completed(_) => Decision::Answer(Verdict::AlreadyCompleted),
        State::Released { .. } => Decision::Answer(Verdict::AlreadyReleased),
        State::Forgotten => Decision::Answer(Verdict::Superseded),
        State::InProgress => {
            let mut record = follow_up(entry);
            if let Some(bytes) = checkpoint {
                record.checkpoint = bytes;
            }
            grant(Expected::At(entry.version), record, lifetimes)
        }
    }
}

fn complete(entry: &Entry, outcome: &Outcome, now: UnixMillis, lifetimes: &Lifetimes) -> Decision {
    match entry.record.state() {
        State::Completed(recorded) if recorded.is_again(outcome) => Decision::Answer(Verdict::AlreadyDone),
        State::Completed(_) => Decision::Answer(Verdict::AlreadyCompleted),
        State::Released { .. } => Decision::Answer(Verdict::AlreadyReleased),
        State::Forgotten => Decision::Answer(Verdict::Superseded),
        // Late, but nobody took over: accepted.
        State::InProgress => completed(entry, outcome, entry.record.doubt(), now, lifetimes),
    }
}

fn completed(
    entry: &Entry,
    outcome: &Outcome,
    doubt: bool,
    now: UnixMillis,
    lifetimes: &Lifetimes,
) -> Decision {
    let record = Draft {
        state: State::Completed(outcome.borrowed()),
        doubt,
        finished_at: Some(now),
        // A recovery point is of no use to a finished operation.
        checkpoint: &[],
        ..follow_up(entry)
    };
    write(Expected::At(entry.version), record, lifetimes.retention, lifetimes.tail)
}

fn release(entry: &Entry, fresh_operation_id: bool, now: UnixMillis, lifetimes: &Lifetimes) -> Decision {
    match entry.record.state() {
        State::Completed(_) => Decision::Answer(Verdict::AlreadyCompleted),
        State::Released { .. } => Decision::Answer(Verdict::AlreadyDone),
        State::Forgotten => Decision::Answer(Verdict::Superseded),
        // This attempt did nothing, but it cannot vouch for the one before it.
        State::InProgress if entry.record.doubt() => abandon(entry, lifetimes),
        State::InProgress => released(entry, fresh_operation_id, now, lifetimes),
    }
}

fn released(entry: &Entry, fresh_operation_id: bool, now: UnixMillis, lifetimes: &Lifetimes) -> Decision {
    let record = Draft {
        state: State::Released { fresh_operation_id },
        doubt: false,
        finished_at: Some(now),
        ..follow_up(entry)
    };
    write(Expected::At(entry.version), record, Duration::ZERO, lifetimes.linger_undone())
}

fn abandon(entry: &Entry, lifetimes: &Lifetimes) -> Decision {
    match entry.record.state() {
        State::Completed(_) => Decision::Answer(Verdict::AlreadyCompleted),
        State::Released { .. } => Decision::Answer(Verdict::AlreadyReleased),
        State::Forgotten => Decision::Answer(Verdict::Superseded),
        State::InProgress if entry.left.is_zero() => Decision::Answer(Verdict::AlreadyDone),
        State::InProgress => expire(entry, follow_up(entry), lifetimes),
    }
}

/// In progress with nothing left to live.
fn expire(entry: &Entry, record: Draft<'_>, lifetimes: &Lifetimes) -> Decision {
    let linger = lifetimes.linger_in_progress(record.policy);
    write(Expected::At(entry.version), record, Duration::ZERO, linger)
}

fn resolve(
    entry: Option<&Entry>,
    resolution: &Resolution,
    now: UnixMillis,
    lifetimes: &Lifetimes,
) -> Decision {
    let Some(entry) = entry else {
        return Decision::Answer(Verdict::Absent);
    };
    match (entry.status(), resolution) {
        (Status::InProgress, _) => Decision::Answer(Verdict::Live),
        (Status::Completed | Status::Expired(ExpiredBecause::Completed), _) => {
            Decision::Answer(Verdict::AlreadyCompleted)
        }
        (Status::Expired(ExpiredBecause::Released | ExpiredBecause::Forgotten), _) => {
            Decision::Answer(Verdict::NotInDoubt)
        }
        (Status::Expired(ExpiredBecause::Abandoned), Resolution::Completed(outcome)) => {
            completed(entry, outcome, false, now, lifetimes)
        }
        (Status::Expired(ExpiredBecause::Abandoned), Resolution::NoEffect) => {
            released(entry, false, now, lifetimes)
        }
    }
}

fn forget(entry: Option<&Entry>, now: UnixMillis, lifetimes: &Lifetimes) -> Decision {
    let Some(entry) = entry else {
        return Decision::Answer(Verdict::Absent);
    };
    match entry.status() {
        Status::InProgress => Decision::Answer(Verdict::Live),
        Status::Expired(ExpiredBecause::Forgotten) => Decision::Answer(Verdict::AlreadyDone),
        Status::Completed
        | Status::Expired(ExpiredBecause::Abandoned | ExpiredBecause::Released | ExpiredBecause::Completed) =>
        {
            let record = Draft {
                state: State::Forgotten,
                fingerprint: None,
                checkpoint: &[],
                finished_at: Some(now),
                ..follow_up(entry)
            };
            write(Expected::At(entry.version), record, Duration::ZERO, lifetimes.retention)
        }
    }
}

fn reset_attempts(entry: Option<&Entry>, lifetimes: &Lifetimes) -> Decision {
    let Some(entry) = entry else {
        return Decision::Answer(Verdict::Absent);
    };
    let record = Draft { forgiven: entry.record.attempt(), ..follow_up(entry) };
    match entry.status() {
        Status::InProgress => Decision::Answer(Verdict::Live),
        Status::Completed | Status::Expired(ExpiredBecause::Completed) => {
            Decision::Answer(Verdict::AlreadyCompleted)
        }
        Status::Expired(ExpiredBecause::Forgotten) => Decision::Answer(Verdict::Absent),
        Status::Expired(_) if entry.record.attempts_counted() == 0 => Decision::Answer(Verdict::AlreadyDone),
        Status::Expired(ExpiredBecause::Abandoned) => expire(entry, record, lifetimes),
        Status::Expired(ExpiredBecause::Released) => {
            write(Expected::At(entry.version), record, Duration::ZERO, lifetimes.linger_undone())
        }
    }
}
