//! Purges and trims: what nobody can read any more.

use std::future::poll_fn;
use std::sync::Weak;
use std::task::Poll;
use std::time::Duration;

use crate::engine::inner::Inner;
use crate::observe::Housekeeping;
use crate::random;
use crate::store::{Store, StoreFailure};

/// How many records a purge looks for at once.
const PURGE_STEP: usize = 1_000;
/// How many outcomes one step of a trim drops at most, and how many steps a round has.
const TRIM_STEP: usize = 200;
const TRIM_STEPS: usize = 20;

/// Purges and trims now and then, for as long as there is an engine.
pub(super) async fn purging<S: Store + 'static>(engine: Weak<Inner<S>>) {
    let mut trimmed_to = None;
    while let Some(strong) = engine.upgrade() {
        let every = strong.options.purge_every;
        if every == Duration::MAX {
            return;
        }
        let now = strong.clock().now();
        // From three quarters of the interval to five.
        let part = 192 + u32::from(random::id(now.as_nanos())[0] % 128);
        let sleep = strong.clock().sleep_until(now + every.saturating_mul(part) / 256);
        drop(strong);
        sleep.await;
        purge_round(&engine, every / 2).await;
        trim_round(&engine, &mut trimmed_to).await;
    }
}

/// Purges step by step, until there is no more or the time is over. The other lanes come between the steps.
async fn purge_round<S: Store + 'static>(engine: &Weak<Inner<S>>, at_most: Duration) {
    let (mut removed, mut ends) = (0, None);
    while let Some(strong) = engine.upgrade() {
        let ends = *ends.get_or_insert(strong.clock().now() + at_most);
        let port = &strong.port;
        let step = port.in_time(strong.options.store_timeout, port.store.purge(PURGE_STEP)).await;
        match step.and_then(|purged| purged.map_err(StoreFailure::new)) {
            Ok(purged) => {
                removed += purged.removed;
                let is_over = strong.clock().now() >= ends;
                if !purged.more || is_over {
                    let behind = purged.more;
                    return strong.tell_of_housekeeping(&Housekeeping::Purged { removed, behind });
                }
            }
            Err(failure) => {
                let failure = &failure;
                return strong.tell_of_housekeeping(&Housekeeping::PurgeFailed { failure, removed });
            }
        }
        drop(strong);
        give_way().await;
    }
}

/// Drops bytes of outcomes whose retention is over, where the store can and there is a tail: some steps a round, from where
/// the last round left off.
async fn trim_round<S: Store + 'static>(engine: &Weak<Inner<S>>, trimmed_to: &mut Option<u64>) {
    let mut trimmed = 0;
    for _ in 0..TRIM_STEPS {
        let Some(strong) = engine.upgrade() else { return };
        let port = &strong.port;
        let Some(store) = port.store.trims().filter(|_| !strong.options.lifetimes.tail.is_zero()) else {
            return;
        };
        let step = store.trim_outcomes(*trimmed_to, TRIM_STEP);
        match port
            .in_time(strong.options.store_timeout, step)
            .await
            .and_then(|t| t.map_err(StoreFailure::new))
        {
            Ok(done) => {
                trimmed += done.trimmed;
                *trimmed_to = done.next;
            }
            Err(failure) => {
                let failure = &failure;
                return strong.tell_of_housekeeping(&Housekeeping::TrimFailed { failure, trimmed });
            }
        }
        if trimmed_to.is_none() {
            break;
        }
        drop(strong);
        give_way().await;
    }
    if let Some(strong) = engine.upgrade() {
        strong.tell_of_housekeeping(&Housekeeping::Trimmed { trimmed, more: trimmed_to.is_some() });
    }
}

/// Pending once.
async fn give_way() {
    let mut gave_way = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut gave_way, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
