//! Between the reference's plain values and the engine's.

use oncekey::admin::AdminAnswer;
use oncekey::protocol::{Algorithm, Conclusion, ExpiredBecause, OutcomeBody, Status as EngineStatus};
use oncekey::{ClaimError, Fingerprint, Key, Policy as EnginePolicy};

use super::{AdminReply, HolderReply, NO_PRINT, Outcome, Policy, Status};

pub fn key(index: usize) -> Key {
    Key::new("history", ["a", "A", "a "][index]).expect("a short key")
}

pub fn fingerprint(print: u8) -> Option<Fingerprint> {
    let algorithm = if print == 3 { Algorithm::BLAKE3 } else { Algorithm::SHA256 };
    let digest = Fingerprint::from_digest(algorithm, &[print; 32]).expect("32 bytes");
    (print != NO_PRINT).then_some(digest)
}

pub fn policy(policy: Policy) -> EnginePolicy {
    match policy {
        Policy::Reclaim => EnginePolicy::Reclaim,
        Policy::Hold => EnginePolicy::Hold,
    }
}

pub fn outcome(outcome: &oncekey::Outcome) -> Outcome {
    let OutcomeBody::Kept(bytes) = &outcome.body else { panic!("short outcomes are kept: {outcome:?}") };
    match outcome.conclusion {
        Conclusion::Succeeded => Outcome::Success(bytes.to_vec()),
        Conclusion::Failed => Outcome::Failure(bytes.to_vec()),
    }
}

pub fn engine_outcome(outcome: &Outcome) -> oncekey::Outcome {
    match outcome {
        Outcome::Success(bytes) => oncekey::Outcome::success(&bytes[..]),
        Outcome::Failure(bytes) => oncekey::Outcome::failure(&bytes[..]),
    }
}

pub fn holder_reply(reply: &Result<(), ClaimError>) -> Result<HolderReply, String> {
    Ok(match reply {
        Ok(()) => HolderReply::Ok,
        // No reply was ever lost here, so nothing of what was refused can have been applied.
        Err(ClaimError::Superseded { possibly_applied: false, .. }) => HolderReply::Superseded,
        Err(ClaimError::AlreadyCompleted { .. }) => HolderReply::AlreadyCompleted,
        Err(ClaimError::AlreadyReleased { .. }) => HolderReply::AlreadyReleased,
        Err(ClaimError::DeadlinePassed { .. }) => HolderReply::GivenUp,
        Err(ClaimError::Gone { .. }) => HolderReply::Gone,
        Err(other) => return Err(format!("no legal answer: {other:?}")),
    })
}

pub fn admin_reply(answer: AdminAnswer) -> Result<AdminReply, String> {
    Ok(match answer {
        AdminAnswer::Done => AdminReply::Done,
        AdminAnswer::Absent => AdminReply::Absent,
        AdminAnswer::Live { left, .. } => AdminReply::Live { left: left.as_secs() },
        AdminAnswer::NotInDoubt => AdminReply::NotInDoubt,
        AdminAnswer::AlreadyCompleted => AdminReply::AlreadyCompleted,
        other @ AdminAnswer::Changed { .. } => return Err(format!("no legal answer: {other:?}")),
    })
}

pub fn status(reference: Status) -> EngineStatus {
    match reference {
        Status::InProgress => EngineStatus::InProgress,
        Status::Completed => EngineStatus::Completed,
        Status::Abandoned => EngineStatus::Expired(ExpiredBecause::Abandoned),
        Status::NoLongerKept => EngineStatus::Expired(ExpiredBecause::Completed),
        Status::Released => EngineStatus::Expired(ExpiredBecause::Released),
        Status::Forgotten => EngineStatus::Expired(ExpiredBecause::Forgotten),
    }
}
