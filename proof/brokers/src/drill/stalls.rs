//! Whether this process was stalled: a busy machine may not run it for so long that its leases end meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How often a thread looks whether it is run.
const TICK: Duration = Duration::from_millis(20);
/// After so much between two looks the process was stalled: less than the engine keeps from the end of a lease.
const STALL: Duration = Duration::from_millis(100);

/// The last times of that thread, in milliseconds since it began.
#[derive(Debug)]
pub(super) struct Stalls {
    begun: Instant,
    last_tick_ms: AtomicU64,
    last_stall_ms: AtomicU64,
}

impl Stalls {
    /// Looks from now on, as long as this process lives.
    pub(super) fn watch() -> Arc<Self> {
        let stalls =
            Self { begun: Instant::now(), last_tick_ms: AtomicU64::new(0), last_stall_ms: AtomicU64::new(0) };
        let stalls = Arc::new(stalls);
        let seen = Arc::clone(&stalls);
        thread::spawn(move || {
            loop {
                if seen.is_stalled() {
                    seen.last_stall_ms.fetch_max(seen.now_ms(), Ordering::SeqCst);
                }
                seen.last_tick_ms.store(seen.now_ms(), Ordering::SeqCst);
                thread::sleep(TICK);
            }
        });
        stalls
    }

    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Notes that the thread of the handlers waited from then until now: a stall, if that was too long.
    pub(super) fn waited(&self, since_ms: u64) {
        let now_ms = self.now_ms();
        if Duration::from_millis(now_ms.saturating_sub(since_ms)) > STALL {
            self.last_stall_ms.fetch_max(now_ms, Ordering::SeqCst);
        }
    }

    /// Whether there was a stall since then. One that has just ended counts too, before the thread is run again.
    pub(super) fn since(&self, since_ms: u64) -> bool {
        self.is_stalled() || self.last_stall_ms.load(Ordering::SeqCst) >= since_ms
    }

    fn is_stalled(&self) -> bool {
        let tick = Duration::from_millis(self.last_tick_ms.load(Ordering::SeqCst));
        self.begun.elapsed().saturating_sub(tick) > STALL
    }
}
