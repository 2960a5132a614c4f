//! How the writer waits for the lock of another connection.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::job::Job;
use crate::queue::Queue;

thread_local! {
    /// Until when this thread waits for a lock, and the queue that may be closed meanwhile.
    static PATIENCE: RefCell<Option<(Instant, Arc<Queue<Job>>)>> = const { RefCell::new(None) };
}

/// While this acts, the thread waits for a lock until then, and no longer than its queue is open.
pub(crate) fn waiting_until<T>(end: Instant, queue: &Arc<Queue<Job>>, act: impl FnOnce() -> T) -> T {
    PATIENCE.set(Some((end, Arc::clone(queue))));
    let done = act();
    PATIENCE.set(None);
    done
}

/// SQLite's own handler waits longer and longer, so that a process that comes back at once takes the lock again and
/// again before one that waits. This one asks every millisecond or so.
pub(crate) fn wait_for_lock(tries: i32) -> bool {
    let waits_on = PATIENCE.with_borrow(|patience| {
        patience.as_ref().is_some_and(|(end, queue)| Instant::now() < *end && !queue.is_closed())
    });
    if waits_on {
        // Not in step with the others that wait.
        let jitter = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| u64::from(since.subsec_nanos()) % 500);
        std::thread::sleep(Duration::from_micros(if tries < 100 { 300 + jitter } else { 2000 + jitter }));
    }
    waits_on
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_for_a_lock_ends_with_the_patience_and_with_the_queue() {
        let queue = Arc::new(Queue::new());
        assert!(!wait_for_lock(0), "nobody said how long");
        let later = Instant::now() + Duration::from_secs(60);
        assert!(waiting_until(later, &queue, || wait_for_lock(0)));
        assert!(!waiting_until(Instant::now(), &queue, || wait_for_lock(0)));
        queue.close();
        assert!(!waiting_until(later, &queue, || wait_for_lock(0)));
    }
}
