//! A call that waits for whoever holds its key.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;

use super::claiming::{Ask, Claimed};
use super::waiters::{Next, Waiter};
use crate::engine::error::Error;
use crate::engine::inner::Inner;
use crate::engine::port::Start;
use crate::observe::Event;
use crate::protocol::{Entry, Found, Status};
use crate::store::{Store, StoreFailure};
use crate::time::{Clock, Moment};

/// A call among those who wait for its key, until something else than "in progress" can be said or its bound is reached.
pub(in crate::engine) struct Wait<'a, S: Store + 'static> {
    engine: &'a Arc<Inner<S>>,
    ask: &'a Ask,
    _told: ToldOfEnd<'a, S>,
    waiter: Waiter<'a>,
    bound: Option<BoxFuture<'static, ()>>,
    /// The sleep until the next look, while this call is the one that looks.
    pause: Option<(Moment, BoxFuture<'static, ()>)>,
    /// Whether this call gave its thread away since its last look began.
    gave_way: bool,
    /// The latest entry in progress that this call knows of, and when its `left` was true.
    seen: Entry,
    seen_at: Moment,
}

/// How a look ended.
enum Looked {
    Found(Result<Option<Entry>, StoreFailure>),
    /// Something was heard first.
    Update(Arc<Entry>),
    OutOfTime,
}

/// Tells the observer when a wait is over, however it ends.
struct ToldOfEnd<'a, S: Store + 'static> {
    engine: &'a Arc<Inner<S>>,
    ask: &'a Ask,
}

impl<S: Store + 'static> Drop for ToldOfEnd<'_, S> {
    fn drop(&mut self) {
        self.engine.tell_in_drop(&self.ask.key, || Event::Waited);
    }
}

impl<'a, S: Store + 'static> Wait<'a, S> {
    pub(in crate::engine) fn begin(
        engine: &'a Arc<Inner<S>>,
        ask: &'a Ask,
        seen: Entry,
        until: Moment,
    ) -> Self {
        engine.tell(&ask.key, || Event::Waiting);
        let _told = ToldOfEnd { engine, ask };
        let clock = engine.clock();
        let waiter = engine.waiters.join(&ask.key, engine.options.poll_min);
        let bound = (until != Moment::NEVER).then(|| clock.sleep_until(until));
        let seen_at = clock.now();
        Self { engine, ask, _told, waiter, bound, pause: None, gave_way: true, seen, seen_at }
    }

    pub(in crate::engine) async fn run(mut self) -> Result<Claimed<S>, Error> {
        loop {
            let answer = match poll_fn(|cx| self.poll_next(cx)).await {
                None => Some(self.out_of_time()),
                Some(Next::Update(entry)) => self.hear(&entry)?,
                // Clean-up that came meanwhile gets on: it may be what ends this wait.
                Some(Next::Lead(_)) => match self.engine.background.take() {
                    None => self.look().await?,
                    Some(job) => {
                        let (clock, at_most) = (self.clock(), self.engine.options.poll_min);
                        Box::pin(job.beside(clock, at_most, self.look())).await?
                    }
                },
            };
            if let Some(claimed) = answer {
                return Ok(claimed);
            }
        }
    }

    fn clock(&self) -> &'a dyn Clock {
        self.engine.clock()
    }

    /// What to do next: judge an update, look, or give up.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Next>> {
        if self.poll_bound(cx).is_ready() {
            return Poll::Ready(None);
        }
        let at = match self.waiter.poll(cx.waker(), self.seen.version) {
            Poll::Pending => return self.give_way(),
            Poll::Ready(Next::Update(entry)) => return Poll::Ready(Some(Next::Update(entry))),
            Poll::Ready(Next::Lead(at)) => at,
        };
        if self.clock().now() < at {
            if self.pause.as_ref().is_none_or(|(pause_at, _)| *pause_at != at) {
                self.pause = Some((at, self.clock().sleep_until(at)));
            }
            let (_, sleep) = self.pause.as_mut().expect("set above");
            if sleep.as_mut().poll(cx).is_pending() {
                return self.give_way();
            }
            self.pause = None;
        }
        // Store and clock may both answer at once, again and again. One look a poll is enough: the
        // others on this thread have their turn too.
        if self.gave_way && self.clock().now() >= at {
            return Poll::Ready(Some(Next::Lead(at)));
        }
        cx.waker().wake_by_ref();
        self.give_way()
    }

    fn poll_bound(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.bound.as_mut().map_or(Poll::Pending, |bound| bound.as_mut().poll(cx))
    }

    fn give_way<T>(&mut self) -> Poll<T> {
        self.gave_way = true;
        Poll::Pending
    }

    /// What this request answers to an entry that another found; `None` if it waits on.
    fn hear(&mut self, entry: &Entry) -> Result<Option<Claimed<S>>, Error> {
        if let Some(verdict) = self.engine.judge_update(self.ask, entry)? {
            return Ok(Some(Claimed::Answered(verdict, entry.clone())));
        }
        (self.seen, self.seen_at) = (entry.clone(), self.clock().now());
        Ok(None)
    }

    /// Looks at the store for all who wait; `None` while the owner is at it.
    async fn look(&mut self) -> Result<Option<Claimed<S>>, Error> {
        self.waiter.look_begins();
        self.gave_way = false;
        let sent = self.clock().now();
        match self.load().await {
            Looked::OutOfTime => Ok(Some(self.out_of_time())),
            // It is an update for the others too, so nobody is kept from it. The next look is due at
            // once.
            Looked::Update(entry) => self.hear(&entry),
            Looked::Found(Ok(Some(entry))) if entry.status() == Status::InProgress => {
                // Another generation may be bound to another request.
                let verdict = self.engine.judge_update(self.ask, &entry);
                let answer = verdict?.map(|verdict| Claimed::Answered(verdict, entry.clone()));
                self.still_in_progress(entry, sent);
                Ok(answer)
            }
            Looked::Found(Ok(found)) => self.claim(found, sent).await,
            Looked::Found(Err(failure)) => self.look_failed(failure),
        }
    }

    /// Reads the record. A read that hangs keeps this call from nothing that it could hear: what a
    /// completion in this process left.
    async fn load(&mut self) -> Looked {
        let options = &self.engine.options;
        let timeout = options.store_timeout.min(options.call_timeout);
        let mut load = pin!(self.engine.port.load(&self.ask.key, timeout));
        poll_fn(|cx| {
            if let Poll::Ready(found) = load.as_mut().poll(cx) {
                return Poll::Ready(Looked::Found(found));
            }
            if let Poll::Ready(entry) = self.waiter.poll_update(cx.waker(), self.seen.version) {
                return Poll::Ready(Looked::Update(entry));
            }
            if self.poll_bound(cx).is_ready() {
                return Poll::Ready(Looked::OutOfTime);
            }
            self.give_way()
        })
        .await
    }

    /// Nobody holds the key as far as `found` tells: this call tries, the others go on waiting.
    async fn claim(&mut self, found: Option<Entry>, sent: Moment) -> Result<Option<Claimed<S>>, Error> {
        let now = self.clock().now();
        let mut claim = pin!(self.engine.claim_once(self.ask, Start::Known(found, now), now));
        // Not against updates: a claim that is dropped in flight must be given up in the
        // background.
        let claimed = poll_fn(|cx| {
            if let Poll::Ready(claimed) = claim.as_mut().poll(cx) {
                return Poll::Ready(Some(claimed));
            }
            if self.poll_bound(cx).is_ready() {
                return Poll::Ready(None);
            }
            self.give_way()
        });
        match claimed.await {
            // What it may have written is given up by the clean-up.
            None => Ok(Some(self.out_of_time())),
            Some(claimed) => match claimed? {
                Claimed::Answered(Found::InProgress, entry) => {
                    self.still_in_progress(entry, sent);
                    Ok(None)
                }
                Claimed::Answered(verdict, entry) => {
                    self.waiter.publish(entry.clone());
                    Ok(Some(Claimed::Answered(verdict, entry)))
                }
                granted @ Claimed::Granted(_) => Ok(Some(granted)),
            },
        }
    }

    fn still_in_progress(&mut self, entry: Entry, sent: Moment) {
        self.waiter.look_ends(self.clock().now(), entry.left, self.engine.options.poll_max);
        if entry.record.operation_id() != self.seen.record.operation_id() {
            // Whoever waits judges a new generation.
            self.waiter.publish(entry.clone());
        }
        (self.seen, self.seen_at) = (entry, sent);
    }

    fn look_failed(&mut self, source: StoreFailure) -> Result<Option<Claimed<S>>, Error> {
        if !source.kind().is_transient() {
            self.engine.tell(&self.ask.key, || Event::StoreFailed { failure: &source, retry_in: None });
            return Err(Error::Store { scope: self.ask.key.scope_label(), source });
        }
        let retry_in = Some(self.engine.options.poll_min);
        self.engine.tell(&self.ask.key, || Event::StoreFailed { failure: &source, retry_in });
        self.waiter.look_ends(self.clock().now(), Duration::MAX, self.engine.options.poll_max);
        Ok(None)
    }

    fn out_of_time(&self) -> Claimed<S> {
        let mut seen = self.seen.clone();
        seen.left = seen.left.saturating_sub(self.clock().now().saturating_since(self.seen_at));
        Claimed::Answered(Found::InProgress, seen)
    }
}
