//! tokio's clock.

use std::time::SystemTime;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::{Clock, Moment};
use crate::protocol::UnixMillis;

/// tokio's monotonic clock and timer. It follows `tokio::time::pause` in tests.
///
/// Sleeps must be polled within a tokio runtime that has its timer enabled.
#[derive(Debug)]
pub struct TokioClock {
    origin: Instant,
}

impl TokioClock {
    /// A clock whose origin is now.
    pub fn new() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Default for TokioClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Moment {
        Moment::ORIGIN + self.origin.elapsed()
    }

    fn sleep_until(&self, until: Moment) -> BoxFuture<'static, ()> {
        let until = self.origin.checked_add(until.saturating_since(Moment::ORIGIN));
        async move {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        }
        .boxed()
    }

    fn unix(&self, _now: Moment) -> UnixMillis {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        UnixMillis(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX))
    }
}
