//! Many calls side by side, whose writes go to the store together.
//!
//! Each call runs as it does alone: the same decisions, the same tries again after a lost reply. Only the way to the
//! store differs: what the calls want written while nothing is under way goes there as one batch. So a thousand claims
//! are one round trip, and so are the completions of those that end together.

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, Stream as _};

use super::Inner;
use crate::protocol::{Key, KeyMap, Write};
use crate::store::{BatchPut, Exchange, Put, Store, StoreFailure};
use crate::sync::Mutex;

/// Most writes that go to the store in one call.
const BATCH_MAX: usize = 1000;

type Answer = Result<Exchange, StoreFailure>;
/// Whoever sent a write waits at its other end.
type Sender = oneshot::Sender<Answer>;

/// A write on its way to the store.
struct Parcel {
    key: Key,
    write: Write,
    /// How long its sender waits.
    patience: Duration,
    answer: Sender,
}

/// Where calls that run side by side leave what is to be written.
pub(super) struct Convoy {
    state: Mutex<State>,
    /// Held while the answers to a batch are handed out elsewhere.
    handing_out: Mutex<()>,
}

struct State {
    waiting: Vec<Parcel>,
    driver: Option<Waker>,
}

/// A way to the store: by a convoy, while there is one.
pub(super) type Route = Option<Weak<Convoy>>;

impl Convoy {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State { waiting: Vec::new(), driver: None }),
            handing_out: Mutex::new(()),
        })
    }

    fn send(&self, key: &Key, write: &Write, patience: Duration) -> oneshot::Receiver<Answer> {
        let (answer, answered) = oneshot::channel();
        let parcel = Parcel { key: key.clone(), write: write.clone(), patience, answer };
        let driver = {
            let mut state = self.state.lock();
            state.waiting.push(parcel);
            state.driver.take()
        };
        if let Some(driver) = driver {
            driver.wake();
        }
        answered
    }

    /// What goes next: each key once, since a batch is of distinct keys. Whoever gave up waiting sends nothing.
    fn load(&self, cx: &Context<'_>) -> Vec<Parcel> {
        let mut state = self.state.lock();
        state.driver = Some(cx.waker().clone());
        if state.waiting.is_empty() {
            return Vec::new();
        }
        let mut keys = KeyMap::default();
        let (mut next, mut later) = (Vec::new(), Vec::new());
        for parcel in std::mem::take(&mut state.waiting) {
            if parcel.answer.is_canceled() {
                continue;
            }
            if next.len() < BATCH_MAX && keys.insert(&parcel.key, ()).is_none() {
                next.push(parcel);
            } else {
                later.push(parcel);
            }
        }
        state.waiting = later;
        next
    }
}

/// Whoever drives it elsewhere learns that nothing more will come.
impl Drop for Convoy {
    fn drop(&mut self) {
        let driver = self.state.lock().driver.take();
        if let Some(driver) = driver {
            driver.wake();
        }
    }
}

/// Where a convoy is driven, if not by the calls that it is for: takes a job to run on its own.
pub(crate) type Depot<'d> = &'d (dyn Fn(BoxFuture<'static, ()>) + Sync);

impl<S: Store + 'static> Inner<S> {
    /// As [`Port::exchange`](super::port::Port::exchange), by this route.
    pub(super) async fn exchange_by(
        &self,
        route: Option<&Weak<Convoy>>,
        timeout: Duration,
        key: &Key,
        write: &Write,
    ) -> Answer {
        let Some(convoy) = route.and_then(Weak::upgrade) else {
            return self.port.exchange(timeout, key, write).await;
        };
        let answered = convoy.send(key, write, timeout);
        // The convoy is its driver's: a sender that keeps it alive would wait for a driver that is gone.
        drop(convoy);
        let answer = self.port.in_time(timeout, answered.boxed()).await?;
        answer.unwrap_or_else(|oneshot::Canceled| Err(StoreFailure::new(Unloaded)))
    }

    /// Runs all calls to their ends, side by side in this task; their outputs, in order. What they
    /// send by `convoy` goes to the store in batches, one at a time: from here, or from the
    /// `depot`, once each call has been polled.
    pub(super) async fn drive_all<C: Future<Output = (usize, T)>, T>(
        self: &Arc<Self>,
        convoy: &Arc<Convoy>,
        mut depot: Option<Depot<'_>>,
        mut running: FuturesUnordered<C>,
    ) -> Vec<T> {
        let here = depot.is_none();
        let mut outputs: Vec<Option<T>> = std::iter::repeat_with(|| None).take(running.len()).collect();
        let mut under_way: Option<BoxFuture<'static, ()>> = None;
        poll_fn(|cx| {
            loop {
                let mut poll_running = || {
                    while let Poll::Ready(Some((place, output))) = Pin::new(&mut running).poll_next(cx) {
                        outputs[place] = Some(output);
                    }
                };
                poll_running();
                if !here {
                    // All whose claims were granted together hold them from here on, whatever this thread does next.
                    drop(convoy.handing_out.lock());
                    poll_running();
                }
                if running.is_empty() {
                    // Nobody waits for what is under way.
                    return Poll::Ready(());
                }
                if let Some(depot) = depot.take() {
                    depot(serve(Arc::clone(self), Arc::downgrade(convoy)).boxed());
                }
                if under_way.is_none() && here {
                    let parcels = convoy.load(cx);
                    if !parcels.is_empty() {
                        under_way = Some(deliver(Arc::clone(self), parcels).map(hand_out).boxed());
                    }
                }
                match &mut under_way {
                    Some(batch) => match batch.as_mut().poll(cx) {
                        Poll::Ready(()) => under_way = None,
                        Poll::Pending => return Poll::Pending,
                    },
                    None => return Poll::Pending,
                }
            }
        })
        .await;
        outputs.into_iter().map(|output| output.expect("each call has ended")).collect()
    }
}

/// The calls, each with its place, for [`Inner::drive_all`]. A call's future is large: it moves
/// once, from where it is made to where it is polled.
pub(super) fn side_by_side<F: Future>(
    calls: impl Iterator<Item = F>,
) -> FuturesUnordered<impl Future<Output = (usize, F::Output)>> {
    calls.enumerate().map(|(place, call)| call.map(move |output| (place, output))).collect()
}

/// Drives a convoy for as long as there is one.
async fn serve<S: Store + 'static>(engine: Arc<Inner<S>>, convoy: Weak<Convoy>) {
    loop {
        let parcels = poll_fn(|cx| {
            let Some(convoy) = convoy.upgrade() else { return Poll::Ready(None) };
            let parcels = convoy.load(cx);
            if parcels.is_empty() { Poll::Pending } else { Poll::Ready(Some(parcels)) }
        });
        let Some(parcels) = parcels.await else { return };
        // A panic costs its parcels, whose senders try again, and not those that come after.
        let answers = AssertUnwindSafe(deliver(Arc::clone(&engine), parcels)).catch_unwind().await;
        if let (Ok(answers), Some(convoy)) = (answers, convoy.upgrade()) {
            let _handing_out = convoy.handing_out.lock();
            hand_out(answers);
        }
    }
}

/// One call to the store for all of them.
async fn deliver<S: Store + 'static>(engine: Arc<Inner<S>>, parcels: Vec<Parcel>) -> Vec<(Sender, Answer)> {
    let patience = parcels.iter().map(|parcel| parcel.patience).max().unwrap_or_default();
    let puts: Vec<_> = parcels
        .iter()
        .map(|Parcel { key, write, .. }| {
            BatchPut::new(key, write.expected, Put::new(&write.record, write.live, write.linger))
        })
        .collect();
    let answers = engine.port.exchange_many(patience, &puts).await;
    drop(puts);
    parcels.into_iter().map(|parcel| parcel.answer).zip(answers).collect()
}

fn hand_out(answers: Vec<(Sender, Answer)>) {
    for (sender, answer) in answers {
        // Whoever waited may have given up meanwhile.
        let _told = sender.send(answer);
    }
}

/// The driver of a convoy went away with a write that was not answered.
#[derive(Debug, thiserror::Error)]
#[error("the batch that this write was in was dropped before it was answered")]
struct Unloaded;

impl crate::store::StoreError for Unloaded {
    fn maybe_applied(&self) -> bool {
        true
    }

    fn kind(&self) -> crate::store::StoreErrorKind {
        crate::store::StoreErrorKind::Unavailable
    }
}
