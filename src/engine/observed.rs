//! What an observer is told of besides events and calls to the store: phases.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use super::inner::Inner;
use crate::observe::{CallPhase, Span};
use crate::protocol::Key;
use crate::store::Store;

impl<S: Store + 'static> Inner<S> {
    /// Whether there is an observer at all.
    pub(super) fn is_watched(&self) -> bool {
        self.options.observer.is_some()
    }

    /// Whoever wants to watch this phase.
    #[inline]
    pub(super) fn begin(&self, key: &Key, phase: impl FnOnce() -> CallPhase) -> Option<Box<dyn Span>> {
        self.options.observer.as_ref()?.begin(key, phase())
    }
}

/// The work of a phase that is watched. Boxed, so that what nobody watches is no larger for it.
pub(super) struct Watched<F> {
    span: Box<dyn Span>,
    /// `None` once it has ended.
    work: Option<Pin<Box<F>>>,
}

impl<F: Future> Watched<F> {
    pub(super) fn new(span: Box<dyn Span>, work: F) -> Self {
        Self { span, work: Some(Box::pin(work)) }
    }
}

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        let _entered = Entered::new(&mut *this.span);
        let work = this.work.as_mut().expect("it is not polled again once it has ended");
        let polled = work.as_mut().poll(cx);
        if polled.is_ready() {
            this.work = None;
        }
        polled
    }
}

/// Work that is cut off ends inside of its span, too.
impl<F> Drop for Watched<F> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            // Here, a panic of the span could end the process.
            let entered = catch_unwind(AssertUnwindSafe(|| self.span.enter()));
            let _left_in_the_end = entered.is_ok().then(|| Entered(&mut *self.span));
            drop(work);
        }
    }
}

/// Left also when the work panics.
struct Entered<'a>(&'a mut dyn Span);

impl<'a> Entered<'a> {
    fn new(span: &'a mut dyn Span) -> Self {
        span.enter();
        Self(span)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        // While a panic unwinds, a second one would end the process.
        let _panicked = catch_unwind(AssertUnwindSafe(|| self.0.exit()));
    }
}

/// Does this within the span, if there is one.
#[inline]
pub(super) fn in_span<T>(span: &mut Option<Box<dyn Span>>, work: impl FnOnce() -> T) -> T {
    let _entered = span.as_mut().map(|span| Entered::new(&mut **span));
    work()
}
