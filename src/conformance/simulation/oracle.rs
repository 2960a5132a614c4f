//! Sees every write that is applied, every poll of an operation and every answer, and knows what must not be.

use std::collections::BTreeMap;

use super::Met;
use crate::conformance::{Clause, Violation};
use crate::protocol::{
    Cause, Entry, FencingToken, Fingerprint, Judged, Key, Outcome, Policy, Record, State, Version,
};
use crate::time::Moment;

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
    /// A resolution was asked for, so doubt may be cleared by one.
    resolving: bool,
}

#[derive(Debug)]
struct Current {
    record: Record,
    version: Version,
    live_until: Moment,
    gone_at: Moment,
}

/// What one attempt's writes were seen to do.
#[derive(Debug)]
struct Grant {
    fingerprint: Option<Fingerprint>,
    released: bool,
    given_up: bool,
}

#[derive(Debug)]
struct Completion {
    generation: u64,
    token: u64,
    outcome: Outcome,
    fingerprint: Option<Fingerprint>,
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
    pub(super) fn new(overlap_matters: bool) -> Self {
        Self { keys: BTreeMap::new(), now: 0, overlap_matters, met: Met::new(), broken: None, trace: 0 }
    }

    pub(super) fn take_violation(&mut self) -> Option<Violation> {
        self.broken.take()
    }

    pub(super) fn trace(&self) -> u64 {
        self.trace
    }

    pub(super) fn note(&mut self, what: &'static str) {
        *self.met.entry(what).or_default() += 1;
        for byte in what.bytes() {
            self.mix(u64::from(byte));
        }
    }

    fn mix(&mut self, value: u64) {
        self.trace = (self.trace ^ value).wrapping_mul(0x0100_0000_01b3).rotate_left(17);
    }

    fn demand(&mut self, holds: bool, clause: Clause, what: impl FnOnce() -> String) {
        if !holds && self.broken.is_none() {
            self.broken = Some(Violation::new(clause, what()));
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
    pub(super) fn applied(
        &mut self,
        key: &Key,
        record: &Record,
        version: Version,
        now: Moment,
        (live_until, gone_at): (Moment, Moment),
    ) {
        self.now += 1;
        self.mix(self.now);
        self.mix(now.as_nanos());
        let mut history = self.keys.remove(key).unwrap_or_default();
        let before = history.current.take().filter(|current| current.gone_at > now);
        let before = before.map(|current| Entry {
            left: current.live_until.saturating_since(now),
            record: current.record,
            version: current.version,
        });
        let is_grant = record.state() == &State::InProgress && record.token().is_none();
        if is_grant {
            self.granted(&mut history, before.as_ref(), record, version);
        } else {
            self.followed(&mut history, before.as_ref(), record, live_until <= now);
        }
        self.bind(&mut history, record);
        if let (State::Completed(outcome), Some(token)) = (record.state(), record.token()) {
            self.completed(&mut history, outcome, record.fingerprint().copied(), token, live_until);
        }
        let now_written = self.now;
        let ended = history
            .completions
            .iter_mut()
            .rev()
            .skip(usize::from(matches!(record.state(), State::Completed(_))));
        ended
            .filter(|completion| completion.at.0.is_none())
            .for_each(|completion| completion.at.0 = Some(now_written));
        history.current = Some(Current { record: record.clone(), version, live_until, gone_at });
        self.keys.insert(key.clone(), history);
    }

    /// A claim was written: P3, and the rows of the table.
    fn granted(&mut self, history: &mut History, before: Option<&Entry>, record: &Record, version: Version) {
        self.demand(version.get() > history.token_max, Clause::P3, || {
            format!("an attempt got token {version:?}, and one before it had {}", history.token_max)
        });
        history.token_max = history.token_max.max(version.get());
        let fresh = match before.map(|entry| (entry, entry.judge())) {
            None | Some((_, Judged::Expired(Cause::Forgotten))) => true,
            Some((entry, Judged::Expired(Cause::Released))) => {
                entry.record.fingerprint() != record.fingerprint()
            }
            Some((_, Judged::InProgress)) => {
                self.demand(false, Clause::T1, || "a live claim was taken over".to_owned());
                false
            }
            Some((_, Judged::Completed | Judged::Expired(Cause::Completed))) => {
                self.demand(false, Clause::P1, || "a completed operation was claimed again".to_owned());
                false
            }
            Some((entry, Judged::Expired(Cause::Abandoned))) => {
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
        let fingerprint = record.fingerprint().copied();
        history.grants.insert(version.get(), Grant { fingerprint, released: false, given_up: false });
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
        let over = format!("{:?} was written over {:?}", name(new.state()), entry.judge());
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
        if let Some(grant) = history.grants.get_mut(&entry.fencing_token().get()) {
            grant.released |= matches!(new.state(), State::Released { .. });
            grant.given_up |= new.state() == &State::InProgress && expired;
        }
        if matches!(new.state(), State::Completed(_)) && entry.left.is_zero() {
            self.note("late completion accepted");
        }
    }

    fn bind(&mut self, history: &mut History, record: &Record) {
        let fingerprint = record.fingerprint().copied();
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
        outcome: &Outcome,
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
            outcome: outcome.clone(),
            fingerprint,
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
        let overlap_matters = self.overlap_matters;
        let Some(mut history) = self.keys.remove(key) else {
            self.demand(false, Clause::P4, || "an operation runs on a key that was never written".to_owned());
            return;
        };
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
                holds && current.live_until > now
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

    /// An outcome was given again to a call with this fingerprint: P1, P5.
    pub(super) fn replayed(
        &mut self,
        key: &Key,
        outcome: &Outcome,
        fingerprint: Option<Fingerprint>,
        begun: Begun,
    ) {
        self.note("replay");
        let known: Vec<_> = self.completions(key).filter(|known| &known.outcome == outcome).collect();
        let bound = known.iter().any(|known| known.fingerprint == fingerprint);
        let fresh = known.iter().any(|known| {
            known.fingerprint == fingerprint && known.live_until > begun.at && known.at.meets(begun.write)
        });
        let (any, count) = (!known.is_empty(), known.len());
        self.demand(any, Clause::P1, || "a call was answered an outcome that was never accepted".to_owned());
        self.demand(!any || bound, Clause::P5, || {
            "a call was answered the outcome of another fingerprint".to_owned()
        });
        let stepped = !self.overlap_matters;
        self.demand(!bound || fresh || stepped, Clause::P1, || {
            format!("a call was answered an outcome ({count} known) that was over before the call began")
        });
    }

    /// The key was said to be another request's: P5.
    pub(super) fn mismatched(&mut self, key: &Key, fingerprint: Option<Fingerprint>, begun: Begun) {
        self.note("mismatch");
        let bindings = self.keys.get(key).map_or(&[][..], |history| &history.bindings);
        let another = bindings.iter().any(|(bound, at)| *bound != fingerprint && at.meets(begun.write));
        self.demand(another, Clause::P5, || {
            "a call was told that the key is another request's, and it was not".to_owned()
        });
    }

    /// A completion was reported as stored: P1.
    pub(super) fn told_completed(&mut self, key: &Key, token: FencingToken, outcome: &Outcome) {
        let stored =
            self.completions(key).any(|known| known.token == token.get() && &known.outcome == outcome);
        self.demand(stored, Clause::P1, || {
            format!("attempt {token:?} was told that its outcome is on record, and it never was")
        });
    }

    /// A completion was reported as not applied: P6.
    pub(super) fn told_not_applied(&mut self, key: &Key, token: FencingToken, outcome: &Outcome) {
        let stored =
            self.completions(key).any(|known| known.token == token.get() && &known.outcome == outcome);
        self.demand(!stored, Clause::P6, || {
            format!("attempt {token:?} was told that its completion was not applied, and it was")
        });
    }

    /// A release, or giving up, was reported as done: P6.
    pub(super) fn told_given_up(&mut self, key: &Key, token: FencingToken) {
        let grant = self.keys.get(key).and_then(|history| history.grants.get(&token.get()));
        let done = grant.is_some_and(|grant| grant.released || grant.given_up);
        self.demand(done, Clause::P6, || {
            format!("attempt {token:?} was told that it is released, and nothing of that was applied")
        });
    }

    /// A call that did not run its operation says so, and one that says it ran it did: P4.
    pub(super) fn ran(&mut self, says: bool, did: bool) {
        self.demand(says || !did, Clause::P4, || {
            "an operation was polled in a call that answered as if it had not run".to_owned()
        });
        self.demand(!says || did, Clause::P4, || {
            "a call answered that its operation ran, and it was never polled".to_owned()
        });
    }

    fn completions(&self, key: &Key) -> impl Iterator<Item = &Completion> {
        self.keys.get(key).into_iter().flat_map(|history| &history.completions)
    }
}

/// A state without what it holds.
fn name(state: &State) -> &'static str {
    match state {
        State::InProgress => "in progress",
        State::Completed(_) => "completed",
        State::Released { .. } => "released",
        State::Forgotten => "forgotten",
    }
}
