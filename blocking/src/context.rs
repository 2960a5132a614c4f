//! Where a blocking call may be made, and what this thread is at.

use std::cell::Cell;

thread_local! {
    /// Whether this thread polls a future of ours, and is not in an operation of its caller's.
    static DRIVING: Cell<bool> = const { Cell::new(false) };
}

const REMEDY: &str = "a thread that drives futures must not be blocked: use the async `oncekey::Deduplicator` there, or \
                      call from a thread of its own, such as `tokio::task::spawn_blocking`";

/// Refuses to block a thread that is known to drive futures.
#[track_caller]
pub(super) fn demand_plain_thread() {
    if DRIVING.get() {
        panic!(
            "oncekey-blocking was called by what its own engine calls while it works (an observer, a resolver, a \
             codec, a store, a future given to `block_on`); {REMEDY}"
        );
    }
    if futures::executor::enter().is_err() {
        panic!("oncekey-blocking was called inside an executor of the `futures` crate; {REMEDY}");
    }
    #[cfg(feature = "tokio")]
    if inside_tokio() {
        panic!("oncekey-blocking was called inside a task of a tokio runtime; {REMEDY}");
    }
}

/// Whether tokio forbids to block here. A runtime is at hand in `spawn_blocking` and `block_in_place` too, where blocking
/// is right, and only tokio can tell these apart: it refuses to begin a `block_on`, by a panic, since it has no other way
/// to say so.
#[cfg(feature = "tokio")]
fn inside_tokio() -> bool {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return false };
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(std::future::ready(()))))
        .is_err()
}

/// Sets what this thread is at, until dropped.
#[must_use]
pub(super) struct At {
    before: bool,
}

impl At {
    /// It polls a future of ours.
    pub(super) fn driving() -> Self {
        Self { before: DRIVING.replace(true) }
    }

    /// It is in code that may block: an operation.
    fn plain() -> Self {
        Self { before: DRIVING.replace(false) }
    }
}

impl Drop for At {
    fn drop(&mut self) {
        DRIVING.set(self.before);
    }
}

/// Runs an operation of the caller's: it may block, and may call this face again.
pub(super) fn run_plain<T>(operation: impl FnOnce() -> T) -> T {
    let _plain = At::plain();
    operation()
}
