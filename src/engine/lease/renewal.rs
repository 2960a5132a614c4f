//! Renewal of a claim by the housekeeping, in a batch with others.

use std::sync::Arc;
use std::time::Duration;

use super::leases::{Registered, Renewing};
use super::{Lease, Step, Turn};
use crate::protocol::{Decision, Holder, Key, Write};
use crate::store::{Exchange, Store, StoreFailure};
use crate::time::Moment;

impl<S: Store + 'static> Registered for Lease<S> {
    fn key(&self) -> &Key {
        &self.key
    }

    fn holder(&self) -> &Holder {
        &self.facts.holder
    }

    fn due_for_renewal(&self, now: Moment) -> Option<Moment> {
        let (deadline, _) = self.wants_renewal(now).then(|| self.times().ok()).flatten()?;
        Some(deadline)
    }

    fn begin_renewal(self: Arc<Self>) -> Option<Box<dyn Renewing>> {
        let turn = self.try_turn()?;
        // Its owner may have written since it was found due.
        if !self.wants_renewal(self.engine.clock().now()) {
            return None;
        }
        match self.decide(&Step::Renew) {
            Decision::Write(write) => Some(Box::new(InBatch { lease: self, turn, write })),
            Decision::Answer(_) => None,
        }
    }
}

struct InBatch<S: Store + 'static> {
    lease: Arc<Lease<S>>,
    turn: Turn<S>,
    write: Write,
}

impl<S: Store + 'static> Renewing for InBatch<S> {
    fn key(&self) -> &Key {
        &self.lease.key
    }

    fn write(&self) -> &Write {
        &self.write
    }

    fn sending(&self) {
        self.lease.sent_unanswered(&Step::Renew);
    }

    fn patience(&self, sent: Moment) -> Option<Duration> {
        let (deadline, _) = self.lease.times().ok()?;
        (deadline > sent).then(|| self.lease.patience(&Step::Renew, sent, deadline))
    }

    fn answered(self: Box<Self>, answer: Result<Exchange, StoreFailure>, sent: Moment) {
        let Self { lease, turn, write } = *self;
        lease.renewed(answer, write, sent);
        drop(turn);
    }
}
