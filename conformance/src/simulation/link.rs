//! What lies between a client and the store: requests and replies that get lost, late, and through twice.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt as _;
use futures::channel::oneshot;
use futures::future::BoxFuture;

use super::oracle::{Applied, Oracle};
use super::rng::Rng;
use crate::Time;
use crate::erased::{AnyStore, Told};
use oncekey::protocol::{Entry, Expected, Key, Record};
use oncekey::store::{AtOnce, BatchPut, Exchange, Purged, Put, Store, StoreError, StoreErrorKind};
use std::sync::atomic::{AtomicUsize, Ordering};

use oncekey::time::{Clock as _, Moment};
use parking_lot::Mutex;

/// The store, and all that every client's link shares.
pub(super) struct Hub {
    pub(super) store: AnyStore,
    pub(super) time: Time,
    pub(super) oracle: Mutex<Oracle>,
    pub(super) rng: Mutex<Rng>,
    /// Copies of writes that are still under way.
    mail: Mutex<Vec<Letter>>,
    /// Calls on their way to the store.
    wire: Mutex<VecDeque<Job>>,
    /// The number of the call that is being polled; zero: a keeper.
    pub(super) polled: AtomicUsize,
    /// When that poll began.
    poll_began: Mutex<Moment>,
}

/// A call on its way to the store: carried out to its end, in the order sent, whoever waits for it. So what is seen to be
/// done is done in this order, also by a store that takes its time, or goes on when a call is dropped.
pub(super) type Job = BoxFuture<'static, ()>;

/// A write that was sent, given up, and arrives late.
struct Letter {
    item: Item,
    /// How many more calls it lies behind.
    behind: u64,
    /// It is not delivered before that.
    not_before: Moment,
    /// The call that sent it.
    call: usize,
}

/// One write, for whoever carries it.
pub(super) struct Item {
    pub(super) key: Key,
    pub(super) expected: Expected,
    pub(super) record: Record,
    pub(super) live: Duration,
    pub(super) linger: Duration,
}

impl Item {
    fn new(&BatchPut { key, expected, put, .. }: &BatchPut<'_>) -> Self {
        let Put { record, live, linger, .. } = put;
        Self { key: key.clone(), expected, record: record.clone(), live, linger }
    }

    fn put(&self) -> Put<'_> {
        Put::new(&self.record, self.live, self.linger)
    }
}

impl Hub {
    pub(super) fn new(store: AnyStore, time: Time, oracle: Oracle, seed: u64) -> Self {
        Self {
            poll_began: Mutex::new(time.now()),
            store,
            time,
            oracle: Mutex::new(oracle),
            rng: Mutex::new(Rng::new(seed)),
            mail: Mutex::new(Vec::new()),
            wire: Mutex::new(VecDeque::new()),
            polled: AtomicUsize::new(0),
        }
    }

    /// A task is polled now: that of this call, or of a keeper (zero).
    pub(super) fn polls(&self, call: usize) {
        self.polled.store(call, Ordering::SeqCst);
        *self.poll_began.lock() = self.time.now();
    }

    /// When the poll that is under way began. An engine that looks at its clock looks at it later; so a busy machine that
    /// puts this thread aside within the poll, on real time, is not taken for an engine that acts without a lease.
    pub(super) fn poll_began(&self) -> Moment {
        *self.poll_began.lock()
    }

    pub(super) fn note(&self, what: &'static str) {
        self.oracle.lock().note(what);
    }

    /// The next call to carry out.
    pub(super) fn next_job(&self) -> Option<Job> {
        self.wire.lock().pop_front()
    }

    async fn carried<T: Send + 'static>(&self, call: impl Future<Output = T> + Send + 'static) -> T {
        let (reply, answer) = oneshot::channel();
        // Whoever waited may be gone.
        let job = async move { drop(reply.send(call.await)) };
        self.wire.lock().push_back(job.boxed());
        answer.await.expect("what is on its way is carried out while anybody waits")
    }

    /// Applies a write, so many copies of it at once, and tells the oracle. The last answer is the answer: with a write of
    /// another in between, a store that gave it would break S5.
    async fn apply(
        self: &Arc<Self>,
        key: &Key,
        expected: Expected,
        put: Put<'_>,
        sent_by: Option<usize>,
        copies: u32,
    ) -> Result<Exchange, LinkError> {
        // What is done is done by the call that is being polled, unless an earlier one sent it.
        let call = sent_by.unwrap_or_else(|| self.polled.load(Ordering::SeqCst));
        let (hub, item) = (Arc::clone(self), Item::new(&BatchPut::new(key, expected, put)));
        self.carried(async move {
            let mut answer = Err(LinkError::lost());
            for _ in 0..copies {
                let sent = hub.time.now();
                let told = hub.store.compare_exchange(&item.key, item.expected, item.put()).await;
                let told = told.map_err(LinkError::of_store)?;
                hub.answered(&item, &told, sent, call);
                answer = Ok(told);
            }
            answer
        })
        .await
    }

    pub(super) fn answered(&self, item: &Item, answer: &Exchange, sent: Moment, call: usize) {
        if let Exchange::Done(version) = answer {
            let applied = Applied {
                record: &item.record,
                version: *version,
                expected: item.expected,
                live: item.live,
                linger: item.linger,
                sent,
                answered: self.time.now(),
                resolution: self.time.resolution(),
                call,
            };
            self.oracle.lock().applied(&item.key, &applied);
        }
    }

    /// The store's own batch.
    async fn apply_many(self: &Arc<Self>, batch: &[BatchPut<'_>]) -> Vec<Result<Exchange, LinkError>> {
        let call = self.polled.load(Ordering::SeqCst);
        let (hub, items) = (Arc::clone(self), batch.iter().map(Item::new).collect::<Vec<_>>());
        self.carried(async move {
            let sent = hub.time.now();
            let batch: Vec<_> =
                items.iter().map(|item| BatchPut::new(&item.key, item.expected, item.put())).collect();
            let answers = hub.store.compare_exchange_many(&batch).await;
            for (item, answer) in items.iter().zip(&answers) {
                if let Ok(answer) = answer {
                    hub.answered(item, answer, sent, call);
                }
            }
            answers.into_iter().map(|answer| answer.map_err(LinkError::of_store)).collect()
        })
        .await
    }

    async fn load(self: &Arc<Self>, key: &Key) -> Result<Option<Entry>, LinkError> {
        let (hub, key) = (Arc::clone(self), key.clone());
        self.carried(async move { hub.store.load(&key).await.map_err(LinkError::of_store) }).await
    }

    async fn purge(self: &Arc<Self>, limit: usize) -> Result<Purged, LinkError> {
        let hub = Arc::clone(self);
        self.carried(async move { hub.store.purge(limit).await.map_err(LinkError::of_store) }).await
    }

    /// Delivers what is due by now.
    async fn deliver(self: &Arc<Self>) {
        let due: Vec<_> = {
            let mut mail = self.mail.lock();
            for letter in mail.iter_mut() {
                letter.behind = letter.behind.saturating_sub(1);
            }
            let now = self.time.now();
            let is_due = |letter: &Letter| letter.behind == 0 && letter.not_before <= now;
            let (due, rest) = std::mem::take(&mut *mail).into_iter().partition(is_due);
            *mail = rest;
            due
        };
        for Letter { item, call, .. } in due {
            let answer = self.apply(&item.key, item.expected, item.put(), Some(call), 1).await;
            if let Ok(Exchange::Done(_)) = answer {
                self.note("a late copy of a write was applied");
            }
        }
    }

    /// A copy of a write is under way on its own.
    fn post(&self, key: &Key, expected: Expected, put: Put<'_>, behind: u64, later: Duration) {
        self.mail.lock().push(Letter {
            item: Item::new(&BatchPut::new(key, expected, put)),
            behind,
            not_before: self.time.now() + later,
            call: self.polled.load(Ordering::SeqCst),
        });
    }

    async fn sleep(&self, duration: Duration) {
        self.time.sleep_until(self.time.now() + duration).await;
    }
}

/// One client's way to the store.
pub(super) struct Link {
    pub(super) hub: Arc<Hub>,
    pub(super) state: Arc<Mutex<LinkState>>,
    /// The client is in the store's process, and has its short way.
    pub(super) short: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct LinkState {
    /// The client has crashed: nothing of it arrives any more.
    pub(super) cut: bool,
    /// Of a hundred calls, so many go wrong.
    pub(super) faults: u64,
    /// The unit of delays.
    pub(super) unit: Duration,
}

impl LinkState {
    /// Of a hundred calls within one process, so many are refused.
    pub(super) fn refused(self) -> u64 {
        self.faults / 4
    }
}

impl Link {
    /// A way through a network; or, at once, the short way of a store that has it.
    pub(super) fn new(hub: Arc<Hub>, state: Arc<Mutex<LinkState>>, at_once: bool) -> Self {
        let short = at_once && hub.store.at_once().is_some();
        Self { hub, state, short }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("state", &*self.state.lock()).finish_non_exhaustive()
    }
}

/// What becomes of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Well,
    /// Not applied, and the store says so.
    Refused,
    RequestLost,
    ReplyLost,
    LateBefore(u64),
    LateAfter(u64),
    Twice,
    /// Given up, and applied so many calls later.
    Mailed(u64),
    /// Applied and answered, and a copy arrives so much later: when its record may be gone.
    Echoed(u64),
    NeverAnswered,
}

impl Link {
    async fn fate(&self) -> Fate {
        let state = *self.state.lock();
        if state.cut {
            std::future::pending::<()>().await;
        }
        let mut rng = self.hub.rng.lock();
        if self.short {
            return if rng.percent(state.refused()) { Fate::Refused } else { Fate::Well };
        }
        if !rng.percent(state.faults) {
            return Fate::Well;
        }
        match rng.below(18) {
            0 => Fate::Refused,
            1..=2 => Fate::RequestLost,
            3..=6 => Fate::ReplyLost,
            7..=8 => Fate::LateBefore(1 + rng.below(8)),
            9..=10 => Fate::LateAfter(1 + rng.below(8)),
            // Past the lease.
            11 => Fate::LateAfter(40),
            12..=13 => Fate::Twice,
            14 => Fate::Mailed(1 + rng.below(12)),
            15..=16 => Fate::Echoed(rng.below(260)),
            _ => Fate::NeverAnswered,
        }
    }

    /// A quarter of a unit.
    fn quarters(&self, count: u64) -> Duration {
        self.state.lock().unit * u32::try_from(count).expect("delays are short") / 4
    }

    /// The reply arrives, unless the client has crashed meanwhile.
    async fn reply<T>(&self, answer: T) -> T {
        if self.state.lock().cut {
            std::future::pending::<()>().await;
        }
        answer
    }
}

#[async_trait]
impl Store for Link {
    type Error = LinkError;

    async fn load(&self, key: &Key) -> Result<Option<Entry>, LinkError> {
        self.hub.deliver().await;
        match self.fate().await {
            Fate::Well | Fate::Twice | Fate::Echoed(_) => {}
            Fate::Refused | Fate::RequestLost | Fate::ReplyLost | Fate::Mailed(_) => {
                return Err(LinkError::lost());
            }
            Fate::LateBefore(delay) => self.hub.sleep(self.quarters(delay)).await,
            Fate::LateAfter(delay) => {
                let answer = self.hub.load(key).await;
                self.hub.sleep(self.quarters(delay)).await;
                return self.reply(answer).await;
            }
            Fate::NeverAnswered => std::future::pending().await,
        }
        let answer = self.hub.load(key).await;
        self.reply(answer).await
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Expected,
        put: Put<'_>,
    ) -> Result<Exchange, LinkError> {
        self.hub.deliver().await;
        let fate = self.fate().await;
        self.carry(fate, key, expected, put).await
    }

    /// Each item has a fate of its own; those that fare well go in one batch.
    async fn compare_exchange_many(&self, batch: &[BatchPut<'_>]) -> Vec<Result<Exchange, LinkError>> {
        self.hub.deliver().await;
        let mut fates = Vec::with_capacity(batch.len());
        for _ in batch {
            fates.push(self.fate().await);
        }
        let well: Vec<_> = batch
            .iter()
            .zip(&fates)
            .filter(|(_, fate)| **fate == Fate::Well)
            .map(|(item, _)| *item)
            .collect();
        if !well.is_empty() {
            self.hub.note("a batch");
        }
        let mut answers = self.hub.apply_many(&well).await.into_iter();
        let mut merged = Vec::with_capacity(batch.len());
        for (item, fate) in batch.iter().zip(fates) {
            merged.push(match fate {
                Fate::Well => answers.next().unwrap_or_else(|| Err(LinkError::lost())),
                fate => self.carry(fate, item.key, item.expected, item.put).await,
            });
        }
        self.reply(merged).await
    }

    async fn purge(&self, limit: usize) -> Result<Purged, LinkError> {
        self.hub.purge(limit).await
    }

    fn at_once(&self) -> Option<&dyn AtOnce<Error = LinkError>> {
        self.short.then_some(self)
    }
}

impl Link {
    /// One write, with its fate.
    async fn carry(
        &self,
        fate: Fate,
        key: &Key,
        expected: Expected,
        put: Put<'_>,
    ) -> Result<Exchange, LinkError> {
        match fate {
            Fate::Refused => return Err(LinkError::refused()),
            Fate::RequestLost => return Err(LinkError::lost()),
            Fate::LateBefore(delay) => self.hub.sleep(self.quarters(delay)).await,
            Fate::Mailed(behind) => {
                self.hub.post(key, expected, put, behind, Duration::ZERO);
                return Err(LinkError::lost());
            }
            Fate::Echoed(delay) => self.hub.post(key, expected, put, 1, self.quarters(delay)),
            Fate::Well | Fate::ReplyLost | Fate::LateAfter(_) | Fate::Twice | Fate::NeverAnswered => {}
        }
        if self.state.lock().cut {
            std::future::pending::<()>().await;
        }
        let copies = if fate == Fate::Twice { 2 } else { 1 };
        let mut answer = self.hub.apply(key, expected, put, None, copies).await;
        match fate {
            Fate::ReplyLost => answer = Err(LinkError::lost()),
            Fate::LateAfter(delay) => self.hub.sleep(self.quarters(delay)).await,
            Fate::NeverAnswered => std::future::pending().await,
            _ => {}
        }
        self.reply(answer).await
    }
}

/// A call that went wrong on its way.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}; maybe applied: {maybe_applied}")]
pub(super) struct LinkError {
    maybe_applied: bool,
    what: String,
}

impl LinkError {
    pub(super) fn refused() -> Self {
        Self { maybe_applied: false, what: "refused".into() }
    }

    fn lost() -> Self {
        Self { maybe_applied: true, what: "lost on its way".into() }
    }

    pub(super) fn of_store(error: Told) -> Self {
        Self { maybe_applied: error.maybe_applied, what: error.what }
    }
}

impl StoreError for LinkError {
    fn maybe_applied(&self) -> bool {
        self.maybe_applied
    }

    fn kind(&self) -> StoreErrorKind {
        StoreErrorKind::Unavailable
    }
}
