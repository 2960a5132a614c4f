//! What lies between a client and the store: requests and replies that get lost, late, and through twice.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::oracle::Oracle;
use super::rng::Rng;
use crate::conformance::Time;
use crate::conformance::erased::{AnyStore, Told};
use crate::protocol::{Entry, Expected, Key, Record};
use crate::store::{Exchange, Purged, Put, Store, StoreError, StoreErrorKind};
use crate::sync::{AtomicUsize, Mutex, Ordering};
use crate::time::Clock as _;

/// The store, and all that every client's link shares.
pub(super) struct Hub {
    pub(super) store: AnyStore,
    pub(super) time: Time,
    pub(super) oracle: Mutex<Oracle>,
    pub(super) rng: Mutex<Rng>,
    /// Copies of writes that are still under way.
    mail: Mutex<Vec<Letter>>,
    /// Calls that the store has not answered yet.
    pub(super) in_flight: AtomicUsize,
}

/// A write that was sent, given up, and arrives late.
struct Letter {
    key: Key,
    expected: Expected,
    record: Record,
    live: Duration,
    linger: Duration,
    /// How many more calls it lies behind.
    behind: u64,
}

impl Hub {
    pub(super) fn new(store: AnyStore, time: Time, oracle: Oracle, seed: u64) -> Self {
        Self {
            store,
            time,
            oracle: Mutex::new(oracle),
            rng: Mutex::new(Rng::new(seed)),
            mail: Mutex::new(Vec::new()),
            in_flight: AtomicUsize::new(0),
        }
    }

    pub(super) fn note(&self, what: &'static str) {
        self.oracle.lock().note(what);
    }

    /// Applies a write, and tells the oracle.
    async fn apply(&self, key: &Key, expected: Expected, put: Put<'_>) -> Result<Exchange, LinkError> {
        let _answering = Answering::new(&self.in_flight);
        let answer = self.store.compare_exchange(key, expected, put).await.map_err(LinkError::of_store)?;
        if let Exchange::Done(version) = &answer {
            let now = self.time.now();
            let lives = (now + put.live, now + put.live + put.linger);
            self.oracle.lock().applied(key, put.record, *version, now, lives);
        }
        Ok(answer)
    }

    async fn load(&self, key: &Key) -> Result<Option<Entry>, LinkError> {
        let _answering = Answering::new(&self.in_flight);
        self.store.load(key).await.map_err(LinkError::of_store)
    }

    /// Delivers what is due by now.
    async fn deliver(&self) {
        let due: Vec<_> = {
            let mut mail = self.mail.lock();
            for letter in mail.iter_mut() {
                letter.behind = letter.behind.saturating_sub(1);
            }
            let (due, rest) = std::mem::take(&mut *mail).into_iter().partition(|letter| letter.behind == 0);
            *mail = rest;
            due
        };
        for Letter { key, expected, record, live, linger, .. } in due {
            let answer = self.apply(&key, expected, Put::new(&record, live, linger)).await;
            if let Ok(Exchange::Done(_)) = answer {
                self.note("a late copy of a write was applied");
            }
        }
    }

    async fn sleep(&self, duration: Duration) {
        self.time.sleep_until(self.time.now() + duration).await;
    }
}

struct Answering<'a>(&'a AtomicUsize);

impl<'a> Answering<'a> {
    fn new(in_flight: &'a AtomicUsize) -> Self {
        in_flight.fetch_add(1, Ordering::SeqCst);
        Self(in_flight)
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One client's way to the store.
pub(super) struct Link {
    hub: Arc<Hub>,
    state: Arc<Mutex<LinkState>>,
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

impl Link {
    pub(super) fn new(hub: Arc<Hub>, state: Arc<Mutex<LinkState>>) -> Self {
        Self { hub, state }
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
    NeverAnswered,
}

impl Link {
    async fn fate(&self) -> Fate {
        let state = *self.state.lock();
        if state.cut {
            std::future::pending::<()>().await;
        }
        let mut rng = self.hub.rng.lock();
        if !rng.percent(state.faults) {
            return Fate::Well;
        }
        match rng.below(16) {
            0 => Fate::Refused,
            1..=2 => Fate::RequestLost,
            3..=6 => Fate::ReplyLost,
            7..=8 => Fate::LateBefore(1 + rng.below(4)),
            9..=10 => Fate::LateAfter(1 + rng.below(4)),
            // Past the lease.
            11 => Fate::LateAfter(40),
            12..=13 => Fate::Twice,
            14 => Fate::Mailed(1 + rng.below(12)),
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
            Fate::Well | Fate::Twice => {}
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
        match fate {
            Fate::Refused => return Err(LinkError { maybe_applied: false, what: "refused".into() }),
            Fate::RequestLost => return Err(LinkError::lost()),
            Fate::LateBefore(delay) => self.hub.sleep(self.quarters(delay)).await,
            Fate::Mailed(behind) => {
                let record = put.record.clone();
                let letter =
                    Letter { key: key.clone(), expected, record, live: put.live, linger: put.linger, behind };
                self.hub.mail.lock().push(letter);
                return Err(LinkError::lost());
            }
            Fate::Well | Fate::ReplyLost | Fate::LateAfter(_) | Fate::Twice | Fate::NeverAnswered => {}
        }
        if self.state.lock().cut {
            std::future::pending::<()>().await;
        }
        let mut answer = self.hub.apply(key, expected, put).await;
        match fate {
            Fate::ReplyLost => answer = Err(LinkError::lost()),
            Fate::LateAfter(delay) => self.hub.sleep(self.quarters(delay)).await,
            Fate::Twice => answer = self.hub.apply(key, expected, put).await,
            Fate::NeverAnswered => std::future::pending().await,
            _ => {}
        }
        self.reply(answer).await
    }

    async fn purge(&self, limit: usize) -> Result<Purged, LinkError> {
        self.hub.store.purge(limit).await.map_err(LinkError::of_store)
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
    fn lost() -> Self {
        Self { maybe_applied: true, what: "lost on its way".into() }
    }

    fn of_store(error: Told) -> Self {
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
