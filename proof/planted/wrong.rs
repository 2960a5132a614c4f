//! Transition tables that are wrong on purpose. Each one changes what the right table is asked, or what it answers.
//!
//! `planted.patch` puts this module in the place of `protocol::transition`, and calls that one `right`. It does so in the
//! copy that `scripts/planted.sh` makes, and nowhere else. `wrong_engines.rs` names the promise that each table breaks.

use std::time::Duration;

pub use super::right::*;
use super::{Entry, Holder, Policy, Record, State, Status, right};
use crate::planted::planted;

/// The table, with the bug that this process was started with, if it is one of these.
pub fn decide(entry: Option<&Entry>, command: &Command<'_>, lifetimes: &Lifetimes) -> Decision {
    let Some(found) = entry else { return right::decide(None, command, lifetimes) };
    if planted("transition: fingerprints are compared last")
        && matches!(command, Command::Claim(_))
        && found.status() == Status::Completed
    {
        return Decision::Answer(Verdict::Replay);
    }
    let asked = asked_of(found, command);
    let command = if planted("transition: anybody's write is the holder's") {
        &held_by_whoever_holds(command, &asked)
    } else {
        command
    };
    let decision = right::decide(Some(&asked), command, &kept_from_the_claim_on(found, command, lifetimes));
    match (decision, command) {
        (Decision::Write(write), Command::Claim(claim)) if write.record.token().is_none() => {
            let record = granted(&write.record, found, claim);
            Decision::Write(Write { record, ..write })
        }
        (decision, _) => decision,
    }
}

/// What the right table is shown in place of `found`.
fn asked_of(found: &Entry, command: &Command<'_>) -> Entry {
    let mut entry = found.clone();
    let mut fields = found.record.draft();
    match command {
        Command::Claim(claim) => {
            let of_another = fields.owner != claim.owner;
            if planted("transition: a live claim is taken over")
                && of_another
                && fields.state == State::InProgress
            {
                (entry.left, fields.policy) = (Duration::ZERO, Policy::Reclaim);
            }
            if planted("transition: Hold is ignored") {
                fields.policy = Policy::Reclaim;
            }
            if planted("transition: a completed operation is claimed again")
                && found.status() == Status::Completed
                && fields.fingerprint == claim.fingerprint
            {
                fields.state = State::Released { fresh_operation_id: false };
            }
        }
        Command::Complete(..) if planted("transition: a second completion is accepted") => {
            if matches!(fields.state, State::Completed(recorded) if !is_of(command, recorded)) {
                fields.state = State::InProgress;
            }
        }
        Command::Release { .. } if planted("transition: a release forgets doubt") => fields.doubt = false,
        Command::Forget(_) if planted("transition: a live claim is forgotten") => entry.left = Duration::ZERO,
        _ => {}
    }
    entry.record = fields.into();
    entry
}

fn is_of(command: &Command<'_>, recorded: super::Outcome<&[u8]>) -> bool {
    matches!(command, Command::Complete(_, outcome, _) if outcome.borrowed() == recorded)
}

fn held_by_whoever_holds<'a>(command: &Command<'a>, entry: &Entry) -> Command<'a> {
    let record = entry.record.draft();
    let whoever = Holder { owner: record.owner, token: entry.fencing_token(), attempt: record.attempt };
    match command.clone() {
        Command::Renew(_) => Command::Renew(whoever),
        Command::Checkpoint(_, bytes) => Command::Checkpoint(whoever, bytes),
        Command::Complete(_, outcome, now) => Command::Complete(whoever, outcome, now),
        Command::Release { fresh_operation_id, now, .. } => {
            Command::Release { holder: whoever, fresh_operation_id, now }
        }
        Command::Abandon(_) => Command::Abandon(whoever),
        other => other,
    }
}

fn kept_from_the_claim_on(found: &Entry, command: &Command<'_>, lifetimes: &Lifetimes) -> Lifetimes {
    let completes = matches!(command, Command::Complete(..) | Command::Resolve(..));
    if !completes || !planted("transition: an outcome is kept from its claim on") {
        return *lifetimes;
    }
    let gone = lifetimes.lease.saturating_sub(found.left);
    Lifetimes { retention: lifetimes.retention.saturating_sub(gone), ..*lifetimes }
}

/// The record of a grant over `found`.
fn granted(record: &Record, found: &Entry, claim: &ClaimCommand) -> Record {
    let mut fields = record.draft();
    if fields.attempt > 1 {
        if planted("transition: an attempt keeps its number") {
            fields.attempt = found.record.draft().attempt;
        }
        if planted("transition: a takeover draws a new operation id") {
            fields.operation_id = claim.operation_id;
        }
        if planted("transition: a takeover sets no doubt") {
            fields.doubt = false;
        }
    }
    fields.into()
}
