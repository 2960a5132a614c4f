//! What an observer is told of besides events: phases, and calls to the store.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::Inner;
use crate::observe::{Phase, Span, StoreCall};
use crate::protocol::Key;
use crate::store::{Store, StoreFailure};
use crate::time::Moment;

impl<S: Store + 'static> Inner<S> {
    /// When a call to the store begins, if somebody wants to know how long it takes.
    pub(super) fn timing(&self) -> Option<Moment> {
        self.options.observer.as_ref().map(|_| self.clock().now())
    }

    pub(super) fn timed(
        &self,
        begun: Option<Moment>,
        method: &'static str,
        keys: usize,
        failure: Option<&StoreFailure>,
    ) {
        if let (Some(observer), Some(begun)) = (&self.options.observer, begun) {
            let took = self.clock().now().saturating_since(begun);
            observer.store_call(&StoreCall { method, keys, took, failure: failure.map(StoreFailure::kind) });
        }
    }

    /// Whether there is an observer at all.
    pub(super) fn is_watched(&self) -> bool {
        self.options.observer.is_some()
    }

    /// Whoever wants to watch this phase.
    pub(super) fn begin(&self, key: &Key, phase: impl FnOnce() -> Phase) -> Option<Box<dyn Span>> {
        self.options.observer.as_ref()?.begin(key, phase())
    }
}

/// The work of a phase that is watched. Boxed, so that what nobody watches is no larger for it.
pub(super) struct Watched<F> {
    span: Box<dyn Span>,
    work: Pin<Box<F>>,
}

impl<F: Future> Watched<F> {
    pub(super) fn new(span: Box<dyn Span>, work: F) -> Self {
        Self { span, work: Box::pin(work) }
    }
}

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        let _entered = Entered::new(&mut *this.span);
        this.work.as_mut().poll(cx)
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
        self.0.exit();
    }
}
