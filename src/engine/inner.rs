//! What the handles, calls and claims of an engine share.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};

use futures::FutureExt as _;

use super::acquire::waiters::Waiters;
use super::housekeeping::clean_up::{Alive, Background, CleanUp};
use super::housekeeping::helped::{Help, HelpWanted, help, with_help};
use super::lease::leases::Leases;
use super::options::Options;
use super::port::Port;
use crate::observe::{Event, Housekeeping};
use crate::protocol::{Key, Lent, Outcome, OutcomeBody};
use crate::store::Store;
use crate::sync::{AtomicUsize, Ordering};
use crate::time::Clock;

/// What the clones of an engine share.
pub(crate) struct Inner<S: Store + 'static> {
    pub(crate) port: Port<S>,
    pub(crate) options: Arc<Options>,
    pub(crate) waiters: Waiters,
    pub(crate) leases: Leases,
    pub(crate) background: Background,
    pub(super) help_wanted: HelpWanted,
    /// How many keepers work.
    pub(super) keepers: AtomicUsize,
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
            keepers: AtomicUsize::new(0),
        }
    }

    /// Whether a keeper works for this engine.
    pub(super) fn has_keeper(&self) -> bool {
        self.keepers.load(Ordering::Relaxed) > 0
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

    pub(super) fn tell_of_housekeeping(&self, done: &Housekeeping<'_>) {
        if let Some(observer) = &self.options.observer {
            observer.housekeeping(done);
        }
    }

    /// Leaves a job to the spawner, if there is one, or to whoever drives the queue.
    pub(super) fn in_background(self: &Arc<Self>, job: Arc<dyn CleanUp>) {
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
                let by_keeper = self.has_keeper().then(|| Arc::<Self>::clone(self) as Alive);
                let is_kept = by_keeper.is_some();
                self.background.queue(job, by_keeper);
                if is_kept && !self.has_keeper() {
                    self.background.without_keeper(); // it went meanwhile
                }
            }
        }
    }

    /// Does `work`, which the caller polls. A keeper helps with what takes longer than a round of it, or else the spawner.
    pub(super) async fn with_help<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        with_help(&self.help_wanted, work, |work| self.offer(work)).await
    }

    fn offer(&self, work: Weak<dyn Help>) {
        if let (false, Some(spawn)) = (self.has_keeper(), &self.options.spawner) {
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
