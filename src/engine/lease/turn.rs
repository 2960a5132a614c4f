//! One writer at a time for each claim.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::future::{Either, select};

use super::{Lease, LeaseState, Phase, Step};
use crate::store::Store;
use crate::time::Moment;

/// The right to write for a claim, until dropped.
pub(in crate::engine) struct Turn<S: Store + 'static> {
    lease: Arc<Lease<S>>,
    number: u64,
}

impl<S: Store + 'static> Drop for Turn<S> {
    fn drop(&mut self) {
        self.lease.end_turn(self.number);
    }
}

impl<S: Store + 'static> Turn<S> {
    /// Whether nobody took it away.
    pub(in crate::engine) fn stands(&self) -> bool {
        self.lease.state.lock().taken == Some(self.number)
    }
}

impl LeaseState {
    fn take_turn(&mut self) -> u64 {
        self.next_number += 1;
        self.taken = Some(self.next_number);
        self.next_number
    }

    fn wake_with_turn(&mut self, waker: &Waker) {
        let wakers = &mut self.waiters.get_or_insert_default().turn;
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }
}

impl<S: Store + 'static> Lease<S> {
    /// Takes the turn of a claim that is not over, if nobody has it; for [`end_turn`](Self::end_turn).
    pub(in crate::engine) fn turn_unless_over(&self) -> Option<u64> {
        let mut state = self.state.lock();
        let free = state.taken.is_none() && state.phase != Phase::Over;
        free.then(|| state.take_turn())
    }

    /// Ends the turn of this number, unless it was taken away.
    pub(in crate::engine) fn end_turn(&self, number: u64) {
        let next = {
            let mut state = self.state.lock();
            if state.taken != Some(number) {
                return;
            }
            state.taken = None;
            state.take_turn_wakers()
        };
        next.into_iter().for_each(Waker::wake);
    }

    pub(in crate::engine) fn try_turn(self: &Arc<Self>) -> Option<Turn<S>> {
        let mut state = self.state.lock();
        if state.taken.is_some() {
            return None;
        }
        let number = state.take_turn();
        Some(Turn { lease: Arc::clone(self), number })
    }

    /// Takes the turn for good: who has it, or waits for it, sends nothing more.
    pub(in crate::engine) fn withdraw(&self) {
        let wakers = {
            let mut state = self.state.lock();
            state.winding_up = true;
            let _never_ended = state.take_turn();
            state.take_turn_wakers()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Waits for this claim's turn to keep it (a renewal, a checkpoint): `None` if it did not come by `until`, or is no
    /// longer of use, since the operation ended.
    ///
    /// # Cancel safety
    /// Dropping it gives the place up.
    pub(in crate::engine) async fn turn_to_keep(self: &Arc<Self>, until: Moment) -> Option<Turn<S>> {
        self.turn_until(|| until, true).await
    }

    /// Waits for this claim's turn to conclude it, for twice the store's timeout. Then the turn is taken away: from a
    /// writer that is polled no more (a keeper that starves, a checkpoint that was begun and put aside), or from a
    /// checkpoint that a failing store refuses again and again. Who lost it sends nothing more, and the
    /// compare-and-exchange says whether what it had sent came first.
    ///
    /// # Cancel safety
    /// Dropping it gives the place up.
    pub(in crate::engine) async fn turn_to_conclude(self: &Arc<Self>) -> Turn<S> {
        let patience = || self.engine.clock().now() + self.engine.options.store_timeout * 2;
        if let Some(turn) = self.turn_until(patience, false).await {
            return turn;
        }
        let mut state = self.state.lock();
        // What the other had under way may or may not be applied.
        state.unsure |= Step::Renew.bit();
        let number = state.take_turn();
        Turn { lease: Arc::clone(self), number }
    }

    async fn turn_until(self: &Arc<Self>, until: impl Fn() -> Moment, to_keep: bool) -> Option<Turn<S>> {
        let mut sleep = None;
        poll_fn(|cx: &mut Context<'_>| {
            {
                let mut state = self.state.lock();
                if to_keep && state.winding_up {
                    return Poll::Ready(None);
                }
                if state.taken.is_none() {
                    let number = state.take_turn();
                    return Poll::Ready(Some(Turn { lease: Arc::clone(self), number }));
                }
                state.wake_with_turn(cx.waker());
            }
            let sleep = sleep.get_or_insert_with(|| self.engine.clock().sleep_until(until()));
            sleep.as_mut().poll(cx).map(|()| None)
        })
        .await
    }

    /// Sleeps until then; a write that keeps the claim sleeps no longer than its operation runs.
    pub(in crate::engine) async fn pause(&self, step: &Step, until: Moment) {
        let sleep = self.engine.clock().sleep_until(until);
        if !step.keeps_the_claim() {
            return sleep.await;
        }
        let wound_up = poll_fn(|cx: &mut Context<'_>| {
            let mut state = self.state.lock();
            if state.winding_up {
                return Poll::Ready(());
            }
            state.wake_with_turn(cx.waker());
            Poll::Pending
        });
        let (Either::Left(_) | Either::Right(_)) = select(sleep, wound_up).await;
    }
}
