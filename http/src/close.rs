//! A graceful shutdown: no more requests, and an end to those under way.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{Either, select};
use oncekey::Store;

use crate::layer::IdempotencyLayer;

/// A shutdown gave up on requests that still ran.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{requests} requests with a key were still running when the shutdown gave up; what ends with this process goes by the policy once its lease is over"
)]
#[non_exhaustive]
pub struct StillRunning {
    /// How many. Zero if all had ended, and only clean-up was left.
    pub requests: usize,
}

impl<S: Store + 'static> IdempotencyLayer<S> {
    /// Stops taking requests with a key, and waits until those that were taken have ended and are on
    /// record: handlers whose clients have gone away too, for which a server's own shutdown does not
    /// wait. Then it runs the engine's queued clean-up. It gives up after `at_most`.
    ///
    /// The layer stops with this call, before the future is polled, and for good: all its clones
    /// answer requests with a key with the problem `shutting-down`, status 503. Requests without a
    /// key pass.
    ///
    /// **Call it before the runtime ends**: a runtime that shuts down drops the handlers on it, and
    /// the next process runs them again. The README has the lines for axum.
    ///
    /// # Errors
    /// [`StillRunning`] if requests were still under way after `at_most`. They go on, for as long as
    /// the process does; call it again to wait on.
    ///
    /// # Cancel safety
    /// If dropped, nobody waits. The layer stays closed, and what runs goes on.
    pub fn close(
        &self,
        at_most: Duration,
    ) -> impl Future<Output = Result<(), StillRunning>> + Send + 'static + use<S> {
        let shared = Arc::clone(&self.shared);
        shared.running.close();
        let clock = &shared.options.clock;
        let time_is_up = clock.sleep_until(clock.now() + at_most);
        async move {
            let ending = async {
                poll_fn(|cx| shared.running.poll_idle(cx)).await;
                shared.dedup.flush().await;
            };
            match select(ending.boxed(), time_is_up).await {
                Either::Left(((), _)) => Ok(()),
                Either::Right(((), _)) => Err(StillRunning { requests: shared.running.count() }),
            }
        }
    }
}
