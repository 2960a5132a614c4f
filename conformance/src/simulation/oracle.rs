//! Sees every write that is applied, every poll of an operation and every answer, and knows what must not be.

mod answers;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::{Clause, Violation};
use oncekey::protocol::{
    Entry, Expected, ExpiredBecause, FencingToken, Fingerprint, Key, Lifetimes, Outcome, Policy, Record,
    State, Status, Version,
};
use oncekey::time::Moment;

/// How often each thing that matters was met in a simulation.
pub type Met = BTreeMap<&'static str, u64>;

/// What is seen of the world, key by key.
#[derive(Debug)]
pub(super) struct Oracle {
    keys: BTreeMap<Key, History>,
    /// Counts applied writes: the time that answers are judged by.
    now: u64,
    /// T1 is checked only while its assumption holds.
    overlap_matters: bool,
    pub(super) met: Met,
    broken: Option<Violation>,
    /// A hash of all that happened: the same for the same seed.
    trace: u64,
    lifetimes: Lifetimes,
    /// The key that is looked at.
    about: Option<Key>,
    /// What happened, line by line, if somebody wants to read it.
    story: Option<Vec<String>>,
}

/// One key's past.
#[derive(Debug, Default)]
struct History {
    current: Option<Current>,
    token_max: u64,
    /// The attempt with the greatest token that was polled.
    started_max: u64,
    generation: u64,
    grants: BTreeMap<u64, Grant>,
    completions: Vec<Completion>,
    /// Which fingerprint the key was bound to, and until when.
    bindings: Vec<(Option<Fingerprint>, Until)>,
    /// Which call's claim was the latest, and until when.
    holders: Vec<(usize, Until)>,
    /// A resolution was asked for, so doubt may be cleared by one.
    resolving: bool,
}

#[derive(Debug)]
struct Current {
    record: Record,
    version: Version,
    live: Within,
    linger: Within,
}

/// When something ends, by the store's clock, as far as can be seen from here: not before, and by then.
#[derive(Clone, Copy, Debug)]
struct Within {
    from: Moment,
    by: Moment,
}

/// A write that the store did, between the two moments.
pub(super) struct Applied<'a> {
    pub(super) record: &'a Record,
    pub(super) version: Version,
    pub(super) expected: Expected,
    pub(super) live: Duration,
    pub(super) linger: Duration,
    pub(super) sent: Moment,
    pub(super) answered: Moment,
    /// What the store rounds times to.
    pub(super) resolution: Duration,
    /// The call that sent it.
    pub(super) call: usize,
}

impl Applied<'_> {
    fn ends(&self, after: Duration) -> Within {
        Within { from: self.sent + after, by: self.answered + after + self.resolution * 2 }
    }
}

/// What one attempt's writes were seen to do.
#[derive(Debug, Default)]
struct Grant {
    fingerprint: Option<Fingerprint>,
    /// Its operation was polled, so its effect may have happened.
    started: bool,
    /// Its owner said that nothing happened.
    vouched: bool,
    released: bool,
    given_up: bool,
}

#[derive(Debug)]
struct Completion {
    generation: u64,
    token: u64,
    outcome: Outcome,
    fingerprint: Option<Fingerprint>,
    /// The number of the write that put it there.
    written: u64,
    at: Until,
    live_until: Moment,
}

/// The number of the write that ended it; open while it lasts.
#[derive(Clone, Copy, Default, Debug)]
struct Until(Option<u64>);

impl Until {
    /// Whether it still lasted when so many writes were applied.
    fn meets(self, since: u64) -> bool {
        self.0.is_none_or(|to| to > since)
    }
}

/// When a call began: what it may have seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    write: u64,
    at: Moment,
}

impl Oracle {
    pub(super) fn new(overlap_matters: bool, lifetimes: Lifetimes, told: bool) -> Self {
        Self {
            keys: BTreeMap::new(),
            now: 0,
            overlap_matters,
            met: Met::new(),
            broken: None,
            trace: 0,
            lifetimes,
            about: None,
            story: told.then(Vec::new),
        }
    }

    pub(super) fn take_story(&mut self) -> Vec<String> {
        self.story.take().unwrap_or_default()
    }

    /// One more line of the story, about the key that is looked at.
    fn tell(&mut self, line: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            let id = self.about.as_ref().map_or("-", Key::id);
            story.push(format!("{:>4} {id}  {}", self.now, line()));
        }
    }

    fn look_at(&mut self, key: &Key) {
        self.about = Some(key.clone());
    }

    pub(super) fn take_violation(&mut self) -> Option<Violation> {
        self.broken.take()
    }

    pub(super) fn trace(&self) -> u64 {
        self.trace
    }

    pub(super) fn note(&mut self, what: &'static str) {
        *self.met.entry(what).or_default() += 1;
        self.tell(|| what.to_owned());
        for byte in what.bytes() {
            self.mix(u64::from(byte));
        }
    }

    fn mix(&mut self, value: u64) {
        self.trace = (self.trace ^ value).wrapping_mul(0x0100_0000_01b3).rotate_left(17);
    }

    fn demand(&mut self, holds: bool, clause: Clause, what: impl FnOnce() -> String) {
        if !holds && self.broken.is_none() {
            let about = self.about.as_ref();
            let about =
                about.map_or_else(String::new, |key| format!("{}, key {}: ", key.scope_label(), key.id()));
            self.broken = Some(Violation::new(clause, about + &what()));
        }
    }

    pub(super) fn begin(&self, at: Moment) -> Begun {
        Begun { write: self.now, at }
    }

    pub(super) fn resolves(&mut self, key: &Key) {
        self.keys.entry(key.clone()).or_default().resolving = true;
    }

    /// The time of the store stepped, so what was true of time is not.
    pub(super) fn time_stepped(&mut self) {
        self.overlap_matters = false;
    }

    /// A write was applied.
    pub(super) fn applied(&mut self, key: &Key, applied: &Applied<'_>) {
        let Applied { record, version, expected, live, answered: now, call, .. } = *applied;
        self.now += 1;
        self.look_at(key);
        self.tell(|| {
            let (state, attempt, doubt) = (name(record.state()), record.attempt(), record.doubt());
            format!("{now:?}: {state} at {}, attempt {attempt}, doubt {doubt}, live {live:?}", version.get())
        });
        self.lives(record.state(), live);
        self.mix(self.now);
        self.mix(now.as_nanos());
        let mut history = self.keys.remove(key).unwrap_or_default();
        // What the store says by its answer is so, unless it cannot be.
        let before = history.current.take().filter(|current| match expected {
            Expected::Vacant => current.linger.from > now,
            Expected::At(_) => current.linger.by > now,
        });
        let before = before.map(|current| Entry {
            left: current.live.from.saturating_since(now),
            record: current.record,
            version: current.version,
        });
        let is_grant = record.state() == State::InProgress && record.token().is_none();
        if is_grant {
            if let Some((_, until)) = history.holders.last_mut() {
                until.0 = Some(self.now);
            }
            history.holders.push((call, Until::default()));
            self.granted(&mut history, before.as_ref(), record, version);
        } else {
            self.followed(&mut history, before.as_ref(), record, live.is_zero());
        }
        self.bind(&mut history, record);
        if let (Some(outcome), Some(token)) = (record.outcome(), record.token()) {
            self.completed(&mut history, outcome, record.fingerprint(), token, applied.ends(live).by);
        }
        let now_written = self.now;
        let ended = history.completions.iter_mut().rev().skip(usize::from(record.is_completed()));
        ended
            .filter(|completion| completion.at.0.is_none())
            .for_each(|completion| completion.at.0 = Some(now_written));
        let (live, linger) = (applied.ends(live), applied.ends(live.saturating_add(applied.linger)));
        history.current = Some(Current { record: record.clone(), version, live, linger });
        self.keys.insert(key.clone(), history);
    }

    /// What is written lives as long as it was promised: P1, T1.
    fn lives(&mut self, state: State<'_>, live: Duration) {
        let Lifetimes { lease, retention, .. } = self.lifetimes;
        match state {
            State::Completed(_) => self.demand(live == retention, Clause::P1, || {
                format!("an outcome is kept for {live:?}, and {retention:?} were promised")
            }),
            State::InProgress => self.demand(live == lease || live.is_zero(), Clause::T1, || {
                format!("a claim is honoured for {live:?}, and its owner counts on {lease:?}")
            }),
            State::Released { .. } | State::Forgotten => {}
        }
    }

    /// The owner says that nothing happened: in a release, or by its operation's failure.
    pub(super) fn vouches(&mut self, key: &Key, token: FencingToken) {
        let history = self.keys.get_mut(key);
        if let Some(grant) = history.and_then(|history| history.grants.get_mut(&token.get())) {
            grant.vouched = true;
        }
    }

    /// A claim was written: P3, and the rows of the table.
    fn granted(&mut self, history: &mut History, before: Option<&Entry>, record: &Record, version: Version) {
        self.demand(version.get() > history.token_max, Clause::P3, || {
            format!("an attempt got token {version:?}, and one before it had {}", history.token_max)
        });
        history.token_max = history.token_max.max(version.get());
        let fresh = match before.map(|entry| (entry, entry.status())) {
            None | Some((_, Status::Expired(ExpiredBecause::Forgotten))) => true,
            Some((entry, Status::Expired(ExpiredBecause::Released))) => {
                entry.record.fingerprint() != record.fingerprint()
            }
            Some((_, Status::InProgress)) => {
                self.demand(false, Clause::T1, || "a live claim was taken over".to_owned());
                false
            }
            Some((_, Status::Completed | Status::Expired(ExpiredBecause::Completed))) => {
                self.demand(false, Clause::P1, || "a completed operation was claimed again".to_owned());
                false
            }
            Some((entry, Status::Expired(ExpiredBecause::Abandoned))) => {
                self.took_over(entry, record);
                false
            }
        };
        if fresh {
            history.generation += 1;
            self.demand(record.attempt() == 1 && !record.doubt(), Clause::P3, || {
                format!("a generation begins with attempt {}, doubt {}", record.attempt(), record.doubt())
            });
            self.note(if before.is_some() {
                "a new generation over an old record"
            } else {
                "granted, vacant"
            });
        } else if let Some(entry) = before {
            self.continued(entry, record);
        }
        let fingerprint = record.fingerprint();
        history.grants.insert(version.get(), Grant { fingerprint, ..Grant::default() });
    }

    fn took_over(&mut self, entry: &Entry, record: &Record) {
        self.note("takeover");
        self.demand(entry.record.policy() == Policy::Reclaim, Clause::P4, || {
            "an operation in doubt under Hold was claimed before anybody resolved it".to_owned()
        });
        self.demand(record.doubt(), Clause::P4, || {
            "a takeover does not say that an earlier attempt's effect is in doubt".to_owned()
        });
    }

    /// The same generation goes on with another attempt.
    fn continued(&mut self, entry: &Entry, record: &Record) {
        let (old, new) = (&entry.record, record);
        self.demand(new.attempt() == old.attempt() + 1, Clause::P3, || {
            format!("attempt {} follows attempt {}", new.attempt(), old.attempt())
        });
        self.demand(new.fingerprint() == old.fingerprint(), Clause::P5, || {
            "a generation went on with another fingerprint".to_owned()
        });
        self.demand(new.doubt() || !old.doubt(), Clause::P4, || {
            "an attempt forgot that an earlier one's effect is in doubt".to_owned()
        });
        let fresh_id = matches!(old.state(), State::Released { fresh_operation_id: true });
        self.demand(fresh_id || new.operation_id() == old.operation_id(), Clause::P1, || {
            "the attempts of one generation have different operation ids".to_owned()
        });
        if old.doubt() {
            self.note("doubt kept by a further attempt");
        }
        if matches!(old.state(), State::Released { .. }) {
            self.note("claimed after a release");
        }
    }

    /// A write after the grant: P1, P2.
    fn followed(&mut self, history: &mut History, before: Option<&Entry>, record: &Record, expired: bool) {
        let Some(entry) = before else {
            self.demand(false, Clause::P2, || {
                format!("nothing was readable, and a holder wrote {:?}", record.state())
            });
            return;
        };
        let (old, new) = (&entry.record, record);
        let same = old.owner() == new.owner()
            && old.attempt() == new.attempt()
            && Some(entry.fencing_token()) == new.token();
        self.demand(same, Clause::P2, || {
            format!(
                "attempt {} with token {:?} wrote over attempt {} with token {:?}",
                new.attempt(),
                new.token(),
                old.attempt(),
                entry.fencing_token()
            )
        });
        let over = format!("{:?} was written over {:?}", name(new.state()), entry.status());
        let (legal, clause) = match (old.state(), new.state()) {
            (State::Completed(_), State::Forgotten) => (true, Clause::P1),
            (State::Completed(_), _) => (false, Clause::P1),
            (State::Forgotten, _) => (false, Clause::P2),
            // An operator's reset of the attempts restamps.
            (State::Released { .. }, State::Released { .. } | State::Forgotten) => (true, Clause::P2),
            (State::Released { .. }, _) => (false, Clause::P2),
            (State::InProgress, State::Forgotten) => (entry.left.is_zero(), Clause::P2),
            (State::InProgress, State::Released { .. }) => (!old.doubt() || history.resolving, Clause::P4),
            (State::InProgress, State::InProgress | State::Completed(_)) => (true, Clause::P2),
        };
        self.demand(legal, clause, || over);
        let unvouched = history
            .grants
            .get(&entry.fencing_token().get())
            .is_some_and(|grant| grant.started && !grant.vouched && !history.resolving);
        let released = old.state() == State::InProgress && matches!(new.state(), State::Released { .. });
        self.demand(!(released && unvouched), Clause::P4, || {
            "an attempt that had begun was released, and nobody had said that nothing happened".to_owned()
        });
        if let Some(grant) = history.grants.get_mut(&entry.fencing_token().get()) {
            grant.released |= matches!(new.state(), State::Released { .. });
            grant.given_up |= new.state() == State::InProgress && expired;
        }
        if new.is_completed() && entry.left.is_zero() {
            self.note("late completion accepted");
        }
    }

    fn bind(&mut self, history: &mut History, record: &Record) {
        let fingerprint = record.fingerprint();
        let now = self.now;
        if let Some((bound, until)) = history.bindings.last_mut() {
            if *bound == fingerprint {
                return;
            }
            until.0 = Some(now);
        }
        history.bindings.push((fingerprint, Until::default()));
    }

    fn completed(
        &mut self,
        history: &mut History,
        outcome: Outcome,
        fingerprint: Option<Fingerprint>,
        token: FencingToken,
        live_until: Moment,
    ) {
        let generation = history.generation;
        let again = history.completions.iter().any(|before| before.generation == generation);
        self.demand(!again, Clause::P1, || "a generation was completed twice".to_owned());
        history.completions.push(Completion {
            generation,
            token: token.get(),
            outcome,
            fingerprint,
            written: self.now,
            at: Until::default(),
            live_until,
        });
    }

    /// An operation is polled, under this claim: P4, P5, T1.
    pub(super) fn polled(
        &mut self,
        key: &Key,
        token: FencingToken,
        fingerprint: Option<Fingerprint>,
        first: bool,
        now: Moment,
    ) {
        self.mix(token.get());
        self.look_at(key);
        if first {
            self.tell(|| format!("{now:?}: attempt with token {} begins", token.get()));
        }
        let overlap_matters = self.overlap_matters;
        let Some(mut history) = self.keys.remove(key) else {
            self.demand(false, Clause::P4, || "an operation runs on a key that was never written".to_owned());
            return;
        };
        if let Some(grant) = history.grants.get_mut(&token.get()) {
            grant.started = true;
        }
        let grant = history.grants.get(&token.get());
        self.demand(grant.is_some(), Clause::P4, || {
            format!("an operation runs with token {token:?}, which no claim was granted")
        });
        if let Some(grant) = grant {
            self.demand(grant.fingerprint == fingerprint, Clause::P5, || {
                "an operation runs under a claim of another fingerprint".to_owned()
            });
        }
        if overlap_matters {
            self.demand(history.started_max <= token.get(), Clause::T1, || {
                format!("attempt {token:?} executes after attempt {} has begun", history.started_max)
            });
            let current = history.current.as_ref();
            let leased = current.is_some_and(|current| {
                let holds = current.record.token().unwrap_or_else(|| current.version.into()) == token;
                holds && current.live.by > now
            });
            self.demand(!first || leased, Clause::P4, || {
                format!("attempt {token:?} begins, and holds no lease by the store's clock")
            });
        } else if history.started_max > token.get() {
            self.note("overlap after a step of the store's clock");
        }
        history.started_max = history.started_max.max(token.get());
        self.keys.insert(key.clone(), history);
    }
}

/// A state without what it holds.
fn name(state: State<'_>) -> &'static str {
    match state {
        State::InProgress => "in progress",
        State::Completed(_) => "completed",
        State::Released { .. } => "released",
        State::Forgotten => "forgotten",
    }
}
