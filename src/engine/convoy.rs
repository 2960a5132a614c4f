//! Many calls side by side, whose writes go to the store together.
//!
//! Each call runs as it does alone: the same decisions, the same tries again after a lost reply. Only the way to the
//! store differs: what the calls want written while nothing is under way goes there as one batch. So a thousand claims
//! are one round trip, and so are the completions of those that end together.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, Stream as _};

use super::inner::Inner;
use crate::protocol::{Key, KeyMap, Write};
use crate::store::{BatchPut, Exchange, Put, Store, StoreFailure};
use crate::sync::Mutex;
use crate::time::Moment;

/// Most writes that go to the store in one call.
const BATCH_MAX: usize = 1000;

/// Most batches of one convoy that are under way at once, of which all but one have taken too long.
const BATCHES_MAX: usize = 4;

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

#[derive(Default)]
struct State {
    waiting: KeyMap<Line>,
    /// The keys of what waits, each once, in the order in which they go.
    order: VecDeque<Key>,
    driver: Option<Waker>,
    /// How many batches were answered.
    answered: u64,
    /// How many parcels were taken out.
    #[cfg(test)]
    taken: usize,
}

/// What waits under one key.
#[derive(Default)]
struct Line {
    first: Option<Parcel>,
    behind: VecDeque<Parcel>,
}

impl State {
    fn push(&mut self, parcel: Parcel) {
        let (key, order) = (parcel.key.clone(), &mut self.order);
        let line = self.waiting.get_or_insert_with(&key, || {
            order.push_back(key.clone());
            Line::default()
        });
        match line.first {
            None => line.first = Some(parcel),
            Some(_) => line.behind.push_back(parcel),
        }
    }

    /// What goes next of what waits under the first key. Whoever gave up waiting sends nothing.
    fn pop(&mut self) -> Option<(Parcel, Line)> {
        loop {
            let key = self.order.pop_front()?;
            let mut line = self.waiting.remove(&key).unwrap_or_default();
            while let Some(parcel) = line.first.take().or_else(|| line.behind.pop_front()) {
                #[cfg(test)]
                {
                    self.taken += 1;
                }
                if !parcel.answer.is_canceled() {
                    return Some((parcel, line));
                }
            }
        }
    }
}

/// A way to the store: by a convoy, while there is one.
pub(super) type Route = Option<Weak<Convoy>>;

impl Convoy {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State::default()), handing_out: Mutex::new(()) })
    }

    fn send(&self, key: &Key, write: &Write, patience: Duration) -> oneshot::Receiver<Answer> {
        let (answer, answered) = oneshot::channel();
        let parcel = Parcel { key: key.clone(), write: write.clone(), patience, answer };
        let driver = {
            let mut state = self.state.lock();
            state.push(parcel);
            state.driver.take()
        };
        if let Some(driver) = driver {
            driver.wake();
        }
        answered
    }

    /// What goes next: each key once, since a batch is of distinct keys.
    fn load(&self, cx: &Context<'_>) -> Vec<Parcel> {
        let mut state = self.state.lock();
        state.driver = Some(cx.waker().clone());
        let (mut next, mut lines) = (Vec::new(), Vec::new());
        while next.len() < BATCH_MAX {
            let Some((parcel, line)) = state.pop() else { break };
            if !line.behind.is_empty() {
                lines.push((parcel.key.clone(), line));
            }
            next.push(parcel);
        }
        for (key, line) in lines {
            state.waiting.insert(&key, line);
            state.order.push_back(key);
        }
        next
    }
}

impl Convoy {
    fn hand_out(&self, answers: Vec<(Sender, Answer)>) {
        self.state.lock().answered += 1;
        let _handing_out = self.handing_out.lock();
        for (sender, answer) in answers {
            // Whoever waited may have given up meanwhile.
            let _told = sender.send(answer);
        }
    }

    fn answered(&self) -> u64 {
        self.state.lock().answered
    }

    /// Whether something waits; `cx` is woken when something more does.
    fn waits(&self, cx: &Context<'_>) -> bool {
        let mut state = self.state.lock();
        state.driver = Some(cx.waker().clone());
        !state.order.is_empty()
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

/// Who waits for the end of a call, by that call's place.
pub(super) type Followers = HashMap<usize, oneshot::Sender<()>>;

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
    /// `depot`, once each call has been polled. A follower is told when the call at its place ends.
    pub(super) async fn drive_all<C: Future<Output = (usize, T)>, T>(
        self: &Arc<Self>,
        convoy: &Arc<Convoy>,
        mut depot: Option<Depot<'_>>,
        calls: Calls<C>,
        mut followers: Followers,
    ) -> Vec<T> {
        let here = depot.is_none();
        let mut outputs: Vec<Option<T>> = std::iter::repeat_with(|| None).take(calls.len()).collect();
        let (mut calls, mut running) = (calls.into_iter(), FuturesUnordered::new());
        let mut service = pin!(self.with_help(serve(Arc::clone(self), Arc::downgrade(convoy))));
        poll_fn(|cx| {
            loop {
                // Each is polled as it comes. What ends at once is spared the rest.
                for mut call in calls.by_ref() {
                    match call.as_mut().poll(cx) {
                        Poll::Ready((place, output)) => {
                            outputs[place] = Some(output);
                            followers.remove(&place);
                        }
                        Poll::Pending => running.push(call),
                    }
                }
                let mut poll_running = || {
                    while let Poll::Ready(Some((place, output))) = Pin::new(&mut running).poll_next(cx) {
                        outputs[place] = Some(output);
                        followers.remove(&place);
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
                    depot(serve_on(Arc::clone(self), Arc::downgrade(convoy)).boxed());
                }
                if !here {
                    return Poll::Pending;
                }
                let answered = convoy.answered();
                let _until_it_is_gone: Poll<()> = service.as_mut().poll(cx);
                if convoy.answered() == answered {
                    return Poll::Pending;
                }
            }
        })
        .await;
        outputs.into_iter().map(|output| output.expect("each call has ended")).collect()
    }
}

/// Calls for [`Inner::drive_all`]. A call's future is large: it moves once, from where it is made to where it is polled.
pub(super) type Calls<C> = Vec<Pin<Box<C>>>;

/// The calls, each with its place.
pub(super) fn side_by_side<F: Future>(
    calls: impl Iterator<Item = F>,
) -> Calls<impl Future<Output = (usize, F::Output)>> {
    calls.enumerate().map(|(place, call)| placed(place, call)).collect()
}

/// A call with its place.
pub(super) fn placed<F: Future>(
    place: usize,
    call: F,
) -> Pin<Box<impl Future<Output = (usize, F::Output)> + use<F>>> {
    Box::pin(call.map(move |output| (place, output)))
}

/// As [`serve`]. A panic costs its parcels, whose senders try again, and not those that come after.
async fn serve_on<S: Store + 'static>(engine: Arc<Inner<S>>, convoy: Weak<Convoy>) {
    loop {
        let served = AssertUnwindSafe(serve(Arc::clone(&engine), Weak::clone(&convoy))).catch_unwind();
        if served.await.is_ok() {
            return;
        }
    }
}

/// Drives a convoy for as long as there is one. One batch is under way at a time, unless it takes longer than somebody in
/// it waits: then the next does not wait for it.
async fn serve<S: Store + 'static>(engine: Arc<Inner<S>>, convoy: Weak<Convoy>) {
    let mut under_way = FuturesUnordered::new();
    let mut stops_until = Moment::ORIGIN;
    let mut sleep: Option<BoxFuture<'static, ()>> = None;
    poll_fn(|cx| {
        loop {
            let answers = match Pin::new(&mut under_way).poll_next(cx) {
                Poll::Ready(answers) => answers,
                Poll::Pending => None,
            };
            let Some(convoy) = convoy.upgrade() else { return Poll::Ready(()) };
            if let Some(answers) = answers {
                convoy.hand_out(answers);
                continue;
            }
            if !under_way.is_empty() {
                if !convoy.waits(cx) || under_way.len() >= BATCHES_MAX {
                    return Poll::Pending;
                }
                let sleep = sleep.get_or_insert_with(|| engine.clock().sleep_until(stops_until));
                if sleep.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
            }
            sleep = None;
            let parcels = convoy.load(cx);
            let Some(least) = parcels.iter().map(|parcel| parcel.patience).min() else {
                return Poll::Pending;
            };
            stops_until = engine.clock().now() + least;
            under_way.push(deliver(Arc::clone(&engine), parcels));
        }
    })
    .await;
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

#[cfg(test)]
#[cfg(not(oncekey_loom))]
mod tests {
    use super::*;
    use crate::protocol::Decision;

    fn write() -> Write {
        use crate::protocol::{ClaimCommand, Lifetimes, OnDoubt, OperationId, Owner, Policy, UnixMillis};
        let claim = ClaimCommand {
            owner: Owner::from_bytes([1; 16]),
            operation_id: OperationId::from_bytes([1; 16]),
            fingerprint: None,
            policy: Policy::Reclaim,
            attempts_max: None,
            on_doubt: OnDoubt::GoByPolicy,
            now: UnixMillis(0),
        };
        let second = Duration::from_secs(1);
        let lifetimes = Lifetimes { lease: second, retention: second, tail: second };
        let Decision::Write(write) = crate::protocol::decide(None, &claim, &lifetimes) else {
            unreachable!("a vacant key is claimed by a write")
        };
        write
    }

    /// How many parcels of each batch there were, and how many were taken out in all.
    fn unload(keys: impl Iterator<Item = usize>) -> (Vec<usize>, usize) {
        let (convoy, write) = (Convoy::new(), write());
        let key = |id: usize| Key::new("s", id.to_string()).unwrap();
        let answered: Vec<_> = keys.map(|id| convoy.send(&key(id), &write, Duration::from_secs(1))).collect();
        let batches = std::iter::from_fn(|| {
            let batch = convoy.load(&Context::from_waker(Waker::noop()));
            (!batch.is_empty()).then_some(batch.len())
        });
        let batches = batches.collect();
        drop(answered);
        let taken = convoy.state.lock().taken;
        (batches, taken)
    }

    #[test]
    fn what_waits_is_not_moved_by_the_batches_before_it() {
        assert_eq!(unload(0..20_500), ([vec![1000; 20], vec![500]].concat(), 20_500));
        assert_eq!(unload(std::iter::repeat_n(7, 5_000)), (vec![1; 5_000], 5_000), "of one key");
        // Of each key the first goes first.
        assert_eq!(unload((0..3).chain(0..2)), (vec![3, 2], 5));
    }

    #[test]
    fn who_gave_up_sends_nothing() {
        let (convoy, write) = (Convoy::new(), write());
        let key = Key::new("s", "i").unwrap();
        let [gone, there] = [(); 2].map(|()| convoy.send(&key, &write, Duration::from_secs(1)));
        drop(gone);
        assert_eq!(convoy.load(&Context::from_waker(Waker::noop())).len(), 1);
        assert!(convoy.load(&Context::from_waker(Waker::noop())).is_empty());
        drop(there);
    }
}
