//! The lanes of housekeeping: kinds of work side by side in one future, of which none stops another.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Poll};

use futures::future::BoxFuture;

/// One kind of work. If it panics, it begins anew.
pub(in crate::engine) struct Lane {
    name: &'static str,
    begin: Box<dyn Fn() -> BoxFuture<'static, ()> + Send>,
    work: Option<BoxFuture<'static, ()>>,
    /// It panicked when it was polled last.
    panicked: bool,
    over: bool,
}

impl Lane {
    /// `begin` makes its future, which ends when there is nothing more to do for good.
    pub(in crate::engine) fn new(
        name: &'static str,
        begin: impl Fn() -> BoxFuture<'static, ()> + Send + 'static,
    ) -> Self {
        Self { name, begin: Box::new(begin), work: None, panicked: false, over: false }
    }

    /// Polls it once. Its name, if it panicked: then it begins anew with the next poll, which comes at once unless the
    /// one before panicked too.
    pub(in crate::engine) fn poll(&mut self, cx: &mut Context<'_>) -> Option<&'static str> {
        if self.over {
            return None;
        }
        let polled =
            catch_unwind(AssertUnwindSafe(|| self.work.get_or_insert_with(&self.begin).as_mut().poll(cx)));
        match polled {
            Ok(Poll::Pending) => self.panicked = false,
            Ok(Poll::Ready(())) => self.over = true,
            Err(_panic) => {
                if !std::mem::replace(&mut self.panicked, true) {
                    cx.waker().wake_by_ref();
                }
            }
        }
        if self.over || self.panicked {
            // A panic of its drop is one of its own too.
            let work = self.work.take();
            let _panicked = catch_unwind(AssertUnwindSafe(|| drop(work)));
        }
        self.panicked.then_some(self.name)
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

    #[test]
    fn a_lane_that_panics_begins_anew_and_one_that_goes_on_panicking_wakes_nobody() {
        let begun = Arc::new(AtomicUsize::new(0));
        let begins = Arc::clone(&begun);
        let mut lane = Lane::new("test", move || {
            let number = begins.fetch_add(1, Ordering::SeqCst);
            Box::pin(poll_fn(move |_| match number {
                0 | 1 => resume_unwind(Box::new("planned")),
                2 => Poll::Pending,
                _ => Poll::Ready(()),
            }))
        });
        let woken = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut poll = || lane.poll(&mut Context::from_waker(&waker));
        assert_eq!((poll(), woken.0.load(Ordering::SeqCst)), (Some("test"), 1));
        assert_eq!((poll(), woken.0.load(Ordering::SeqCst)), (Some("test"), 1));
        assert_eq!((poll(), poll(), begun.load(Ordering::SeqCst)), (None, None, 3));
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    }
}
