//! Calls that run together, whose writes go to the store in batches.
//!
//! Each call runs as it does alone: the same decisions, the same tries again after a lost reply. Only its way to the store
//! differs. The writes that are pending while no batch is under way go there together, as the next one.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, Stream as _};

use super::handle::Deduplicator;
use super::inner::Inner;
use crate::protocol::{Key, KeyMap, Write};
use crate::store::{BatchPut, Exchange, Put, Store, StoreFailure};
use crate::sync::Mutex;
use crate::time::Moment;

/// Most writes that go to the store in one call.
const BATCH_MAX: usize = 1000;

/// Most calls to the store that are under way at once, of which all but one have taken too long.
const UNDER_WAY_MAX: usize = 4;

type Answer = Result<Exchange, StoreFailure>;

/// What becomes of a pending write.
enum Reply {
    Answered(Answer),
    /// It was not sent, and will not be.
    NotSent,
}

/// A write on its way to the store.
struct PendingWrite {
    key: Key,
    write: Write,
    /// How long its sender waits.
    patience: Duration,
    /// Its sender waits at the other end.
    reply: oneshot::Sender<Reply>,
}

/// The pending writes of one batch.
pub(super) struct PendingWrites {
    state: Mutex<State>,
    /// How many calls to the store were answered. Held while their answers are handed out.
    answered: Mutex<u64>,
}

#[derive(Default)]
struct State {
    /// Whether somebody sends them.
    is_driven: bool,
    waiting: KeyMap<OfKey>,
    /// The keys of `waiting`, each once, in the order in which they go.
    order: VecDeque<Key>,
    driver: Option<Waker>,
    /// How many pending writes were taken out.
    #[cfg(test)]
    taken: usize,
}

/// The pending writes of one key.
#[derive(Default)]
struct OfKey {
    first: Option<PendingWrite>,
    behind: VecDeque<PendingWrite>,
}

impl State {
    fn push(&mut self, pending: PendingWrite) {
        let (key, order) = (pending.key.clone(), &mut self.order);
        let of_key = self.waiting.get_or_insert_with(&key, || {
            order.push_back(key.clone());
            OfKey::default()
        });
        match of_key.first {
            None => of_key.first = Some(pending),
            Some(_) => of_key.behind.push_back(pending),
        }
    }

    /// The next write of the first key, and the others of that key. A write whose sender gave up is not sent.
    fn pop(&mut self) -> Option<(PendingWrite, OfKey)> {
        loop {
            let key = self.order.pop_front()?;
            let mut of_key = self.waiting.remove(&key).unwrap_or_default();
            while let Some(pending) = of_key.first.take().or_else(|| of_key.behind.pop_front()) {
                #[cfg(test)]
                {
                    self.taken += 1;
                }
                if !pending.reply.is_canceled() {
                    return Some((pending, of_key));
                }
            }
        }
    }
}

/// The way of a call to the store: with a batch, or alone.
pub(super) type Route = Option<Weak<PendingWrites>>;

impl PendingWrites {
    fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State::default()), answered: Mutex::new(0) })
    }

    /// Has a write sent with the batch. `None`: nobody drives that.
    fn send(&self, key: &Key, write: &Write, patience: Duration) -> Option<oneshot::Receiver<Reply>> {
        let (reply, replied) = oneshot::channel();
        let driver = {
            let mut state = self.state.lock();
            if !state.is_driven {
                return None;
            }
            state.push(PendingWrite { key: key.clone(), write: write.clone(), patience, reply });
            state.driver.take()
        };
        if let Some(driver) = driver {
            driver.wake();
        }
        Some(replied)
    }

    /// The writes that go next, of each key one: a call to the store is for distinct keys.
    fn take_next(&self, cx: &Context<'_>) -> Vec<PendingWrite> {
        let mut state = self.state.lock();
        state.driver = Some(cx.waker().clone());
        let (mut next, mut rest) = (Vec::new(), Vec::new());
        while next.len() < BATCH_MAX {
            let Some((pending, of_key)) = state.pop() else { break };
            if !of_key.behind.is_empty() {
                rest.push((pending.key.clone(), of_key));
            }
            next.push(pending);
        }
        for (key, of_key) in rest {
            state.waiting.insert(&key, of_key);
            state.order.push_back(key);
        }
        next
    }

    fn hand_out(&self, answers: Vec<(oneshot::Sender<Reply>, Answer)>) {
        let mut answered = self.answered.lock();
        *answered += 1;
        for (reply, answer) in answers {
            // Its sender may have given up meanwhile.
            let _told = reply.send(Reply::Answered(answer));
        }
    }

    /// How many calls to the store were answered, once all answers to those are handed out.
    fn answered(&self) -> u64 {
        *self.answered.lock()
    }

    /// Whether a write is pending; `cx` is woken when another is.
    fn is_waiting(&self, cx: &Context<'_>) -> bool {
        let mut state = self.state.lock();
        state.driver = Some(cx.waker().clone());
        !state.order.is_empty()
    }
}

/// Pending writes are sent while this is kept.
struct Driven<'b>(&'b PendingWrites);

impl<'b> Driven<'b> {
    fn begin(writes: &'b PendingWrites) -> Self {
        writes.state.lock().is_driven = true;
        Self(writes)
    }
}

impl Drop for Driven<'_> {
    fn drop(&mut self) {
        let mut state = std::mem::take(&mut *self.0.state.lock());
        // Of calls that are polled elsewhere.
        while let Some((pending, mut of_key)) = state.pop() {
            let _told = pending.reply.send(Reply::NotSent);
            for behind in of_key.behind.drain(..) {
                let _told = behind.reply.send(Reply::NotSent);
            }
        }
    }
}

/// Calls of one engine that run together, and whose writes go to the store together: from
/// [`Deduplicator::batch`]. [`run_many`](Deduplicator::run_many), [`claim_many`](Deduplicator::claim_many) and
/// [`complete_many`](Deduplicator::complete_many) are made of it.
///
/// [`Request::in_batch`](super::Request::in_batch) and [`Claim::in_batch`](super::Claim::in_batch) put calls into it, and
/// [`drive`](Self::drive) runs them. A batch is one caller's own: no other call of the engine waits for it, and no
/// renewal of a keeper goes with it. A call that is put into a batch and run while nobody drives that goes to the store
/// alone. One that runs elsewhere while somebody does goes with the batch, and sends a write again if the drive ends
/// before it is answered.
///
/// ```
/// # use oncekey::{Deduplicator, Key, MemoryStore};
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// # let dedup = Deduplicator::new(MemoryStore::new());
/// let mut batch = dedup.batch();
/// let mut calls = Vec::new();
/// for id in ["m-1", "m-2", "m-3"] {
///     let request = dedup.request(Key::new("orders.ship", id)?).in_batch(&batch);
///     calls.push(request.run(move |_attempt| async move { Ok::<_, std::io::Error>(format!("shipped {id}")) }));
/// }
/// // One round trip for three claims, and one for three completions.
/// let answers = batch.drive(calls).await;
/// assert_eq!(answers.len(), 3);
/// # Ok(()) }
/// # futures::executor::block_on(demo()).unwrap();
/// ```
pub struct Batch<S: Store + 'static> {
    engine: Arc<Inner<S>>,
    writes: Arc<PendingWrites>,
}

impl<S: Store + 'static> fmt::Debug for Batch<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("pending", &self.writes.state.lock().order.len())
            .finish_non_exhaustive()
    }
}

impl<S: Store + 'static> Deduplicator<S> {
    /// A batch: for calls of this engine that run together, and whose writes are to go to the store together.
    pub fn batch(&self) -> Batch<S> {
        Batch { engine: Arc::clone(&self.inner), writes: PendingWrites::new() }
    }
}

impl<S: Store + 'static> Batch<S> {
    /// Runs all calls to their ends, side by side in this task. Their outputs, in order.
    ///
    /// The writes of calls that are in this batch go to the store together. One call to the store is under way at a
    /// time, unless it takes longer than one of its writes may take. Over a store that answers at once, in this process,
    /// nothing is gathered.
    ///
    /// An operation that blocks this task's thread does not hold up the writes of its neighbours, if the engine has a
    /// [`keeper`](Deduplicator::keeper) or a [`spawner`](super::DeduplicatorBuilder::spawner): those send them meanwhile.
    ///
    /// May be called again, for further calls of the same batch.
    ///
    /// # Panics
    /// If one of the calls does. The others then end as if this had been dropped. To keep panics apart, drive calls that
    /// catch their own: `AssertUnwindSafe(call).catch_unwind()`, of the crate `futures`.
    ///
    /// # Cancel safety
    /// If dropped, all of the calls are: each says itself what becomes of it. A write that was sent may be applied.
    pub async fn drive<C: Future>(&mut self, calls: impl IntoIterator<Item = C>) -> Vec<C::Output> {
        let calls = calls.into_iter().enumerate().map(placed).collect();
        self.drive_calls(calls).await
    }

    pub(super) async fn drive_calls<C: Future<Output = (usize, T)>, T>(&mut self, calls: Calls<C>) -> Vec<T> {
        let Self { engine, writes } = self;
        let _driven = Driven::begin(writes);
        let mut outputs: Vec<Option<T>> = std::iter::repeat_with(|| None).take(calls.len()).collect();
        let (mut calls, mut running) = (calls.into_iter(), FuturesUnordered::new());
        let service = send_all(Arc::clone(engine), Arc::downgrade(writes));
        let mut service = pin!(engine.with_help(service));
        poll_fn(|cx| {
            loop {
                // A call that ends when it is first polled is spared the rest.
                for mut call in calls.by_ref() {
                    match call.as_mut().poll(cx) {
                        Poll::Ready((place, output)) => outputs[place] = Some(output),
                        Poll::Pending => running.push(call),
                    }
                }
                // Answers that are handed out meanwhile, by a helper, are all heard or none is: calls whose claims were
                // granted together hold them from here on, whatever this thread does next.
                let answered = loop {
                    let before = writes.answered();
                    while let Poll::Ready(Some((place, output))) = Pin::new(&mut running).poll_next(cx) {
                        outputs[place] = Some(output);
                    }
                    let now = writes.answered();
                    if now == before {
                        break now;
                    }
                };
                if running.is_empty() {
                    return Poll::Ready(());
                }
                let _until_the_batch_is_gone: Poll<()> = service.as_mut().poll(cx);
                if writes.answered() == answered {
                    return Poll::Pending;
                }
            }
        })
        .await;
        outputs.into_iter().map(|output| output.expect("each call has ended")).collect()
    }

    /// The way of a call of `engine`. One of another engine goes its own way: to its own store. A store that answers at
    /// once has nothing to gather.
    pub(super) fn route(&self, engine: &Arc<Inner<S>>) -> Route {
        let goes_along = Arc::ptr_eq(engine, &self.engine) && !engine.port.is_at_once();
        goes_along.then(|| Arc::downgrade(&self.writes))
    }
}

/// Calls, each with its place. A call's future is large: it moves once, from where it is made to where it is polled.
pub(super) type Calls<C> = Vec<Pin<Box<C>>>;

/// A call with its place.
pub(super) fn placed<F: Future>(
    (place, call): (usize, F),
) -> Pin<Box<impl Future<Output = (usize, F::Output)> + use<F>>> {
    Box::pin(call.map(move |output| (place, output)))
}

impl<S: Store + 'static> Inner<S> {
    /// As [`Port::exchange`](super::port::Port::exchange), by this route.
    pub(super) async fn exchange_by(
        &self,
        route: Option<&Weak<PendingWrites>>,
        timeout: Duration,
        key: &Key,
        write: &Write,
    ) -> Answer {
        // Its sender does not keep a batch alive: it would wait for a driver that is gone.
        let sent = route.and_then(Weak::upgrade).and_then(|writes| writes.send(key, write, timeout));
        let mut left = timeout;
        if let Some(replied) = sent {
            let begun = self.clock().now();
            match self.port.in_time(timeout, replied.boxed()).await? {
                Ok(Reply::Answered(answer)) => return answer,
                Ok(Reply::NotSent) => {
                    left = timeout.saturating_sub(self.clock().now().saturating_since(begun));
                }
                Err(oneshot::Canceled) => return Err(StoreFailure::new(Unanswered)),
            }
        }
        self.port.exchange(left, key, write).await
    }
}

/// Sends the pending writes for as long as their batch is there. One call to the store is under way at a time, unless it
/// takes longer than a sender waits: then the next does not wait for it.
async fn send_all<S: Store + 'static>(engine: Arc<Inner<S>>, writes: Weak<PendingWrites>) {
    let mut under_way = FuturesUnordered::new();
    let mut stops_until = Moment::ORIGIN;
    let mut sleep: Option<BoxFuture<'static, ()>> = None;
    poll_fn(|cx| {
        loop {
            let answers = match Pin::new(&mut under_way).poll_next(cx) {
                Poll::Ready(answers) => answers,
                Poll::Pending => None,
            };
            let Some(writes) = writes.upgrade() else { return Poll::Ready(()) };
            if let Some(answers) = answers {
                writes.hand_out(answers);
                continue;
            }
            if !under_way.is_empty() {
                if !writes.is_waiting(cx) || under_way.len() >= UNDER_WAY_MAX {
                    return Poll::Pending;
                }
                let sleep = sleep.get_or_insert_with(|| engine.clock().sleep_until(stops_until));
                if sleep.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
            }
            sleep = None;
            let next = writes.take_next(cx);
            let Some(least) = next.iter().map(|pending| pending.patience).min() else {
                return Poll::Pending;
            };
            stops_until = engine.clock().now() + least;
            under_way.push(send(Arc::clone(&engine), next));
        }
    })
    .await;
}

/// One call to the store for all of them.
async fn send<S: Store + 'static>(
    engine: Arc<Inner<S>>,
    batch: Vec<PendingWrite>,
) -> Vec<(oneshot::Sender<Reply>, Answer)> {
    let patience = batch.iter().map(|pending| pending.patience).max().unwrap_or_default();
    let puts: Vec<_> = batch
        .iter()
        .map(|PendingWrite { key, write, .. }| {
            BatchPut::new(key, write.expected, Put::new(&write.record, write.live, write.linger))
        })
        .collect();
    let answers = engine.port.exchange_many(patience, &puts).await;
    drop(puts);
    batch.into_iter().map(|pending| pending.reply).zip(answers).collect()
}

/// The batch of a write was dropped while its answer was outstanding.
#[derive(Debug, thiserror::Error)]
#[error("the batch that this write was in was dropped before it was answered")]
struct Unanswered;

impl crate::store::StoreError for Unanswered {
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

    /// How many writes each batch had, and how many were taken out in all.
    fn batches(keys: impl Iterator<Item = usize>) -> (Vec<usize>, usize) {
        let (writes, write) = (PendingWrites::new(), write());
        let _driven = Driven::begin(&writes);
        let key = |id: usize| Key::new("s", id.to_string()).unwrap();
        let replied: Vec<_> = keys.map(|id| writes.send(&key(id), &write, Duration::from_secs(1))).collect();
        let batches = std::iter::from_fn(|| {
            let batch = writes.take_next(&Context::from_waker(Waker::noop()));
            (!batch.is_empty()).then_some(batch.len())
        });
        let batches = batches.collect();
        drop(replied);
        let taken = writes.state.lock().taken;
        (batches, taken)
    }

    #[test]
    fn pending_writes_are_not_moved_by_the_batches_before_them() {
        assert_eq!(batches(0..20_500), ([vec![1000; 20], vec![500]].concat(), 20_500));
        assert_eq!(batches(std::iter::repeat_n(7, 5_000)), (vec![1; 5_000], 5_000), "of one key");
        // Of each key the first goes first.
        assert_eq!(batches((0..3).chain(0..2)), (vec![3, 2], 5));
    }

    #[test]
    fn a_write_whose_sender_gave_up_is_not_sent() {
        let (writes, write) = (PendingWrites::new(), write());
        let _driven = Driven::begin(&writes);
        let key = Key::new("s", "i").unwrap();
        let [gone, there] = [(); 2].map(|()| writes.send(&key, &write, Duration::from_secs(1)));
        drop(gone);
        assert_eq!(writes.take_next(&Context::from_waker(Waker::noop())).len(), 1);
        assert!(writes.take_next(&Context::from_waker(Waker::noop())).is_empty());
        drop(there);
    }

    #[test]
    fn a_write_goes_alone_if_nobody_drives_its_batch_any_more() {
        let (writes, write) = (PendingWrites::new(), write());
        let key = Key::new("s", "i").unwrap();
        let send = || writes.send(&key, &write, Duration::from_secs(1));
        assert!(send().is_none(), "nobody drives it yet");
        let driven = Driven::begin(&writes);
        let pending = [send(), send()].map(|replied| replied.expect("it is driven"));
        drop(driven);
        for replied in pending {
            assert!(matches!(replied.now_or_never(), Some(Ok(Reply::NotSent))));
        }
        assert!(send().is_none());
    }
}
