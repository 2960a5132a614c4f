//! A granted claim, shared by all who act on it: the run or guard that owns it, the attempt handed to the operation,
//! and the keeper.
//!
//! Who writes takes the claim's turn first, so no two writes of one claim are ever in flight together. Each write is
//! decided by the protocol on the last entry known; a lost reply leads to sending it again, and a conflict to looking
//! whether the entry there is still this attempt's.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::mem::{Discriminant, discriminant};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::Inner;
use super::error::ClaimError;
use super::options::{OnDrop, Options};
use crate::observe::Event;
use crate::planted::planted;
use crate::protocol::{
    Command, Decision, Entry, FencingToken, Holder, Key, OperationId, Outcome, Payload, State, UnixMillis,
    Verdict, Version, Write, decide,
};
use crate::store::{Exchange, Store, StoreFailure};
use crate::sync::Mutex;
use crate::time::Moment;

/// How often a write meets a conflict that should not be before the store is said to contradict itself.
pub(super) const CONFLICTS_MAX: u32 = 32;

pub(crate) struct Held<S: Store + 'static> {
    pub(super) engine: Arc<Inner<S>>,
    pub(super) key: Key,
    pub(super) holder: Holder,
    pub(super) facts: Facts,
    /// When automatic renewal ends.
    renew_until: Moment,
    state: Mutex<HeldState>,
}

/// What does not change during an attempt.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) operation_id: OperationId,
    pub(crate) attempt: u32,
    pub(crate) token: FencingToken,
    pub(crate) after_doubt: bool,
    pub(crate) created_at: UnixMillis,
    /// What the attempt before left.
    pub(crate) checkpoint: Payload,
}

struct HeldState {
    /// The last entry known to be there and ours.
    entry: Entry,
    /// Until when the attempt may act, by our own clock.
    deadline: Moment,
    renew_at: Moment,
    phase: Phase,
    lost: Option<Lost>,
    lost_wakers: Vec<Waker>,
    /// Of the run that drives the operation.
    runner: Option<Waker>,
    taken: bool,
    turn_wakers: VecDeque<Waker>,
    /// A write of this kind was sent and not answered: the store may be further than `entry`.
    unsure: Option<Discriminant<Step>>,
    /// The operation is over; a renewal need not be tried again.
    winding_up: bool,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Phase {
    /// Granted; nothing has acted on it.
    Fresh,
    /// The operation may have begun.
    Started,
    /// The operation is over, and this outcome is being stored.
    Completing(Outcome, UnixMillis),
    /// A completion is prepared for somebody else's transaction.
    Prepared,
    /// Concluded.
    Over,
}

impl HeldState {
    fn all_lost_wakers(&mut self) -> Vec<Waker> {
        let mut wakers = std::mem::take(&mut self.lost_wakers);
        wakers.extend(self.runner.take());
        wakers
    }
}

/// Why the attempt may no longer act.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lost {
    /// Its deadline passed without a renewal.
    Deadline,
    /// Somebody else has the key.
    Superseded,
    /// The call that held it is over.
    Over,
}

/// One write that a holder wants.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Renew,
    Checkpoint(Payload),
    Complete(Outcome, UnixMillis),
    Release { fresh_operation_id: bool, now: UnixMillis },
    Abandon,
}

impl Step {
    fn command(&self, holder: Holder) -> Command<'_> {
        match self {
            Self::Renew => Command::Renew(holder),
            Self::Checkpoint(bytes) => Command::Checkpoint(holder, bytes),
            Self::Complete(outcome, now) => Command::Complete(holder, outcome, *now),
            Self::Release { fresh_operation_id, now } => {
                Command::Release { holder, fresh_operation_id: *fresh_operation_id, now: *now }
            }
            Self::Abandon => Command::Abandon(holder),
        }
    }

    fn keeps_the_claim(&self) -> bool {
        matches!(self, Self::Renew | Self::Checkpoint(_))
    }
}

/// When to renew a lease of which `left` was left at `sent`: as long after it began as any other. What arrived late in
/// its lease is renewed early, or its deadline would come first.
fn renew_at(options: &Options, sent: Moment, left: Duration) -> Moment {
    let age = options.lifetimes.lease.saturating_sub(left);
    sent + options.renew_every.saturating_sub(age)
}

/// The right to write for a claim, until dropped.
pub(super) struct Turn<S: Store + 'static>(Arc<Held<S>>);

impl<S: Store + 'static> Drop for Turn<S> {
    fn drop(&mut self) {
        let next = {
            let mut state = self.0.state.lock();
            state.taken = false;
            std::mem::take(&mut state.turn_wakers)
        };
        let next = if planted("held: the turn ends in silence") { VecDeque::new() } else { next };
        next.into_iter().for_each(Waker::wake);
    }
}

impl<S: Store + 'static> Held<S> {
    /// `sent` is the moment before the request was sent whose answer showed `entry`, our grant.
    pub(super) fn new(engine: Arc<Inner<S>>, key: Key, entry: Entry, sent: Moment) -> Arc<Self> {
        let record = &entry.record;
        let token = entry.fencing_token();
        let facts = Facts {
            operation_id: record.operation_id(),
            attempt: record.attempt(),
            token,
            after_doubt: record.doubt(),
            created_at: record.created_at(),
            checkpoint: record.checkpoint().clone(),
        };
        let holder = Holder { owner: record.owner(), token, attempt: record.attempt() };
        let options = &engine.options;
        let state = HeldState {
            deadline: sent + entry.left - options.margin,
            renew_at: renew_at(options, sent, entry.left),
            entry,
            phase: Phase::Fresh,
            lost: None,
            lost_wakers: Vec::new(),
            runner: None,
            taken: false,
            turn_wakers: VecDeque::new(),
            unsure: None,
            winding_up: false,
        };
        let renew_until = sent + options.renew_for_max;
        Arc::new(Self { key, holder, facts, renew_until, state: Mutex::new(state), engine })
    }

    pub(super) fn scope(&self) -> String {
        self.key.scope_label()
    }

    /// Waits for this claim's turn to write.
    ///
    /// # Cancel safety
    /// Dropping it gives the place up.
    pub(super) async fn turn(self: &Arc<Self>) -> Turn<S> {
        poll_fn(|cx: &mut Context<'_>| {
            if let Some(turn) = self.try_turn() {
                return Poll::Ready(turn);
            }
            let mut state = self.state.lock();
            if !state.taken {
                state.taken = true;
                return Poll::Ready(Turn(Arc::clone(self)));
            }
            if !state.turn_wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                state.turn_wakers.push_back(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    pub(super) fn try_turn(self: &Arc<Self>) -> Option<Turn<S>> {
        let mut state = self.state.lock();
        if state.taken {
            return None;
        }
        state.taken = true;
        drop(state);
        Some(Turn(Arc::clone(self)))
    }

    pub(super) fn phase(&self) -> Phase {
        self.state.lock().phase.clone()
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        self.state.lock().phase = phase;
    }

    /// The operation is about to be polled for the first time, or the claim was handed to its user.
    pub(super) fn start(&self) {
        self.state.lock().phase = Phase::Started;
    }

    /// Until when the attempt may act, and when it wants a renewal; or why it may not act.
    pub(super) fn times(&self) -> Result<(Moment, Moment), Lost> {
        let state = self.state.lock();
        match state.lost {
            Some(lost) => Err(lost),
            None => Ok((state.deadline, state.renew_at)),
        }
    }

    pub(super) fn entry(&self) -> Entry {
        self.state.lock().entry.clone()
    }

    /// Tells a renewal under way that it need not be tried again.
    pub(super) fn wind_up(&self) {
        self.state.lock().winding_up = true;
    }

    /// Whether the claim is to be renewed without being asked.
    pub(super) fn wants_renewal(&self, now: Moment) -> bool {
        let state = self.state.lock();
        state.lost.is_none()
            && state.phase == Phase::Started
            && now >= state.renew_at
            && now < self.renew_until
    }

    pub(super) fn renew_until(&self) -> Moment {
        self.renew_until
    }

    pub(super) fn mark_lost(&self, why: Lost) {
        let wakers = {
            let mut state = self.state.lock();
            if state.lost.is_some() || state.phase == Phase::Over {
                return;
            }
            state.lost = Some(why);
            state.all_lost_wakers()
        };
        self.engine.tell(&self.key, || Event::LeaseLost { superseded: why == Lost::Superseded });
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Attempts that outlive the claim, or the call that held it, are told so.
    fn retire(&self) {
        let wakers = {
            let mut state = self.state.lock();
            state.lost.get_or_insert(Lost::Over);
            state.all_lost_wakers()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(super) fn lost_error(&self, lost: Lost) -> ClaimError {
        match lost {
            Lost::Deadline => ClaimError::DeadlinePassed { scope: self.scope() },
            Lost::Superseded => ClaimError::Superseded { scope: self.scope(), possibly_applied: false },
            Lost::Over => match self.state.lock().entry.record.state() {
                State::Completed(_) => ClaimError::AlreadyCompleted { scope: self.scope() },
                State::Released { .. } => ClaimError::AlreadyReleased { scope: self.scope() },
                State::InProgress | State::Forgotten => ClaimError::DeadlinePassed { scope: self.scope() },
            },
        }
    }

    /// Ready when the lease is lost; else `cx` is woken if somebody learns so. The deadline itself is for the caller
    /// to watch.
    pub(super) fn poll_lost(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.lost.is_some() {
            return Poll::Ready(());
        }
        if !state.lost_wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            state.lost_wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// As [`Held::poll_lost`], for the run: it is polled again and again, and keeps one waker.
    pub(super) fn poll_lost_as_runner(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.lost.is_some() {
            return Poll::Ready(());
        }
        match &mut state.runner {
            Some(runner) => runner.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    pub(super) fn time_left(&self) -> Duration {
        let now = self.engine.clock().now();
        self.times().map_or(Duration::ZERO, |(deadline, _)| deadline.saturating_since(now))
    }

    /// Takes the turn and writes.
    pub(super) async fn write(self: &Arc<Self>, step: Step, until: Moment) -> Result<(), ClaimError> {
        let turn = self.turn().await;
        self.write_in(&turn, step, None, until).await
    }

    /// Writes until the write is stored or refused, or `until` has passed and the store still fails.
    ///
    /// `now` is a reading of the clock just taken, if the caller has one.
    pub(super) async fn write_in(
        &self,
        _turn: &Turn<S>,
        step: Step,
        now: Option<Moment>,
        until: Moment,
    ) -> Result<(), ClaimError> {
        let engine = &*self.engine;
        // Whether an earlier copy of this write, of this call or one before, may have been applied.
        let mut unknown = self.state.lock().unsure == Some(discriminant(&step));
        let mut conflicts = 0;
        let mut backoff = engine.first_backoff();
        let mut found: Option<Entry> = None;
        let mut sent = now.unwrap_or_else(|| engine.clock().now());
        loop {
            let write = match self.decide(found.as_ref(), &step) {
                Decision::Write(write) => write,
                Decision::Answer(verdict) => return self.answered(&step, verdict, found, unknown),
            };
            if planted("held: wakes before it stores") {
                engine.waiting.poke(&self.key);
            }
            let mut in_flight = InFlight { held: self, step: &step, answered: false };
            let answer = engine.exchange(&self.key, &write).await;
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
                    unknown |= failure.maybe_applied();
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
                    engine.clock().sleep_until(now + pause).await;
                    backoff = engine.next_backoff(backoff);
                }
            }
            sent = engine.clock().now();
        }
    }

    /// A write was sent, and what became of it is not known.
    pub(super) fn sent_unanswered(&self, step: &Step) {
        let mut state = self.state.lock();
        // That a conclusion may be there matters more than that a renewal may.
        if !step.keeps_the_claim() || state.unsure.is_none() {
            state.unsure = Some(discriminant(step));
        }
    }

    /// Whether the store may be further than the last entry known.
    pub(super) fn is_unsure(&self) -> bool {
        self.state.lock().unsure.is_some()
    }

    /// Decides on `found`, or on the last entry known.
    pub(super) fn decide(&self, found: Option<&Entry>, step: &Step) -> Decision {
        let command = step.command(self.holder);
        let lifetimes = &self.engine.options.lifetimes;
        match found {
            Some(entry) => decide(Some(entry), &command, lifetimes),
            None => decide(Some(&self.state.lock().entry), &command, lifetimes),
        }
    }

    /// Whether `entry` shows that this write, whose reply was lost, was applied and stands.
    fn shows(&self, step: &Step, entry: &Entry) -> bool {
        let live = entry.record.state() == &State::InProgress && !entry.left.is_zero();
        let newer = entry.version > self.state.lock().entry.version;
        match step {
            Step::Renew => live && newer && entry.is_held_by(&self.holder),
            Step::Checkpoint(bytes) => {
                live && newer && entry.is_held_by(&self.holder) && entry.record.checkpoint() == bytes
            }
            // For the others, the protocol answers that it is done already.
            Step::Complete(..) | Step::Release { .. } | Step::Abandon => false,
        }
    }

    /// A renewal of ours was found in an answer to a request sent at `sent`.
    pub(super) fn confirmed(&self, entry: Entry, sent: Moment) {
        let options = &self.engine.options;
        let mut state = self.state.lock();
        state.deadline = sent + entry.left - options.margin;
        state.renew_at = renew_at(options, sent, entry.left);
        state.entry = entry;
        state.unsure = None;
        drop(state);
        self.engine.tell(&self.key, || Event::Renewed);
    }

    /// A write was done.
    pub(super) fn landed(&self, step: &Step, write: Write, version: Version, sent: Moment) {
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
        {
            let mut state = self.state.lock();
            state.phase = Phase::Over;
            state.entry = entry;
            state.unsure = None;
        }
        // Another attempt may start from here on, so whoever still acts is told.
        self.retire();
        // Recorded first, wakened second.
        if !completed {
            engine.waiting.poke(&self.key);
        } else if !planted("held: wakes before it stores") {
            engine.waiting.publish(&self.key, || self.entry());
        }
        engine.tell(&self.key, || match step {
            Step::Complete(..) => Event::Completed,
            Step::Release { .. } if released => Event::Released,
            _ => Event::Abandoned,
        });
    }

    /// A completion of this attempt that somebody's transaction wrote.
    pub(super) fn landed_elsewhere(&self, entry: Entry) {
        if let Some(outcome) = entry.record.outcome().cloned() {
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
    pub(super) fn renewed(&self, answer: Result<Exchange, StoreFailure>, write: Write, sent: Moment) {
        match answer {
            Ok(Exchange::Done(version)) => self.landed(&Step::Renew, write, version, sent),
            Ok(Exchange::Conflict(None)) => self.mark_lost(Lost::Superseded),
            Ok(Exchange::Conflict(Some(entry))) => {
                if self.shows(&Step::Renew, &entry) {
                    self.confirmed(entry, sent);
                } else if entry.is_held_by(&self.holder) && entry.record.state() == &State::InProgress {
                    // Ours, and expired: the next round renews it from here.
                    self.state.lock().entry = entry;
                } else {
                    self.mark_lost(Lost::Superseded);
                }
            }
            Err(failure) => {
                self.engine.tell(&self.key, || Event::StoreFailed { failure: &failure, retry_in: None });
            }
        }
    }

    /// When completing is given up, counted from `now`.
    pub(super) fn completion_until(&self, now: Moment) -> Moment {
        now + self.engine.options.completion_timeout
    }

    /// When giving the claim up is given up: there is no use in it once the lease is over.
    pub(super) fn release_until(&self, now: Moment) -> Moment {
        let deadline = self.state.lock().deadline;
        deadline.min(now + self.engine.options.store_timeout)
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

/// Owns a claim: what is left undone when it is dropped goes to the background.
pub(super) struct Guard<S: Store + 'static> {
    pub(super) held: Arc<Held<S>>,
    slot: usize,
}

impl<S: Store + 'static> Guard<S> {
    pub(super) fn new(held: Arc<Held<S>>) -> Self {
        let slot = held.engine.held.add(&held);
        Self { held, slot }
    }
}

impl<S: Store + 'static> Drop for Guard<S> {
    fn drop(&mut self) {
        let held = &self.held;
        held.engine.held.remove(held, self.slot);
        let (phase, lost) = {
            let state = held.state.lock();
            (state.phase.clone(), state.lost)
        };
        held.retire();
        let clock = held.engine.clock();
        let (step, until) = match phase {
            Phase::Over | Phase::Prepared => return,
            _ if lost == Some(Lost::Superseded) => return,
            Phase::Started if held.engine.options.on_drop == OnDrop::KeepLease => return,
            Phase::Started => (Step::Abandon, held.release_until(clock.now())),
            Phase::Fresh => {
                let now = clock.now();
                (Step::Release { fresh_operation_id: false, now: clock.unix(now) }, held.release_until(now))
            }
            // The operation is over and its outcome known: a completion that began is brought to its end.
            Phase::Completing(outcome, at) => {
                (Step::Complete(outcome, at), held.completion_until(clock.now()))
            }
        };
        let job = Arc::clone(held);
        held.engine.in_background(Box::pin(async move {
            // Nobody is there to be told; an observer hears of failures.
            let _told: Result<(), ClaimError> = job.write(step, until).await;
        }));
    }
}
