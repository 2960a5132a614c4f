//! A record as read from a store, and what it means now.

use std::time::Duration;

use super::{FencingToken, Owner, Record, State, Version};

/// A record as a store answered it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Entry {
    /// What was written.
    pub record: Record,
    /// The number of the write that put it there.
    pub version: Version,
    /// How long it stays live, by the store's clock at the moment of the answer; zero: expired;
    /// [`Duration::MAX`]: it stays live forever.
    pub left: Duration,
}

/// What an entry means now: the stored state, judged by the time it has left.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Status {
    /// An attempt holds the claim.
    InProgress,
    /// The outcome is on record, and is replayed.
    Completed,
    /// Nothing is left to live.
    Expired(ExpiredBecause),
}

/// Why an expired entry is one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ExpiredBecause {
    /// An attempt was granted and never concluded: its effect may or may not have happened.
    Abandoned,
    /// Its owner, or an operator, said that nothing happened.
    Released,
    /// An operator ended the generation.
    Forgotten,
    /// It was completed, and its retention is over; the fact that it is done is kept for the tail.
    Completed,
}

impl Entry {
    /// The state, judged by the time left.
    #[inline]
    pub fn status(&self) -> Status {
        let expired = self.left.is_zero();
        match self.record.state() {
            State::InProgress if expired => Status::Expired(ExpiredBecause::Abandoned),
            State::InProgress => Status::InProgress,
            State::Completed(_) if expired => Status::Expired(ExpiredBecause::Completed),
            State::Completed(_) => Status::Completed,
            State::Released { .. } => Status::Expired(ExpiredBecause::Released),
            State::Forgotten => Status::Expired(ExpiredBecause::Forgotten),
        }
    }

    /// The fencing token of the latest attempt.
    #[inline]
    pub fn fencing_token(&self) -> FencingToken {
        self.record.token().unwrap_or_else(|| self.version.into())
    }

    /// Whether the latest attempt is this one. All three must agree: a record of the same owner without its token
    /// is the ghost of an old copy of its claim request.
    pub fn is_held_by(&self, holder: &Holder) -> bool {
        self.record.owner() == holder.owner
            && self.record.attempt() == holder.attempt
            && self.fencing_token() == holder.token
    }
}

/// One granted attempt, as its owner knows it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Holder {
    /// The claim call that was granted.
    pub owner: Owner,
    /// The version of the write that granted it.
    pub token: FencingToken,
    /// The number of the attempt.
    pub attempt: u32,
}

/// What a write expects to find.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Expected {
    /// No readable entry: never written, or past live + linger, purged or not.
    Vacant,
    /// A readable entry, expired or not, of exactly this version.
    At(Version),
}
