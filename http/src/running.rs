//! The requests with a key that are under way, so that a shutdown can wait for them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

#[derive(Default)]
pub(crate) struct Running(Mutex<State>);

#[derive(Default)]
struct State {
    closed: bool,
    count: usize,
    wakers: Vec<Waker>,
}

/// One of them, for as long as this is there.
pub(crate) struct UnderWay(Arc<Running>);

impl Running {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock panics halfway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` if no more are taken.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<UnderWay> {
        let mut state = self.state();
        if state.closed {
            return None;
        }
        state.count += 1;
        drop(state);
        Some(UnderWay(Arc::clone(self)))
    }

    pub(crate) fn close(&self) {
        self.state().closed = true;
    }

    pub(crate) fn count(&self) -> usize {
        self.state().count
    }

    /// Ready once none is under way.
    pub(crate) fn poll_idle(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.count == 0 {
            return Poll::Ready(());
        }
        if !state.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            state.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.count -= 1;
        let wakers = if state.count == 0 { std::mem::take(&mut state.wakers) } else { Vec::new() };
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}
