//! What is known of all executions and answers, and what must hold among them.
//!
//! Its own lock and counter are the real ones and invisible to shuttle: nothing can come between a look and what follows
//! from it, as long as no lock of the engine is taken in between.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncekey::answer::RecordInfo;
use oncekey::time::{Clock, ManualClock, Moment};
use oncekey::{Attempt, OperationId};

#[derive(Clone)]
pub(crate) struct Ledger {
    clock: ManualClock,
    shared: Arc<Shared>,
}

struct Shared {
    /// No less than the clock's time: set before the clock is moved.
    now_at_most: AtomicU64,
    /// No poll sees the clock move.
    time_stands_in_polls: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    executions: Vec<Execution>,
    /// By generation.
    outcomes: BTreeMap<OperationId, Told>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Told {
    outcome: Result<String, String>,
    attempt: u32,
    token: u64,
}

#[derive(Clone, Debug)]
struct Execution {
    key: usize,
    token: u64,
    /// Its deadline is no earlier than this.
    may_act_until: Moment,
    gone: bool,
}

impl Ledger {
    pub(crate) fn new(clock: &ManualClock, time_stands_in_polls: bool) -> Self {
        let now_at_most = AtomicU64::new(clock.now().as_nanos());
        let shared = Shared { now_at_most, time_stands_in_polls, state: Mutex::default() };
        Self { clock: clock.clone(), shared: Arc::new(shared) }
    }

    /// Moves the clock on.
    pub(crate) fn advance(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap();
        self.shared.now_at_most.fetch_add(nanos, Ordering::SeqCst);
        self.clock.advance(duration);
    }

    fn now_at_most(&self) -> Moment {
        Moment::from_nanos(self.shared.now_at_most.load(Ordering::SeqCst))
    }

    /// A moment that is no later than the attempt's deadline.
    fn deadline_of(&self, attempt: &Attempt) -> Moment {
        let before = self.clock.now();
        before + attempt.time_left()
    }

    /// An operation begins. All others of its key have ended, or may no longer act (T1).
    pub(crate) fn begins(&self, key: usize, attempt: &Attempt) -> Executing {
        let may_act_until = self.deadline_of(attempt);
        let token = attempt.fence().get();
        let now = self.now_at_most();
        let mut state = self.shared.state.lock().unwrap();
        let of_key = || state.executions.iter().filter(|other| other.key == key);
        if may_act_until > now {
            let beside = of_key().find(|other| !other.gone && other.may_act_until > now);
            assert!(beside.is_none(), "two attempts execute at once: {token} beside {beside:?} at {now:?}");
        }
        assert!(of_key().all(|other| other.token != token), "attempt {token} executes twice");
        if self.shared.time_stands_in_polls {
            assert!(of_key().all(|other| other.token < token), "fencing tokens rise: {token} is late");
        }
        state.executions.push(Execution { key, token, may_act_until, gone: false });
        Executing { ledger: self.clone(), index: state.executions.len() - 1 }
    }

    /// A call was told an outcome. Its generation has no other, and an attempt that executed made it.
    pub(crate) fn told(&self, outcome: Result<String, String>, info: &RecordInfo) {
        let told = Told { outcome, attempt: info.attempt, token: info.token.get() };
        let mut state = self.shared.state.lock().unwrap();
        let made = state.executions.iter().any(|execution| execution.token == told.token);
        assert!(made, "an outcome that nobody made: {told:?}");
        let known = state.outcomes.entry(info.operation_id).or_insert_with(|| told.clone());
        assert_eq!(*known, told, "one generation, two outcomes");
    }

    pub(crate) fn executions(&self) -> usize {
        self.shared.state.lock().unwrap().executions.len()
    }

    /// How many generations were concluded, as far as anybody was told.
    pub(crate) fn generations(&self) -> usize {
        self.shared.state.lock().unwrap().outcomes.len()
    }
}

/// An operation that executes, until it ends or is dropped.
pub(crate) struct Executing {
    ledger: Ledger,
    index: usize,
}

impl Executing {
    /// The operation acts. No newer attempt of its key has begun, unless it is past its own deadline: then it was stopped
    /// between its last look at the clock and this very act.
    pub(crate) fn acts(&self, attempt: &Attempt) {
        let may_act_until = self.ledger.deadline_of(attempt);
        let now = self.ledger.now_at_most();
        let shared = &self.ledger.shared;
        let mut state = shared.state.lock().unwrap();
        let own = &mut state.executions[self.index];
        own.may_act_until = own.may_act_until.max(may_act_until);
        let own = own.clone();
        if shared.time_stands_in_polls || own.may_act_until > now {
            let newer = state.executions.iter().find(|other| other.key == own.key && other.token > own.token);
            assert!(newer.is_none(), "two attempts execute at once: {own:?} acts after {newer:?} at {now:?}");
        }
    }
}

impl Drop for Executing {
    fn drop(&mut self) {
        self.ledger.shared.state.lock().unwrap().executions[self.index].gone = true;
    }
}
