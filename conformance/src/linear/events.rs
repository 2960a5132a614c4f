//! Calls of a history, and what came of them.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use oncekey::protocol::{Entry, Expected, Key, Record};
use oncekey::store::{BatchPut, Exchange, Put, Store, StoreError};

use crate::history::Kind;

/// A call as it was sent.
#[derive(Clone, Debug)]
pub(super) struct Call {
    /// From 1; 0 is who looks at all keys in the end.
    pub(super) client: usize,
    pub(super) what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Load { key: usize },
    Put(Vec<Sent>),
    Purge,
}

/// A put as it was sent.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) key: usize,
    pub(super) expected: Expected,
    pub(super) record: Record,
    pub(super) kind: Kind,
    /// Client, call and item: a record of its own for each put.
    pub(super) name: String,
    pub(super) lasting: Lasting,
}

/// How long a record lasts: no time passes in a history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lasting {
    Live,
    /// Expired at once, and readable forever.
    Expired,
    /// Gone at once.
    Gone,
}

impl fmt::Display for Lasting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Live => "live",
            Self::Expired => "expired at once",
            Self::Gone => "gone at once",
        })
    }
}

impl Sent {
    pub(super) fn put(&self) -> Put<'_> {
        let (live, linger) = match self.lasting {
            Lasting::Live => (Duration::MAX, Duration::MAX),
            Lasting::Expired => (Duration::ZERO, Duration::MAX),
            Lasting::Gone => (Duration::ZERO, Duration::ZERO),
        };
        Put::new(&self.record, live, linger)
    }
}

/// What a store answered.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Loaded(Result<Option<Entry>, Failure>),
    Put(Vec<Result<Exchange, Failure>>),
    Purged(Result<usize, Failure>),
}

/// An error of the store.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) maybe_applied: bool,
    pub(super) told: String,
}

/// A call, when it was sent, and when which answer was heard.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) call: Call,
    pub(super) invoked: u64,
    pub(super) answered: Option<(u64, Answer)>,
}

/// Numbers the ends of calls in the order in which they happen.
#[derive(Debug, Default)]
pub(super) struct Order(AtomicU64);

impl Order {
    pub(super) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

fn failure<E: StoreError>(error: &E) -> Failure {
    Failure { maybe_applied: error.maybe_applied(), told: error.to_string() }
}

/// Makes a call.
pub(super) async fn perform<S: Store>(store: &S, keys: &[Key], call: &Call) -> Answer {
    match &call.what {
        What::Load { key } => Answer::Loaded(store.load(&keys[*key]).await.map_err(|error| failure(&error))),
        What::Purge => {
            let purged = store.purge(8).await;
            Answer::Purged(purged.map(|purged| purged.removed).map_err(|error| failure(&error)))
        }
        What::Put(all) => {
            let answers = match &all[..] {
                [sent] => vec![store.compare_exchange(&keys[sent.key], sent.expected, sent.put()).await],
                _ => {
                    let item = |sent: &'_ Sent| (sent.key, sent.expected);
                    let places: Vec<_> = all.iter().map(item).collect();
                    let batch = places.iter().zip(all);
                    let batch: Vec<_> = batch
                        .map(|((key, expected), sent)| BatchPut::new(&keys[*key], *expected, sent.put()))
                        .collect();
                    store.compare_exchange_many(&batch).await
                }
            };
            Answer::Put(answers.into_iter().map(|answer| answer.map_err(|error| failure(&error))).collect())
        }
    }
}

/// A future that is dropped after so many polls, unless it has ended by then; its end is not told then either.
///
/// Polled to its own end, it answers `None` when it was dropped.
pub(super) async fn cut<F: Future>(future: F, polls: Option<usize>) -> Option<F::Output> {
    let Some(polls) = polls else { return Some(future.await) };
    let future = pin!(future);
    Cut { future, polls }.await;
    None
}

struct Cut<'f, F> {
    future: Pin<&'f mut F>,
    polls: usize,
}

impl<F: Future> Future for Cut<'_, F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(left) = self.polls.checked_sub(1) else { return Poll::Ready(()) };
        self.polls = left;
        match self.future.as_mut().poll(cx) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending if left == 0 => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
        }
    }
}
