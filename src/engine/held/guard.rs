//! Who owns a claim, and what becomes of it when they go.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::super::error::ClaimError;
use super::super::options::OnDrop;
use super::{Held, Lost, Phase, Step};
use crate::observe::Event;
use crate::store::Store;
use crate::time::Moment;

/// Owns a claim: what is left undone when it is dropped goes to the background.
pub(in crate::engine) struct Guard<S: Store + 'static> {
    pub(in crate::engine) held: Arc<Held<S>>,
    slot: usize,
}

impl<S: Store + 'static> Guard<S> {
    pub(in crate::engine) fn new(held: Arc<Held<S>>) -> Self {
        let slot = held.engine.held.add(&held);
        Self { held, slot }
    }
}

impl<S: Store + 'static> Guard<S> {
    /// What is to be written for a claim that is dropped in this phase, and for how long that is
    /// tried.
    fn left_undone(&self, phase: Phase) -> Option<(Step, Moment)> {
        let held = &self.held;
        let clock = held.engine.clock();
        Some(match phase {
            // An outcome that could not be stored is known all the same: nobody is to run it again before its time.
            Phase::Over | Phase::Prepared(_) | Phase::Ended => return None,
            Phase::Started if held.engine.options.on_drop == OnDrop::KeepLease => return None,
            Phase::Started => (Step::Abandon, held.release_until(clock.now())),
            Phase::Fresh => {
                let now = clock.now();
                (Step::Release { fresh_operation_id: false, now: clock.unix(now) }, held.release_until(now))
            }
            // The operation is over and its outcome known: a completion that began is brought to its end.
            Phase::Completing(completion) => {
                let (outcome, at) = *completion;
                (Step::Complete(outcome, at), held.completion_until(clock.now()))
            }
        })
    }
}

impl<S: Store + 'static> Drop for Guard<S> {
    fn drop(&mut self) {
        let held = &self.held;
        held.engine.held.remove(held, self.slot);
        held.engine.tell_in_drop(&held.key, || Event::LetGo);
        let (phase, lost, wakers) = {
            let mut state = held.state.lock();
            (state.phase.clone(), state.lost, state.retire())
        };
        wakers.wake();
        if lost == Some(Lost::Superseded) {
            return;
        }
        // While a panic unwinds, one of the clock could end the process: the claim is then left to
        // its lease.
        let left_undone = catch_unwind(AssertUnwindSafe(|| self.left_undone(phase)));
        let Ok(Some((step, until))) = left_undone else { return };
        let job = Arc::clone(held);
        held.engine.in_background(Box::pin(async move {
            // Nobody is there to be told; an observer hears of failures.
            let _told: Result<(), ClaimError> = job.write(step, until).await;
        }));
    }
}
