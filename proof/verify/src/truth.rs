//! What really happened, which no client can see: the properties are judged by it.

use oncekey::protocol::{Entry, Policy, State};

use crate::events::{Events, Property, Sight};
use crate::store::{Kind, Request, number};

/// The truth about the current generation, and the greatest token ever.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Truth {
    /// The first completion that was accepted.
    pub(crate) completed: Option<u8>,
    /// The token of the attempt that may write; none once it concluded, or an operator did.
    current: Option<u8>,
    /// The first token of those whose effects count: from the first grant, or from an operator's word on.
    first_token: u8,
    max_token: u8,
    /// The attempts, by token, that started and may have had an effect, as nobody who knows said otherwise.
    acted: u64,
}

/// The outcome of a completed record, by the one byte that it is here.
pub(crate) fn outcome(entry: &Entry) -> Option<u8> {
    let outcome = entry.record.outcome()?;
    match &outcome.body {
        oncekey::protocol::OutcomeBody::Kept(bytes) => bytes.first().copied(),
        _ => None,
    }
}

/// Whether both are of one operation: its id and its fingerprint do not change.
fn is_same(before: &Entry, after: &Entry) -> bool {
    before.record.operation_id() == after.record.operation_id()
        && before.record.fingerprint() == after.record.fingerprint()
}

impl Truth {
    /// The operation of the attempt with this token starts.
    pub(crate) fn started(&mut self, token: u8) {
        if token >= self.first_token {
            self.acted |= 1 << token;
        }
    }

    /// The operation of the attempt with this token failed without an effect.
    pub(crate) fn had_no_effect(&mut self, token: u8) {
        self.acted &= !(1 << token);
    }

    /// Nothing is left to read: whatever comes is another generation.
    pub(crate) fn gone(&mut self) {
        *self = Self { max_token: self.max_token, first_token: self.max_token + 1, ..Self::default() };
    }

    /// The store shows `entry` to somebody.
    pub(crate) fn shown(&self, entry: &Entry, events: &mut Events) {
        if entry.record.outcome().is_some() {
            events.check(Property::OneOutcome, outcome(entry) == self.completed);
        }
    }

    /// The store did this write, over `before`.
    pub(crate) fn applied(
        &mut self,
        request: &Request,
        before: Option<&Entry>,
        after: &Entry,
        events: &mut Events,
    ) {
        match request.kind {
            Kind::Claim if request.put.grants() => self.granted(before, after, events),
            Kind::Claim | Kind::Renew | Kind::Checkpoint | Kind::Complete | Kind::Release | Kind::Abandon => {
                let token =
                    if request.kind == Kind::Claim { number(after.fencing_token()) } else { request.token };
                events.check(Property::StaleIsInert, self.current == Some(token));
                events.check(Property::OneOperationId, before.is_some_and(|before| is_same(before, after)));
                self.held(request.kind, before, after, events);
            }
            Kind::Forget | Kind::Resolve => self.administered(before, after, events),
        }
    }

    fn granted(&mut self, before: Option<&Entry>, after: &Entry, events: &mut Events) {
        let token = number(after.fencing_token());
        events.check(Property::Fencing, token > self.max_token);
        self.max_token = token;
        let same_request = |before: &&Entry| before.record.fingerprint() == after.record.fingerprint();
        let goes_on = before.filter(|before| match before.record.state() {
            State::Forgotten => false,
            State::Released { .. } => same_request(before),
            State::InProgress | State::Completed(_) => true,
        });
        match goes_on {
            None => {
                if before.is_some_and(|entry| matches!(entry.record.state(), State::Released { .. })) {
                    events.saw(Sight::NewGeneration);
                }
                *self = Self { first_token: token, max_token: token, ..Self::default() };
            }
            Some(before) => {
                events.check(Property::Binding, same_request(&before));
                self.next_attempt(before, after, events);
            }
        }
        self.current = Some(token);
    }

    fn next_attempt(&mut self, before: &Entry, after: &Entry, events: &mut Events) {
        events.check(Property::OneOutcome, self.completed.is_none());
        events.check(Property::DoubtIsKept, self.acted == 0 || after.record.doubt());
        let mut asked_fresh = false;
        match before.record.state() {
            State::InProgress => {
                events.saw(Sight::Takeover);
                events.check(Property::HoldIsObeyed, before.record.policy() != Policy::Hold);
            }
            State::Released { fresh_operation_id } => {
                events.saw(Sight::ClaimAfterRelease);
                asked_fresh = fresh_operation_id;
            }
            State::Completed(_) | State::Forgotten => {}
        }
        events.check(Property::OneOperationId, asked_fresh || is_same(before, after));
    }

    fn held(&mut self, kind: Kind, before: Option<&Entry>, after: &Entry, events: &mut Events) {
        let late = before.is_none_or(|entry| entry.left.is_zero());
        match (kind, after.record.state()) {
            (Kind::Complete, State::Completed(_)) => {
                events.check(Property::OneOutcome, self.completed.is_none());
                self.completed = self.completed.or(outcome(after));
                (self.current, self.acted) = (None, 0);
                if late {
                    events.saw(Sight::LateCompletionAccepted);
                }
            }
            (Kind::Release, State::Released { .. }) => {
                events.check(Property::DoubtIsKept, self.acted == 0);
                self.current = None;
            }
            (Kind::Release, State::InProgress) => events.saw(Sight::DoubtKept),
            _ => {}
        }
    }

    fn administered(&mut self, before: Option<&Entry>, after: &Entry, events: &mut Events) {
        let live =
            before.is_some_and(|entry| entry.record.state() == State::InProgress && !entry.left.is_zero());
        events.check(Property::OperatorsKeepOff, !live);
        match after.record.state() {
            State::Completed(_) => {
                events.check(Property::OneOutcome, self.completed.is_none());
                self.completed = self.completed.or(outcome(after));
                events.saw(Sight::Resolved);
            }
            State::Forgotten => events.saw(Sight::Forgotten),
            State::Released { .. } | State::InProgress => events.saw(Sight::Resolved),
        }
        // It is the operator's word now, also for who has yet to begin.
        self.acted = 0;
        self.first_token = self.max_token + 1;
        self.current = None;
    }
}
