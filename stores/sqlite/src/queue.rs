//! A queue that threads wait on.

use std::collections::VecDeque;

use parking_lot::{Condvar, Mutex};

/// What waits for a thread.
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    news: Condvar,
}

struct State<T> {
    waiting: VecDeque<T>,
    closed: bool,
}

/// The queue is closed; what was to be pushed comes back.
#[derive(Debug)]
pub(crate) struct Closed<T>(pub(crate) T);

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::new(State { waiting: VecDeque::new(), closed: false }), news: Condvar::new() }
    }

    /// Adds to the end.
    pub(crate) fn push(&self, item: T) -> Result<(), Closed<T>> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(Closed(item));
        }
        state.waiting.push_back(item);
        drop(state);
        self.news.notify_one();
        Ok(())
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
            self.news.wait(&mut state);
        }
        if state.closed {
            return None;
        }
        let mut count = 0;
        while state.waiting.get(count).is_some_and(|item| fits(item) || count == 0) {
            count += 1;
        }
        Some(state.waiting.drain(..count).collect())
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
        assert_eq!(queue.len(), 1);
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
