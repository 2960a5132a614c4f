//! Writing for a claim: sent until it is stored or refused, and what each answer means for the claim.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::drive::Renewal;
use super::{Concluded, Lease, Lost, Phase, Step, Turn, deadline, renew_at};
use crate::engine::batch::Route;
use crate::engine::error::ClaimError;
use crate::engine::observed::Watched;
use crate::engine::port::{Applied, Start, Terms, Unapplied};
use crate::kept::Kept;
use crate::observe::{self, Event};
use crate::protocol::{Decision, Entry, HolderCommand, HolderVerdict, Key, State, Write, decide};
use crate::store::{Exchange, Store, StoreFailure};
use crate::time::Moment;

impl<S: Store + 'static> Lease<S> {
    /// Takes the turn, to conclude, and writes.
    pub(in crate::engine) async fn write(
        self: &Arc<Self>,
        step: Step,
        until: Moment,
    ) -> Result<(), ClaimError> {
        let turn = self.turn_to_conclude().await;
        self.write_in(&turn, step, None, until).await
    }

    /// Writes until the write is stored or refused, or `until` has passed and the store still fails.
    ///
    /// `now` is a reading of the clock just taken, if the caller has one.
    pub(in crate::engine) async fn write_in(
        &self,
        turn: &Turn<S>,
        step: Step,
        now: Option<Moment>,
        until: Moment,
    ) -> Result<(), ClaimError> {
        let now = now.unwrap_or_else(|| self.engine.clock().now());
        self.write_after(turn, step, None, now, until).await
    }

    /// As [`write_in`](Self::write_in), where a try may have failed already.
    pub(in crate::engine) async fn write_after(
        &self,
        turn: &Turn<S>,
        step: Step,
        failed: Option<StoreFailure>,
        now: Moment,
        until: Moment,
    ) -> Result<(), ClaimError> {
        let start = match failed {
            Some(failure) => Start::After(failure, Some(self.entry())),
            None => Start::Known(Some(self.entry()), now),
        };
        match self.apply(turn, &step, start, now, until).await {
            Ok(Applied::Written { entry, sent }) => {
                self.landed(&step, entry, sent);
                Ok(())
            }
            Ok(Applied::Answered { verdict, entry, unknown, .. }) => {
                self.answered(step.concluded(), verdict, entry, unknown)
            }
            Err(unapplied) => Err(self.unapplied(&step, unapplied)),
        }
    }

    pub(in crate::engine) async fn apply(
        &self,
        turn: &Turn<S>,
        step: &Step,
        start: Start,
        now: Moment,
        until: Moment,
    ) -> Result<Applied<HolderVerdict>, Unapplied> {
        let route = self.state.lock().route.clone();
        let terms = Writing { lease: self, turn, step, until, route };
        self.engine.port.apply(&self.key, &self.command(step), start, now, &terms).await
    }

    pub(in crate::engine) fn command<'a>(&self, step: &'a Step) -> HolderCommand<'a> {
        HolderCommand { holder: self.facts.holder, act: step.act() }
    }

    pub(in crate::engine) fn unapplied(&self, step: &Step, why: Unapplied) -> ClaimError {
        match why {
            Unapplied::Store(source) => ClaimError::Store { scope: self.scope(), source },
            Unapplied::Inconsistent => ClaimError::Inconsistent { scope: self.scope() },
            Unapplied::Withdrawn => {
                let lost = self.times().err().unwrap_or(Lost::Deadline);
                self.lost_error(lost, Some(step))
            }
        }
    }

    /// A write was sent, and what became of it is not known.
    pub(in crate::engine) fn sent_unanswered(&self, step: &Step) {
        self.state.lock().unsure |= step.bit();
    }

    /// How long one call to the store may take. One that hangs must leave time for another: for a renewal before
    /// `until`, and for a conclusion before the lease is over, if it is not.
    pub(in crate::engine) fn patience(&self, step: &Step, sent: Moment, until: Moment) -> Duration {
        let timeout = self.engine.options.store_timeout;
        let until = if step.keeps_the_claim() { until } else { self.state.lock().deadline };
        if !step.keeps_the_claim() && until <= sent {
            return timeout;
        }
        timeout.min((until.saturating_since(sent) / 2).max(Duration::from_millis(1)))
    }

    /// Whether the store may be further than the last entry known.
    pub(in crate::engine) fn is_unsure(&self) -> bool {
        self.state.lock().unsure != 0
    }

    /// Decides on the last entry known.
    pub(in crate::engine) fn decide(&self, step: &Step) -> Decision<HolderVerdict> {
        decide(Some(&self.state.lock().entry), &self.command(step), &self.engine.options.lifetimes)
    }

    /// Whether `entry` shows that this write, whose reply was lost, was applied and stands.
    fn shows(&self, step: &Step, entry: &Entry) -> bool {
        let live = entry.record.is_in_progress() && !entry.left.is_zero();
        let newer = entry.version > self.state.lock().entry.version;
        match step {
            Step::Renew | Step::Settle(_) => live && newer && entry.is_held_by(&self.facts.holder),
            Step::Checkpoint(bytes) => {
                live && newer && entry.is_held_by(&self.facts.holder) && entry.record.checkpoint() == *bytes
            }
            // For the others, the protocol answers that it is done already.
            Step::Complete(..) | Step::Release { .. } | Step::Abandon => false,
        }
    }

    /// A renewal of ours was found in an answer to a request sent at `sent`.
    pub(in crate::engine) fn confirmed(&self, entry: Entry, sent: Moment) {
        let options = &self.engine.options;
        let mut state = self.state.lock();
        // An answer that came after the turn was taken away may be older than what is known.
        if state.phase == Phase::Over || entry.version < state.entry.version {
            return;
        }
        state.deadline = deadline(options, sent, entry.left);
        state.renew_at = renew_at(options, sent, entry.left);
        state.entry = entry;
        state.unsure = 0;
        drop(state);
        self.engine.tell(&self.key, || Event::Renewed);
    }

    /// A write is on record as `entry`, by the answer to a request sent at `sent`.
    pub(in crate::engine) fn landed(&self, step: &Step, entry: Entry, sent: Moment) {
        match step {
            Step::Renew | Step::Checkpoint(_) | Step::Settle(_) => self.confirmed(entry, sent),
            Step::Complete(..) | Step::Release { .. } | Step::Abandon => self.over(step.concluded(), entry),
        }
    }

    /// A concluding write is on record as `entry`.
    pub(super) fn over(&self, how: Concluded, entry: Entry) {
        let engine = &*self.engine;
        // A release after doubt leaves it in doubt.
        let released = matches!(entry.record.state(), State::Released { .. });
        // Another attempt may start from here on, so whoever still acts is told.
        let wakers = {
            let mut state = self.state.lock();
            state.phase = Phase::Over;
            state.entry = entry;
            state.unsure = 0;
            state.retire()
        };
        wakers.wake();
        // Recorded first, wakened second.
        if !matches!(how, Concluded::Completed(_)) {
            engine.waiters.notify(&self.key);
        } else {
            engine.waiters.publish(&self.key, || self.entry());
        }
        engine.tell(&self.key, || match how {
            Concluded::Completed(kept) => Event::Completed { kept },
            Concluded::Released if released => Event::Released,
            _ => Event::Abandoned,
        });
    }

    /// A completion of this attempt that somebody's transaction wrote.
    pub(in crate::engine) fn landed_elsewhere(&self, entry: Entry) {
        if let Some(outcome) = entry.record.outcome() {
            self.over(Concluded::Completed(Kept::of(&outcome.body)), entry);
        }
    }

    /// The protocol's answer where there is nothing to write.
    pub(super) fn answered(
        &self,
        step: Concluded,
        verdict: HolderVerdict,
        found: Option<Entry>,
        possibly_applied: bool,
    ) -> Result<(), ClaimError> {
        let scope = self.scope();
        match verdict {
            HolderVerdict::AlreadyDone => {
                let entry = found.unwrap_or_else(|| self.entry());
                self.over(step, entry);
                return Ok(());
            }
            // Nothing of what was kept is there any more.
            HolderVerdict::Absent
            | HolderVerdict::AlreadyCompleted
            | HolderVerdict::AlreadyReleased
            | HolderVerdict::Superseded => self.mark_lost(Lost::Superseded),
        }
        Err(match verdict {
            HolderVerdict::Absent if possibly_applied => ClaimError::Unknown { scope },
            HolderVerdict::Absent => ClaimError::Gone { scope },
            HolderVerdict::AlreadyCompleted => ClaimError::AlreadyCompleted { scope },
            HolderVerdict::AlreadyReleased => {
                // Whoever released it may have been dropped before the answer, and then told nobody who waits.
                self.engine.waiters.notify(&self.key);
                ClaimError::AlreadyReleased { scope }
            }
            HolderVerdict::AlreadyDone | HolderVerdict::Superseded => {
                ClaimError::Superseded { scope, possibly_applied }
            }
        })
    }

    /// A batched renewal's answer.
    pub(in crate::engine) fn renewed(
        &self,
        answer: Result<Exchange, StoreFailure>,
        write: Write,
        sent: Moment,
    ) {
        match answer {
            Ok(Exchange::Done(version)) => {
                let entry = Entry { record: write.record, version, left: write.live };
                self.landed(&Step::Renew, entry, sent);
            }
            Ok(Exchange::Conflict(None)) => self.mark_lost(Lost::Superseded),
            Ok(Exchange::Conflict(Some(entry))) => {
                if self.shows(&Step::Renew, &entry) {
                    self.confirmed(entry, sent);
                } else if entry.is_held_by(&self.facts.holder) && entry.record.is_in_progress() {
                    // Ours, and expired: the next round renews it from here.
                    let mut state = self.state.lock();
                    if state.phase != Phase::Over && entry.version > state.entry.version {
                        state.entry = entry;
                    }
                } else if entry.is_held_by(&self.facts.holder) && entry.record.is_completed() {
                    // Completed by this very attempt, which has yet to hear of it.
                } else {
                    self.mark_lost(Lost::Superseded);
                }
            }
            Err(failure) => {
                // The keeper's next round is the next try.
                let retry_in = failure.kind().is_transient().then(|| self.engine.options.keeper_tick());
                self.engine.tell(&self.key, || Event::StoreFailed { failure: &failure, retry_in });
            }
        }
    }

    /// Lets a renewal in flight end. What came of it shows in the entry that the next write is decided on.
    pub(in crate::engine) async fn let_end(&self, renewal: Option<Renewal>) {
        if let Some(renewal) = renewal {
            let _renewed: Result<(), ClaimError> = renewal.await;
        }
    }

    /// Releases once a renewal in flight has ended.
    pub(in crate::engine) async fn release(
        self: &Arc<Self>,
        renewal: Option<Renewal>,
        fresh_operation_id: bool,
    ) -> Result<(), ClaimError> {
        let now = self.engine.clock().now();
        let step = Step::Release { fresh_operation_id, now: self.engine.clock().unix(now) };
        self.give_up(renewal, step, now).await
    }

    /// Gives up in doubt once a renewal in flight has ended.
    pub(in crate::engine) async fn abandon(
        self: &Arc<Self>,
        renewal: Option<Renewal>,
    ) -> Result<(), ClaimError> {
        let now = self.engine.clock().now();
        self.give_up(renewal, Step::Abandon, now).await
    }

    async fn give_up(
        self: &Arc<Self>,
        renewal: Option<Renewal>,
        step: Step,
        now: Moment,
    ) -> Result<(), ClaimError> {
        let (lease, until) = (Arc::clone(self), self.release_until(now));
        let work = async move {
            lease.let_end(renewal).await;
            lease.write(step, until).await
        };
        let phase = || observe::CallPhase::Complete { attempt: self.facts.holder.attempt };
        match self.engine.begin(&self.key, phase) {
            None => self.engine.with_help(work).await,
            Some(span) => self.engine.with_help(Watched::new(span, work)).await,
        }
    }
}

/// The terms of a write for a claim.
struct Writing<'a, S: Store + 'static> {
    lease: &'a Lease<S>,
    turn: &'a Turn<S>,
    step: &'a Step,
    until: Moment,
    route: Route,
}

impl<S: Store + 'static> Terms for Writing<'_, S> {
    async fn exchange(
        &self,
        key: &Key,
        write: &Write,
        sent: Moment,
        _until: Moment,
    ) -> Result<Exchange, StoreFailure> {
        let patience = self.lease.patience(self.step, sent, self.until);
        self.lease.engine.exchange_by(self.route.as_ref(), patience, key, write).await
    }

    /// To keep a claim that a conclusion has by now would undo that.
    fn may_send(&self) -> bool {
        !self.step.keeps_the_claim() || self.turn.stands()
    }

    fn was_unanswered(&self) -> bool {
        self.lease.state.lock().unsure & self.step.bit() != 0
    }

    fn sending(&self) -> bool {
        let mut state = self.lease.state.lock();
        let before = state.unsure & self.step.bit() != 0;
        state.unsure |= self.step.bit();
        before
    }

    fn answered(&self, before: bool, _done: bool) {
        if !before {
            self.lease.state.lock().unsure &= !self.step.bit();
        }
    }

    fn is_own(&self, _write: &Write, found: &Entry, unknown: bool) -> bool {
        unknown && self.lease.shows(self.step, found)
    }

    /// Writes for a claim have an end of their own.
    fn until(&self, _since: Moment) -> Moment {
        self.until
    }

    fn pause(&self, _until: Moment, backoff: Duration) -> Option<Duration> {
        let engine = &self.lease.engine;
        let now = engine.clock().now();
        let wound_up = self.step.keeps_the_claim() && self.lease.state.lock().winding_up;
        (now < self.until && !wound_up).then(|| backoff.min(self.until.saturating_since(now)))
    }

    fn sleep(&self, until: Moment) -> BoxFuture<'_, ()> {
        Box::pin(self.lease.pause(self.step, until))
    }
}
