//! The engine: claims a key, runs the operation, stores its outcome, replays it.
//!
//! It carries out what [`decide`](crate::protocol::decide) says, over any [`Store`], and names no runtime.

mod acquire;
mod admin;
mod answer;
mod builder;
mod claim;
mod convoy;
mod error;
mod failure;
mod housekeeping;
mod lease;
mod many;
mod no_value;
mod observed;
mod options;
mod outcome;
mod port;
mod request;
mod retry;

use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};

use futures::FutureExt as _;

pub use acquire::doubt::{Doubt, Resolver};
pub use admin::{AdminAnswer, Inspection};
pub use answer::{Answer, ClaimAnswer, Earlier, RecordInfo, Unavailable, Unrecorded};
pub use builder::{DeduplicatorBuilder, OptionsError};
pub use claim::Claim;
pub use error::{BoxedError, ClaimError, ClaimFate, Error, ResolverFailure, RunError};
pub use failure::{Failure, FailureKind, OrFailure};
pub use lease::attempt::Attempt;
pub use lease::prepared::{Prepared, Settled};
pub use no_value::{FinalFailure, IntoValue, NoValue};
pub use options::{OnDrop, OnLeaseLost};
pub use request::Request;

pub(crate) use retry::spread;

use crate::observe::{Event, Housekeeping};
use crate::protocol::{Key, Lent, Outcome, OutcomeBody};
use crate::store::Store;
use crate::time::Clock;
use acquire::waiters::Waiters;
use housekeeping::Leases;
use housekeeping::clean_up::{Alive, Background, CleanUp};
use housekeeping::helped::{Help, HelpWanted, help, with_help};
use options::Options;
use port::Port;

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
    inner: Arc<Inner<S>>,
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
    /// An engine with the default options.
    pub fn new(store: S) -> Self {
        Self::builder(store).build().expect("the default options are in order, and a test says so")
    }

    /// Sets an engine up.
    pub fn builder(store: S) -> DeduplicatorBuilder<S> {
        DeduplicatorBuilder::new(store)
    }

    #[cfg(feature = "blocking")]
    pub(crate) fn options(&self) -> &Options {
        &self.inner.options
    }

    /// Begins a request for one operation. Nothing happens until it runs or claims.
    pub fn request(&self, key: Key) -> Request<'_, S> {
        Request::new(&self.inner, key)
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
    /// # Cancel safety
    /// What is not done stays queued.
    pub async fn flush(&self) {
        let mut work = self.inner.background.work();
        poll_fn(|cx| work.poll(cx)).await;
    }
}

/// What the clones of an engine share.
pub(crate) struct Inner<S: Store + 'static> {
    pub(crate) port: Port<S>,
    pub(crate) options: Arc<Options>,
    pub(crate) waiters: Waiters,
    pub(crate) leases: Leases<S>,
    pub(crate) background: Background,
    help_wanted: HelpWanted,
}

impl<S: Store + 'static> Inner<S> {
    pub(crate) fn new(store: S, options: Options) -> Self {
        let options = Arc::new(options);
        Self {
            port: Port::new(store, Arc::clone(&options)),
            options,
            waiters: Waiters::new(),
            leases: Leases::new(),
            background: Background::new(),
            help_wanted: HelpWanted::new(),
        }
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.options.clock
    }

    /// Tells the observer, if there is one; the event is not made otherwise.
    pub(crate) fn tell<'e>(&self, key: &Key, event: impl FnOnce() -> Event<'e>) {
        if let Some(observer) = &self.options.observer {
            observer.event(key, &event());
        }
    }

    /// As [`tell`](Self::tell), in a drop: there, a panic of the observer could end the process.
    pub(crate) fn tell_in_drop<'e>(&self, key: &Key, event: impl FnOnce() -> Event<'e>) {
        let _panicked = catch_unwind(AssertUnwindSafe(|| self.tell(key, event)));
    }

    fn tell_of_housekeeping(&self, done: &Housekeeping<'_>) {
        if let Some(observer) = &self.options.observer {
            observer.housekeeping(done);
        }
    }

    /// Leaves a job to the spawner, if there is one, or to whoever drives the queue.
    fn in_background(self: &Arc<Self>, job: Arc<dyn CleanUp>) {
        // A store that answers at once has it done here and now. Dropped before its end, the job can be begun again.
        let begun = || Arc::clone(&job).begin().now_or_never();
        if self.port.is_at_once() && catch_unwind(AssertUnwindSafe(begun)).is_ok_and(|ended| ended.is_some())
        {
            return;
        }
        match &self.options.spawner {
            // This runs in drops, also while a panic unwinds: a spawner must not panic through it.
            // A job that the spawner drops is queued.
            Some(spawn) => {
                let job = self.background.elsewhere(job, Arc::<Self>::clone(self));
                let _panicked = catch_unwind(AssertUnwindSafe(|| spawn(job)));
            }
            None => {
                let by_keeper = self.leases.has_keeper().then(|| Arc::<Self>::clone(self) as Alive);
                let is_kept = by_keeper.is_some();
                self.background.queue(job, by_keeper);
                if is_kept && !self.leases.has_keeper() {
                    self.background.without_keeper(); // it went meanwhile
                }
            }
        }
    }

    /// Does `work`, which the caller polls. A keeper helps with what takes longer than a round of it, or else the spawner.
    async fn with_help<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        with_help(&self.help_wanted, work, |work| self.offer(work)).await
    }

    fn offer(&self, work: Weak<dyn Help>) {
        if let (false, Some(spawn)) = (self.leases.has_keeper(), &self.options.spawner) {
            // It helps, and is not needed.
            let _panicked = catch_unwind(AssertUnwindSafe(|| spawn(help(work).boxed())));
        }
    }

    /// An outcome within the limit, or the note that it was not.
    pub(crate) fn fit(&self, outcome: Outcome) -> Outcome {
        self.fit_lent(outcome.into()).into_owned()
    }

    pub(crate) fn fit_lent<'v>(&self, outcome: Outcome<Lent<'v>>) -> Outcome<Lent<'v>> {
        match &outcome.body {
            OutcomeBody::Kept(kept) if kept.bytes().len() > self.options.outcome_len_max => {
                Outcome { body: OutcomeBody::TooLarge { len: kept.bytes().len() as u64 }, ..outcome }
            }
            _ => outcome,
        }
    }
}
