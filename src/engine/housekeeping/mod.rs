//! Housekeeping: renewal, clean-up, help for tasks that are blocked, purge and trim, in one future.

pub(in crate::engine) mod clean_up;
pub(in crate::engine) mod helped;
mod lanes;
mod purge;
mod renewal;

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::Poll;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, Stream as _};

use super::handle::Deduplicator;
use super::inner::Inner;
use super::options::Starter;
use crate::observe::Housekeeping;
use crate::store::Store;
use crate::sync::Ordering;
use crate::time::Moment;
use helped::help;
use lanes::Lane;
use purge::purging;
use renewal::renewal;

impl<S: Store + 'static> Deduplicator<S> {
    /// Renews all claims that this engine holds, in batches: for operations that block their thread, and cannot renew
    /// from their own task. It also runs the engine's clean-up, and helps to store how operations ended whose task is
    /// blocked by a neighbour. An engine built with `.tokio()` starts it by itself. Elsewhere spawn it once, on any
    /// runtime or thread of its own. It ends when the last handle and claim of the engine are gone.
    ///
    /// It also has the store purge what nobody can read any more, every
    /// [`purge_every`](crate::engine::DeduplicatorBuilder::purge_every), so that nothing else needs to; and, for an engine with a
    /// [`tail`](crate::engine::DeduplicatorBuilder::tail) over a store that can, trim outcomes. Renewals never wait for these,
    /// unless the store blocks its thread.
    ///
    /// A store that panics under it costs a batch one round, and an observer that does costs
    /// nothing; neither ends it.
    ///
    /// A claim is renewed for at most [`renew_for_max`](crate::engine::DeduplicatorBuilder::renew_for_max) from its grant. One
    /// whose completion is prepared for a transaction is left alone.
    ///
    /// # Cancel safety
    /// Dropping it stops renewal from outside; `run` goes on renewing by itself. Renewals in flight may be applied.
    pub fn keeper(&self) -> impl Future<Output = ()> + Send + 'static {
        let engine = Arc::downgrade(&self.inner);
        async move { keep(AtWork::begin(engine)).await }
    }
}

impl<S: Store + 'static> Inner<S> {
    /// Starts the housekeeping, where it starts by itself and none works: a runtime that ended has taken it along.
    #[inline]
    pub(super) fn start_housekeeping(self: &Arc<Self>) {
        if let Some(starter) = self.options.starter {
            if !self.has_keeper() {
                self.start_by(starter);
            }
        }
    }

    #[cold]
    fn start_by(self: &Arc<Self>, starter: Starter) {
        let engine = Arc::downgrade(self);
        starter(&|| match AtWork::begin_alone(Weak::clone(&engine)) {
            Some(at_work) => keep(at_work).boxed(),
            None => futures::future::ready(()).boxed(),
        });
    }
}

/// Counts a keeper for as long as it works.
struct AtWork<S: Store + 'static>(Weak<Inner<S>>);

impl<S: Store + 'static> AtWork<S> {
    fn begin(engine: Weak<Inner<S>>) -> Self {
        if let Some(engine) = engine.upgrade() {
            engine.keepers.fetch_add(1, Ordering::Relaxed);
        }
        Self(engine)
    }

    /// `None` if another works.
    fn begin_alone(engine: Weak<Inner<S>>) -> Option<Self> {
        let strong = engine.upgrade()?;
        strong.keepers.compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed).ok()?;
        Some(Self(engine))
    }
}

impl<S: Store + 'static> Drop for AtWork<S> {
    fn drop(&mut self) {
        if let Some(engine) = self.0.upgrade() {
            if engine.keepers.fetch_sub(1, Ordering::Relaxed) == 1 {
                engine.background.without_keeper();
            }
        }
    }
}

async fn keep<S: Store + 'static>(at_work: AtWork<S>) {
    let engine = &at_work.0;
    let Some(mut clean_up) = engine.upgrade().map(|engine| engine.background.work()) else { return };
    let lane = |name, work: fn(Weak<Inner<S>>) -> BoxFuture<'static, ()>| {
        let (works, pauses) = (Weak::clone(engine), Weak::clone(engine));
        Lane::new(name, Arc::new(move || work(Weak::clone(&works))), Arc::new(move || a_tick(&pauses)))
    };
    let mut renewal = lane("renewal", |engine| renewal(engine).boxed());
    let mut helping = lane("helping", |engine| helping(engine).boxed());
    let mut purging = lane("purge", |engine| purging(engine).boxed());
    poll_fn(|cx| {
        // Renewals first: nothing else is in a hurry.
        let renewal = renewal.poll(cx);
        let _idle: Poll<()> = clean_up.poll(cx);
        for lane in [renewal, helping.poll(cx), purging.poll(cx)].into_iter().flatten() {
            if let Some(engine) = engine.upgrade() {
                let tell = || engine.tell_of_housekeeping(&Housekeeping::Panicked { lane });
                let _panicked = catch_unwind(AssertUnwindSafe(tell));
            }
        }
        if engine.strong_count() == 0 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// A sleep as long as between two rounds, if there is an engine.
fn a_tick<S: Store + 'static>(engine: &Weak<Inner<S>>) -> BoxFuture<'static, ()> {
    let sleep = engine.upgrade().map(|engine| {
        let clock = engine.clock();
        clock.sleep_until(clock.now() + engine.options.keeper_tick())
    });
    sleep.unwrap_or_else(|| futures::future::ready(()).boxed())
}

/// Helps with what was under way a round ago already. It sleeps for nothing: the renewals end its rounds.
async fn helping<S: Store + 'static>(engine: Weak<Inner<S>>) {
    let mut work = FuturesUnordered::new();
    let (mut helped, mut seen, mut round_ends) = (0, 0, Moment::ORIGIN);
    poll_fn(|cx| {
        let Some(engine) = engine.upgrade() else { return Poll::Ready(()) };
        let now = engine.clock().now();
        if now >= round_ends {
            work.extend(engine.help_wanted.between(helped, seen).into_iter().map(help));
            (helped, seen) = (seen, engine.help_wanted.next());
            round_ends = now + engine.options.keeper_tick();
        }
        drop(engine);
        while let Poll::Ready(Some(())) = Pin::new(&mut work).poll_next(cx) {}
        Poll::Pending
    })
    .await;
}
