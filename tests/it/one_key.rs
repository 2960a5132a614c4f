//! Ways to drive scenarios about one key.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};

use oncekey::protocol::Entry;
use oncekey::{Answer, Claim, ClaimAnswer, Error};

use crate::support::{Bench, FaultyStore, Flag, key};

/// The claim, if that is the answer.
pub(crate) fn granted(answer: Result<ClaimAnswer<Claim<FaultyStore>>, Error>) -> Claim<FaultyStore> {
    match answer {
        Ok(ClaimAnswer::Granted(claim)) => claim,
        other => panic!("not granted: {other:?}"),
    }
}

impl Bench {
    /// An explicit claim of the one key, which must be granted.
    pub(crate) fn grant(&self) -> Claim<FaultyStore> {
        granted(self.run(self.dedup.request(key()).claim()))
    }

    /// What a call of another process gets now: its operation counts a run and answers "second".
    pub(crate) fn second_call(&self, runs: &AtomicU32) -> Answer<String> {
        let other = self.other_process();
        self.run(other.request(key()).run(|_| async {
            runs.fetch_add(1, Ordering::SeqCst);
            Ok::<_, &str>("second".to_owned())
        }))
        .unwrap()
    }

    /// What is on record under the one key.
    pub(crate) fn on_record(&self) -> Entry {
        self.store.peek(&key()).expect("something is on record")
    }

    /// What is on record under the one key, if anything is.
    pub(crate) fn on_record_if_any(&self) -> Option<Entry> {
        self.store.peek(&key())
    }

    /// Polls up to `polls` times, moving the clock on to the next sleep whenever nothing else can go on.
    pub(crate) fn poll_times<F: Future + ?Sized>(
        &self,
        mut future: Pin<&mut F>,
        polls: usize,
    ) -> Option<F::Output> {
        for _ in 0..polls {
            let woken = Arc::new(Flag::default());
            let waker = Waker::from(Arc::clone(&woken));
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Some(output);
            }
            if !woken.0.load(Ordering::SeqCst) {
                let next = self.clock.next_wake().expect("nothing woke the future, and nothing sleeps");
                let now = oncekey::time::Clock::now(&self.clock);
                self.clock.advance(next.saturating_since(now));
            }
        }
        None
    }

    /// Runs the clean-up to its end, and sees that nothing is left behind.
    pub(crate) fn nothing_is_left(&self) {
        self.nothing_is_left_but(0);
    }

    /// As `nothing_is_left`, with this many claims still held.
    pub(crate) fn nothing_is_left_but(&self, held: usize) {
        self.run(self.dedup.flush());
        assert_eq!(self.dedup.held(), held, "claims held");
        assert_eq!(self.dedup.waiting(), 0, "callers waiting");
        assert_eq!(self.clock.sleepers(), 0, "sleeps");
    }
}
