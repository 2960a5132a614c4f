//! The work of the writer.

use futures::channel::oneshot;
use oncekey::Key;
use oncekey::protocol::Expected;
use oncekey::store::{Exchange, Purged};

use crate::error::SqliteError;
use crate::table::OwnedPut;
use crate::trim::Shorter;

pub(crate) type Answer<T> = oneshot::Sender<T>;
pub(crate) type Exchanged = Result<Exchange, SqliteError>;

/// One piece of work for the writer.
pub(crate) enum Job {
    Exchange(Write, Answer<Exchanged>),
    /// Items of one caller: one transaction, and one answer to all.
    Batch(Vec<Write>, Answer<Vec<Exchanged>>),
    Purge {
        limit: usize,
        removed: usize,
        answer: Answer<Result<Purged, SqliteError>>,
    },
    /// Bodies without the bytes of their outcomes.
    Trim(Vec<Shorter>, Answer<Result<usize, SqliteError>>),
}

pub(crate) struct Write {
    pub(crate) key: Key,
    pub(crate) expected: Expected,
    pub(crate) put: OwnedPut,
    /// No reader has looked yet whether something is there: the writer, which had nothing else to do, does.
    pub(crate) unseen: bool,
}

impl Job {
    fn writes(&self) -> usize {
        match self {
            Self::Exchange(..) | Self::Purge { .. } => 1,
            Self::Batch(writes, _) => writes.len(),
            Self::Trim(shorter, _) => shorter.len(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Exchange(write, _) => write.put.len(),
            Self::Batch(writes, _) => writes.iter().map(|write| write.put.len()).sum(),
            Self::Purge { .. } | Self::Trim(..) => 0,
        }
    }

    /// Nobody waits for it any more, and it is better left: a claim that nobody would know of, a purge, a trim. Other writes
    /// are those of a holder, who may be gone and still mean them.
    pub(crate) fn is_idle(&self) -> bool {
        match self {
            Self::Exchange(write, answer) => answer.is_canceled() && write.expected == Expected::Vacant,
            Self::Batch(writes, answer) => {
                answer.is_canceled() && writes.iter().all(|write| write.expected == Expected::Vacant)
            }
            Self::Purge { answer, .. } => answer.is_canceled(),
            Self::Trim(_, answer) => answer.is_canceled(),
        }
    }

    /// Answers that nothing of it was, or will be, done.
    pub(crate) fn refuse(self, error: &SqliteError) {
        // An answer that nobody waits for any more is dropped.
        match self {
            Self::Exchange(_, answer) => drop(answer.send(Err(error.clone()))),
            Self::Batch(writes, answer) => {
                drop(answer.send(writes.iter().map(|_| Err(error.clone())).collect()));
            }
            Self::Purge { answer, .. } => drop(answer.send(Err(error.clone()))),
            Self::Trim(_, answer) => drop(answer.send(Err(error.clone()))),
        }
    }
}

/// How much more a group takes.
#[derive(Clone, Copy)]
pub(crate) struct Room {
    pub(crate) writes: usize,
    pub(crate) bytes: usize,
}

impl Room {
    pub(crate) const NONE: Self = Self { writes: 0, bytes: 0 };

    /// Whether the job fits; if so, there is so much less room. If not, there is none.
    pub(crate) fn takes(&mut self, job: &Job) -> bool {
        match (self.writes.checked_sub(job.writes()), self.bytes.checked_sub(job.bytes())) {
            (Some(writes), Some(bytes)) => {
                *self = Self { writes, bytes };
                true
            }
            _ => {
                *self = Self::NONE;
                false
            }
        }
    }
}
