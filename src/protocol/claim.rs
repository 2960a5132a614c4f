//! The table of who claims a key.

use super::fingerprint::{self, Comparison};
use super::transition::{Command, Decision, Lifetimes, Plan, follow_up, grant};
use super::{ClaimCommand, Draft, Entry, Expected, ExpiredBecause, OnDoubt, Policy, State, Status};

/// The answers to a claim that need no write.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ClaimVerdict {
    /// This very call holds it already; the reply to its write was lost.
    AlreadyGranted,
    /// An attempt of another stopped in the middle, and somebody is to be asked about it.
    MeetsDoubt,
    /// The key is bound to a fingerprint of another algorithm, so nobody can tell.
    Incomparable,
    /// What is there is the answer.
    Found(Found),
}

/// What a claim finds that was there before it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Found {
    /// Another attempt is running.
    InProgress,
    /// Here is the outcome.
    Replay,
    /// It is done, and the outcome is no longer kept.
    Done,
    /// The key is bound to another request.
    Mismatch,
    /// An attempt stopped in the middle, and the operation must not run again unresolved.
    InDoubt,
    /// The attempts are used up.
    Exhausted,
}

impl Command for ClaimCommand {
    type Verdict = ClaimVerdict;

    fn plan<'a>(&'a self, entry: Option<&'a Entry>, lifetimes: &Lifetimes) -> Plan<'a, ClaimVerdict> {
        claim(entry, self, lifetimes)
    }
}

pub(super) fn claim<'a>(
    entry: Option<&'a Entry>,
    claim: &'a ClaimCommand,
    lifetimes: &Lifetimes,
) -> Plan<'a, ClaimVerdict> {
    let Some(entry) = entry else {
        return grant(Expected::Vacant, claim, lifetimes);
    };
    let same = fingerprint::compare(entry.record.fingerprint().as_ref(), claim.fingerprint.as_ref());
    let own = entry.record.owner() == claim.owner;
    let answer = |found| Decision::Answer(ClaimVerdict::Found(found));
    match (entry.status(), same) {
        // The generation is over, or ended cleanly under another request: the key is as good as vacant.
        (Status::Expired(ExpiredBecause::Forgotten), _)
        | (Status::Expired(ExpiredBecause::Released), Comparison::Differs | Comparison::Incomparable) => {
            grant(Expected::At(entry.version), claim, lifetimes)
        }
        // A mismatch comes before any other answer.
        (_, Comparison::Differs) => answer(Found::Mismatch),
        (_, Comparison::Incomparable) => Decision::Answer(ClaimVerdict::Incomparable),
        (Status::Completed, _) => answer(Found::Replay),
        (Status::Expired(ExpiredBecause::Completed), _) => answer(Found::Done),
        (Status::InProgress, _) if own => Decision::Answer(ClaimVerdict::AlreadyGranted),
        (Status::InProgress, _) => answer(Found::InProgress),
        // Our own, granted before and nothing started: the same attempt, for another lease.
        (Status::Expired(ExpiredBecause::Abandoned), _) if own => {
            grant(Expected::At(entry.version), follow_up(entry), lifetimes)
        }
        (Status::Expired(ExpiredBecause::Abandoned), _) if asks(entry, claim) => {
            Decision::Answer(ClaimVerdict::MeetsDoubt)
        }
        (Status::Expired(ExpiredBecause::Abandoned), _) if entry.record.policy() == Policy::Hold => {
            answer(Found::InDoubt)
        }
        (Status::Expired(ExpiredBecause::Abandoned | ExpiredBecause::Released), _)
            if used_up(entry, claim) =>
        {
            answer(Found::Exhausted)
        }
        (Status::Expired(cause @ (ExpiredBecause::Abandoned | ExpiredBecause::Released)), _) => {
            grant(Expected::At(entry.version), next_attempt(entry, claim, cause), lifetimes)
        }
    }
}

fn asks(entry: &Entry, claim: &ClaimCommand) -> bool {
    matches!(claim.on_doubt, OnDoubt::Ask { unless } if unless != Some(entry.version))
}

fn used_up(entry: &Entry, claim: &ClaimCommand) -> bool {
    claim.attempts_max.is_some_and(|max| entry.record.attempts_counted() >= max.get())
}

fn next_attempt<'a>(entry: &'a Entry, claim: &ClaimCommand, cause: ExpiredBecause) -> Draft<'a> {
    let before = entry.record.draft();
    let fresh_id = before.state == State::Released { fresh_operation_id: true };
    Draft {
        state: State::InProgress,
        owner: claim.owner,
        token: None,
        attempt: before.attempt.saturating_add(1),
        operation_id: if fresh_id { claim.operation_id } else { before.operation_id },
        // Who was taken over left its effect unknown, and no later attempt can vouch for it.
        doubt: before.doubt || cause == ExpiredBecause::Abandoned,
        policy: claim.policy,
        finished_at: None,
        ..before
    }
}
