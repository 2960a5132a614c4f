//! Renewal of claims outside of their own tasks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::FutureExt as _;

use crate::engine::inner::Inner;
use crate::engine::lease::leases::{Registered, Renewing};
use crate::store::{BatchPut, Put, Store};
use crate::time::Moment;

/// How many renewals go to the store at once.
const BATCH: usize = 64;

/// A claim that is to be renewed, and its deadline.
type Due = (Moment, Arc<dyn Registered>);

/// Renews what is due, round by round, for as long as there is an engine.
pub(super) async fn renewal<S: Store + 'static>(engine: Weak<Inner<S>>) {
    while let Some(strong) = engine.upgrade() {
        strong.renew_due().await;
        let sleep = strong.clock().sleep_until(strong.clock().now() + strong.options.keeper_tick());
        drop(strong);
        sleep.await;
    }
}

impl<S: Store + 'static> Inner<S> {
    /// One round: renews what is due and is not being written by its owner just now, the most urgent first. Claims past
    /// their deadline are renewed last, in a batch of their own, so that they cannot delay claims that can still be saved.
    async fn renew_due(&self) {
        let now = self.clock().now();
        let due = self.leases.due(now);
        let (late, timely) = due.split_at(due.partition_point(|(deadline, _)| *deadline <= now));
        for chunk in timely.chunks(BATCH) {
            self.renew_batch_alone(chunk, self.options.store_timeout).await;
        }
        // One batch of those a round, another each time.
        let chunks = late.chunks(BATCH);
        let turn = usize::try_from(now.as_nanos() / 1_000_000).unwrap_or(0) % chunks.len().max(1);
        for chunk in chunks.skip(turn).take(1) {
            self.renew_batch_alone(chunk, self.options.store_timeout.min(self.options.keeper_tick() / 2))
                .await;
        }
    }

    /// As [`renew_batch`](Self::renew_batch). A store that panics costs this batch its round: all
    /// other claims depend on the keeper.
    async fn renew_batch_alone(&self, chunk: &[Due], at_most: Duration) {
        let _panicked = AssertUnwindSafe(self.renew_batch(chunk, at_most)).catch_unwind().await;
    }

    /// Renews these together; the call may take so long, or half of what is left until the first of their deadlines.
    async fn renew_batch(&self, chunk: &[Due], at_most: Duration) {
        let claims = chunk.iter().map(|(_, claim)| Arc::clone(claim));
        let batch: Vec<_> = claims.filter_map(Registered::begin_renewal).collect();
        if batch.is_empty() {
            return;
        }
        let puts: Vec<_> = batch.iter().map(|renewal| put(&**renewal)).collect();
        let sent = self.clock().now();
        batch.iter().for_each(|renewal| renewal.sending());
        // One call that hangs must leave time for another, whichever lease is the next to end.
        let patience = batch.iter().filter_map(|renewal| renewal.patience(sent)).min();
        let patience = patience.map_or(at_most, |patience| patience.min(at_most));
        let answers = self.port.exchange_many(patience, &puts).await;
        drop(puts);
        for (renewal, answer) in batch.into_iter().zip(answers) {
            // It tells the observer, which may panic for one claim; the others were answered too.
            let _panicked = catch_unwind(AssertUnwindSafe(|| renewal.answered(answer, sent)));
        }
    }
}

fn put(renewal: &dyn Renewing) -> BatchPut<'_> {
    let write = renewal.write();
    BatchPut::new(renewal.key(), write.expected, Put::new(&write.record, write.live, write.linger))
}
