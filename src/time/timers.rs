//! One thread that wakes sleepers.
//!
//! Most sleeps are bounds that are never reached: they come and go. So a sleep costs an entry in a
//! map, and the thread is woken only by a sleep that ends before it would look by itself.
//!
//! The locks are std's and not those of `sync`: no model sleeps by the system's clock.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Those of all clocks of this process.
pub(super) static TIMERS: Timers = Timers::new(start_thread);

/// The thread waits no longer than this in one go: some systems cannot count longer waits.
const PAUSE_MAX: Duration = Duration::from_secs(86_400);

pub(super) struct Timers {
    state: Mutex<State>,
    /// Somebody's sleep ends before the thread would look.
    sooner: Condvar,
    start: fn(&'static Self) -> io::Result<()>,
}

struct State {
    /// By when they end, and a number for those that end together.
    sleepers: BTreeMap<(Instant, u64), Waker>,
    numbered: u64,
    started: bool,
    /// When the thread looks next by itself; `None`: not before it is told.
    looks_at: Option<Instant>,
}

impl State {
    /// Puts a sleeper in; says whether the thread must be told.
    #[must_use]
    fn insert(&mut self, at: Instant, number: u64, waker: Waker) -> (bool, Option<Waker>) {
        let replaced = self.sleepers.insert((at, number), waker);
        let sooner = self.looks_at.is_none_or(|looks_at| at < looks_at);
        if sooner {
            self.looks_at = Some(at);
        }
        (sooner, replaced)
    }

    /// Takes out whoever has slept enough.
    fn take_due(&mut self, now: Instant) -> Vec<Waker> {
        let mut due = Vec::new();
        while let Some(first) = self.sleepers.first_entry() {
            if first.key().0 > now {
                break;
            }
            due.push(first.remove());
        }
        due
    }
}

impl Timers {
    const fn new(start: fn(&'static Self) -> io::Result<()>) -> Self {
        let state = State { sleepers: BTreeMap::new(), numbered: 0, started: false, looks_at: None };
        Self { state: Mutex::new(state), sooner: Condvar::new(), start }
    }

    /// Nothing panics halfway through a change, so a poisoned state is in order.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes `waker` at `at`. Answers the number to do so under: `number`, if there was one before.
    fn wake_at(&'static self, at: Instant, number: Option<u64>, waker: Waker) -> u64 {
        let mut state = self.lock();
        if !state.started {
            (self.start)(self).expect("the system can start the thread that wakes sleepers");
            state.started = true;
        }
        let number = number.unwrap_or_else(|| {
            state.numbered += 1;
            state.numbered
        });
        let (sooner, replaced) = state.insert(at, number, waker);
        drop(state);
        drop(replaced); // after the lock: a waker is foreign code
        if sooner {
            self.sooner.notify_one();
        }
        number
    }

    /// The thread's work.
    fn serve(&self) {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            // It looks again before it waits: until then nobody needs to tell it.
            state.looks_at = Some(now);
            let due = state.take_due(now);
            if !due.is_empty() {
                drop(state);
                for waker in due {
                    // A waker that panics must not end this thread. What it panicked with is not
                    // dropped, since that could panic too.
                    std::mem::forget(catch_unwind(AssertUnwindSafe(|| waker.wake())));
                }
                state = self.lock();
                continue;
            }
            state.looks_at = state.sleepers.first_key_value().map(|((at, _), _)| *at);
            let pause = state.looks_at.map_or(PAUSE_MAX, |at| at - now).min(PAUSE_MAX);
            state = self.sooner.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn start_thread(timers: &'static Timers) -> io::Result<()> {
    let thread = std::thread::Builder::new().name("oncekey-timers".into());
    thread.spawn(|| timers.serve()).map(drop)
}

/// A sleep until some instant. Dropped, it leaves nothing behind.
pub(super) struct Sleep {
    timers: &'static Timers,
    at: Instant,
    /// The number that it is known by, and the waker that is woken.
    known: Option<(u64, Waker)>,
}

impl Sleep {
    pub(super) fn new(timers: &'static Timers, at: Instant) -> Self {
        Self { timers, at, known: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.at {
            return Poll::Ready(());
        }
        match &self.known {
            // The thread still has this waker, or has woken it since the look at the clock above.
            Some((_, waker)) if waker.will_wake(cx.waker()) => {}
            known => {
                let (number, waker) = (known.as_ref().map(|known| known.0), cx.waker().clone());
                let number = self.timers.wake_at(self.at, number, waker.clone());
                self.known = Some((number, waker));
            }
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some((number, _)) = self.known {
            let removed = self.timers.lock().sleepers.remove(&(self.at, number));
            drop(removed); // after the lock
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::sync::mpsc::{Sender, channel};
    use std::task::Wake;

    use futures::executor::block_on;
    use futures::future::{join, join_all};

    use super::*;

    /// Long enough for a machine that does a hundred other things.
    const PATIENCE: Duration = Duration::from_secs(120);
    const HOUR: Duration = Duration::from_secs(3600);
    const MILLI: Duration = Duration::from_millis(1);

    /// With a thread of their own, that other tests do not use.
    fn timers() -> &'static Timers {
        Box::leak(Box::new(Timers::new(start_thread)))
    }

    /// Tells its number when it is woken.
    struct Telling(Sender<u32>, u32);

    impl Wake for Telling {
        fn wake(self: Arc<Self>) {
            let _gone = self.0.send(self.1);
        }
    }

    fn telling(told: &Sender<u32>, number: u32) -> Waker {
        Waker::from(Arc::new(Telling(told.clone(), number)))
    }

    fn poll(sleep: &mut Sleep, waker: &Waker) -> Poll<()> {
        Pin::new(sleep).poll(&mut Context::from_waker(waker))
    }

    #[test]
    fn ten_thousand_sleep_as_long_as_they_say_and_leave_nothing() {
        let (timers, begun) = (timers(), Instant::now());
        let sleeps = (0..10_000_u32).map(|i| async move {
            let at = begun + MILLI * (i * 7919 % 200);
            Sleep::new(timers, at).await;
            Instant::now() >= at
        });
        assert!(block_on(join_all(sleeps)).into_iter().all(|slept| slept));
        assert!(timers.lock().sleepers.is_empty());
    }

    #[test]
    fn who_is_due_is_woken_in_the_order_in_which_the_sleeps_end() {
        let (timers, end) = (timers(), Instant::now() + HOUR);
        let (told, hears) = channel();
        let mut sleeps: Vec<_> = [3, 1, 4, 0, 2].map(|i| (i, Sleep::new(timers, end + MILLI * i))).into();
        for (i, sleep) in &mut sleeps {
            assert!(poll(sleep, &telling(&told, *i)).is_pending());
        }
        let wake_due = |at| {
            timers.lock().take_due(at).into_iter().for_each(Waker::wake);
            hears.try_iter().collect::<Vec<_>>()
        };
        assert!(wake_due(end - MILLI).is_empty());
        assert_eq!(wake_due(end), [0]);
        assert_eq!(wake_due(end + MILLI * 3), [1, 2, 3]);
        assert_eq!(wake_due(end + MILLI * 4), [4]);
    }

    #[test]
    fn dropped_sleeps_are_taken_out_and_wake_nobody() {
        let timers = timers();
        let (told, hears) = channel();
        let mut sleeps: Vec<_> =
            (1..=1000).map(|i| Sleep::new(timers, Instant::now() + HOUR + MILLI * i)).collect();
        sleeps.iter_mut().for_each(|sleep| assert!(poll(sleep, &telling(&told, 0)).is_pending()));
        assert_eq!(timers.lock().sleepers.len(), 1000);
        drop(sleeps);
        assert!(timers.lock().sleepers.is_empty());
        drop(told);
        assert!(hears.recv().is_err(), "nobody was woken, and no waker is left");
    }

    #[test]
    fn the_waker_of_the_last_poll_is_woken_and_no_other() {
        let (timers, end) = (timers(), Instant::now() + HOUR);
        let (told, hears) = channel();
        let mut sleep = Sleep::new(timers, end);
        let (first, second) = (telling(&told, 1), telling(&told, 2));
        for waker in [&first, &first, &second, &first, &second] {
            assert!(poll(&mut sleep, waker).is_pending());
        }
        timers.lock().take_due(end).into_iter().for_each(Waker::wake);
        assert_eq!(hears.try_iter().collect::<Vec<_>>(), [2]);
    }

    /// Most sleeps are bounds that end later than others: they come and go, and the thread waits
    /// on.
    #[test]
    fn the_thread_is_told_of_a_sleep_that_ends_before_it_looks_and_of_no_other() {
        let state = Timers::new(start_thread).state;
        let mut state = state.into_inner().unwrap();
        let now = Instant::now();
        let insert = |state: &mut State, at| {
            state.numbered += 1;
            (state.insert(now + at, state.numbered, Waker::noop().clone()).0, state.numbered)
        };
        let (told, number) = insert(&mut state, HOUR * 2);
        assert!(told, "it waits for a word");
        assert!(!insert(&mut state, HOUR * 3).0 && !insert(&mut state, HOUR * 2).0);
        assert!(insert(&mut state, HOUR).0);
        state.sleepers.clear();
        assert!(!insert(&mut state, HOUR + MILLI).0, "it still looks in an hour");
        assert!(number == 1 && state.take_due(now + HOUR).is_empty());
        assert_eq!(state.take_due(now + HOUR + MILLI).len(), 1);
    }

    /// A waker whose task has a sleep of its own: being woken and being dropped, it takes the lock.
    struct Sleeping(Mutex<Sleep>, Sender<u32>);

    impl Wake for Sleeping {
        fn wake(self: Arc<Self>) {
            assert!(poll(&mut self.0.lock().unwrap(), &telling(&self.1, 0)).is_pending());
            let _gone = self.1.send(1);
        }
    }

    #[test]
    fn wakers_are_woken_and_dropped_outside_of_the_lock() {
        let timers = timers();
        let (told, hears) = channel();
        let (done, ends) = channel();
        std::thread::spawn(move || {
            let sleeping = || {
                let mut own = Sleep::new(timers, Instant::now() + HOUR);
                assert!(poll(&mut own, Waker::noop()).is_pending());
                Waker::from(Arc::new(Sleeping(Mutex::new(own), told.clone())))
            };
            // As far ahead as this machine needs to poll it twice before its end.
            let mut ahead = MILLI * 50;
            let _sleep = loop {
                let mut sleep = Sleep::new(timers, Instant::now() + ahead);
                if poll(&mut sleep, &sleeping()).is_pending() && poll(&mut sleep, &sleeping()).is_pending() {
                    break sleep;
                }
                ahead *= 2;
            };
            hears.recv().expect("this closure can tell, so nothing ends here untold");
            let mut dropped = Sleep::new(timers, Instant::now() + HOUR);
            assert!(poll(&mut dropped, &sleeping()).is_pending());
            drop(dropped);
            done.send(()).expect("the test waits");
        });
        ends.recv_timeout(PATIENCE).expect("no call waits for a lock that it holds");
    }

    struct Panicking;

    impl Wake for Panicking {
        fn wake(self: Arc<Self>) {
            std::panic::resume_unwind(Box::new("a waker that panics"));
        }
    }

    #[test]
    fn a_waker_that_panics_stops_nobody_elses_sleep() {
        let timers = timers();
        let at = Instant::now() + MILLI * 100;
        let mut sleep = Sleep::new(timers, at);
        let _may_be_over = poll(&mut sleep, &Waker::from(Arc::new(Panicking)));
        block_on(join(Sleep::new(timers, at), Sleep::new(timers, at + MILLI * 100)));
    }

    /// No thread now is no reason not to ask for one later.
    #[test]
    fn where_no_thread_can_be_started_a_sleep_panics_and_the_next_one_tries_again() {
        static FULL: AtomicBool = AtomicBool::new(true);
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        static TIMERS: Timers = Timers::new(|timers| {
            if FULL.load(Ordering::SeqCst) {
                return Err(io::Error::other("no more threads"));
            }
            STARTED.fetch_add(1, Ordering::SeqCst);
            start_thread(timers)
        });
        let begin = || poll(&mut Sleep::new(&TIMERS, Instant::now() + HOUR), Waker::noop());
        let panicked = catch_unwind(begin).unwrap_err();
        let message = panicked.downcast_ref::<String>().unwrap();
        assert!(
            message.contains("thread that wakes sleepers") && message.contains("no more threads"),
            "{message}"
        );
        FULL.store(false, Ordering::SeqCst);
        assert!(begin().is_pending() && begin().is_pending());
        block_on(Sleep::new(&TIMERS, Instant::now() + MILLI * 50));
        assert_eq!(STARTED.load(Ordering::SeqCst), 1);
    }
}
