//! Where calls meet: between two steps of a call that ought to be one.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A gap between two steps. In a real store a round trip lies there, and other calls come in between. Here they come because
/// the call in the gap waits for them: a race that is left to the scheduler may never happen.
#[derive(Debug, Default)]
pub(crate) struct Gap {
    entered: AtomicU64,
    waiting: AtomicBool,
}

/// A call that nobody meets goes on after this time: it may be the only one, and the next one may not be.
const ALONE: Duration = Duration::from_millis(20);

impl Gap {
    /// Waits for another call to get here too, if none is waiting here already.
    pub(crate) fn meet(&self) {
        self.meet_or(|| false);
    }

    /// The same; it does not wait on once this is so.
    pub(crate) fn meet_or(&self, is_so: impl Fn() -> bool) {
        let entered = self.entered.fetch_add(1, Ordering::SeqCst) + 1;
        if self.waiting.swap(true, Ordering::SeqCst) {
            return;
        }
        wait(|| self.entered.load(Ordering::SeqCst) != entered || is_so());
        self.waiting.store(false, Ordering::SeqCst);
    }
}

/// Waits until this is so, or nobody comes to make it so.
pub(crate) fn wait(is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() && begun.elapsed() < ALONE {
        thread::yield_now();
    }
}
