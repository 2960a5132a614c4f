//! Clean-up that nobody waits for: it runs where it can.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Poll, Waker};

use futures::future::BoxFuture;

use crate::sync::{AtomicUsize, Mutex, Ordering};

/// Jobs that were started and have not ended, and who wants to hear of new ones.
pub(crate) struct Background {
    queue: Mutex<Queue>,
    /// How many jobs are queued, to be asked without the lock.
    waiting: AtomicUsize,
}

struct Queue {
    jobs: Vec<BoxFuture<'static, ()>>,
    /// Jobs that somebody took out to poll.
    in_hand: usize,
    wakers: Vec<Waker>,
}

impl Background {
    pub(crate) fn new() -> Self {
        Self {
            queue: Mutex::new(Queue { jobs: Vec::new(), in_hand: 0, wakers: Vec::new() }),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Polls the job once, here and now, and queues what is left of it. This runs in drops, also while a panic
    /// unwinds, so a panic in the job ends the job and nothing else.
    pub(crate) fn start(&self, mut job: BoxFuture<'static, ()>) {
        if poll_job(&mut job, &mut Context::from_waker(Waker::noop())) {
            return;
        }
        let wakers = {
            let mut queue = self.queue.lock();
            queue.jobs.push(job);
            self.waiting.store(queue.jobs.len(), Ordering::Relaxed);
            std::mem::take(&mut queue.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Polls what is queued, once. A call that happens by does this, so that jobs get on without a keeper.
    pub(crate) fn nudge(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            let _: Poll<()> = self.poll_all(&mut Context::from_waker(Waker::noop()));
        }
    }

    /// Polls what is queued; ready when nothing is left.
    pub(crate) fn poll_all(&self, cx: &mut Context<'_>) -> Poll<()> {
        let (mut jobs, taken) = {
            let mut queue = self.queue.lock();
            let jobs = std::mem::take(&mut queue.jobs);
            queue.in_hand += jobs.len();
            let taken = jobs.len();
            (jobs, taken)
        };
        jobs.retain_mut(|job| !poll_job(job, cx));
        let mut queue = self.queue.lock();
        queue.in_hand -= taken;
        queue.jobs.append(&mut jobs);
        self.waiting.store(queue.jobs.len(), Ordering::Relaxed);
        if queue.jobs.is_empty() && queue.in_hand == 0 {
            return Poll::Ready(());
        }
        if queue.jobs.is_empty() {
            cx.waker().wake_by_ref(); // another thread polls them just now: look again
        }
        Poll::Pending
    }

    /// Wakes `waker` when a job is queued.
    pub(crate) fn listen(&self, waker: &Waker) {
        let mut queue = self.queue.lock();
        if !queue.wakers.iter().any(|known| known.will_wake(waker)) {
            queue.wakers.push(waker.clone());
        }
    }
}

/// Whether the job is over.
fn poll_job(job: &mut BoxFuture<'static, ()>, cx: &mut Context<'_>) -> bool {
    catch_unwind(AssertUnwindSafe(|| job.as_mut().poll(cx).is_ready())).unwrap_or(true)
}
