//! Clean-up: what drops left to be written.
//!
//! It is kept as data. A drop waits for no store, and what nobody drives holds no connection and no
//! claim's turn. Whoever drives a job begins it, and puts it back if it goes before the job's end.
//! A job that waits does not keep its engine alive, unless there is a keeper to drive it.

use std::any::Any;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::future::{BoxFuture, Either, FusedFuture as _, select};
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, Stream as _};

use crate::sync::{AtomicUsize, Mutex, Ordering};
use crate::time::Clock;

/// How many jobs one driver has under way at once.
const UNDER_WAY_MAX: usize = 16;

/// What a drop left to be written. It holds its engine weakly.
pub(in crate::engine) trait CleanUp: Send + Sync {
    /// Writes it, if the engine is there. If this is dropped before its end, it may be begun again.
    fn begin(self: Arc<Self>) -> BoxFuture<'static, ()>;

    /// Whether it stores an outcome. Those go first.
    fn is_completion(&self) -> bool;
}

/// An engine that is to stay until some job is done.
pub(in crate::engine) type Alive = Arc<dyn Any + Send + Sync>;

/// The clean-up of an engine that waits for somebody to drive it.
pub(crate) struct Background {
    queue: Arc<Queue>,
}

struct Queue {
    state: Mutex<State>,
    /// How many jobs wait, to be asked without the lock.
    waiting: AtomicUsize,
}

#[derive(Default)]
struct State {
    completions: VecDeque<Arc<dyn CleanUp>>,
    others: VecDeque<Arc<dyn CleanUp>>,
    /// Jobs that somebody of this engine has begun.
    in_hand: usize,
    /// Who is woken when a job is queued or has ended.
    listeners: Vec<Waker>,
    /// While jobs wait for a keeper.
    alive: Option<Alive>,
}

impl State {
    fn put(&mut self, job: Arc<dyn CleanUp>) {
        let queue = if job.is_completion() { &mut self.completions } else { &mut self.others };
        queue.push_back(job);
    }

    fn waiting(&self) -> usize {
        self.completions.len() + self.others.len()
    }
}

impl Queue {
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let changed = change(&mut state);
        self.waiting.store(state.waiting(), Ordering::Relaxed);
        changed
    }

    fn wake(&self) {
        let listeners = std::mem::take(&mut self.state.lock().listeners);
        listeners.into_iter().for_each(Waker::wake);
    }

    fn take(self: &Arc<Self>) -> Option<InHand> {
        let job = self.change(|state| {
            let job = state.completions.pop_front().or_else(|| state.others.pop_front())?;
            state.in_hand += 1;
            Some(job)
        })?;
        Some(InHand { queue: Arc::clone(self), job, alive: None, counts: true, ended: false })
    }
}

impl Background {
    pub(crate) fn new() -> Self {
        Self { queue: Arc::new(Queue { state: Mutex::new(State::default()), waiting: AtomicUsize::new(0) }) }
    }

    /// Keeps a job until somebody drives it, and the engine too if that is a keeper.
    pub(in crate::engine) fn queue(&self, job: Arc<dyn CleanUp>, by_keeper: Option<Alive>) {
        self.queue.change(|state| {
            if by_keeper.is_some() {
                state.alive = by_keeper;
            }
            state.put(job);
        });
        self.queue.wake();
    }

    /// A job for somebody outside of the engine to run. A future that is dropped before its end puts it back.
    pub(in crate::engine) fn elsewhere(&self, job: Arc<dyn CleanUp>, alive: Alive) -> BoxFuture<'static, ()> {
        let alive = Some(alive);
        let job = InHand { queue: Arc::clone(&self.queue), job, alive, counts: false, ended: false };
        job.carry_out().boxed()
    }

    /// No keeper works any more.
    pub(in crate::engine) fn without_keeper(&self) {
        let _alive = self.queue.change(|state| state.alive.take());
    }

    /// A job for a call that comes by, if one waits. See [`InHand::beside`].
    pub(in crate::engine) fn take(&self) -> Option<InHand> {
        if self.queue.waiting.load(Ordering::Relaxed) == 0 {
            return None;
        }
        self.queue.take()
    }

    /// For whoever drives all of it.
    pub(in crate::engine) fn work(&self) -> Work {
        Work { queue: Arc::clone(&self.queue), under_way: FuturesUnordered::new() }
    }
}

/// Whoever drives it learns that the engine is gone.
impl Drop for Background {
    fn drop(&mut self) {
        self.queue.wake();
    }
}

/// A job that somebody has begun. Dropped before the job's end, it is put back.
pub(in crate::engine) struct InHand {
    queue: Arc<Queue>,
    job: Arc<dyn CleanUp>,
    #[allow(dead_code, reason = "it is held, and not looked at")]
    alive: Option<Alive>,
    /// Whether a flush waits for it.
    counts: bool,
    ended: bool,
}

impl InHand {
    async fn carry_out(mut self) {
        let job = Arc::clone(&self.job);
        // A panic ends the job and nothing else.
        let _panicked = AssertUnwindSafe(async move { job.begin().await }).catch_unwind().await;
        self.ended = true;
    }

    /// Drives the job beside a call. The call's answer waits for the job as long again as it took itself, and at most
    /// so long: what was asked of the store a little later is answered by then, as a rule. A call that failed does not wait.
    pub(in crate::engine) async fn beside<T, E>(
        self,
        clock: &dyn Clock,
        at_most: Duration,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let begun = clock.now();
        let (mut call, mut job) = (pin!(call), pin!(self.carry_out().fuse()));
        let answer = poll_fn(|cx| {
            // The call has the store first.
            let answer = call.as_mut().poll(cx);
            let _ended: Poll<()> = job.as_mut().poll(cx);
            answer
        })
        .await;
        if answer.is_ok() && !job.is_terminated() {
            let now = clock.now();
            let patience = clock.sleep_until(now + at_most.min(now.saturating_since(begun)));
            let (Either::Left(_) | Either::Right(_)) = select(job, patience).await;
        }
        answer
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.queue.change(|state| {
            state.in_hand -= usize::from(self.counts);
            if !self.ended {
                state.put(Arc::clone(&self.job));
            }
        });
        self.queue.wake();
    }
}

/// Drives all clean-up, some jobs at once. What is under way when this is dropped is put back.
pub(in crate::engine) struct Work {
    queue: Arc<Queue>,
    under_way: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl Work {
    /// Ready when nothing is left, in anybody's hands; else `cx` is woken when something can go on.
    pub(in crate::engine) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            while self.under_way.len() < UNDER_WAY_MAX {
                let Some(job) = self.queue.take() else { break };
                self.under_way.push(job.carry_out().boxed());
            }
            if let Poll::Ready(Some(())) = Pin::new(&mut self.under_way).poll_next(cx) {
                continue;
            }
            let mut state = self.queue.state.lock();
            if state.waiting() == 0 && state.in_hand == 0 {
                // A keeper waits for the next one.
                listen(&mut state, cx.waker());
                let alive = state.alive.take();
                drop(state);
                drop(alive);
                return Poll::Ready(());
            }
            if state.waiting() > 0 && self.under_way.len() < UNDER_WAY_MAX {
                continue; // it came meanwhile
            }
            listen(&mut state, cx.waker());
            return Poll::Pending;
        }
    }
}

fn listen(state: &mut State, waker: &Waker) {
    if !state.listeners.iter().any(|known| known.will_wake(waker)) {
        state.listeners.push(waker.clone());
    }
}

#[cfg(test)]
#[cfg(not(oncekey_loom))]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::task::Wake;

    use super::*;
    use crate::time::ManualClock;

    #[derive(Default)]
    struct Flag(AtomicBool);

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    /// Ends at its n-th poll, each time that it is begun.
    #[derive(Default)]
    struct Job {
        polls: usize,
        completes: bool,
        begun: AtomicUsize,
        ended: AtomicUsize,
    }

    impl CleanUp for Job {
        fn begin(self: Arc<Self>) -> BoxFuture<'static, ()> {
            self.begun.fetch_add(1, Ordering::SeqCst);
            let mut polls = self.polls;
            Box::pin(poll_fn(move |_| {
                polls -= 1;
                if polls > 0 {
                    return Poll::Pending;
                }
                self.ended.fetch_add(1, Ordering::SeqCst);
                Poll::Ready(())
            }))
        }

        fn is_completion(&self) -> bool {
            self.completes
        }
    }

    fn job(polls: usize) -> Arc<Job> {
        Arc::new(Job { polls, ..Job::default() })
    }

    fn counts(job: &Job) -> (usize, usize) {
        (job.begun.load(Ordering::SeqCst), job.ended.load(Ordering::SeqCst))
    }

    fn poll<T>(work: &mut Work, waker: &Arc<T>) -> Poll<()>
    where
        T: Wake + Send + Sync + 'static,
    {
        work.poll(&mut Context::from_waker(&Waker::from(Arc::clone(waker))))
    }

    fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_job_is_begun_by_whoever_drives_it_and_by_nobody_else() {
        let background = Background::new();
        let left = job(2);
        background.queue(left.clone(), None);
        assert_eq!(counts(&left), (0, 0));
        let woken = Arc::new(Flag::default());
        let mut work = background.work();
        assert!(poll(&mut work, &woken).is_pending());
        assert_eq!(counts(&left), (1, 0));
        drop(work);
        // It was put back.
        let mut work = background.work();
        assert!(poll(&mut work, &woken).is_pending());
        assert_eq!(counts(&left), (2, 0));
    }

    #[test]
    fn who_waits_for_all_jobs_is_woken_when_a_call_that_comes_by_ends_the_last() {
        let background = Background::new();
        background.queue(job(1), None);
        let taken = background.take().expect("one waits");
        let woken = Arc::new(Flag::default());
        let mut work = background.work();
        assert!(poll(&mut work, &woken).is_pending(), "it is not done: somebody has it in hand");
        assert!(!woken.0.load(Ordering::SeqCst));
        assert!(
            poll_once(pin!(taken.beside(&ManualClock::new(), Duration::ZERO, async { Ok::<_, ()>(()) })))
                .is_ready()
        );
        assert!(woken.0.load(Ordering::SeqCst));
        assert!(poll(&mut work, &woken).is_ready());
    }

    #[test]
    fn a_call_that_comes_by_takes_one_job_and_puts_it_back_behind_the_others() {
        let background = Background::new();
        let jobs: Vec<_> = (0..3).map(|_| job(3)).collect();
        jobs.iter().for_each(|job| background.queue(job.clone(), None));
        for _ in 0..3 {
            let taken = background.take().expect("some wait");
            assert!(
                poll_once(pin!(taken.beside(&ManualClock::new(), Duration::ZERO, async { Ok::<_, ()>(()) })))
                    .is_ready(),
                "the call waits for nothing"
            );
        }
        assert!(jobs.iter().all(|job| counts(job) == (1, 0)), "each had its turn");
    }

    /// The store that failed it would keep the job waiting too.
    #[test]
    fn a_call_that_failed_waits_for_no_job() {
        for (answer, waits) in [(Ok(()), true), (Err(()), false)] {
            let (background, clock) = (Background::new(), ManualClock::new());
            background.queue(job(100), None);
            let taken = background.take().expect("one waits");
            let second = Duration::from_secs(1);
            let call = async {
                clock.advance(second);
                answer
            };
            let polled = poll_once(pin!(taken.beside(&clock, second, call)));
            assert_eq!(polled.is_pending(), waits, "{answer:?}");
        }
    }

    #[test]
    fn outcomes_go_first_and_few_jobs_are_under_way_at_once() {
        let background = Background::new();
        let others: Vec<_> = (0..100).map(|_| job(2)).collect();
        others.iter().for_each(|job| background.queue(job.clone(), None));
        let outcome = Arc::new(Job { polls: 2, completes: true, ..Job::default() });
        background.queue(outcome.clone(), None);
        let mut work = background.work();
        assert!(poll(&mut work, &Arc::new(Flag::default())).is_pending());
        let begun = others.iter().filter(|job| counts(job).0 > 0).count();
        assert_eq!((counts(&outcome), begun), ((1, 0), UNDER_WAY_MAX - 1));
    }

    #[test]
    fn what_somebody_outside_drops_is_put_back_and_what_they_keep_is_not_waited_for() {
        let background = Background::new();
        let (kept, dropped) = (job(1), job(1));
        let elsewhere = background.elsewhere(kept.clone(), Arc::new(()));
        drop(background.elsewhere(dropped.clone(), Arc::new(())));
        let mut work = background.work();
        assert!(poll(&mut work, &Arc::new(Flag::default())).is_ready());
        assert_eq!((counts(&kept), counts(&dropped)), ((0, 0), (1, 1)));
        assert!(elsewhere.now_or_never().is_some());
        assert_eq!(counts(&kept), (1, 1));
    }

    /// A job that waits holds the engine for a keeper, and for nobody else.
    #[test]
    fn an_engine_stays_for_its_clean_up_while_a_keeper_works() {
        let background = Background::new();
        let engine: Alive = Arc::new(());
        let seen = Arc::downgrade(&engine);
        drop(background.elsewhere(job(1), Arc::clone(&engine)));
        background.queue(job(1), Some(engine));
        assert_eq!(seen.strong_count(), 1, "for the keeper; not for what was put back");
        assert!(poll(&mut background.work(), &Arc::new(Flag::default())).is_ready());
        assert_eq!(seen.strong_count(), 0, "all is done");
        let engine: Alive = Arc::new(());
        let seen = Arc::downgrade(&engine);
        background.queue(job(1), Some(engine));
        background.without_keeper();
        assert_eq!(seen.strong_count(), 0);
    }
}
