//! Who owns a claim, and what becomes of it when they go.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};

use futures::future::BoxFuture;

use super::leases::Registered;
use super::{Lease, Lost, Phase, Step};
use crate::engine::error::ClaimError;
use crate::engine::housekeeping::clean_up::CleanUp;
use crate::engine::inner::Inner;
use crate::engine::options::OnDrop;
use crate::observe::Event;
use crate::protocol::{Entry, Key};
use crate::store::Store;
use crate::time::Moment;

/// Owns a claim: what is left undone when it is dropped is clean-up.
pub(in crate::engine) struct Guard<S: Store + 'static> {
    pub(in crate::engine) lease: Arc<Lease<S>>,
}

impl<S: Store + 'static> Guard<S> {
    pub(in crate::engine) fn new(lease: Arc<Lease<S>>) -> Self {
        let registered: Weak<dyn Registered> = Arc::<Lease<S>>::downgrade(&lease);
        lease.engine.leases.add(lease.key.hash64(), registered);
        Self { lease }
    }
}

impl<S: Store + 'static> Guard<S> {
    /// What is to be written for a claim that is dropped in this phase, and for how long that is
    /// tried.
    fn left_undone(&self, phase: Phase) -> Option<(Step, Moment)> {
        let lease = &self.lease;
        let clock = lease.engine.clock();
        Some(match phase {
            // An outcome that could not be stored is known all the same: nobody is to run it again before its time.
            Phase::Over | Phase::Prepared(_) | Phase::Ended => return None,
            Phase::Started if lease.engine.options.on_drop == OnDrop::KeepLease => return None,
            Phase::Started => (Step::Abandon, lease.release_until(clock.now())),
            Phase::Fresh => {
                let now = clock.now();
                let until = lease.engine.options.clean_up_until(now);
                (Step::Release { fresh_operation_id: false, now: clock.unix(now) }, until)
            }
            // The operation is over and its outcome known: a completion that began is brought to its end.
            Phase::Completing(completion) => {
                let (outcome, at) = *completion;
                (Step::Complete(outcome, at), lease.completion_until(clock.now()))
            }
        })
    }
}

impl<S: Store + 'static> Drop for Guard<S> {
    fn drop(&mut self) {
        let lease = &self.lease;
        lease.engine.leases.remove(lease.key.hash64(), Arc::as_ptr(lease).cast());
        lease.engine.tell_in_drop(&lease.key, || Event::LetGo);
        let (phase, lost, wakers) = {
            let mut state = lease.state.lock();
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
        lease.withdraw();
        let (engine, key) = (Arc::downgrade(&lease.engine), lease.key.clone());
        lease.engine.in_background(Arc::new(Unwritten { engine, key, entry: lease.entry(), step, until }));
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
            let lease = Lease::new(engine, self.key.clone(), self.entry.clone(), now);
            // Nobody is there to be told; an observer hears of failures.
            let _told: Result<(), ClaimError> = lease.write(self.step.clone(), self.until).await;
        })
    }

    fn is_completion(&self) -> bool {
        matches!(self.step, Step::Complete(..))
    }
}
