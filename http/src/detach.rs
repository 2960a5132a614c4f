//! A request whose client may go away in the middle, and where the rest of it runs then.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::context::{Context as Around, Job};

pub(crate) type Spawn = dyn Fn(Job) + Send + Sync;

/// Where a handler runs.
pub(crate) enum Run {
    /// With its request, and in a task of its own once that is dropped: on the tokio runtime that
    /// the request is on.
    #[cfg(feature = "tokio")]
    Tokio,
    /// The same, on a spawner.
    Spawner(Arc<Spawn>),
    /// With its request: it ends with it.
    Request,
    /// No runtime was named.
    #[cfg(not(feature = "tokio"))]
    Unsaid,
}

impl Run {
    /// Where the rest of a request runs if it is dropped; `None` if its handler ends with it.
    ///
    /// # Panics
    /// Outside of a tokio runtime, if handlers run on tokio.
    pub(crate) fn runner(&self) -> Option<Runner> {
        match self {
            #[cfg(feature = "tokio")]
            Self::Tokio => Some(Runner::Tokio(tokio::runtime::Handle::current())),
            Self::Spawner(spawn) => Some(Runner::Spawner(Arc::clone(spawn))),
            Self::Request => None,
            #[cfg(not(feature = "tokio"))]
            Self::Unsaid => unreachable!("such a layer is not built"),
        }
    }
}

#[cfg(feature = "tokio")]
pub(crate) fn default_run() -> Run {
    Run::Tokio
}

#[cfg(not(feature = "tokio"))]
pub(crate) fn default_run() -> Run {
    Run::Unsaid
}

/// Where the rest of a request runs once nobody polls it any more.
pub(crate) enum Runner {
    /// The runtime that its request came in on: known here, since a drop may come from elsewhere.
    #[cfg(feature = "tokio")]
    Tokio(tokio::runtime::Handle),
    Spawner(Arc<Spawn>),
}

impl Runner {
    fn run(&self, job: Job) {
        match self {
            #[cfg(feature = "tokio")]
            Self::Tokio(runtime) => drop(runtime.spawn(job)),
            Self::Spawner(spawn) => spawn(job),
        }
    }
}

/// Whether a request that is dropped goes on: it does, but for the time in which it waits for
/// another to end.
#[derive(Clone)]
pub(crate) struct GoesOn(Arc<Flags>);

struct Flags {
    goes_on: AtomicBool,
    alone: AtomicBool,
}

impl GoesOn {
    pub(crate) fn yes() -> Self {
        Self(Arc::new(Flags { goes_on: AtomicBool::new(true), alone: AtomicBool::new(false) }))
    }

    pub(crate) fn set(&self, goes_on: bool) {
        // The future sets this, and its drop reads it: never both at once.
        self.0.goes_on.store(goes_on, Ordering::Relaxed);
    }

    /// Whether its client has left, and it goes on without it.
    pub(crate) fn is_alone(&self) -> bool {
        // Set before the future is handed to its task, which sees everything before that.
        self.0.alone.load(Ordering::Relaxed)
    }
}

/// A future that goes on in a task of its own if it is dropped before its end.
///
/// As long as it is polled it runs where its request runs, with the task-locals, the tracing span
/// and the backpressure of that place. No task is made for a request that is not dropped.
pub(crate) struct Detaching<T: Send + 'static> {
    job: Option<BoxFuture<'static, T>>,
    runner: Runner,
    /// Taken when the job is moved.
    around: Option<Around>,
    goes_on: GoesOn,
}

impl<T: Send + 'static> Detaching<T> {
    pub(crate) fn new(job: BoxFuture<'static, T>, runner: Runner, around: Around, goes_on: GoesOn) -> Self {
        Self { job: Some(job), runner, around: Some(around), goes_on }
    }
}

impl<T: Send + 'static> Future for Detaching<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        // Taken out, so that one that panics is not polled again.
        let mut job = self.job.take().expect("not polled after its end");
        let polled = job.as_mut().poll(cx);
        if polled.is_pending() {
            self.job = Some(job);
        }
        polled
    }
}

impl<T: Send + 'static> Drop for Detaching<T> {
    fn drop(&mut self) {
        if let Some(job) = self.job.take().filter(|_| self.goes_on.0.goes_on.load(Ordering::Relaxed)) {
            self.goes_on.0.alone.store(true, Ordering::Relaxed);
            let around = self.around.take();
            // This may run while a panic unwinds: a spawner or a context that panics costs its job
            // and nothing else.
            let _lost = catch_unwind(AssertUnwindSafe(|| {
                let job = job.map(drop).boxed();
                self.runner.run(match around {
                    Some(around) => around.around(job),
                    None => job,
                });
            }));
        }
    }
}
