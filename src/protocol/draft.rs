//! A record before it is written.

use super::encoding::{
    DOUBT, DROPPED, FAILED, FORGOTTEN, FORMAT, HOLD, IN_PROGRESS, KEPT, OWN_ID, RELEASED, RELEASED_FRESH,
    RESET, TIME_LEN, TIME_MAX, TOKEN, TOO_LARGE, UNENCODABLE, at,
};
use super::payload::put;
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
    /// How long the stored form is.
    #[inline]
    pub(super) fn byte_len(&self) -> usize {
        let digest = self.fingerprint.as_ref().map_or(&[][..], Fingerprint::digest);
        let last = last_byte_len(&self.state, self.checkpoint);
        let id = if self.has_own_id() { 0 } else { 16 };
        let reset = if self.forgiven > 0 { 4 } else { 0 };
        let fingerprint = if digest.is_empty() { 0 } else { 1 + digest.len() };
        at::REST + id + reset + fingerprint + last
    }

    fn has_own_id(&self) -> bool {
        self.operation_id.to_bytes() == self.owner.to_bytes()
    }

    /// Writes the stored form: see [`encoding`](super::encoding).
    pub(super) fn write_to(&self, bytes: &mut [u8]) {
        let mut number = [0; 8];
        let (state, last) = state_and_last(&self.state, self.checkpoint, &mut number);
        let own_id = self.has_own_id();
        let digest = self.fingerprint.as_ref().map_or(&[][..], Fingerprint::digest);
        let digest_len = u8::try_from(digest.len()).expect("a digest has at most 32 bytes");
        let flags = state
            | flag(self.doubt, DOUBT)
            | flag(self.policy == Policy::Hold, HOLD)
            | flag(self.token.is_some(), TOKEN)
            | flag(own_id, OWN_ID);
        let lengths = digest_len | flag(self.forgiven > 0, RESET);
        let (head, mut rest) = bytes.split_first_chunk_mut().expect("the fixed part is counted in");
        let head: &mut [u8; at::REST] = head;
        head[..at::OWNER].copy_from_slice(&[FORMAT, flags, lengths]);
        head[at::OWNER..at::ATTEMPT].copy_from_slice(&self.owner.to_bytes());
        head[at::ATTEMPT..at::CREATED].copy_from_slice(&self.attempt.to_be_bytes());
        head[at::CREATED..at::TOKEN].copy_from_slice(&time(self.created_at));
        let token = self.token.map_or(0, FencingToken::get);
        head[at::TOKEN..at::FINISHED].copy_from_slice(&token.to_be_bytes());
        let finished = if state == IN_PROGRESS { None } else { self.finished_at };
        head[at::FINISHED..at::LEN].copy_from_slice(&time(finished.unwrap_or_default()));
        head[at::LEN..].copy_from_slice(&last_len(last));
        if !own_id {
            rest = put(rest, &self.operation_id.to_bytes());
        }
        if self.forgiven > 0 {
            rest = put(rest, &self.forgiven.to_be_bytes());
        }
        if let Some(fingerprint) = &self.fingerprint {
            rest = put(put(rest, &[fingerprint.algorithm().number()]), digest);
        }
        rest.copy_from_slice(last);
    }
}

/// The number of a state, and the bytes that come last.
pub(super) fn state_and_last<'b>(
    state: &State<'b>,
    checkpoint: &'b [u8],
    number: &'b mut [u8; 8],
) -> (u8, &'b [u8]) {
    let Outcome { conclusion, body } = match *state {
        State::InProgress => return (IN_PROGRESS, checkpoint),
        State::Released { fresh_operation_id: false } => return (RELEASED, checkpoint),
        State::Released { fresh_operation_id: true } => return (RELEASED_FRESH, checkpoint),
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

/// How many bytes come last.
#[inline]
pub(super) fn last_byte_len(state: &State<'_>, checkpoint: &[u8]) -> usize {
    match state {
        State::InProgress | State::Released { .. } => checkpoint.len(),
        State::Forgotten => 0,
        State::Completed(Outcome { body, .. }) => match body {
            OutcomeBody::Kept(bytes) => bytes.len(),
            OutcomeBody::TooLarge { .. } | OutcomeBody::Dropped { .. } => 8,
            OutcomeBody::Unencodable => 0,
        },
    }
}

/// No engine and no store takes more than [`Payload::LEN_MAX`](super::Payload::LEN_MAX), so 32 bits suffice.
pub(super) fn last_len(last: &[u8]) -> [u8; 4] {
    u32::try_from(last.len()).expect("a record takes at most 4 GiB").to_be_bytes()
}

pub(super) fn flag(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}

/// A time past the year 10889 is kept as the last one that there is room for.
pub(super) fn time(time: UnixMillis) -> [u8; TIME_LEN] {
    let [_, _, bytes @ ..] = time.0.min(TIME_MAX).to_be_bytes();
    bytes
}
