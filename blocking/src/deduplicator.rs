//! The engine as plain threads see it.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;

use oncekey::admin::{AdminAnswer, Inspection, Resolution};
use oncekey::builder::OnLeaseLost;
use oncekey::store::{InDoubtPage, ListInDoubt};
use oncekey::time::Clock;
use oncekey::{Error, Key, Store};

use super::host::{Host, Runtime};

/// An engine for plain threads: a face over an async [`Deduplicator`](oncekey::Deduplicator), whose calls block. Cheap to
/// clone; clones share one engine and one thread.
///
/// The thread renews the claims that the engine holds, those of async callers too, and runs its clean-up. It ends soon
/// after the last clone and the last [`Claim`](super::Claim) are dropped. Neither drop waits for it; to have the clean-up
/// done before a process ends, call [`flush`](Self::flush).
///
/// See the [crate](crate) for what may be called from where.
pub struct Deduplicator<S: Store + 'static> {
    // Dropped first: the thread has the last handle of the engine, and drops the store where its runtime is.
    pub(super) engine: oncekey::Deduplicator<S>,
    pub(super) host: Arc<Host>,
}

impl<S: Store + 'static> Clone for Deduplicator<S> {
    fn clone(&self) -> Self {
        Self { engine: self.engine.clone(), host: Arc::clone(&self.host) }
    }
}

impl<S: Store + 'static> fmt::Debug for Deduplicator<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Deduplicator").field(&self.engine).finish()
    }
}

impl<S: Store + 'static> Deduplicator<S> {
    /// A face over this engine, with a thread of its own; under the feature `tokio`, with a runtime on it.
    ///
    /// May be called anywhere. For a store that must be opened on a runtime, see [`Deduplicator::open`].
    ///
    /// # Errors
    /// The operating system gave no thread, or no runtime.
    pub fn new(engine: oncekey::Deduplicator<S>) -> io::Result<Self> {
        Self::seated(engine, Runtime::Own)
    }

    /// A face over the engine that a future builds: for a store that is opened by async code, on the runtime that will
    /// drive it.
    ///
    /// ```
    /// use oncekey::{Deduplicator, MemoryStore};
    /// # struct SomeStore;
    /// # impl SomeStore { async fn connect(_url: &str) -> Result<MemoryStore, std::io::Error> { Ok(MemoryStore::new()) } }
    /// let dedup = oncekey_blocking::Deduplicator::open(async {
    ///     let store = SomeStore::connect("db://localhost/").await?;
    ///     Ok::<_, Box<dyn std::error::Error>>(Deduplicator::new(store))
    /// })?;
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// What the future says, or that the operating system gave no thread or no runtime.
    ///
    /// # Panics
    /// Where this thread must not be blocked: see the [crate](crate).
    #[track_caller]
    pub fn open<E: From<io::Error>>(
        engine: impl Future<Output = Result<oncekey::Deduplicator<S>, E>>,
    ) -> Result<Self, E> {
        let (host, seat) = Host::start(Runtime::Own)?;
        let engine = host.driver.drive(engine)?;
        Ok(Self::sit(engine, host, seat))
    }

    /// A face over this engine, whose calls are driven on a tokio runtime of the caller's: the one that its store was
    /// opened on. The runtime must be running as long as the face is used; one for the current thread runs only while
    /// somebody blocks on it.
    ///
    /// May be called anywhere.
    ///
    /// # Errors
    /// The operating system gave no thread.
    #[cfg(feature = "tokio")]
    pub fn on(engine: oncekey::Deduplicator<S>, runtime: tokio::runtime::Handle) -> io::Result<Self> {
        Self::seated(engine, Runtime::Given(runtime))
    }

    fn seated(engine: oncekey::Deduplicator<S>, runtime: Runtime) -> io::Result<Self> {
        let (host, seat) = Host::start(runtime)?;
        Ok(Self::sit(engine, host, seat))
    }

    fn sit(engine: oncekey::Deduplicator<S>, host: Arc<Host>, seat: super::host::Seat<S>) -> Self {
        // The thread ends only once `host` is dropped.
        let _there = seat.send(engine.clone());
        Self { engine, host }
    }

    /// The same engine for async code.
    pub fn engine(&self) -> &oncekey::Deduplicator<S> {
        &self.engine
    }

    /// The store.
    pub fn store(&self) -> &S {
        self.engine.store()
    }

    /// Runs a future to its end on this thread, as the store needs it: for what a store can do beyond this face, such as
    /// `dedup.block_on(dedup.store().purge(1000))`.
    ///
    /// # Panics
    /// If the future does, and where this thread must not be blocked: see the [crate](crate).
    #[track_caller]
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.host.driver.drive(future)
    }

    /// How many claims this engine holds now.
    pub fn held(&self) -> usize {
        self.engine.held()
    }

    /// How many calls of this engine wait for a running duplicate now.
    pub fn waiting(&self) -> usize {
        self.engine.waiting()
    }

    /// Says that the record of `key` may have changed elsewhere: see
    /// [`Deduplicator::changed`](oncekey::Deduplicator::changed). May be called anywhere.
    pub fn changed(&self, key: &Key) {
        self.engine.changed(key);
    }

    /// Runs the clean-up that is queued, to its end: releases of claims that were dropped before they started, and
    /// completions that were cut short. For a graceful shutdown.
    ///
    /// # Panics
    /// Where this thread must not be blocked: see the [crate](crate).
    #[track_caller]
    pub fn flush(&self) {
        self.host.driver.drive(self.engine.flush());
    }

    /// What is on record under `key`; `None` if nothing is.
    ///
    /// # Errors
    /// [`Error::Store`].
    ///
    /// # Panics
    /// Where this thread must not be blocked: see the [crate](crate).
    #[track_caller]
    pub fn inspect(&self, key: &Key) -> Result<Option<Inspection>, Error> {
        self.host.driver.drive(self.engine.inspect(key))
    }

    /// Says what happened to an operation in doubt: see [`Deduplicator::resolve`](oncekey::Deduplicator::resolve).
    ///
    /// # Errors
    /// [`Error::Store`]; it may have been applied. Repeat it: the same resolution again answers
    /// [`AdminAnswer::AlreadyCompleted`] or [`AdminAnswer::NotInDoubt`] if it had been.
    ///
    /// # Panics
    /// Where this thread must not be blocked: see the [crate](crate).
    #[track_caller]
    pub fn resolve(&self, key: &Key, resolution: &Resolution) -> Result<AdminAnswer, Error> {
        self.host.driver.drive(self.engine.resolve(key, resolution))
    }

    /// Ends the generation: see [`Deduplicator::forget`](oncekey::Deduplicator::forget).
    ///
    /// # Errors
    /// [`Error::Store`]; it may have been applied. Repeating it is harmless unless the key was claimed again.
    ///
    /// # Panics
    /// Where this thread must not be blocked: see the [crate](crate).
    #[track_caller]
    pub fn forget(&self, key: &Key) -> Result<AdminAnswer, Error> {
        self.host.driver.drive(self.engine.forget(key))
    }

    /// Lets the limit of attempts count anew, for a key that is exhausted. Doubt stays.
    ///
    /// # Errors
    /// [`Error::Store`]; it may have been applied. Repeating it is harmless.
    ///
    /// # Panics
    /// Where this thread must not be blocked: see the [crate](crate).
    #[track_caller]
    pub fn reset_attempts(&self, key: &Key) -> Result<AdminAnswer, Error> {
        self.host.driver.drive(self.engine.reset_attempts(key))
    }

    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        self.engine.clock()
    }

    /// Whether an operation whose lease is lost is dropped: here, before it began.
    pub(super) fn drops_lost(&self) -> bool {
        self.engine.on_lease_lost() == OnLeaseLost::Drop
    }
}

impl<S: ListInDoubt + 'static> Deduplicator<S> {
    /// Some of the keys whose operations are in doubt; see [`ListInDoubt::list_in_doubt`].
    ///
    /// # Errors
    /// The store's own.
    ///
    /// # Panics
    /// Where this thread must not be blocked: see the [crate](crate).
    #[track_caller]
    pub fn list_in_doubt(&self, cursor: Option<u64>, limit: usize) -> Result<InDoubtPage, S::Error> {
        self.host.driver.drive(self.engine.list_in_doubt(cursor, limit))
    }
}
