//! Clean-up that nobody waits for: it runs where it can.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use futures::future::BoxFuture;

use crate::sync::{AtomicUsize, Mutex, Ordering};

/// Jobs that were started and have not ended, and who wants to hear of them.
pub(crate) struct Background {
    jobs: Mutex<Queue>,
    listeners: Arc<Listeners>,
    /// How many jobs are queued, to be asked without the lock.
    waiting: AtomicUsize,
}

struct Queue {
    jobs: Vec<BoxFuture<'static, ()>>,
    /// Jobs that somebody took out to poll.
    in_hand: usize,
}

/// Who is woken when a job is queued, can go on, or has ended. All jobs are polled with one waker that wakes them all:
/// a job keeps the waker of its last poll only, and whoever polled it last may be a call that just came by.
struct Listeners {
    wakers: Mutex<Vec<Waker>>,
}

impl Listeners {
    fn add(&self, waker: &Waker) {
        let mut wakers = self.wakers.lock();
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }

    fn wake_all(&self) {
        let wakers = std::mem::take(&mut *self.wakers.lock());
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Wake for Listeners {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }
}

impl Background {
    pub(crate) fn new() -> Self {
        Self {
            jobs: Mutex::new(Queue { jobs: Vec::new(), in_hand: 0 }),
            listeners: Arc::new(Listeners { wakers: Mutex::new(Vec::new()) }),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Polls the job once, here and now, and queues what is left of it. This runs in drops, also while a panic
    /// unwinds, so a panic in the job ends the job and nothing else.
    pub(crate) fn start(&self, mut job: BoxFuture<'static, ()>) {
        if poll_job(&mut job, &mut Context::from_waker(&self.waker())) {
            return;
        }
        self.queue(job);
    }

    /// Queues a job that cannot be polled here.
    pub(crate) fn queue(&self, job: BoxFuture<'static, ()>) {
        {
            let mut queue = self.jobs.lock();
            queue.jobs.push(job);
            self.waiting.store(queue.jobs.len(), Ordering::Relaxed);
        }
        self.listeners.wake_all();
    }

    /// Polls what is queued, once. A call that happens by does this, so that jobs get on without a keeper.
    pub(crate) fn nudge(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.poll_queued();
        }
    }

    /// Polls what is queued; ready when nothing is left.
    pub(crate) fn poll_all(&self, cx: &mut Context<'_>) -> Poll<()> {
        {
            let queue = self.jobs.lock();
            if queue.jobs.is_empty() && queue.in_hand == 0 {
                return Poll::Ready(());
            }
        }
        // Before the jobs are polled: what wakes them from then on is heard.
        self.listen(cx.waker());
        match self.poll_queued() {
            Left::Nothing => return Poll::Ready(()),
            Left::Waiting => {}
            // Another thread polls some just now, and may have them back after they were woken: look again.
            Left::InHand => cx.waker().wake_by_ref(),
        }
        Poll::Pending
    }

    fn poll_queued(&self) -> Left {
        let mut jobs = {
            let mut queue = self.jobs.lock();
            let jobs = std::mem::take(&mut queue.jobs);
            queue.in_hand += jobs.len();
            jobs
        };
        let taken = jobs.len();
        let waker = self.waker();
        let mut cx = Context::from_waker(&waker);
        jobs.retain_mut(|job| !poll_job(job, &mut cx));
        let ended = jobs.len() < taken;
        let left = {
            let mut queue = self.jobs.lock();
            queue.in_hand -= taken;
            queue.jobs.append(&mut jobs);
            self.waiting.store(queue.jobs.len(), Ordering::Relaxed);
            match (queue.in_hand, queue.jobs.is_empty()) {
                (0, true) => Left::Nothing,
                (0, false) => Left::Waiting,
                _ => Left::InHand,
            }
        };
        if ended {
            self.listeners.wake_all(); // one of them may have waited for just this
        }
        left
    }

    /// Wakes `waker`, once, when a job is queued, can go on, or has ended.
    pub(crate) fn listen(&self, waker: &Waker) {
        self.listeners.add(waker);
    }

    fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.listeners))
    }
}

/// What a look at the queue left.
enum Left {
    Nothing,
    Waiting,
    /// Some are in another thread's hands.
    InHand,
}

/// Whether the job is over.
fn poll_job(job: &mut BoxFuture<'static, ()>, cx: &mut Context<'_>) -> bool {
    catch_unwind(AssertUnwindSafe(|| job.as_mut().poll(cx).is_ready())).unwrap_or(true)
}

#[cfg(test)]
#[cfg(not(oncekey_loom))]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[derive(Default)]
    struct Flag(AtomicBool);

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    /// Ends at its n-th poll.
    fn job(mut polls: usize) -> BoxFuture<'static, ()> {
        Box::pin(poll_fn(move |_| {
            polls -= 1;
            if polls == 0 { Poll::Ready(()) } else { Poll::Pending }
        }))
    }

    fn poll_all(background: &Background) -> Poll<()> {
        background.poll_all(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn who_waits_for_all_jobs_is_woken_when_another_ends_the_last() {
        let background = Background::new();
        background.start(job(3));
        let woken = Arc::new(Flag::default());
        assert!(background.poll_all(&mut Context::from_waker(&Waker::from(Arc::clone(&woken)))).is_pending());
        assert!(!woken.0.load(Ordering::SeqCst));
        background.nudge();
        assert!(woken.0.load(Ordering::SeqCst));
        assert!(poll_all(&background).is_ready());
    }

    #[test]
    fn the_poll_that_ends_the_last_job_says_so() {
        let background = Background::new();
        background.start(job(2));
        assert!(poll_all(&background).is_ready());
    }

    /// A flush that comes while another thread has the last job in hand must not say that all is done.
    #[test]
    fn a_job_in_hand_is_not_done() {
        let background = Arc::new(Background::new());
        let (inner, mut first) = (Arc::downgrade(&background), true);
        let seen = Arc::new(Flag::default());
        let saw = Arc::clone(&seen);
        background.start(Box::pin(poll_fn(move |_| {
            if std::mem::take(&mut first) {
                return Poll::Pending;
            }
            let background = inner.upgrade().expect("the test holds it");
            saw.0.store(poll_all(&background).is_pending(), Ordering::SeqCst);
            Poll::Ready(())
        })));
        assert!(poll_all(&background).is_ready());
        assert!(seen.0.load(Ordering::SeqCst), "said to be done while it was being polled");
    }
}
