//! Racing workers: each takes the next line of the log as soon as it is free.
//!
//! A day has far more idle time than traffic, and the replay leaves it out. So that this does not make duplicates race
//! which on the day did not, the log's own times decide: a line waits for the earlier ones of its key that had been
//! answered by the time it came in. Duplicates that came in while the first was running race as they did.

use std::sync::{Condvar, Mutex};
use std::thread;

use super::input::Request;
use super::progress::Progress;

struct Floor {
    next: usize,
    /// The lines that workers have in hand: never more than there are workers.
    in_hand: Vec<usize>,
}

/// Has `answer` called once for each request, by so many workers; the answers in the order of the log.
pub(crate) fn run<A: Send>(
    requests: &[Request],
    workers: usize,
    progress: &Progress,
    answer: impl Fn(&Request) -> A + Sync,
) -> Vec<A> {
    let floor = Mutex::new(Floor { next: 0, in_hand: Vec::new() });
    let left_hand = Condvar::new();
    let work = || {
        let mut answers = Vec::new();
        while let Some(index) = take(requests, &floor, &left_hand) {
            answers.push((index, answer(&requests[index])));
            floor.lock().expect(NO_PANIC).in_hand.retain(|other| *other != index);
            left_hand.notify_all();
            progress.step();
        }
        answers
    };
    let mut answers: Vec<(usize, A)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a worker does not panic")).collect()
    });
    answers.sort_by_key(|(index, _)| *index);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// The next line, once the earlier ones that it must not race are answered. Each waits for earlier ones only, so
/// nobody waits forever.
fn take(requests: &[Request], floor: &Mutex<Floor>, left_hand: &Condvar) -> Option<usize> {
    let mut floor = floor.lock().expect(NO_PANIC);
    let index = floor.next;
    let request = requests.get(index)?;
    floor.next += 1;
    floor.in_hand.push(index);
    let must_wait = |other: &usize| *other < index && was_over(&requests[*other], request);
    while floor.in_hand.iter().any(must_wait) {
        floor = left_hand.wait(floor).expect(NO_PANIC);
    }
    Some(index)
}

/// Whether `earlier`, of the same key, had been answered when `later` came in.
fn was_over(earlier: &Request, later: &Request) -> bool {
    earlier.at_ms + u64::from(earlier.script.latency_ms) <= later.at_ms && earlier.key == later.key
}

const NO_PANIC: &str = "nothing panics while it holds the floor";
