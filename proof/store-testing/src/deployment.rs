//! What a store crate tells the checks: how its store is opened.

use std::time::Duration;

use oncekey::store::ListInDoubt;
use oncekey::{Deduplicator, DeduplicatorBuilder, Store};

/// A store as an application has it: opened by a URL or a path, by several processes.
///
/// ```
/// # use oncekey_store_testing::deployment::Deployment;
/// # use oncekey::MemoryStore;
/// #[derive(Clone)]
/// struct OnMemory;
///
/// impl Deployment for OnMemory {
///     type Store = MemoryStore;
///     const CHILD: &'static str = "child";
///
///     async fn open(&self, _url: &str) -> MemoryStore {
///         MemoryStore::new()
///     }
/// }
///
/// // And with `#[test]` and `#[ignore = "run by other tests, in processes of their own"]`:
/// fn child() {
///     oncekey_store_testing::child::run(&OnMemory);
/// }
/// ```
pub trait Deployment: Clone + Send + Sync + 'static {
    /// The store.
    type Store: Store + ListInDoubt + 'static;

    /// The full name, within its test binary, of an ignored test that calls [`child::run`](crate::child::run) with this
    /// deployment: what child processes run.
    const CHILD: &'static str;

    /// Opens the store: with connections of its own, as another process would. Whatever must be there (a schema) is, or
    /// is made.
    ///
    /// # Panics
    /// If it cannot be opened.
    fn open(&self, url: &str) -> impl Future<Output = Self::Store> + Send;
}

/// An engine as the checks use it, over tokio; they set what matters to them. Waiters look no sooner than by default: 63 of
/// them, each in an engine of its own, would keep the store busy with looks.
pub(crate) fn engine<S: Store + 'static>(store: S) -> DeduplicatorBuilder<S> {
    Deduplicator::builder(store).tokio().poll_every(Duration::from_millis(10), Duration::from_millis(100))
}

/// The longest that anything is waited for before a check fails: long on a machine that does other things too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
