//! What a store keeps under a key.

use std::fmt;
use std::sync::Arc;

use super::{FencingToken, Fingerprint, OperationId, Owner, Payload};

/// What may happen after an attempt stopped in the middle: a property of the operation, written into its record
/// by the owner and obeyed by every challenger.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Policy {
    /// The next claim takes over and runs the operation again: at least once, never two at a time.
    #[default]
    Reclaim,
    /// Nobody runs it again until somebody resolved whether the effect happened: at most once.
    Hold,
}

/// A moment on the wall clock, in milliseconds since 1970-01-01 UTC, for people to read. Nothing is decided by it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct UnixMillis(pub u64);

/// Whether the operation succeeded, or failed for good.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Conclusion {
    /// It returned a value.
    Succeeded,
    /// It failed, and would fail again: replayed as a failure.
    Failed,
}

/// The bytes of an outcome, or why there are none.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum OutcomeBody {
    /// The encoded value.
    Kept(Payload),
    /// The encoded value was over the limit of the engine that completed it.
    TooLarge {
        /// Its length in bytes.
        len: u64,
    },
    /// The value could not be encoded.
    Unencodable,
    /// It was kept, and dropped by the store once its retention was over: see
    /// [`TrimOutcomes`](crate::store::TrimOutcomes).
    Dropped {
        /// Its length in bytes.
        len: u64,
    },
}

/// What a completed operation left: replayed to every later call of its generation.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Outcome {
    /// Success, or a final failure.
    pub conclusion: Conclusion,
    /// The bytes, where they were kept.
    pub body: OutcomeBody,
}

impl Outcome {
    /// A success with these encoded bytes.
    pub fn success(bytes: impl Into<Payload>) -> Self {
        Self { conclusion: Conclusion::Succeeded, body: OutcomeBody::Kept(bytes.into()) }
    }

    /// Whether this, which is on record, is what a completion with `again` would have put there. Of an outcome whose bytes
    /// were dropped, the length is known.
    pub(crate) fn is_again(&self, again: &Self) -> bool {
        let same_body = match (&self.body, &again.body) {
            (OutcomeBody::Dropped { len }, OutcomeBody::Kept(bytes)) => *len == bytes.len() as u64,
            (recorded, again) => recorded == again,
        };
        self.conclusion == again.conclusion && same_body
    }

    /// A final failure with these encoded bytes.
    pub fn failure(bytes: impl Into<Payload>) -> Self {
        Self { conclusion: Conclusion::Failed, body: OutcomeBody::Kept(bytes.into()) }
    }
}

/// The stored state of a record. What it means now also depends on the time it has left: see
/// [`Status`](super::Status).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum State {
    /// An attempt was granted, and has not concluded.
    InProgress,
    /// The operation concluded.
    Completed(Outcome),
    /// The owner, or an operator, said that nothing happened.
    Released {
        /// The next attempt gets a new operation id.
        fresh_operation_id: bool,
    },
    /// An operator ended the generation.
    Forgotten,
}

/// One record: what the state machine keeps of a key. Made by [`decide`](super::decide) and by decoding; a store
/// keeps [`Record::encode`] and may lift the accessors it likes into columns for people.
///
/// A clone costs one reference count. `Debug` hides the bytes of fingerprint, checkpoint and outcome.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Record(Arc<Fields>);

/// The fields of a record. Records are handed from the store through many hands, so they are moved as one pointer.
#[doc(hidden)]
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[allow(
    missing_docs,
    reason = "hidden: for the conformance kit's sample records, and not covered by versions"
)]
pub struct Fields {
    pub state: State,
    pub owner: Owner,
    /// `None` in the write that grants an attempt, whose token is the version it gets.
    pub token: Option<FencingToken>,
    pub attempt: u32,
    /// Attempts that an operator's reset took out of the count.
    pub forgiven: u32,
    pub operation_id: OperationId,
    pub doubt: bool,
    pub policy: Policy,
    pub fingerprint: Option<Fingerprint>,
    pub checkpoint: Payload,
    pub created_at: UnixMillis,
    pub finished_at: Option<UnixMillis>,
}

#[doc(hidden)]
impl From<Fields> for Record {
    fn from(fields: Fields) -> Self {
        Self(Arc::new(fields))
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Record {
    pub(super) fn fields(&self) -> &Fields {
        &self.0
    }

    /// The stored state.
    pub fn state(&self) -> &State {
        &self.0.state
    }

    /// The claim call that was granted the latest attempt.
    pub fn owner(&self) -> Owner {
        self.0.owner
    }

    /// The latest attempt's fencing token; `None` in the granting write itself, whose version is the token.
    pub fn token(&self) -> Option<FencingToken> {
        self.0.token
    }

    /// The number of the latest attempt, from 1.
    pub fn attempt(&self) -> u32 {
        self.0.attempt
    }

    /// How many attempts count against a limit: those since the last reset.
    pub fn attempts_counted(&self) -> u32 {
        self.0.attempt.saturating_sub(self.0.forgiven)
    }

    /// The id of this generation.
    pub fn operation_id(&self) -> OperationId {
        self.0.operation_id
    }

    /// An earlier attempt was taken over, so its effect is unknown, and nobody resolved it.
    pub fn doubt(&self) -> bool {
        self.0.doubt
    }

    /// What a challenger may do after a crash.
    pub fn policy(&self) -> Policy {
        self.0.policy
    }

    /// The fingerprint that this generation is bound to.
    pub fn fingerprint(&self) -> Option<&Fingerprint> {
        self.0.fingerprint.as_ref()
    }

    /// How far the latest attempt said it got; empty if it never said.
    pub fn checkpoint(&self) -> &Payload {
        &self.0.checkpoint
    }

    /// When the generation began, by the first owner's wall clock.
    pub fn created_at(&self) -> UnixMillis {
        self.0.created_at
    }

    /// When it was completed, released or forgotten, by the wall clock of who did.
    pub fn finished_at(&self) -> Option<UnixMillis> {
        self.0.finished_at
    }

    /// The same record without the bytes of its outcome; `None` if it has none. For a store's
    /// [`TrimOutcomes`](crate::store::TrimOutcomes).
    pub fn without_outcome(&self) -> Option<Self> {
        let State::Completed(Outcome { conclusion, body: OutcomeBody::Kept(bytes) }) = &self.0.state else {
            return None;
        };
        let body = OutcomeBody::Dropped { len: bytes.len() as u64 };
        let state = State::Completed(Outcome { conclusion: *conclusion, body });
        Some(Fields { state, ..self.fields().clone() }.into())
    }

    /// The outcome of a completed record.
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.0.state {
            State::Completed(outcome) => Some(outcome),
            _ => None,
        }
    }
}

impl fmt::Display for UnixMillis {
    /// RFC 3339 in UTC, with milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, of_day) = (self.0 / 86_400_000, self.0 % 86_400_000);
        let (year, month, day) = civil_from_days(days);
        let (hour, minute, second) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1000 % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", of_day % 1000)
    }
}

/// Days since 1970-01-01 as a date of the proleptic Gregorian calendar. Years are counted from March, so that the
/// leap day comes last; a cycle of 400 years has 146,097 days.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468; // from 0000-03-01
    let (cycle, day_of_cycle) = (shifted / 146_097, shifted % 146_097);
    let year_of_cycle =
        (day_of_cycle - day_of_cycle / 1_460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
    let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (cycle * 400 + year_of_cycle + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::super::Algorithm;
    use super::*;

    #[test]
    fn debug_shows_the_state_and_hides_what_may_be_customer_data() {
        let record = Record::from(Fields {
            state: State::Completed(Outcome::success("outcome")),
            owner: Owner::from_bytes([1; 16]),
            token: Some(FencingToken::new(5)),
            attempt: 3,
            forgiven: 2,
            operation_id: OperationId::from_bytes([2; 16]),
            doubt: false,
            policy: Policy::Hold,
            fingerprint: Some(Fingerprint::from_digest(Algorithm::BLAKE3, b"digest").unwrap()),
            checkpoint: Payload::from("checkpoint"),
            created_at: UnixMillis(1),
            finished_at: Some(UnixMillis(2)),
        });
        let shown = format!("{record:?}");
        for part in ["Succeeded", "attempt: 3", "7 bytes", "10 bytes", "6 bytes", "Hold"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        for secret in ["outcome", "checkpoint\"", "digest", "[111", "[99", "[100"] {
            assert!(!shown.contains(secret), "{secret}: {shown}");
        }
    }

    #[test]
    fn wall_times_read_as_rfc_3339() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_799_999, "2000-02-29T23:59:59.999Z"),
            (1_795_478_400_123, "2026-11-24T00:00:00.123Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(UnixMillis(millis).to_string(), text);
        }
    }
}
