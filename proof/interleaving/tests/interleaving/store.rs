//! The store of the models: the embedded one, which takes its time or breaks its contract where a test says so.

use std::future::poll_fn;
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use oncekey::memory::MemoryError;
use oncekey::protocol::{Entry, Expected, State, Version};
use oncekey::store::{AtOnce, Exchange, Put, Step, StepPut, load_at_once};
use oncekey::time::ManualClock;
use oncekey::{Key, MemoryStore, Store};

/// The bug that this process was started to find, if any.
pub(crate) fn planted(bug: &str) -> bool {
    std::env::var_os("ONCEKEY_PLANT").is_some_and(|planted| planted == bug)
}

/// A memory store with one lock, so that a run depends on no random hash, which breaks its contract if a bug is planted.
/// It is asked by exchanges, unless a model says that it offers the short way.
pub(crate) struct ModelStore {
    inner: MemoryStore,
    checks_apart: bool,
    ignores_versions: bool,
    leaves_a_gap: bool,
    /// Where the next write of a claim's holder stays until its caller is polled again.
    stall: Mutex<Option<Stall>>,
    /// The next load is never answered.
    hangs: Mutex<bool>,
    pause: Option<fn() -> u32>,
    short: bool,
}

/// Where a write stops in the middle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stall {
    /// It is not applied yet.
    Before,
    /// It is applied, and its answer is not there yet.
    After,
}

impl ModelStore {
    pub(crate) fn new(clock: &ManualClock) -> Self {
        Self {
            inner: MemoryStore::builder().shards(NonZeroUsize::MIN).clock(clock.clone()).build(),
            checks_apart: planted("store: check and write under two locks"),
            ignores_versions: planted("store: versions are not compared"),
            leaves_a_gap: planted("store: a completion removes first and writes second"),
            stall: Mutex::new(None),
            hangs: Mutex::new(false),
            pause: None,
            short: false,
        }
    }

    /// The same, with the short way. No call of it is pending.
    #[cfg(oncekey_loom)]
    pub(crate) fn at_once(clock: &ManualClock) -> Self {
        Self { short: true, ..Self::new(clock) }
    }

    /// The same, with `pause` to say how many polls each call is pending before it is applied, and again before it
    /// answers.
    #[cfg(oncekey_shuttle)]
    pub(crate) fn pausing(clock: &ManualClock, pause: fn() -> u32) -> Self {
        Self { pause: Some(pause), ..Self::new(clock) }
    }

    /// Stops the next write of a claim's holder, once.
    #[cfg(oncekey_loom)]
    pub(crate) fn stall_next_write(&self, at: Stall) {
        *self.stall.lock().unwrap() = Some(at);
    }

    /// Whether a write that was to be stopped is yet to come.
    #[cfg(oncekey_loom)]
    pub(crate) fn is_to_stall(&self) -> bool {
        self.stall.lock().unwrap().is_some()
    }

    /// Never answers the next load.
    #[cfg(oncekey_loom)]
    pub(crate) fn hang_next_load(&self) {
        *self.hangs.lock().unwrap() = true;
    }

    /// Whether a load that is to hang is yet to come.
    #[cfg(oncekey_loom)]
    pub(crate) fn is_to_hang(&self) -> bool {
        *self.hangs.lock().unwrap()
    }

    async fn takes_its_time(&self) {
        if let Some(polls) = self.pause {
            pend(polls()).await;
        }
    }

    async fn put_whatever_is_there(&self, key: &Key, put: Put<'_>) -> Result<Exchange, MemoryError> {
        loop {
            let expected = match self.inner.load(key).await? {
                Some(entry) => Expected::At(entry.version),
                None => Expected::Vacant,
            };
            if let Exchange::Done(version) = self.inner.compare_exchange(key, expected, put).await? {
                return Ok(Exchange::Done(version));
            }
        }
    }

    async fn exchange(&self, key: &Key, expected: Expected, put: Put<'_>) -> Result<Exchange, MemoryError> {
        if self.checks_apart {
            let found = self.inner.load(key).await?;
            let version: Option<Version> = found.as_ref().map(|entry| entry.version);
            let as_expected = match expected {
                Expected::Vacant => version.is_none(),
                Expected::At(expected) => version == Some(expected),
            };
            if !as_expected {
                return Ok(Exchange::Conflict(found));
            }
            return self.put_whatever_is_there(key, put).await;
        }
        if self.ignores_versions && expected != Expected::Vacant {
            return self.put_whatever_is_there(key, put).await;
        }
        if self.leaves_a_gap && matches!(put.record.state(), State::Completed(_)) {
            let removal = Put::new(put.record, Duration::ZERO, Duration::ZERO);
            return match self.inner.compare_exchange(key, expected, removal).await? {
                Exchange::Done(_) => self.put_whatever_is_there(key, put).await,
                conflict => Ok(conflict),
            };
        }
        self.inner.compare_exchange(key, expected, put).await
    }
}

#[async_trait]
impl Store for ModelStore {
    type Error = MemoryError;

    async fn load(&self, key: &Key) -> Result<Option<Entry>, MemoryError> {
        if std::mem::take(&mut *self.hangs.lock().unwrap()) {
            std::future::pending::<()>().await;
        }
        self.takes_its_time().await;
        let entry = self.inner.load(key).await;
        self.takes_its_time().await;
        entry
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Expected,
        put: Put<'_>,
    ) -> Result<Exchange, MemoryError> {
        let stall = if expected == Expected::Vacant { None } else { self.stall.lock().unwrap().take() };
        self.takes_its_time().await;
        if stall == Some(Stall::Before) {
            stay().await;
        }
        let answer = self.exchange(key, expected, put).await;
        if stall == Some(Stall::After) {
            stay().await;
        }
        self.takes_its_time().await;
        answer
    }

    fn at_once(&self) -> Option<&dyn AtOnce<Error = MemoryError>> {
        self.short.then_some(self)
    }
}

impl AtOnce for ModelStore {
    type Error = MemoryError;

    fn update(&self, key: &Key, step: &mut (dyn Step + Send)) -> Result<Option<Entry>, MemoryError> {
        if self.checks_apart {
            let found = load_at_once(&self.inner, key)?;
            return self.inner.update(key, &mut Before { step, found });
        }
        self.inner.update(key, step)
    }
}

/// A step that goes by what was found before.
struct Before<'s> {
    step: &'s mut (dyn Step + Send),
    found: Option<Entry>,
}

impl Step for Before<'_> {
    fn next(&mut self, _: Option<Entry>) -> Option<StepPut<'_>> {
        self.step.next(self.found.clone())
    }
}

/// Pending for so many polls, as an operation or a store that awaits something is.
pub(crate) async fn pend(mut polls: u32) {
    poll_fn(|cx| {
        if polls == 0 {
            return Poll::Ready(());
        }
        polls -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Pending until polled again, without asking for it.
async fn stay() {
    let mut stayed = false;
    poll_fn(|_| if std::mem::replace(&mut stayed, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}
