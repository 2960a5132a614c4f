//! Keeping that something is done, and not what came of it.

use std::sync::Arc;

use async_trait::async_trait;

use super::Store;

/// A store that can drop the bytes of outcomes whose retention is over, and go on keeping that the operation is done: the
/// cheap part of an engine's [`tail`](crate::DeduplicatorBuilder::tail). Somebody has to call it now and then, as with
/// [`Store::purge`].
#[async_trait]
pub trait TrimOutcomes: Store {
    /// Looks at completed entries with nothing left to live, from the place where `cursor` left off, and puts
    /// [`Record::without_outcome`](crate::protocol::Record::without_outcome) in place of up to `limit` of them: under the same key, at
    /// the same version, until the same time. It does bounded work. Outcomes of a few bytes may stay, since nothing would be
    /// gained.
    ///
    /// # Guarantees
    /// An entry that is live is never touched, nor one that was written meanwhile. Nobody is answered otherwise than before:
    /// the bytes of an outcome past its retention are given to no caller.
    async fn trim_outcomes(&self, cursor: Option<u64>, limit: usize) -> Result<Trimmed, Self::Error>;
}

/// What a trim did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trimmed {
    /// How many outcomes it dropped.
    pub trimmed: usize,
    /// Where to go on; `None` when it came to the end.
    pub next: Option<u64>,
}

#[async_trait]
impl<S: TrimOutcomes + ?Sized> TrimOutcomes for Arc<S> {
    async fn trim_outcomes(&self, cursor: Option<u64>, limit: usize) -> Result<Trimmed, Self::Error> {
        (**self).trim_outcomes(cursor, limit).await
    }
}

#[async_trait]
impl<S: TrimOutcomes> TrimOutcomes for super::CachedStore<S> {
    /// The cache keeps what it has until its own time for it is over.
    async fn trim_outcomes(&self, cursor: Option<u64>, limit: usize) -> Result<Trimmed, Self::Error> {
        self.inner().trim_outcomes(cursor, limit).await
    }
}
