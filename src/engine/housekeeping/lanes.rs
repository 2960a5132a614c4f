//! The lanes of housekeeping: kinds of work side by side in one future, of which none stops another.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::FutureExt as _;
use futures::future::BoxFuture;

/// Makes a future.
type Makes = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// One kind of work. If it panics, it begins anew.
pub(super) struct Lane {
    name: &'static str,
    begin: Makes,
    pause: Makes,
    work: Option<BoxFuture<'static, ()>>,
    /// How often it panicked in a row.
    panics: u32,
    over: bool,
}

impl Lane {
    /// `begin` makes its future, which ends when there is nothing more to do for good. `pause` makes a sleep.
    pub(super) fn new(name: &'static str, begin: Makes, pause: Makes) -> Self {
        Self { name, begin, pause, work: None, panics: 0, over: false }
    }

    /// Polls it once. Its name, if it panicked: then it begins anew, at once the first time, after a pause the second
    /// time in a row. Should the pause panic too, it begins anew with the next poll, whenever that comes.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Option<&'static str> {
        if self.over {
            return None;
        }
        let polled =
            catch_unwind(AssertUnwindSafe(|| self.work.get_or_insert_with(&*self.begin).as_mut().poll(cx)));
        match polled {
            Ok(Poll::Pending) => {
                self.panics = 0;
                return None;
            }
            Ok(Poll::Ready(())) => {
                self.over = true;
                self.end();
                return None;
            }
            Err(_panic) => {}
        }
        self.end();
        self.panics += 1;
        if self.panics == 2 {
            let begin = Arc::clone(&self.begin);
            let pause = catch_unwind(AssertUnwindSafe(|| (self.pause)()));
            self.work = pause.ok().map(|pause| async move { (pause.await, begin().await).1 }.boxed());
        }
        if self.panics <= 2 {
            cx.waker().wake_by_ref();
        }
        Some(self.name)
    }

    /// A panic of its drop is one of its own too.
    fn end(&mut self) {
        let work = self.work.take();
        let _panicked = catch_unwind(AssertUnwindSafe(|| drop(work)));
    }
}

#[cfg(test)]
#[cfg(not(oncekey_loom))]
mod tests {
    use std::future::poll_fn;
    use std::panic::resume_unwind;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A lane whose work goes as planned, each time that it begins; and how often it began.
    fn planned(
        plan: impl Fn(usize) -> Poll<()> + Send + Sync + 'static,
        pause: Makes,
    ) -> (Lane, Arc<AtomicUsize>) {
        let begun = Arc::new(AtomicUsize::new(0));
        let (begins, plan) = (Arc::clone(&begun), Arc::new(plan));
        let begin = move || {
            let (number, plan) = (begins.fetch_add(1, Ordering::SeqCst), Arc::clone(&plan));
            poll_fn(move |_| plan(number)).boxed()
        };
        (Lane::new("test", Arc::new(begin), pause), begun)
    }

    fn panics<T>() -> T {
        resume_unwind(Box::new("planned"))
    }

    #[test]
    fn a_lane_that_goes_on_panicking_begins_anew_after_a_pause_and_is_woken_for_it() {
        let paused = Arc::new(AtomicUsize::new(0));
        let ends = Arc::clone(&paused);
        // It ends with its second poll, as a sleep would.
        let pause =
            move || {
                let ends = Arc::clone(&ends);
                poll_fn(move |_| {
                    if ends.fetch_add(1, Ordering::SeqCst) == 0 { Poll::Pending } else { Poll::Ready(()) }
                })
                .boxed()
            };
        let plan = |number| match number {
            0 | 1 => panics(),
            2 => Poll::Pending,
            _ => Poll::Ready(()),
        };
        let (mut lane, begun) = planned(plan, Arc::new(pause));
        let woken = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut poll = || lane.poll(&mut Context::from_waker(&waker));
        assert_eq!((poll(), woken.0.load(Ordering::SeqCst)), (Some("test"), 1));
        assert_eq!(
            (poll(), woken.0.load(Ordering::SeqCst)),
            (Some("test"), 2),
            "or nobody would poll its pause"
        );
        assert_eq!((poll(), begun.load(Ordering::SeqCst)), (None, 2), "it pauses");
        assert_eq!((poll(), begun.load(Ordering::SeqCst)), (None, 3), "and begins anew");
        assert_eq!((poll(), paused.load(Ordering::SeqCst)), (None, 2));
        assert_eq!(woken.0.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_lane_whose_pauses_panic_too_wakes_nobody() {
        for pause in [Arc::new(panics) as Makes, Arc::new(|| poll_fn(|_| panics()).boxed())] {
            let (mut lane, _) = planned(|_| panics(), pause);
            let woken = Arc::new(Count::default());
            let waker = Waker::from(Arc::clone(&woken));
            for _ in 0..10 {
                assert_eq!(lane.poll(&mut Context::from_waker(&waker)), Some("test"));
            }
            assert_eq!(woken.0.load(Ordering::SeqCst), 2);
        }
    }
}
