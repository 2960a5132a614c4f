//! The options of an engine, as they are once it is built.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::acquire::doubt::Resolver;
use crate::observe::Observer;
use crate::protocol::{Lifetimes, Policy};
use crate::time::{Clock, Moment};

/// What becomes of an operation whose lease is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnLeaseLost {
    /// It is dropped before another may start.
    #[default]
    Drop,
    /// It is told, and goes on: for effects that a fencing token guards.
    Signal,
}

/// What becomes of a claim that is dropped after its operation may have started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnDrop {
    /// It is left to its lease, since the effect may still be under way.
    #[default]
    KeepLease,
    /// Its lease is ended by the engine's [clean-up](crate::DeduplicatorBuilder::spawner): the next claim goes by the
    /// policy.
    ExpireNow,
}

/// Takes a job to run on its own, or drops it where it cannot.
type Spawner = Arc<dyn Fn(BoxFuture<'static, ()>) + Send + Sync>;

/// Starts what the closure makes on a runtime, where one is at hand.
pub(crate) type Starter = fn(&dyn Fn() -> BoxFuture<'static, ()>);

pub(crate) struct Options {
    pub(crate) lifetimes: Lifetimes,
    pub(crate) margin: Duration,
    pub(crate) renew_every: Duration,
    pub(crate) renew_for_max: Duration,
    pub(crate) store_timeout: Duration,
    pub(crate) completion_timeout: Duration,
    pub(crate) resolver_timeout: Duration,
    pub(crate) call_timeout: Duration,
    pub(crate) policy: Policy,
    pub(crate) attempts_max: Option<NonZeroU32>,
    pub(crate) outcome_len_max: usize,
    pub(crate) checkpoint_len_max: usize,
    pub(crate) redelivered_for: Option<Duration>,
    pub(crate) purge_every: Duration,
    pub(crate) poll_min: Duration,
    pub(crate) poll_max: Duration,
    pub(crate) on_lease_lost: OnLeaseLost,
    pub(crate) on_drop: OnDrop,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    pub(crate) resolver: Option<Arc<dyn Resolver>>,
    pub(crate) spawner: Option<Spawner>,
    /// How the housekeeping starts by itself.
    pub(crate) starter: Option<Starter>,
}

impl Options {
    /// When the clean-up gives up what was not started, or is known: past its lease too, where somebody would have to
    /// resolve it.
    pub(crate) fn clean_up_until(&self, now: Moment) -> Moment {
        now + self.completion_timeout.max(self.lifetimes.lease)
    }

    /// How long a keeper sleeps: often enough that what falls due just after a round is renewed well before its deadline.
    pub(crate) fn keeper_tick(&self) -> Duration {
        let grace = self.lifetimes.lease - self.margin - self.renew_every;
        (self.renew_every / 4).min(grace / 2).max(Duration::from_millis(1))
    }
}
