//! A record before it is written.

use std::sync::Arc;

use super::encoding::{
    DOUBT, DROPPED, FAILED, FORGOTTEN, FORMAT, HOLD, IN_PROGRESS, KEPT, OWN_ID, RELEASED, RELEASED_FRESH,
    RESET, TIME_LEN, TIME_MAX, TOKEN, TOO_LARGE, UNENCODABLE, at,
};
use super::payload::joined;
use super::{
    Conclusion, FencingToken, Fingerprint, OperationId, Outcome, OutcomeBody, Owner, Policy, State,
    UnixMillis,
};

/// The fields of a record that is to be written.
///
/// A checkpoint counts in progress and released only; a time of finishing everywhere but in progress.
#[derive(Clone, Copy, Debug)]
#[allow(
    missing_docs,
    reason = "hidden: for the conformance kit's sample records, and not covered by versions"
)]
pub struct Draft<'a> {
    pub state: State<'a>,
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
    pub checkpoint: &'a [u8],
    pub created_at: UnixMillis,
    pub finished_at: Option<UnixMillis>,
}

impl Draft<'_> {
    /// The stored form: see [`encoding`](super::encoding).
    pub(super) fn encode(&self) -> Arc<[u8]> {
        let mut number = [0; 8];
        let (state, last) = self.state_and_last(&mut number);
        // No engine and no store takes more than `Payload::LEN_MAX`, 1 GiB, so 32 bits suffice.
        let last_len = u32::try_from(last.len()).expect("a record takes at most 4 GiB");
        let mut front = Front { bytes: [0; FRONT_MAX], len: 0 };
        let own_id = self.operation_id.to_bytes() == self.owner.to_bytes();
        let digest = self.fingerprint.as_ref().map_or(&[][..], Fingerprint::digest);
        let digest_len = u8::try_from(digest.len()).expect("a digest has at most 32 bytes");
        let flags = flag(self.doubt, DOUBT)
            | flag(self.policy == Policy::Hold, HOLD)
            | flag(self.token.is_some(), TOKEN)
            | flag(own_id, OWN_ID);
        let finished = if state == IN_PROGRESS { None } else { self.finished_at };
        front.put([FORMAT, state | flags, digest_len | flag(self.forgiven > 0, RESET)]);
        front.put(self.owner.to_bytes());
        front.put(self.attempt.to_be_bytes());
        front.put(time(self.created_at));
        front.put(self.token.map_or(0, FencingToken::get).to_be_bytes());
        front.put(time(finished.unwrap_or_default()));
        front.put(last_len.to_be_bytes());
        if !own_id {
            front.put(self.operation_id.to_bytes());
        }
        if self.forgiven > 0 {
            front.put(self.forgiven.to_be_bytes());
        }
        if let Some(fingerprint) = &self.fingerprint {
            front.put([fingerprint.algorithm().number()]);
            front.put_slice(digest);
        }
        joined([&front.bytes[..front.len], last])
    }

    /// The number of the state, and the bytes that come last.
    fn state_and_last<'b>(&'b self, number: &'b mut [u8; 8]) -> (u8, &'b [u8]) {
        let Outcome { conclusion, body } = match self.state {
            State::InProgress => return (IN_PROGRESS, self.checkpoint),
            State::Released { fresh_operation_id: false } => return (RELEASED, self.checkpoint),
            State::Released { fresh_operation_id: true } => return (RELEASED_FRESH, self.checkpoint),
            State::Forgotten => return (FORGOTTEN, &[]),
            State::Completed(outcome) => outcome,
        };
        let (kind, last): (u8, &[u8]) = match body {
            OutcomeBody::Kept(bytes) => (KEPT, bytes),
            OutcomeBody::Unencodable => (UNENCODABLE, &[]),
            OutcomeBody::TooLarge { len } => {
                *number = len.to_be_bytes();
                (TOO_LARGE, number)
            }
            OutcomeBody::Dropped { len } => {
                *number = len.to_be_bytes();
                (DROPPED, number)
            }
        };
        (kind | flag(conclusion == Conclusion::Failed, FAILED), last)
    }
}

/// All but what comes last.
struct Front {
    bytes: [u8; FRONT_MAX],
    len: usize,
}

const FRONT_MAX: usize = at::REST + 16 + 4 + 1 + Fingerprint::LEN_MAX;

impl Front {
    #[inline]
    fn put<const LEN: usize>(&mut self, bytes: [u8; LEN]) {
        self.bytes[self.len..self.len + LEN].copy_from_slice(&bytes);
        self.len += LEN;
    }

    fn put_slice(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

fn flag(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}

/// A time past the year 10889 is kept as the last one that there is room for.
fn time(time: UnixMillis) -> [u8; TIME_LEN] {
    let [_, _, bytes @ ..] = time.0.min(TIME_MAX).to_be_bytes();
    bytes
}
