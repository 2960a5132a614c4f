//! How the writer waits for the lock of another connection.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::job::Job;
use crate::queue::Queue;

/// When a wait ends. One that is longer than the clock counts never does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End(Option<Instant>);

impl End {
    /// Of a wait of this length that begins now.
    pub(crate) fn of(wait: Duration) -> Self {
        Self(Instant::now().checked_add(wait))
    }

    pub(crate) fn has_come(self) -> bool {
        self.0.is_some_and(|end| Instant::now() >= end)
    }
}

thread_local! {
    /// Until when this thread waits for a lock, and the queue that may be closed meanwhile.
    static PATIENCE: RefCell<Option<(End, Arc<Queue<Job>>)>> = const { RefCell::new(None) };
}

/// Runs `act`. Meanwhile this thread waits for a lock until `end`, and only while the queue is open.
pub(crate) fn waiting_until<T>(end: End, queue: &Arc<Queue<Job>>, act: impl FnOnce() -> T) -> T {
    PATIENCE.set(Some((end, Arc::clone(queue))));
    let done = act();
    PATIENCE.set(None);
    done
}

/// SQLite's own handler waits longer and longer, so that a process that comes back at once takes the lock again and
/// again before one that waits. This one asks every millisecond or so.
pub(crate) fn wait_for_lock(tries: i32) -> bool {
    let waits_on = PATIENCE.with_borrow(|patience| {
        patience.as_ref().is_some_and(|(end, queue)| !end.has_come() && !queue.is_closed())
    });
    if waits_on {
        pause(tries);
    }
    waits_on
}

fn pause(tries: i32) {
    // Threads that wait must not ask in step.
    let jitter = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| u64::from(since.subsec_nanos()) % 500);
    std::thread::sleep(pause_len(tries, jitter));
}

/// The pause before the next try. It stays short: the lock may be free for a few milliseconds only.
fn pause_len(tries: i32, jitter_us: u64) -> Duration {
    Duration::from_micros(jitter_us + if tries < 100 { 300 } else { 2_000 })
}

pub(crate) type BusyHandler = fn(i32) -> bool;

/// Has a connection wait by this handler. rusqlite wants `&mut` for it from 0.41 on, and was content with `&` before.
pub(crate) fn wait_by(handler: BusyHandler, connection: &mut Connection) -> rusqlite::Result<()> {
    connection.busy_handler(Some(handler))
}

/// The handler of a connection that does not tell its thread how long to wait: it waits this long, or a little longer.
///
/// SQLite passes a handler only the number of its tries, so there is one function for each limit.
pub(crate) fn waiting_at_most(limit: Duration) -> BusyHandler {
    const EACH: [(u64, BusyHandler); 20] = [
        (0, wait_at_most::<0>),
        (10, wait_at_most::<10>),
        (20, wait_at_most::<20>),
        (50, wait_at_most::<50>),
        (100, wait_at_most::<100>),
        (200, wait_at_most::<200>),
        (300, wait_at_most::<300>),
        (500, wait_at_most::<500>),
        (750, wait_at_most::<750>),
        (1_000, wait_at_most::<1_000>),
        (1_500, wait_at_most::<1_500>),
        (2_000, wait_at_most::<2_000>),
        (3_000, wait_at_most::<3_000>),
        (4_000, wait_at_most::<4_000>),
        (5_000, wait_at_most::<5_000>),
        (7_000, wait_at_most::<7_000>),
        (10_000, wait_at_most::<10_000>),
        (20_000, wait_at_most::<20_000>),
        (60_000, wait_at_most::<60_000>),
        (600_000, wait_at_most::<600_000>),
    ];
    let next = EACH.iter().find(|(millis, _)| Duration::from_millis(*millis) >= limit);
    next.map_or(wait_at_most::<{ u64::MAX }>, |(_, wait)| *wait)
}

fn wait_at_most<const MILLIS: u64>(tries: i32) -> bool {
    thread_local! {
        static BEGUN: Cell<Option<Instant>> = const { Cell::new(None) };
    }
    let now = Instant::now();
    let begun = BEGUN.get().filter(|_| tries > 0).unwrap_or(now);
    BEGUN.set(Some(begun));
    let waits_on = now.duration_since(begun) < Duration::from_millis(MILLIS);
    if waits_on {
        pause(tries);
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
        let later = [Duration::from_secs(60), Duration::MAX].map(End::of);
        for later in later {
            assert!(waiting_until(later, &queue, || wait_for_lock(0)));
        }
        assert!(!waiting_until(End::of(Duration::ZERO), &queue, || wait_for_lock(0)));
        queue.close();
        for later in later {
            assert!(!waiting_until(later, &queue, || wait_for_lock(0)));
        }
    }

    #[test]
    fn the_lock_is_asked_for_every_few_milliseconds_however_long_that_takes() {
        for tries in [0, 1, 99, 100, 10_000, i32::MAX] {
            let pauses = [0, 499].map(|jitter_us| pause_len(tries, jitter_us));
            let short = Duration::from_micros(300)..Duration::from_micros(2_500);
            assert!(pauses.iter().all(|pause| short.contains(pause)), "after {tries}: {pauses:?}");
        }
    }

    #[test]
    fn each_limit_is_kept_and_no_other_much_longer() {
        for (asked, due) in
            [(0, 0), (1, 10), (10, 10), (11, 20), (4_000, 4_000), (4_001, 5_000), (60_001, 600_000)]
        {
            let wait = waiting_at_most(Duration::from_millis(asked));
            let same = waiting_at_most(Duration::from_millis(due));
            assert!(std::ptr::fn_addr_eq(wait, same), "{asked}");
        }
        for wait in [waiting_at_most(Duration::from_millis(600_001)), waiting_at_most(Duration::MAX)] {
            assert!(wait(0) && wait(1));
        }
        assert!(!waiting_at_most(Duration::ZERO)(0));
        let wait = waiting_at_most(Duration::from_millis(50));
        // A wait in which this thread was kept from running may ask only once.
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let (begun, mut tries) = (Instant::now(), 0);
            assert!(begun < end, "no wait asks twice");
            while wait(tries) {
                tries += 1;
            }
            assert!(begun.elapsed() >= Duration::from_millis(50));
            if tries > 1 {
                break;
            }
        }
        assert!(wait(0), "another wait begins anew");
    }
}
