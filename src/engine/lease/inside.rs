//! Which attempts' operations this thread is inside of: a call from there that waited for one of them would wait for itself.

use std::cell::RefCell;

use crate::protocol::{Entry, Holder};

#[cfg(not(any(oncekey_loom, oncekey_shuttle)))]
thread_local! {
    static POLLED: RefCell<Vec<Holder>> = const { RefCell::new(Vec::new()) };
}
// A model's threads take turns on one of ours.
#[cfg(oncekey_loom)]
loom::thread_local! {
    static POLLED: RefCell<Vec<Holder>> = RefCell::new(Vec::new());
}
#[cfg(oncekey_shuttle)]
shuttle::thread_local! {
    static POLLED: RefCell<Vec<Holder>> = RefCell::new(Vec::new());
}

/// Ends it, also when a panic unwinds.
struct Leaves;

impl Drop for Leaves {
    fn drop(&mut self) {
        POLLED.with(|polled| polled.borrow_mut().pop());
    }
}

/// Polls the operation of this attempt, or calls what makes it.
#[inline]
pub(in crate::engine) fn inside<T>(holder: Holder, poll: impl FnOnce() -> T) -> T {
    POLLED.with(|polled| polled.borrow_mut().push(holder));
    let _leaves = Leaves;
    poll()
}

/// Whether this thread is inside of the operation whose attempt this entry shows. What an operation spawned elsewhere is
/// not seen.
pub(in crate::engine) fn is_inside(entry: &Entry) -> bool {
    POLLED.with(|polled| polled.borrow().iter().any(|holder| entry.is_held_by(holder)))
}
