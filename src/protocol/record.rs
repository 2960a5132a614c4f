//! What a store keeps under a key.

use std::fmt;

use super::encoding::{
    self, DOUBT, DROPPED, FAILED, FORGOTTEN, HOLD, IN_PROGRESS, KEPT, Parts, RELEASED, RELEASED_FRESH, STATE,
    TOKEN, TOO_LARGE, at, number,
};
use super::fingerprint::Algorithm;
use super::payload::filled;
use super::{
    Conclusion, DecodeError, Draft, FencingToken, Fingerprint, OperationId, Outcome, OutcomeBody, Owner,
    Payload, Policy, State, UnixMillis,
};

/// One record: what the state machine keeps of a key. Made by [`decide`](super::decide), or read from a store. It *is* its
/// stored bytes: a store keeps [`as_bytes`](Self::as_bytes), and may lift what it likes into columns for people.
///
/// A clone costs one reference count. `Debug` hides the bytes of fingerprint, checkpoint and outcome.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Record(Payload);

impl Record {
    /// The stored form.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads the stored form back, and shares its buffer. The bytes are looked at once, here.
    ///
    /// # Errors
    /// [`DecodeError::Newer`] for a record of a later format, [`DecodeError::Damaged`] for anything else that
    /// [`as_bytes`](Self::as_bytes) cannot have given.
    pub fn decode(bytes: impl Into<Payload>) -> Result<Self, DecodeError> {
        let bytes = bytes.into();
        encoding::check(&bytes).map(|()| Self(bytes))
    }

    /// Takes bytes that were a record's before, and stayed in this process.
    pub(crate) fn from_own(bytes: Payload) -> Self {
        debug_assert_eq!(encoding::check(&bytes), Ok(()));
        Self(bytes)
    }

    #[inline]
    fn head(&self) -> &[u8; at::REST] {
        self.0.first_chunk().expect("a record is as long as its fixed part")
    }

    #[inline]
    fn flag(&self, bit: u8) -> bool {
        self.head()[at::FLAGS] & bit != 0
    }

    #[inline]
    fn parts(&self) -> Parts {
        Parts::of(self.head()[at::FLAGS], self.head()[at::DIGEST])
    }

    /// The checkpoint, or what is kept of the outcome.
    #[inline]
    fn last(&self) -> &[u8] {
        &self.0[self.parts().last..]
    }

    /// The stored state.
    #[inline]
    pub fn state(&self) -> State<'_> {
        let state = self.head()[at::FLAGS] & STATE;
        let body = match state & !FAILED {
            _ if state == IN_PROGRESS => return State::InProgress,
            _ if state == FORGOTTEN => return State::Forgotten,
            _ if state == RELEASED => return State::Released { fresh_operation_id: false },
            _ if state == RELEASED_FRESH => return State::Released { fresh_operation_id: true },
            KEPT => OutcomeBody::Kept(self.last()),
            TOO_LARGE => OutcomeBody::TooLarge { len: number(self.last()) },
            DROPPED => OutcomeBody::Dropped { len: number(self.last()) },
            _ => OutcomeBody::Unencodable,
        };
        let conclusion = if state & FAILED == 0 { Conclusion::Succeeded } else { Conclusion::Failed };
        State::Completed(Outcome { conclusion, body })
    }

    /// An attempt was granted, and has not concluded.
    #[inline]
    pub fn is_in_progress(&self) -> bool {
        self.head()[at::FLAGS] & STATE == IN_PROGRESS
    }

    /// The operation concluded: there is an [`outcome`](Self::outcome).
    #[inline]
    pub fn is_completed(&self) -> bool {
        self.head()[at::FLAGS] & STATE >= KEPT
    }

    /// The claim call that was granted the latest attempt.
    #[inline]
    pub fn owner(&self) -> Owner {
        let [_, _, _, rest @ ..] = self.head();
        Owner::from_bytes(*rest.first_chunk().expect("16 bytes"))
    }

    /// The latest attempt's fencing token; `None` in the granting write itself, whose version is the token.
    #[inline]
    pub fn token(&self) -> Option<FencingToken> {
        let token = || FencingToken::new(number(&self.head()[at::TOKEN..at::FINISHED]));
        self.flag(TOKEN).then(token)
    }

    /// The number of the latest attempt, from 1.
    #[inline]
    pub fn attempt(&self) -> u32 {
        number_u32(&self.head()[at::ATTEMPT..at::CREATED])
    }

    /// How many attempts count against a limit: those since the last reset.
    pub fn attempts_counted(&self) -> u32 {
        self.attempt() - self.forgiven()
    }

    pub(super) fn forgiven(&self) -> u32 {
        let parts = self.parts();
        match &self.0[parts.forgiven..parts.fingerprint] {
            [] => 0,
            forgiven => number_u32(forgiven),
        }
    }

    /// The id of this generation.
    #[inline]
    pub fn operation_id(&self) -> OperationId {
        match self.0[at::REST..self.parts().forgiven].first_chunk() {
            Some(&id) => OperationId::from_bytes(id),
            None => OperationId::from_bytes(self.owner().to_bytes()),
        }
    }

    /// An earlier attempt was taken over, so its effect is unknown, and nobody resolved it.
    #[inline]
    pub fn doubt(&self) -> bool {
        self.flag(DOUBT)
    }

    /// What a challenger may do after a crash.
    #[inline]
    pub fn policy(&self) -> Policy {
        if self.flag(HOLD) { Policy::Hold } else { Policy::Reclaim }
    }

    /// The fingerprint that this generation is bound to.
    #[inline]
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        let parts = self.parts();
        let (&algorithm, digest) = self.0[parts.fingerprint..parts.last].split_first()?;
        let algorithm = Algorithm::from_number(algorithm);
        Some(Fingerprint::from_digest(algorithm, digest).expect("a digest of 1 to 32 bytes"))
    }

    /// How far the latest attempt said it got; empty if it never said.
    #[inline]
    pub fn checkpoint(&self) -> Payload {
        self.window_of(self.checkpoint_bytes())
    }

    #[inline]
    pub(super) fn checkpoint_bytes(&self) -> &[u8] {
        if self.is_completed() { &[] } else { self.last() }
    }

    /// When the generation began, by the first owner's wall clock.
    #[inline]
    pub fn created_at(&self) -> UnixMillis {
        UnixMillis(number(&self.head()[at::CREATED..at::TOKEN]))
    }

    /// When it was completed, released or forgotten, by the wall clock of who did.
    #[inline]
    pub fn finished_at(&self) -> Option<UnixMillis> {
        (!self.is_in_progress()).then(|| UnixMillis(number(&self.head()[at::FINISHED..at::LEN])))
    }

    /// The outcome of a completed record. It shares the record's buffer.
    #[inline]
    pub fn outcome(&self) -> Option<Outcome> {
        let State::Completed(Outcome { conclusion, body }) = self.state() else { return None };
        Some(Outcome { conclusion, body: body.map(|bytes| self.window_of(bytes)) })
    }

    /// The last bytes of this record, so many as these.
    #[inline]
    fn window_of(&self, last: &[u8]) -> Payload {
        if last.is_empty() { Payload::empty() } else { self.0.slice(self.0.len() - last.len()..self.0.len()) }
    }

    /// The same record without the bytes of its outcome; `None` if it has none. For a store's
    /// [`TrimOutcomes`](crate::store::TrimOutcomes).
    #[must_use]
    pub fn without_outcome(&self) -> Option<Self> {
        let State::Completed(Outcome { conclusion, body: OutcomeBody::Kept(bytes) }) = self.state() else {
            return None;
        };
        let body = OutcomeBody::Dropped { len: bytes.len() as u64 };
        Some(Draft { state: State::Completed(Outcome { conclusion, body }), ..self.draft() }.into())
    }

    /// Its fields, to make another record of.
    #[doc(hidden)]
    pub fn draft(&self) -> Draft<'_> {
        Draft {
            state: self.state(),
            owner: self.owner(),
            token: self.token(),
            attempt: self.attempt(),
            forgiven: self.forgiven(),
            operation_id: self.operation_id(),
            doubt: self.doubt(),
            policy: self.policy(),
            fingerprint: self.fingerprint(),
            checkpoint: self.checkpoint_bytes(),
            created_at: self.created_at(),
            finished_at: self.finished_at(),
        }
    }
}

/// The four bytes here.
#[inline]
fn number_u32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(*bytes.first_chunk().expect("four bytes are there"))
}

impl From<Draft<'_>> for Record {
    fn from(draft: Draft<'_>) -> Self {
        Self::from_own(Payload::from_shared(filled(draft.byte_len(), |bytes| draft.write_to(bytes))))
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Bytes that may be a customer's: their number is shown.
        struct Hidden(usize);
        impl fmt::Debug for Hidden {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{} bytes", self.0)
            }
        }
        let mut shown = f.debug_struct("Record");
        match self.outcome() {
            Some(outcome) => shown.field("state", &outcome),
            None => shown.field("state", &self.state()),
        };
        shown
            .field("owner", &self.owner())
            .field("token", &self.token())
            .field("attempt", &self.attempt())
            .field("forgiven", &self.forgiven())
            .field("operation_id", &self.operation_id())
            .field("doubt", &self.doubt())
            .field("policy", &self.policy())
            .field("fingerprint", &self.fingerprint())
            .field("checkpoint", &Hidden(self.checkpoint_bytes().len()))
            .field("created_at", &self.created_at())
            .field("finished_at", &self.finished_at())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_the_state_and_hides_what_may_be_customer_data() {
        let outcome = Outcome::success("outcome");
        let draft = Draft {
            state: State::Completed(outcome.borrowed()),
            owner: Owner::from_bytes([1; 16]),
            token: Some(FencingToken::new(5)),
            attempt: 3,
            forgiven: 2,
            operation_id: OperationId::from_bytes([2; 16]),
            doubt: false,
            policy: Policy::Hold,
            fingerprint: Some(Fingerprint::from_digest(Algorithm::BLAKE3, b"digest").unwrap()),
            checkpoint: b"checkpoint",
            created_at: UnixMillis(1),
            finished_at: Some(UnixMillis(2)),
        };
        let completed = format!("{:?}", Record::from(draft));
        let released = State::Released { fresh_operation_id: true };
        let released = format!("{:?}", Record::from(Draft { state: released, ..draft }));
        for part in ["Succeeded", "attempt: 3", "7 bytes", "6 bytes", "Hold"] {
            assert!(completed.contains(part), "{part}: {completed}");
        }
        assert!(released.contains("10 bytes"), "{released}");
        for secret in ["\"outcome\"", "checkpoint\"", "digest", "[111", "[99", "[100"] {
            assert!(
                !completed.contains(secret) && !released.contains(secret),
                "{secret}: {completed} {released}"
            );
        }
    }
}
