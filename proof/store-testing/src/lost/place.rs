//! A fault at one place of a call.

use std::time::{Duration, Instant};

use oncekey::{Deduplicator, Key, Store};

use crate::deployment::PATIENCE;
use crate::proxy::{Mode, Proxy};

/// No call of an engine has more requests than this.
pub(super) const PLACES_MAX: usize = 40;

/// A fault at one place.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    proxy: &'a Proxy,
    mode: Mode,
    /// How many requests are spared before it.
    spared: usize,
    /// How many faults the proxy had before.
    faulted: usize,
}

impl<'a> Place<'a> {
    /// Has a store's connection ready, and then arms the fault.
    pub(super) async fn arm<S: Store + 'static>(
        proxy: &'a Proxy,
        through: &Deduplicator<S>,
        mode: Mode,
        spared: usize,
    ) -> Self {
        proxy.set(Mode::Pass);
        let warm = Key::new("warm", "warm").expect("a key in order");
        let start = Instant::now();
        while let Err(error) = through.inspect(&warm).await {
            assert!(start.elapsed() < PATIENCE / 2, "the store does not connect again: {error:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let faulted = proxy.faulted();
        proxy.after(spared, 1, mode);
        Self { proxy, mode, spared, faulted }
    }

    /// Whether it was met.
    pub(super) fn is_met(self) -> bool {
        self.proxy.faulted() > self.faulted
    }
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} of request {}", self.mode, self.spared + 1)
    }
}
