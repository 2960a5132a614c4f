//! A request whose client may go away in the middle, or is not to wait any longer.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use oncekey::time::Clock;

use crate::context::Context as Around;
use crate::runner::Runner;

/// How far a request has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// Its claim is under way.
    Claiming,
    /// It waits for another request to end. It has nothing to run, and may be dropped.
    Waiting,
    /// Its handler runs.
    Running,
    /// Its handler has ended, and what that means is not on record yet.
    Ended,
}

const STAGES: [Stage; 4] = [Stage::Claiming, Stage::Waiting, Stage::Running, Stage::Ended];

/// How far a request has come, for whoever polls or drops its future.
#[derive(Clone)]
pub(crate) struct Progress(Arc<Flags>);

struct Flags {
    stage: AtomicU8,
    alone: AtomicBool,
    refused: AtomicBool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let stage = AtomicU8::new(Stage::Claiming as u8);
        Self(Arc::new(Flags { stage, alone: AtomicBool::new(false), refused: AtomicBool::new(false) }))
    }

    // The future sets these, and whoever polls or drops it reads them, or the other way round: never
    // both at once. A task that gets the future sees everything before that.

    pub(crate) fn set(&self, stage: Stage) {
        self.0.stage.store(stage as u8, Ordering::Relaxed);
    }

    fn stage(&self) -> Stage {
        STAGES[usize::from(self.0.stage.load(Ordering::Relaxed))]
    }

    /// Whether nobody waits for its answer any more, and it goes on by itself.
    pub(crate) fn is_alone(&self) -> bool {
        self.0.alone.load(Ordering::Relaxed)
    }

    /// Whether its client was told that nothing ran: so nothing may.
    pub(crate) fn is_refused(&self) -> bool {
        self.0.refused.load(Ordering::Relaxed)
    }
}

/// How long a client waits for the store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// For the claim; none if its handler is to run all the same once the store has failed.
    pub(crate) claim: Option<Duration>,
    /// For the claim of one that waits for another request.
    pub(crate) wait: Option<Duration>,
    /// For the record, once the handler has ended.
    pub(crate) record: Duration,
}

/// What comes of a request for its client.
pub(crate) enum Told<T> {
    Answer(T),
    /// Its claim was not answered in time, and its handler will not run.
    NotAnswered,
    /// Its handler has ended, and that was not put on record in time.
    NotRecorded,
}

/// A future that goes on in a task of its own if it is dropped before its end, or if the store takes
/// too long for its client.
///
/// As long as it is polled it runs where its request runs, with the task-locals, the tracing span
/// and the backpressure of that place. No task is made for a request that is not dropped.
pub(crate) struct Detaching<T: Send + 'static> {
    job: Option<BoxFuture<'static, T>>,
    progress: Progress,
    /// Where it goes on, and what is put around it there; `None` if it ends where it is dropped.
    moves: Option<(Runner, Around)>,
    clock: Arc<dyn Clock>,
    budget: Budget,
    time: Option<(Stage, BoxFuture<'static, ()>)>,
}

impl<T: Send + 'static> Detaching<T> {
    pub(crate) fn new(
        job: BoxFuture<'static, T>,
        progress: Progress,
        moves: Option<(Runner, Around)>,
        clock: Arc<dyn Clock>,
        budget: Budget,
    ) -> Self {
        Self { job: Some(job), progress, moves, clock, budget, time: None }
    }

    /// Whether the time of this stage is over. It is counted from the first pause in the stage.
    fn is_late(&mut self, stage: Stage, cx: &mut Context<'_>) -> bool {
        let limit = match stage {
            Stage::Claiming => self.budget.claim,
            Stage::Waiting => self.budget.wait,
            Stage::Running => None,
            // One that cannot go on elsewhere must come to its end here.
            Stage::Ended => self.moves.is_some().then_some(self.budget.record),
        };
        let Some(limit) = limit else {
            self.time = None;
            return false;
        };
        let time = self.time.take().filter(|(of, _)| *of == stage);
        let (_, mut sleep) =
            time.unwrap_or_else(|| (stage, self.clock.sleep_until(self.clock.now() + limit)));
        let late = sleep.as_mut().poll(cx).is_ready();
        self.time = Some((stage, sleep));
        late
    }

    /// Lets the job go on elsewhere, if it has anything to do, and may.
    fn move_on(&mut self) {
        let (Some(job), moves) = (self.job.take(), self.moves.take()) else { return };
        let Some((runner, around)) = moves.filter(|_| self.progress.stage() != Stage::Waiting) else {
            return;
        };
        self.progress.0.alone.store(true, Ordering::Relaxed);
        // This may run while a panic unwinds: a spawner or a context that panics costs its job and
        // nothing else.
        let _lost = catch_unwind(AssertUnwindSafe(|| runner.run(around.around(job.map(drop).boxed()))));
    }
}

impl<T: Send + 'static> Future for Detaching<T> {
    type Output = Told<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Told<T>> {
        // Taken out, so that one that panics is not polled again.
        let mut job = self.job.take().expect("not polled after its end");
        if let Poll::Ready(answer) = job.as_mut().poll(cx) {
            return Poll::Ready(Told::Answer(answer));
        }
        self.job = Some(job);
        let stage = self.progress.stage();
        if !self.is_late(stage, cx) {
            return Poll::Pending;
        }
        let told = if stage == Stage::Ended {
            Told::NotRecorded
        } else {
            self.progress.0.refused.store(true, Ordering::Relaxed);
            Told::NotAnswered
        };
        self.move_on();
        Poll::Ready(told)
    }
}

impl<T: Send + 'static> Drop for Detaching<T> {
    fn drop(&mut self) {
        self.move_on();
    }
}
