//! What a claim asks, and the record of the attempt that it begins a generation with.

use std::num::NonZeroU32;

use super::{Draft, Fingerprint, OperationId, Owner, Policy, State, UnixMillis, Version};

/// What a claim brings along. Repeatable by the same owner while nothing was started.
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
    /// What it does where an attempt of another stopped in the middle.
    pub on_doubt: OnDoubt,
    /// The wall clock, for people.
    pub now: UnixMillis,
}

/// What a claim does where an attempt of another stopped in the middle.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum OnDoubt {
    /// What the policy on record says.
    #[default]
    GoByPolicy,
    /// It says so, [`ClaimVerdict::MeetsDoubt`](super::ClaimVerdict::MeetsDoubt), so that somebody can be asked what became of it, unless that was done
    /// about this very version: then it goes by the policy.
    Ask {
        /// The version that was asked about.
        unless: Option<Version>,
    },
}

impl ClaimCommand {
    /// The record of the first attempt of the generation that it begins.
    #[inline]
    pub(super) fn first_attempt(&self) -> Draft<'static> {
        Draft {
            state: State::InProgress,
            owner: self.owner,
            token: None,
            attempt: 1,
            forgiven: 0,
            operation_id: self.operation_id,
            doubt: false,
            policy: self.policy,
            fingerprint: self.fingerprint,
            checkpoint: &[],
            created_at: self.now,
            finished_at: None,
        }
    }
}
