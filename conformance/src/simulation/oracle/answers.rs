//! What calls were answered, against what was seen to happen.

use super::{Begun, Completion, Oracle};
use crate::Clause;
use oncekey::admin::AdminAnswer;
use oncekey::protocol::{FencingToken, Fingerprint, Key, Outcome};

impl Oracle {
    /// An outcome was given again to a call with this fingerprint: P1, P5.
    pub(in crate::simulation) fn replayed(
        &mut self,
        key: &Key,
        outcome: &Outcome,
        fingerprint: Option<Fingerprint>,
        begun: Begun,
    ) {
        self.look_at(key);
        self.note("replay");
        if self.completions(key).any(|known| &known.outcome == outcome && known.written > begun.write) {
            self.note("a waiter was answered");
        }
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
    pub(in crate::simulation) fn mismatched(
        &mut self,
        key: &Key,
        fingerprint: Option<Fingerprint>,
        begun: Begun,
    ) {
        self.look_at(key);
        self.note("mismatch");
        let bindings = self.keys.get(key).map_or(&[][..], |history| &history.bindings);
        let another = bindings.iter().any(|(bound, at)| *bound != fingerprint && at.meets(begun.write));
        self.demand(another, Clause::P5, || {
            "a call was told that the key is another request's, and it was not".to_owned()
        });
    }

    /// The key was said to be another call's: P6.
    pub(in crate::simulation) fn in_progress(&mut self, key: &Key, call: usize, begun: Begun) {
        self.look_at(key);
        self.note("in progress");
        let holders = self.keys.get(key).map_or(&[][..], |history| &history.holders);
        let another = holders.iter().any(|(holder, until)| *holder != call && until.meets(begun.write));
        self.demand(another, Clause::P6, || {
            "a call was told that another attempt is running, and there was none but its own".to_owned()
        });
    }

    /// A completion was reported as stored: P1.
    pub(in crate::simulation) fn told_completed(
        &mut self,
        key: &Key,
        token: FencingToken,
        outcome: &Outcome,
    ) {
        self.look_at(key);
        let stored =
            self.completions(key).any(|known| known.token == token.get() && &known.outcome == outcome);
        self.demand(stored, Clause::P1, || {
            format!("attempt {token:?} was told that its outcome is on record, and it never was")
        });
    }

    /// A completion was reported as not applied: P6.
    pub(in crate::simulation) fn told_not_applied(
        &mut self,
        key: &Key,
        token: FencingToken,
        outcome: &Outcome,
    ) {
        self.look_at(key);
        let stored =
            self.completions(key).any(|known| known.token == token.get() && &known.outcome == outcome);
        self.demand(!stored, Clause::P6, || {
            format!("attempt {token:?} was told that its completion was not applied, and it was")
        });
    }

    /// A release, or giving up, was reported as done: P6.
    pub(in crate::simulation) fn told_given_up(&mut self, key: &Key, token: FencingToken) {
        let grant = self.keys.get(key).and_then(|history| history.grants.get(&token.get()));
        let done = grant.is_some_and(|grant| grant.released || grant.given_up);
        self.demand(done, Clause::P6, || {
            format!("attempt {token:?} was told that it is released, and nothing of that was applied")
        });
    }

    /// A call that did not run its operation says so, and one that says it ran it did: P4.
    pub(in crate::simulation) fn ran(&mut self, says: bool, did: bool) {
        self.demand(says || !did, Clause::P4, || {
            "an operation was polled in a call that answered as if it had not run".to_owned()
        });
        self.demand(!says || did, Clause::P4, || {
            "a call answered that its operation ran, and it was never polled".to_owned()
        });
    }

    /// What an operator was told of an outcome that no other call brings: P6.
    pub(in crate::simulation) fn told_operator(&mut self, key: &Key, outcome: &Outcome, answer: AdminAnswer) {
        self.look_at(key);
        let written = self.completions(key).any(|known| &known.outcome == outcome);
        let stands = self.completions(key).any(|known| &known.outcome == outcome && known.at.0.is_none());
        let told = match answer {
            AdminAnswer::Done => written,
            AdminAnswer::Changed { possibly_applied, .. } => !stands && (possibly_applied || !written),
            AdminAnswer::Absent
            | AdminAnswer::Live { .. }
            | AdminAnswer::NotInDoubt
            | AdminAnswer::AlreadyCompleted => !written,
        };
        self.demand(told, Clause::P6, || {
            format!("a resolution was answered {answer:?}; it was written: {written}, and stands: {stands}")
        });
        if let AdminAnswer::Changed { possibly_applied: true, .. } = answer {
            self.note("resolution possibly applied");
        }
    }

    fn completions(&self, key: &Key) -> impl Iterator<Item = &Completion> {
        self.keys.get(key).into_iter().flat_map(|history| &history.completions)
    }
}
