//! Transition tables that are wrong on purpose. Each one changes what the right table is asked, or what it answers.
//!
//! `planted.patch` has the commands go through here. It does so in the copy that `scripts/planted.sh` makes, and nowhere
//! else. `wrong_engines.rs` names the promise that each table breaks.

use std::time::Duration;

use super::{
    Act, ClaimCommand, ClaimVerdict, Decision, Draft, Entry, Found, Holder, HolderCommand, HolderVerdict,
    Lifetimes, OperatorCommand, OperatorVerdict, Order, Plan, Policy, Record, State, Status,
};
use crate::planted::planted;

/// The table of claims, with the bug that this process was started with, if it is one of these.
pub(super) fn claim<'a>(
    entry: Option<&'a Entry>,
    claim: &'a ClaimCommand,
    lifetimes: &Lifetimes,
) -> Plan<'a, ClaimVerdict> {
    let Some(found) = entry else { return super::claim::claim(None, claim, lifetimes) };
    if planted("transition: fingerprints are compared last") && found.status() == Status::Completed {
        return Decision::Answer(ClaimVerdict::Found(Found::Replay));
    }
    let mut asked = found.clone();
    let mut draft = found.record.draft();
    if planted("transition: a live claim is taken over")
        && draft.owner != claim.owner
        && draft.state == State::InProgress
    {
        (asked.left, draft.policy) = (Duration::ZERO, Policy::Reclaim);
    }
    if planted("transition: Hold is ignored") {
        draft.policy = Policy::Reclaim;
    }
    if planted("transition: a completed operation is claimed again")
        && found.status() == Status::Completed
        && draft.fingerprint == claim.fingerprint
    {
        draft.state = State::Released { fresh_operation_id: false };
    }
    asked.record = draft.into();
    let decision = match super::claim::claim(Some(&asked), claim, lifetimes).written_out() {
        Decision::Write(mut write) if write.record.token().is_none() => {
            write.record = granted(&write.record, found, claim);
            Decision::Write(write)
        }
        decision => decision,
    };
    decision.into()
}

/// The record of a grant over `found`.
fn granted(record: &Record, found: &Entry, claim: &ClaimCommand) -> Record {
    let mut draft = record.draft();
    if draft.attempt > 1 {
        if planted("transition: an attempt keeps its number") {
            draft.attempt = found.record.attempt();
        }
        if planted("transition: a takeover draws a new operation id") {
            draft.operation_id = claim.operation_id;
        }
        if planted("transition: a takeover sets no doubt") {
            draft.doubt = false;
        }
    }
    draft.into()
}

/// The table of holders, likewise.
pub(super) fn hold<'a>(
    entry: Option<&'a Entry>,
    command: &HolderCommand<'a>,
    lifetimes: &Lifetimes,
) -> Plan<'a, HolderVerdict> {
    let Some(found) = entry else { return super::hold::hold(None, command, lifetimes) };
    let mut command = *command;
    let mut draft = found.record.draft();
    match (command.act, draft.state) {
        (Act::Complete(outcome, _), State::Completed(recorded))
            if planted("transition: a second completion is accepted") && recorded != outcome =>
        {
            draft.state = State::InProgress;
        }
        (Act::Release { .. }, _) if planted("transition: a release forgets doubt") => draft.doubt = false,
        _ => {}
    }
    if planted("transition: anybody's write is the holder's") {
        command.holder = Holder { owner: draft.owner, token: found.fencing_token(), attempt: draft.attempt };
    }
    let lifetimes = &kept(found, matches!(command.act, Act::Complete(..)), lifetimes);
    let asked = Entry { record: Draft { ..draft }.into(), ..found.clone() };
    super::hold::hold(Some(&asked), &command, lifetimes).written_out().into()
}

/// The table of operators, likewise.
pub(super) fn operate<'a>(
    entry: Option<&'a Entry>,
    command: &OperatorCommand<'a>,
    lifetimes: &Lifetimes,
) -> Plan<'a, OperatorVerdict> {
    let Some(found) = entry else { return super::operate::operate(None, command, lifetimes) };
    let mut asked = found.clone();
    if planted("transition: a live claim is forgotten") && matches!(command.order, Order::Forget(_)) {
        asked.left = Duration::ZERO;
    }
    let lifetimes = &kept(found, matches!(command.order, Order::Resolve(..)), lifetimes);
    super::operate::operate(Some(&asked), command, lifetimes).written_out().into()
}

fn kept(found: &Entry, completes: bool, lifetimes: &Lifetimes) -> Lifetimes {
    if !completes || !planted("transition: an outcome is kept from its claim on") {
        return *lifetimes;
    }
    let gone = lifetimes.lease.saturating_sub(found.left);
    Lifetimes { retention: lifetimes.retention.saturating_sub(gone), ..*lifetimes }
}
