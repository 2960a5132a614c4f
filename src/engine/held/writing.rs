//! Writing for a claim: sent until it is stored or refused, and what each answer means for the claim.

use std::convert::Infallible;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use super::super::after_effect::Panicked;
use super::super::error::ClaimError;
use super::super::run::Renewal;
use super::super::watching::Watched;
use super::{CONFLICTS_MAX, Held, Lost, Phase, Step, Turn, deadline, renew_at};
use crate::kept::Kept;
use crate::observe::{self, Event};
use crate::planted::planted;
use crate::protocol::{Decision, Entry, Outcome, OutcomeBody, State, Verdict, Version, Write, decide};
use crate::store::{Exchange, Store, StoreFailure};
use crate::time::Moment;

impl<S: Store + 'static> Held<S> {
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
        let engine = &*self.engine;
        // Whether an earlier copy of this write, of this call or one before, may have been applied.
        let (mut unknown, route) = {
            let state = self.state.lock();
            (state.unsure & step.bit() != 0, state.route.clone())
        };
        let mut conflicts = 0;
        let mut backoff = engine.first_backoff();
        let mut found: Option<Entry> = None;
        let mut sent = now.unwrap_or_else(|| engine.clock().now());
        loop {
            let goes_on = planted("held: who lost its turn writes on");
            if step.keeps_the_claim() && !turn.stands() && !goes_on {
                // A conclusion has it now: to keep the claim would undo that.
                let lost = self.times().err().unwrap_or(Lost::Deadline);
                return Err(self.lost_error(lost, Some(&step)));
            }
            let write = match self.decide(found.as_ref(), &step) {
                Decision::Write(write) => write,
                Decision::Answer(verdict) => return self.answered(&step, verdict, found, unknown),
            };
            if planted("held: wakes before it stores") {
                engine.waiting.poke(&self.key);
            }
            let mut in_flight = InFlight { held: self, step: &step, answered: false };
            let patience = self.patience(&step, sent, until);
            let answer = engine.exchange_by(route.as_ref(), patience, &self.key, &write).await;
            in_flight.answered = !answer.as_ref().is_err_and(StoreFailure::maybe_applied);
            drop(in_flight);
            match answer {
                Ok(Exchange::Done(version)) => {
                    self.landed(&step, write, version, sent);
                    return Ok(());
                }
                Ok(Exchange::Conflict(None)) => {
                    self.mark_lost(Lost::Superseded);
                    let scope = self.scope();
                    return Err(if unknown {
                        ClaimError::Unknown { scope }
                    } else {
                        ClaimError::Gone { scope }
                    });
                }
                Ok(Exchange::Conflict(Some(entry))) => {
                    conflicts += 1;
                    if conflicts > CONFLICTS_MAX {
                        return Err(ClaimError::Inconsistent { scope: self.scope() });
                    }
                    if unknown && self.shows(&step, &entry) {
                        self.confirmed(entry, sent);
                        return Ok(());
                    }
                    if planted("held: a conflict counts as stored") {
                        return Ok(());
                    }
                    found = Some(entry);
                }
                Err(failure) => {
                    unknown |= failure.maybe_applied() && !planted("held: a lost reply is forgotten");
                    if step.keeps_the_claim() && planted("held: a lost renewal extends the deadline") {
                        let options = &engine.options;
                        self.state.lock().deadline = deadline(options, sent, options.lifetimes.lease);
                    }
                    let now = engine.clock().now();
                    let give_up = now >= until
                        || !failure.kind().is_transient()
                        || (step.keeps_the_claim() && self.state.lock().winding_up);
                    let pause = backoff.min(until.saturating_since(now));
                    engine.tell(&self.key, || Event::StoreFailed {
                        failure: &failure,
                        retry_in: (!give_up).then_some(pause),
                    });
                    if give_up {
                        return Err(ClaimError::Store { scope: self.scope(), source: failure });
                    }
                    self.pause(&step, now + pause).await;
                    backoff = engine.next_backoff(backoff);
                }
            }
            sent = engine.clock().now();
        }
    }

    /// A write was sent, and what became of it is not known.
    pub(in crate::engine) fn sent_unanswered(&self, step: &Step) {
        self.state.lock().unsure |= step.bit();
    }

    /// How long one call to the store may take. One that hangs must leave a renewal time for another.
    pub(in crate::engine) fn patience(&self, step: &Step, sent: Moment, until: Moment) -> Duration {
        let timeout = self.engine.options.store_timeout;
        if !step.keeps_the_claim() {
            return timeout;
        }
        timeout.min((until.saturating_since(sent) / 2).max(Duration::from_millis(1)))
    }

    /// Whether the store may be further than the last entry known.
    pub(in crate::engine) fn is_unsure(&self) -> bool {
        self.state.lock().unsure != 0
    }

    /// Decides on `found`, or on the last entry known.
    pub(in crate::engine) fn decide(&self, found: Option<&Entry>, step: &Step) -> Decision {
        let command = step.command(self.holder);
        let lifetimes = &self.engine.options.lifetimes;
        match found {
            Some(entry) => decide(Some(entry), &command, lifetimes),
            None => decide(Some(&self.state.lock().entry), &command, lifetimes),
        }
    }

    /// Whether `entry` shows that this write, whose reply was lost, was applied and stands.
    fn shows(&self, step: &Step, entry: &Entry) -> bool {
        let live = entry.record.is_in_progress() && !entry.left.is_zero();
        let newer = entry.version > self.state.lock().entry.version;
        match step {
            Step::Renew => live && newer && entry.is_held_by(&self.holder),
            Step::Checkpoint(bytes) => {
                live && newer && entry.is_held_by(&self.holder) && entry.record.checkpoint() == *bytes
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

    /// A write was done.
    pub(in crate::engine) fn landed(&self, step: &Step, write: Write, version: Version, sent: Moment) {
        let entry = Entry { record: write.record, version, left: write.live };
        if step.keeps_the_claim() {
            return self.confirmed(entry, sent);
        }
        self.over(step, entry);
    }

    /// A concluding write is on record as `entry`.
    fn over(&self, step: &Step, entry: Entry) {
        let engine = &*self.engine;
        let completed = matches!(step, Step::Complete(..));
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
        if !completed {
            if !planted("held: gives up in silence") {
                engine.waiting.poke(&self.key);
            }
        } else if !planted("held: wakes before it stores") {
            engine.waiting.publish(&self.key, || self.entry());
        }
        engine.tell(&self.key, || match step {
            Step::Complete(outcome, _) => Event::Completed { kept: Kept::of(&outcome.body) },
            Step::Release { .. } if released => Event::Released,
            _ => Event::Abandoned,
        });
    }

    /// A completion of this attempt that somebody's transaction wrote.
    pub(in crate::engine) fn landed_elsewhere(&self, entry: Entry) {
        if let Some(outcome) = entry.record.outcome() {
            let at = entry.record.finished_at().unwrap_or_default();
            self.over(&Step::Complete(outcome, at), entry);
        }
    }

    /// The protocol's answer where there is nothing to write.
    fn answered(
        &self,
        step: &Step,
        verdict: Verdict,
        found: Option<Entry>,
        possibly_applied: bool,
    ) -> Result<(), ClaimError> {
        let scope = self.scope();
        match verdict {
            Verdict::AlreadyDone => {
                let entry = found.unwrap_or_else(|| self.entry());
                self.over(step, entry);
                Ok(())
            }
            Verdict::AlreadyCompleted => {
                self.mark_lost(Lost::Superseded);
                Err(ClaimError::AlreadyCompleted { scope })
            }
            Verdict::AlreadyReleased => {
                self.mark_lost(Lost::Superseded);
                // Whoever released it may have been dropped before the answer, and then told nobody who waits.
                self.engine.waiting.poke(&self.key);
                Err(ClaimError::AlreadyReleased { scope })
            }
            Verdict::Superseded => {
                self.mark_lost(Lost::Superseded);
                Err(ClaimError::Superseded { scope, possibly_applied })
            }
            Verdict::AlreadyGranted
            | Verdict::InProgress
            | Verdict::Replay
            | Verdict::Done
            | Verdict::Mismatch
            | Verdict::Incomparable
            | Verdict::InDoubt
            | Verdict::Exhausted
            | Verdict::Absent
            | Verdict::Live
            | Verdict::NotInDoubt => unreachable!("not an answer to a holder with an entry: {verdict:?}"),
        }
    }

    /// A batched renewal's answer.
    pub(in crate::engine) fn renewed(
        &self,
        answer: Result<Exchange, StoreFailure>,
        write: Write,
        sent: Moment,
    ) {
        match answer {
            Ok(Exchange::Done(version)) => self.landed(&Step::Renew, write, version, sent),
            Ok(Exchange::Conflict(None)) => self.mark_lost(Lost::Superseded),
            Ok(Exchange::Conflict(Some(entry))) => {
                if self.shows(&Step::Renew, &entry) {
                    self.confirmed(entry, sent);
                } else if entry.is_held_by(&self.holder) && entry.record.is_in_progress() {
                    // Ours, and expired: the next round renews it from here.
                    let mut state = self.state.lock();
                    if state.phase != Phase::Over && entry.version > state.entry.version {
                        state.entry = entry;
                    }
                } else if entry.is_held_by(&self.holder) && entry.record.is_completed() {
                    // Completed by this very attempt, which has yet to hear of it.
                } else {
                    self.mark_lost(Lost::Superseded);
                }
            }
            Err(failure) => {
                // The keeper's next round is the next try.
                let retry_in = failure.kind().is_transient().then(|| self.engine.keeper_tick());
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

    /// Completes once a renewal in flight has ended. From the first poll on the outcome is noted: if this is dropped after
    /// that, or an observer panics, the claim's guard brings the completion to its end.
    pub(in crate::engine) async fn complete_after(
        self: &Arc<Self>,
        renewal: Option<Renewal>,
        outcome: Outcome,
    ) -> Result<Kept, ClaimError> {
        let outcome = self.engine.fit(outcome);
        let kept = Kept::of(&outcome.body);
        let now = self.engine.clock().now();
        let at = self.engine.clock().unix(now);
        // A claim that is over stays over: the protocol says whether this is the same completion again.
        // Before anybody is told: an observer that panics must not undo what has ended.
        let was_over = self.completing(&outcome, at);
        let work = self.complete_once(renewal, Step::Complete(outcome, at), now);
        let phase = || observe::CallPhase::Complete { attempt: self.facts.attempt };
        let answer = match self.engine.begin(&self.key, phase) {
            None => work.await,
            Some(span) => Watched::new(span, work).await,
        };
        if answer.is_err() && !was_over {
            self.set_phase(Phase::Ended);
        }
        answer.map(|()| kept)
    }

    async fn complete_once(
        self: &Arc<Self>,
        renewal: Option<Renewal>,
        step: Step,
        now: Moment,
    ) -> Result<(), ClaimError> {
        self.let_end(renewal).await;
        let turn = self.turn_to_conclude().await;
        self.write_in(&turn, step, Some(now), self.completion_until(now)).await
    }

    /// Puts on record that the operation is done, without the outcome that the user's code did not make, and then lets that
    /// code's panic go on.
    pub(in crate::engine) async fn panic_on_record(
        self: &Arc<Self>,
        renewal: Option<Renewal>,
        panicked: Panicked,
    ) -> Infallible {
        let Panicked { conclusion, panic } = panicked;
        let outcome = Outcome { conclusion, body: OutcomeBody::Unencodable };
        // Boxed: it is rare, and would make the future of every run larger.
        if Box::pin(self.complete_after(renewal, outcome)).await.is_err() {
            self.engine.tell(&self.key, || Event::Unrecorded);
        }
        resume_unwind(panic)
    }

    pub(in crate::engine) async fn release(
        self: &Arc<Self>,
        fresh_operation_id: bool,
    ) -> Result<(), ClaimError> {
        let now = self.engine.clock().now();
        let step = Step::Release { fresh_operation_id, now: self.engine.clock().unix(now) };
        self.give_up(step, now).await
    }

    pub(in crate::engine) async fn abandon(self: &Arc<Self>) -> Result<(), ClaimError> {
        let now = self.engine.clock().now();
        self.give_up(Step::Abandon, now).await
    }

    async fn give_up(self: &Arc<Self>, step: Step, now: Moment) -> Result<(), ClaimError> {
        let work = self.write(step, self.release_until(now));
        let phase = || observe::CallPhase::Complete { attempt: self.facts.attempt };
        match self.engine.begin(&self.key, phase) {
            None => work.await,
            Some(span) => Watched::new(span, work).await,
        }
    }
}

/// A write under way: dropped before its answer, it leaves the claim unsure of what is on record.
struct InFlight<'a, S: Store + 'static> {
    held: &'a Held<S>,
    step: &'a Step,
    answered: bool,
}

impl<S: Store + 'static> Drop for InFlight<'_, S> {
    fn drop(&mut self) {
        if !self.answered {
            self.held.sent_unanswered(self.step);
        }
    }
}
