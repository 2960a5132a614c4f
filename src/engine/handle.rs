//! The handle that users hold.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;

use super::inner::Inner;
use super::options::OnLeaseLost;
use crate::protocol::Key;
use crate::store::Store;
use crate::time::Clock;

/// The idempotency engine over a store. Cheap to clone; clones are one engine.
///
/// ```
/// # use oncekey::{Deduplicator, Key, MemoryStore};
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// let dedup = Deduplicator::new(MemoryStore::new());
/// let answer = dedup
///     .request(Key::new("payments.charge", "7f3a-91")?)
///     .run(|attempt| async move { Ok::<_, std::io::Error>(format!("charged, {}", attempt.operation_id())) })
///     .await?;
/// println!("{}", answer.into_value()?);
/// # Ok(()) }
/// # futures::executor::block_on(demo()).unwrap();
/// ```
pub struct Deduplicator<S: Store + 'static> {
    pub(super) inner: Arc<Inner<S>>,
}

impl<S: Store + 'static> Clone for Deduplicator<S> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<S: Store + 'static> fmt::Debug for Deduplicator<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deduplicator")
            .field("lifetimes", &self.inner.options.lifetimes)
            .field("held", &self.inner.leases.len())
            .field("waiting", &self.inner.waiters.count())
            .finish_non_exhaustive()
    }
}

impl<S: Store + 'static> Deduplicator<S> {
    /// The clock that it goes by.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.inner.options.clock)
    }

    /// What becomes of an operation whose lease is lost.
    pub fn on_lease_lost(&self) -> OnLeaseLost {
        self.inner.options.on_lease_lost
    }

    /// The store.
    pub fn store(&self) -> &S {
        &self.inner.port.store
    }

    /// How many claims this engine holds now.
    pub fn held(&self) -> usize {
        self.inner.leases.len()
    }

    /// How many calls of this engine wait for a running duplicate now.
    pub fn waiting(&self) -> usize {
        self.inner.waiters.count()
    }

    /// Says that the record of `key` may have changed elsewhere, as a store's change feed tells (PostgreSQL's `NOTIFY`,
    /// say). If calls of this engine wait for that key, one of them looks at once, rather than at its next poll. A hint:
    /// one too many costs a look, one too few a poll interval.
    pub fn changed(&self, key: &Key) {
        self.inner.waiters.notify(key);
    }

    /// Runs the clean-up that is queued, to its end: releases of claims that were dropped before they started, and
    /// completions that were dropped half way. Up to 16 are under way at once. For a graceful shutdown without a
    /// [`Deduplicator::keeper`]. It waits for what a call that came by has begun; what a spawner took is the
    /// spawner's.
    ///
    /// Over a store that is down each job is tried for [`call_timeout`](super::DeduplicatorBuilder::call_timeout) at
    /// least: put a time limit of your own around this.
    ///
    /// # Cancel safety
    /// What is not done stays queued.
    pub async fn flush(&self) {
        let mut work = self.inner.background.work();
        poll_fn(|cx| work.poll(cx)).await;
    }
}
