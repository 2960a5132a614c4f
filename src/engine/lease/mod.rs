//! A granted claim, shared by all who act on it: the run or guard that owns it, the attempt handed to the operation,
//! and the keeper.
//!
//! Who writes takes the claim's turn first, so no two writes of one claim are ever in flight together. Each write is
//! decided by the protocol on the last entry known; a lost reply leads to sending it again, and a conflict to looking
//! whether the entry there is still this attempt's.

pub(in crate::engine) mod after_effect;
pub(in crate::engine) mod attempt;
mod completing;
pub(in crate::engine) mod drive;
mod guard;
pub(in crate::engine) mod inside;
pub(in crate::engine) mod leases;
pub(in crate::engine) mod prepared;
mod renewal;
mod turn;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::engine::batch::Route;
use crate::engine::error::ClaimError;
use crate::engine::inner::Inner;
use crate::engine::options::Options;
use crate::kept::Kept;
use crate::observe::Event;
use crate::protocol::{
    Act, Draft, Entry, FencingToken, Holder, Key, OperationId, Outcome, Owner, Payload, Policy, Record,
    State, UnixMillis,
};
use crate::store::Store;
use crate::sync::Mutex;
use crate::time::Moment;

pub(in crate::engine) use guard::Guard;
pub(in crate::engine) use turn::Turn;

pub(crate) struct Lease<S: Store + 'static> {
    pub(in crate::engine) engine: Arc<Inner<S>>,
    pub(in crate::engine) key: Key,
    pub(in crate::engine) facts: Facts,
    /// When automatic renewal ends.
    renew_until: Moment,
    state: Mutex<LeaseState>,
}

/// What does not change during an attempt.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) holder: Holder,
    /// The record that granted it.
    pub(crate) grant: Record,
}

impl Facts {
    /// Of an operation that runs without a claim: its attempt has no number and no token.
    pub(crate) fn unprotected(id: [u8; 16], now: UnixMillis) -> Self {
        let owner = Owner::from_bytes(id);
        let grant = Draft {
            state: State::InProgress,
            owner,
            token: None,
            attempt: 1,
            forgiven: 0,
            operation_id: OperationId::from_bytes(id),
            doubt: false,
            policy: Policy::Reclaim,
            fingerprint: None,
            checkpoint: &[],
            created_at: now,
            finished_at: None,
        };
        Self { holder: Holder { owner, token: FencingToken::new(0), attempt: 0 }, grant: grant.into() }
    }

    pub(crate) fn operation_id(&self) -> OperationId {
        self.grant.operation_id()
    }

    pub(crate) fn after_doubt(&self) -> bool {
        self.grant.doubt()
    }
}

struct LeaseState {
    /// The last entry known to be there and ours.
    entry: Entry,
    /// Until when the attempt may act, by our own clock.
    deadline: Moment,
    renew_at: Moment,
    phase: Phase,
    lost: Option<Lost>,
    next_number: u64,
    /// Of the run that drives the operation.
    runner: Option<Waker>,
    /// Of others who wait. Most claims end before anybody does.
    waiters: Option<Box<Waiters>>,
    /// Who has the turn to write, by number.
    taken: Option<u64>,
    /// Kinds of writes that were sent and not answered: the store may be further than `entry`.
    unsure: u8,
    /// The operation is over; a renewal need not be tried again.
    winding_up: bool,
    /// How its writes go to the store.
    route: Route,
}

#[derive(Clone, PartialEq, Debug)]
pub(in crate::engine) enum Phase {
    /// Granted; nothing has acted on it.
    Fresh,
    /// The operation may have begun.
    Started,
    /// The operation is over, and this outcome is being stored.
    Completing(Box<(Outcome, UnixMillis)>),
    /// A completion is prepared for somebody else's transaction.
    Prepared(Box<Outcome>),
    /// The operation is over, and its outcome could not be stored: a holder may try again.
    Ended,
    /// Concluded.
    Over,
}

#[derive(Default)]
struct Waiters {
    /// Of futures that wait to be told that the lease is lost, each under a number of its own.
    lost: BTreeMap<u64, Waker>,
    /// Of those who wait for the turn to write.
    turn: Vec<Waker>,
}

/// Who waited to be told that the lease is lost: woken outside of the claim's lock.
#[must_use]
struct ToldLost {
    waiters: Option<BTreeMap<u64, Waker>>,
    runner: Option<Waker>,
}

impl ToldLost {
    fn wake(self) {
        if let Some(waiters) = self.waiters {
            waiters.into_values().for_each(Waker::wake);
        }
        if let Some(runner) = self.runner {
            runner.wake();
        }
    }
}

impl LeaseState {
    fn take_lost_wakers(&mut self) -> ToldLost {
        let waiters = self.waiters.as_mut().map(|waiters| std::mem::take(&mut waiters.lost));
        ToldLost { waiters, runner: self.runner.take() }
    }

    fn take_turn_wakers(&mut self) -> Vec<Waker> {
        self.waiters.as_mut().map(|waiters| std::mem::take(&mut waiters.turn)).unwrap_or_default()
    }

    /// Attempts that outlive the claim, or the call that held it, are told so.
    fn retire(&mut self) -> ToldLost {
        self.lost.get_or_insert(Lost::Over);
        self.take_lost_wakers()
    }
}

/// Why the attempt may no longer act.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::engine) enum Lost {
    /// Its deadline passed without a renewal.
    Deadline,
    /// Somebody else has the key.
    Superseded,
    /// The call that held it is over.
    Over,
}

/// One write that a holder wants.
#[derive(Clone, Debug)]
pub(in crate::engine) enum Step {
    Renew,
    Checkpoint(Payload),
    Complete(Outcome, UnixMillis),
    Release {
        fresh_operation_id: bool,
        now: UnixMillis,
    },
    Abandon,
    /// See [`Act::Settle`].
    Settle(Outcome),
}

impl Step {
    fn act(&self) -> Act<'_> {
        match self {
            Self::Renew => Act::Renew,
            Self::Checkpoint(bytes) => Act::Checkpoint(bytes),
            Self::Complete(outcome, now) => Act::Complete(outcome.borrowed(), *now),
            Self::Release { fresh_operation_id, now } => {
                Act::Release { fresh_operation_id: *fresh_operation_id, now: *now }
            }
            Self::Abandon => Act::Abandon,
            Self::Settle(outcome) => Act::Settle(outcome.borrowed()),
        }
    }

    /// How it concludes the claim, if it does.
    fn concluded(&self) -> Concluded {
        match self {
            Self::Complete(outcome, _) => Concluded::Completed(Kept::of(&outcome.body)),
            Self::Release { .. } => Concluded::Released,
            _ => Concluded::Abandoned,
        }
    }

    /// Whether it is of use only while its operation runs.
    fn keeps_the_claim(&self) -> bool {
        matches!(self, Self::Renew | Self::Checkpoint(_))
    }

    /// The bit that stands for this kind of write.
    fn bit(&self) -> u8 {
        match self {
            // What settles renews, if it writes at all.
            Self::Renew | Self::Settle(_) => 1,
            Self::Checkpoint(_) => 2,
            Self::Complete(..) => 4,
            Self::Release { .. } => 8,
            Self::Abandon => 16,
        }
    }
}

/// What a concluding write came to.
#[derive(Clone, Copy, Debug)]
enum Concluded {
    Completed(Kept),
    /// Or left in doubt, as after doubt.
    Released,
    Abandoned,
}

/// Until when an attempt may act, of whose lease `left` was left at `sent`.
fn deadline(options: &Options, sent: Moment, left: Duration) -> Moment {
    sent + left - options.margin
}

/// When to renew a lease of which `left` was left at `sent`: as long after it began as any other. What arrived late in
/// its lease is renewed early, or its deadline would come first.
fn renew_at(options: &Options, sent: Moment, left: Duration) -> Moment {
    let age = options.lifetimes.lease.saturating_sub(left);
    sent + options.renew_every.saturating_sub(age)
}

impl<S: Store + 'static> Lease<S> {
    /// `sent` is the moment before the request was sent whose answer showed `entry`, our grant.
    pub(in crate::engine) fn new(engine: Arc<Inner<S>>, key: Key, entry: Entry, sent: Moment) -> Arc<Self> {
        let record = &entry.record;
        let token = entry.fencing_token();
        let holder = Holder { owner: record.owner(), token, attempt: record.attempt() };
        let facts = Facts { holder, grant: record.clone() };
        let options = &engine.options;
        let state = LeaseState {
            deadline: deadline(options, sent, entry.left),
            renew_at: renew_at(options, sent, entry.left),
            entry,
            phase: Phase::Fresh,
            lost: None,
            next_number: 0,
            runner: None,
            waiters: None,
            taken: None,
            unsure: 0,
            winding_up: false,
            route: None,
        };
        let renew_until = sent + options.renew_for_max;
        Arc::new(Self { key, facts, renew_until, state: Mutex::new(state), engine })
    }

    pub(in crate::engine) fn scope(&self) -> String {
        self.key.scope_label()
    }

    /// From here on its writes go to the store by this route, for as long as there is one.
    pub(in crate::engine) fn go_by(&self, route: &Route) {
        if route.is_some() {
            self.state.lock().route.clone_from(route);
        }
    }

    pub(in crate::engine) fn phase(&self) -> Phase {
        self.state.lock().phase.clone()
    }

    pub(in crate::engine) fn set_phase(&self, phase: Phase) {
        self.state.lock().phase = phase;
    }

    /// Notes the outcome that is about to be stored, unless the claim is over; says whether it was.
    fn completing(&self, outcome: &Outcome, at: UnixMillis) -> bool {
        let mut state = self.state.lock();
        let was_over = state.phase == Phase::Over;
        if !was_over {
            state.phase = Phase::Completing(Box::new((outcome.clone(), at)));
        }
        was_over
    }

    /// The operation is about to be polled for the first time, or the claim was handed to its user.
    pub(in crate::engine) fn start(&self) {
        self.state.lock().phase = Phase::Started;
    }

    /// What was prepared is settled, one way or the other, and not committed.
    pub(in crate::engine) fn unprepare(&self) {
        let mut state = self.state.lock();
        if matches!(state.phase, Phase::Prepared(_)) {
            state.phase = Phase::Started;
        }
    }

    /// Until when the attempt may act, and when it wants a renewal; or why it may not act.
    pub(in crate::engine) fn times(&self) -> Result<(Moment, Moment), Lost> {
        let state = self.state.lock();
        match state.lost {
            Some(lost) => Err(lost),
            None => Ok((state.deadline, state.renew_at)),
        }
    }

    pub(in crate::engine) fn entry(&self) -> Entry {
        self.state.lock().entry.clone()
    }

    /// Tells a renewal under way that it need not be tried again.
    pub(in crate::engine) fn wind_up(&self) {
        let wakers = {
            let mut state = self.state.lock();
            state.winding_up = true;
            state.take_turn_wakers()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Whether the claim is to be renewed without being asked.
    pub(in crate::engine) fn wants_renewal(&self, now: Moment) -> bool {
        let state = self.state.lock();
        state.lost.is_none()
            && matches!(state.phase, Phase::Started | Phase::Ended)
            && now >= state.renew_at
            && now < self.renew_until
    }

    pub(in crate::engine) fn renew_until(&self) -> Moment {
        self.renew_until
    }

    pub(in crate::engine) fn mark_lost(&self, why: Lost) {
        let wakers = {
            let mut state = self.state.lock();
            if state.lost.is_some() || state.phase == Phase::Over {
                return;
            }
            state.lost = Some(why);
            state.take_lost_wakers()
        };
        // They are woken whatever the observer does.
        wakers.wake();
        self.engine.tell(&self.key, || Event::LeaseLost { superseded: why == Lost::Superseded });
    }

    /// Why the claim is lost, for a caller that wanted to write `step`, if it did.
    pub(in crate::engine) fn lost_error(&self, lost: Lost, step: Option<&Step>) -> ClaimError {
        match lost {
            Lost::Deadline => ClaimError::DeadlinePassed { scope: self.scope() },
            Lost::Superseded => ClaimError::Superseded {
                scope: self.scope(),
                possibly_applied: step.is_some_and(|step| self.state.lock().unsure & step.bit() != 0),
            },
            Lost::Over => match self.state.lock().entry.record.state() {
                State::Completed(_) => ClaimError::AlreadyCompleted { scope: self.scope() },
                State::Released { .. } => ClaimError::AlreadyReleased { scope: self.scope() },
                State::InProgress | State::Forgotten => ClaimError::DeadlinePassed { scope: self.scope() },
            },
        }
    }

    /// Ready when the lease is lost; else `cx` is woken if somebody learns so. The deadline itself is for the caller
    /// to watch.
    pub(in crate::engine) fn poll_lost(&self, number: &mut Option<u64>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.lost.is_some() {
            return Poll::Ready(());
        }
        let number = *number.get_or_insert_with(|| {
            state.next_number += 1;
            state.next_number
        });
        state.waiters.get_or_insert_default().lost.insert(number, cx.waker().clone());
        Poll::Pending
    }

    /// Whoever waited under this number no longer does.
    pub(in crate::engine) fn forget_lost(&self, number: u64) {
        let _waker = self.state.lock().waiters.as_mut().and_then(|waiters| waiters.lost.remove(&number));
    }

    /// As [`Lease::poll_lost`], for the run: it is polled again and again, and keeps one waker.
    pub(in crate::engine) fn poll_lost_as_runner(&self, cx: &mut Context<'_>) -> Poll<()> {
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

    pub(in crate::engine) fn time_left(&self) -> Duration {
        let now = self.engine.clock().now();
        self.times().map_or(Duration::ZERO, |(deadline, _)| deadline.saturating_since(now))
    }

    /// When completing is given up, counted from `now`.
    pub(in crate::engine) fn completion_until(&self, now: Moment) -> Moment {
        now + self.engine.options.completion_timeout
    }

    /// When giving the claim up is given up: there is no use in it once the lease is over.
    pub(in crate::engine) fn release_until(&self, now: Moment) -> Moment {
        let deadline = self.state.lock().deadline;
        deadline.min(now + self.engine.options.store_timeout)
    }
}
