//! A queue that threads wait on.

use std::collections::VecDeque;

use parking_lot::{Condvar, Mutex, MutexGuard};

/// Items that wait for a thread.
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    news: Condvar,
}

struct State<T> {
    waiting: VecDeque<T>,
    /// Threads that sleep until something comes, less those that something came for.
    idle: usize,
    closed: bool,
}

/// The queue is closed; what was to be pushed comes back.
#[derive(Debug)]
pub(crate) struct Closed<T>(pub(crate) T);

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State { waiting: VecDeque::new(), idle: 0, closed: false }),
            news: Condvar::new(),
        }
    }

    /// Adds to the end.
    pub(crate) fn push(&self, item: T) -> Result<(), Closed<T>> {
        let state = self.state.lock();
        if state.closed {
            return Err(Closed(item));
        }
        self.put(state, item);
        Ok(())
    }

    /// Adds only if it is taken at once, by a thread that has nothing else to do; else it comes back.
    pub(crate) fn push_if_idle(&self, item: T) -> Result<(), T> {
        let state = self.state.lock();
        if state.closed || state.idle == 0 || !state.waiting.is_empty() {
            return Err(item);
        }
        self.put(state, item);
        Ok(())
    }

    fn put(&self, mut state: MutexGuard<'_, State<T>>, item: T) {
        state.waiting.push_back(item);
        state.idle = state.idle.saturating_sub(1);
        drop(state);
        self.news.notify_one();
    }

    pub(crate) fn len(&self) -> usize {
        self.state.lock().waiting.len()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Waits for the first, and takes it with what waits behind it while `fits` says so; the first is always taken.
    /// `None` once the queue is closed.
    pub(crate) fn take(&self, mut fits: impl FnMut(&T) -> bool) -> Option<Vec<T>> {
        let mut state = self.state.lock();
        while state.waiting.is_empty() && !state.closed {
            state.idle += 1;
            self.news.wait(&mut state);
        }
        if state.closed {
            return None;
        }
        let mut count = 0;
        while state.waiting.get(count).is_some_and(|item| fits(item) | (count == 0)) {
            count += 1;
        }
        Some(state.waiting.drain(..count).collect())
    }

    /// The same without the wait; nothing if nothing waits, if the first does not fit, or if the queue is closed.
    pub(crate) fn take_more(&self, mut fits: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut state = self.state.lock();
        let count = state.waiting.iter().take_while(|item| fits(item)).count();
        state.waiting.drain(..count).collect()
    }

    /// Takes no more, ends every wait, and gives back what nobody will come to.
    pub(crate) fn close(&self) -> Vec<T> {
        let mut state = self.state.lock();
        state.closed = true;
        let left = std::mem::take(&mut state.waiting);
        drop(state);
        self.news.notify_all();
        left.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_what_waits_and_fits() {
        let queue = Queue::new();
        for item in [5, 1, 2, 9] {
            queue.push(item).unwrap();
        }
        let mut room = 4;
        let mut fits = |item: &i32| {
            room -= item;
            room >= 0
        };
        assert_eq!(queue.take(&mut fits), Some(vec![5]), "the first is taken though it does not fit");
        room = 4;
        let fits = |item: &i32| {
            room -= item;
            room >= 0
        };
        assert_eq!(queue.take(fits), Some(vec![1, 2]));
        assert!(queue.take_more(|item| *item < 9).is_empty());
        assert_eq!(queue.take_more(|item| *item == 9), [9]);
        assert!(queue.take_more(|_| true).is_empty());
    }

    #[test]
    fn a_closed_queue_ends_waits_and_gives_back() {
        let queue = Queue::new();
        queue.push(1).unwrap();
        assert_eq!(queue.close(), [1]);
        assert!(matches!(queue.push(2), Err(Closed(2))));
        assert_eq!(queue.take(|_| true), None);
    }

    #[test]
    fn what_must_not_wait_goes_only_to_a_thread_that_sleeps() {
        let queue = Queue::new();
        assert_eq!(queue.push_if_idle(1), Err(1), "nobody takes it");
        std::thread::scope(|scope| {
            let taker = scope.spawn(|| queue.take(|_| true));
            let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
            while queue.push_if_idle(7).is_err() {
                assert!(std::time::Instant::now() < end, "the taker never sleeps");
                std::thread::yield_now();
            }
            assert_eq!(queue.push_if_idle(8), Err(8), "the one that slept has something to do");
            assert_eq!(taker.join().unwrap(), Some(vec![7]));
        });
        queue.close();
        assert_eq!(queue.push_if_idle(9), Err(9));
    }

    #[test]
    fn a_thread_that_waits_is_told() {
        let queue = Queue::new();
        std::thread::scope(|scope| {
            let taker = scope.spawn(|| queue.take(|_| true));
            queue.push(7).unwrap();
            assert_eq!(taker.join().unwrap(), Some(vec![7]));
            let taker = scope.spawn(|| queue.take(|_| true));
            queue.close();
            assert_eq!(taker.join().unwrap(), None);
        });
    }
}
