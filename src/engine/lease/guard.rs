//! Who owns a claim, and what becomes of it when they go.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};

use futures::future::BoxFuture;

use super::{Held, Lost, Phase, Step};
use crate::engine::Inner;
use crate::engine::error::ClaimError;
use crate::engine::housekeeping::clean_up::CleanUp;
use crate::engine::options::OnDrop;
use crate::observe::Event;
use crate::protocol::{Entry, Key};
use crate::store::Store;
use crate::time::Moment;

/// Owns a claim: what is left undone when it is dropped is clean-up.
pub(in crate::engine) struct Guard<S: Store + 'static> {
    pub(in crate::engine) held: Arc<Held<S>>,
}

impl<S: Store + 'static> Guard<S> {
    pub(in crate::engine) fn new(held: Arc<Held<S>>) -> Self {
        held.engine.held.add(&held);
        Self { held }
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
        held.engine.held.remove(held);
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
        // What still writes for the claim would undo that.
        held.withdraw();
        let (engine, key) = (Arc::downgrade(&held.engine), held.key.clone());
        held.engine.in_background(Arc::new(Unwritten { engine, key, entry: held.entry(), step, until }));
    }
}

/// What is still to be written for a claim that was dropped, and until when that is tried.
struct Unwritten<S: Store + 'static> {
    engine: Weak<Inner<S>>,
    key: Key,
    /// The last entry known to be there and the claim's.
    entry: Entry,
    step: Step,
    until: Moment,
}

impl<S: Store + 'static> CleanUp for Unwritten<S> {
    fn begin(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let Some(engine) = self.engine.upgrade() else { return };
            let now = engine.clock().now();
            let held = Held::new(engine, self.key.clone(), self.entry.clone(), now);
            // Nobody is there to be told; an observer hears of failures.
            let _told: Result<(), ClaimError> = held.write(self.step.clone(), self.until).await;
        })
    }

    fn is_completion(&self) -> bool {
        matches!(self.step, Step::Complete(..))
    }
}
