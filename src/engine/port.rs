//! The one place where a command is applied to a key: decide, send, meet a conflict and decide again; after a lost reply send
//! again; back off, and give up in time. Calls to the store are bounded, timed and told of here.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::future::BoxFuture;

use super::options::Options;
use crate::observe::{Event, StoreCall};
use crate::protocol::{Command, Decision, Entry, Key, UnixMillis, Write, decide};
use crate::store::{
    AtOnce, BatchPut, Exchange, Put, Step, StepPut, Store, StoreError, StoreErrorKind, StoreFailure,
};
use crate::time::{Clock, Moment};

/// How often a command meets a conflict before the store is said to contradict itself.
pub(super) const CONFLICTS_MAX: u32 = 32;

/// The pause after a store's first failure, and the longest one; both less under a short lease.
const BACKOFF_FIRST: Duration = Duration::from_millis(25);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// The way to a store.
pub(crate) struct Port<S> {
    pub(super) store: S,
    pub(super) options: Arc<Options>,
    /// The store reads the engine's clock, in its atomic step.
    one_clock: bool,
}

/// What is known of a key before a command is applied to it.
pub(super) enum Start {
    /// This was there, by the answer to a request sent then. A claim that knows nothing takes the key for vacant: to look
    /// first would cost a round trip.
    Known(Option<Entry>, Moment),
    /// Nothing: look.
    Look,
    /// As `Known`, and a try has failed already.
    After(StoreFailure, Option<Entry>),
}

/// What came of a command. `sent` is the moment before the request was sent whose answer says so: deadlines count from
/// there, and from nowhere else.
pub(super) enum Applied<V> {
    /// Its write is on record, as this entry.
    Written { entry: Entry, sent: Moment },
    /// There was nothing to write. `unknown`: a copy of its write, sent before, may have been applied all the same.
    Answered { verdict: V, entry: Option<Entry>, sent: Moment, unknown: bool },
}

/// Why nothing came of a command.
pub(super) enum Unapplied {
    /// The store failed until it was given up. Its last failure; a copy of the write may have been applied.
    Store(StoreFailure),
    /// The store contradicts itself.
    Inconsistent,
    /// It must not be sent any more.
    Withdrawn,
}

/// What is particular to a command's caller: how it sends, what it remembers, and when it gives up.
pub(super) trait Terms: Sync {
    /// Sends one write, and waits for its answer as long as is good for this caller. `until` is what
    /// [`until`](Self::until) says of the stretch that this is a part of.
    fn exchange(
        &self,
        key: &Key,
        write: &Write,
        sent: Moment,
        until: Moment,
    ) -> impl Future<Output = Result<Exchange, StoreFailure>> + Send;

    /// Whether the command may still be sent.
    fn may_send(&self) -> bool {
        true
    }

    /// Whether a copy of its write, sent by a call before this one, may have been applied.
    fn was_unanswered(&self) -> bool {
        false
    }

    /// A write is about to be sent: until it is answered it may have been applied. Whether that was so before.
    fn sending(&self) -> bool {
        false
    }

    /// The answer to what was sent, if it says for sure whether that was applied. `before` is what `sending` said.
    fn answered(&self, before: bool, done: bool) {
        let _ = (before, done);
    }

    /// Whether what a conflict found is this very write, whose reply was lost if `unknown`.
    fn is_own(&self, write: &Write, found: &Entry, unknown: bool) -> bool;

    /// When a stretch of tries is given up that began then, and that the store answers none of.
    fn until(&self, since: Moment) -> Moment;

    /// How long to pause after a failure, in a stretch that is given up at `until`; `None`: give up now.
    fn pause(&self, until: Moment, backoff: Duration) -> Option<Duration>;

    /// Sleeps until then, or until there is no use in it.
    fn sleep(&self, until: Moment) -> BoxFuture<'_, ()>;
}

/// A stretch of a call in which the store answered nothing.
struct Unanswered {
    until: Moment,
    backoff: Duration,
    /// What the store's last error was. A try that is cut short by the end of the stretch says less.
    cause: Option<StoreFailure>,
}

impl<S: Store> Port<S> {
    pub(super) fn new(store: S, options: Arc<Options>) -> Self {
        let timeline = store.at_once().and_then(AtOnce::timeline);
        let one_clock = timeline.is_some() && timeline == options.clock.timeline();
        Self { store, options, one_clock }
    }

    /// Applies `command` to `key`. `now` is a reading of the clock just taken.
    ///
    /// # Cancel safety
    /// If dropped, what was sent last may have been applied: the terms were told of it before.
    pub(super) async fn apply<C: Command + Sync>(
        &self,
        key: &Key,
        command: &C,
        start: Start,
        now: Moment,
        terms: &impl Terms,
    ) -> Result<Applied<C::Verdict>, Unapplied>
    where
        C::Verdict: Send,
    {
        let mut sent = now;
        let mut stretch = self.stretch(now, terms);
        // When the request was sent whose answer `found` is.
        let (mut found, mut found_sent) = match start {
            Start::Known(found, sent) => (found, sent),
            Start::After(failure, found) => {
                self.failed(key, failure, &mut stretch, terms).await.map_err(Unapplied::Store)?;
                sent = self.clock().now();
                (found, now)
            }
            Start::Look => {
                let looked = self.look_from(key, now, terms).await.map_err(Unapplied::Store)?;
                sent = self.clock().now();
                stretch = self.stretch(sent, terms);
                looked
            }
        };
        let (mut conflicts, mut unknown) = (0, terms.was_unanswered());
        loop {
            if !terms.may_send() {
                return Err(Unapplied::Withdrawn);
            }
            let write = match decide(found.as_ref(), command, &self.options.lifetimes) {
                Decision::Write(write) => write,
                Decision::Answer(verdict) => {
                    return Ok(Applied::Answered { verdict, entry: found, sent: found_sent, unknown });
                }
            };
            if self.is_at_once() {
                // Should the store panic, nobody knows what was done.
                let before = terms.sending();
                let applied = self.at_once(key, &mut &*command, |_, _, _| {});
                terms.answered(before, matches!(applied, Some(Ok(Applied::Written { .. }))));
                match applied {
                    None => {}
                    Some(Err(Unapplied::Store(failure))) => {
                        self.failed(key, failure, &mut stretch, terms).await.map_err(Unapplied::Store)?;
                        sent = self.clock().now();
                        continue;
                    }
                    Some(applied) => return applied,
                }
            }
            let before = terms.sending();
            match terms.exchange(key, &write, sent, stretch.until).await {
                Ok(Exchange::Done(version)) => {
                    terms.answered(before, true);
                    let entry = Entry { record: write.record, version, left: write.live };
                    return Ok(Applied::Written { entry, sent });
                }
                Ok(Exchange::Conflict(there)) => {
                    terms.answered(before, false);
                    conflicts += 1;
                    if conflicts > CONFLICTS_MAX {
                        return Err(Unapplied::Inconsistent);
                    }
                    match there {
                        Some(entry) if terms.is_own(&write, &entry, unknown) => {
                            return Ok(Applied::Written { entry, sent });
                        }
                        // A conflict with nothing, on a key expected to be vacant, is tried again as it is.
                        there => (found, found_sent) = (there, sent),
                    }
                    sent = self.clock().now();
                    stretch = self.stretch(sent, terms);
                }
                Err(failure) => {
                    if !failure.maybe_applied() {
                        terms.answered(before, false);
                    }
                    unknown |= failure.maybe_applied();
                    self.failed(key, failure, &mut stretch, terms)
                        .await
                        .map_err(|failure| Unapplied::Store(failure.or_applied(unknown)))?;
                    sent = self.clock().now();
                }
            }
        }
    }

    /// Whether the store has the short way.
    #[inline]
    pub(super) fn is_at_once(&self) -> bool {
        self.store.at_once().is_some()
    }

    /// One try of the short way, where the store has one.
    ///
    /// `ready` makes the command ready for what is there. It may be asked more than once, and runs under the store's lock.
    #[inline]
    pub(super) fn at_once<C: Command + Send>(
        &self,
        key: &Key,
        command: &mut C,
        ready: impl FnMut(&mut C, Option<&Entry>, Reading) + Send,
    ) -> Option<Result<Applied<C::Verdict>, Unapplied>>
    where
        C::Verdict: Send,
    {
        let store = self.store.at_once()?;
        // A clock of the user's is not read under the store's lock.
        let reading = if self.one_clock { Reading::default() } else { Reading::of(self.clock()) };
        let (options, one_clock) = (&*self.options, self.one_clock);
        let mut step = Decided { command, ready, options, one_clock, reading, found: None, verdict: None };
        let updated = store.update(key, &mut step);
        let Decided { reading, found, verdict, .. } = step;
        let sent = reading.now;
        Some(match (updated, verdict) {
            (Ok(Some(entry)), None) => Ok(Applied::Written { entry, sent }),
            (Ok(None), Some(verdict)) => {
                Ok(Applied::Answered { verdict, entry: found, sent, unknown: false })
            }
            (Ok(_), _) => Err(Unapplied::Inconsistent),
            (Err(error), _) => Err(Unapplied::Store(StoreFailure::new(error).without_effect())),
        })
    }

    /// What is on record.
    pub(super) async fn look(&self, key: &Key, terms: &impl Terms) -> Result<Option<Entry>, StoreFailure> {
        self.look_from(key, self.clock().now(), terms).await.map(|(entry, _)| entry)
    }

    /// What is on record, and the moment before the request was sent whose answer that is.
    async fn look_from(
        &self,
        key: &Key,
        mut sent: Moment,
        terms: &impl Terms,
    ) -> Result<(Option<Entry>, Moment), StoreFailure> {
        let mut stretch = self.stretch(sent, terms);
        loop {
            let timeout = self.options.store_timeout.min(stretch.until.saturating_since(sent));
            match self.load(key, timeout).await {
                Ok(entry) => return Ok((entry, sent)),
                Err(failure) => self.failed(key, failure, &mut stretch, terms).await?,
            }
            sent = self.clock().now();
        }
    }

    /// Tells of a failure, and pauses after it or gives up.
    async fn failed(
        &self,
        key: &Key,
        failure: StoreFailure,
        stretch: &mut Unanswered,
        terms: &impl Terms,
    ) -> Result<(), StoreFailure> {
        let pause = terms.pause(stretch.until, stretch.backoff);
        let retry_in = pause.filter(|_| failure.kind().is_transient());
        if let Some(observer) = &self.options.observer {
            observer.event(key, &Event::StoreFailed { failure: &failure, retry_in });
        }
        let given = failure.unanswered_for();
        let Some(pause) = retry_in else {
            let is_cut_short = given.is_some_and(|given| given < self.options.store_timeout);
            return Err(match stretch.cause.take() {
                Some(cause) if is_cut_short => cause.or_applied(failure.maybe_applied()),
                _ => failure,
            });
        };
        if given.is_none() {
            stretch.cause = Some(failure);
        }
        terms.sleep(self.clock().now() + pause).await;
        stretch.backoff = (stretch.backoff * 2).min(BACKOFF_MAX).min(self.options.lifetimes.lease / 5);
        Ok(())
    }

    fn stretch(&self, since: Moment, terms: &impl Terms) -> Unanswered {
        Unanswered { until: terms.until(since), backoff: self.first_backoff(), cause: None }
    }

    /// The pause before the next try of a call that is given up at `until`, if there is time for both: a try with no time
    /// left would be sent, and nobody would hear its answer.
    pub(super) fn pause_within(&self, until: Moment, backoff: Duration) -> Option<Duration> {
        (backoff * 2 < until.saturating_since(self.clock().now())).then_some(backoff)
    }

    pub(super) fn first_backoff(&self) -> Duration {
        BACKOFF_FIRST.min(self.options.lifetimes.lease / 20)
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.options.clock
    }

    pub(super) async fn load(&self, key: &Key, timeout: Duration) -> Result<Option<Entry>, StoreFailure> {
        let begun = self.timing();
        let answer = self.in_time(timeout, self.store.load(key)).await;
        let answer = answer.and_then(|answer| answer.map_err(StoreFailure::new));
        self.timed(begun, "load", 1, answer.as_ref().err());
        answer.map_err(StoreFailure::without_effect)
    }

    pub(super) async fn exchange(
        &self,
        timeout: Duration,
        key: &Key,
        write: &Write,
    ) -> Result<Exchange, StoreFailure> {
        let put = Put::new(&write.record, write.live, write.linger);
        let begun = self.timing();
        let answer = self.in_time(timeout, self.store.compare_exchange(key, write.expected, put)).await;
        let answer = answer.and_then(|answer| answer.map_err(StoreFailure::new));
        self.timed(begun, "compare_exchange", 1, answer.as_ref().err());
        answer
    }

    /// One answer per item, in order, whatever happens.
    pub(super) async fn exchange_many(
        &self,
        timeout: Duration,
        batch: &[BatchPut<'_>],
    ) -> Vec<Result<Exchange, StoreFailure>> {
        let lost = |failure: &StoreFailure| batch.iter().map(|_| Err(failure.clone())).collect();
        let begun = self.timing();
        let answers: Vec<_> = match self.in_time(timeout, self.store.compare_exchange_many(batch)).await {
            Err(failure) => lost(&failure),
            Ok(answers) if answers.len() != batch.len() => lost(&StoreFailure::new(WrongCount)),
            Ok(answers) => answers.into_iter().map(|answer| answer.map_err(StoreFailure::new)).collect(),
        };
        let failure = answers.iter().find_map(|answer| answer.as_ref().err());
        self.timed(begun, "compare_exchange_many", batch.len(), failure);
        answers
    }

    /// What a call to the store answers, if it does within this time.
    pub(super) async fn in_time<T>(
        &self,
        timeout: Duration,
        call: BoxFuture<'_, T>,
    ) -> Result<T, StoreFailure> {
        self.within(timeout, call).await.ok_or_else(|| StoreFailure::timed_out(timeout))
    }

    /// What a call answers within this time. The timer is started only when the call does not answer at once.
    pub(super) async fn within<T>(&self, timeout: Duration, mut call: BoxFuture<'_, T>) -> Option<T> {
        let mut timer: Option<BoxFuture<'static, ()>> = None;
        poll_fn(|cx| {
            if let Poll::Ready(answer) = call.as_mut().poll(cx) {
                return Poll::Ready(Some(answer));
            }
            let timer = timer.get_or_insert_with(|| self.clock().sleep_until(self.clock().now() + timeout));
            timer.as_mut().poll(cx).map(|()| None)
        })
        .await
    }

    /// When a call to the store begins, if somebody wants to know how long it takes.
    fn timing(&self) -> Option<Moment> {
        self.options.observer.as_ref().map(|_| self.clock().now())
    }

    fn timed(
        &self,
        begun: Option<Moment>,
        method: &'static str,
        keys: usize,
        failure: Option<&StoreFailure>,
    ) {
        if let (Some(observer), Some(begun)) = (&self.options.observer, begun) {
            let took = self.clock().now().saturating_since(begun);
            observer.store_call(&StoreCall { method, keys, took, failure: failure.map(StoreFailure::kind) });
        }
    }
}

/// A look at the engine's clock.
#[derive(Clone, Copy, Default)]
pub(super) struct Reading {
    pub(super) now: Moment,
    pub(super) unix: UnixMillis,
}

impl Reading {
    fn of(clock: &dyn Clock) -> Self {
        let now = clock.now();
        Self { now, unix: clock.unix(now) }
    }
}

/// A command, as a store asks it in one atomic step.
struct Decided<'c, C: Command, F> {
    command: &'c mut C,
    ready: F,
    options: &'c Options,
    one_clock: bool,
    reading: Reading,
    found: Option<Entry>,
    verdict: Option<C::Verdict>,
}

impl<C: Command, F: FnMut(&mut C, Option<&Entry>, Reading)> Step for Decided<'_, C, F> {
    fn next(&mut self, found: Option<Entry>) -> Option<StepPut<'_>> {
        self.found = found;
        self.verdict = None;
        (self.ready)(self.command, self.found.as_ref(), self.reading);
        match self.command.plan(self.found.as_ref(), &self.options.lifetimes) {
            Decision::Write(Write { record, live, linger, .. }) => Some(StepPut::new(record, live, linger)),
            Decision::Answer(verdict) => {
                self.verdict = Some(verdict);
                None
            }
        }
    }

    fn read_at(&mut self, now: Moment) {
        if self.one_clock {
            self.reading = Reading { now, unix: self.options.clock.unix(now) };
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the store did not answer one verdict per item of a batch")]
struct WrongCount;

impl StoreError for WrongCount {
    fn maybe_applied(&self) -> bool {
        true
    }

    fn kind(&self) -> StoreErrorKind {
        StoreErrorKind::Other
    }
}
