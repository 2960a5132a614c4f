//! A record that follows another one of the same attempt.

use super::draft::{flag, last_len, state_and_last, time};
use super::encoding::{DOUBT, IN_PROGRESS, Parts, STATE, TOKEN, at};
use super::payload::filled;
use super::{FencingToken, Payload, Record, State, UnixMillis};

/// What a write after the grant changes. The rest, whose attempt it is and what it is bound to, is copied as it stands.
#[derive(Clone, Copy)]
pub(super) struct FollowUp<'a> {
    pub(super) before: &'a Record,
    pub(super) token: FencingToken,
    pub(super) state: State<'a>,
    pub(super) doubt: bool,
    /// As for a [`Draft`](super::Draft): it counts in progress and released only.
    pub(super) checkpoint: &'a [u8],
    /// Likewise, everywhere but in progress.
    pub(super) finished_at: Option<UnixMillis>,
}

impl From<FollowUp<'_>> for Record {
    fn from(follow_up: FollowUp<'_>) -> Self {
        let FollowUp { before, token, state, doubt, checkpoint, finished_at } = follow_up;
        let mut number = [0; 8];
        let (state, last) = state_and_last(&state, checkpoint, &mut number);
        let before = before.as_bytes();
        let parts = Parts::of(before[at::FLAGS], before[at::DIGEST]);
        let bytes = filled(parts.last + last.len(), |bytes| {
            let (front, end) = bytes.split_at_mut(parts.last);
            front.copy_from_slice(&before[..parts.last]);
            end.copy_from_slice(last);
            let head: &mut [u8; at::REST] = front.first_chunk_mut().expect("the fixed part comes first");
            head[at::FLAGS] = head[at::FLAGS] & !(STATE | DOUBT) | TOKEN | state | flag(doubt, DOUBT);
            head[at::TOKEN..at::FINISHED].copy_from_slice(&token.get().to_be_bytes());
            let finished = if state == IN_PROGRESS { None } else { finished_at };
            head[at::FINISHED..at::LEN].copy_from_slice(&time(finished.unwrap_or_default()));
            head[at::LEN..].copy_from_slice(&last_len(last));
        });
        Self::from_own(Payload::from_shared(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        Algorithm, Conclusion, Draft, Fingerprint, OperationId, Outcome, OutcomeBody, Owner, Policy,
    };
    use super::*;

    /// It is what a draft with the same fields is, whichever parts the record before has.
    #[test]
    fn what_is_copied_is_what_would_be_written_anew() {
        let first = Draft {
            state: State::InProgress,
            owner: Owner::from_bytes([1; 16]),
            token: None,
            attempt: 7,
            forgiven: 0,
            operation_id: OperationId::from_bytes([1; 16]),
            doubt: false,
            policy: Policy::Reclaim,
            fingerprint: None,
            checkpoint: b"half way",
            created_at: UnixMillis(1_000),
            finished_at: None,
        };
        let fingerprint = Fingerprint::from_digest(Algorithm::BLAKE3, &[3; 32]).unwrap();
        let befores = [
            first,
            Draft { operation_id: OperationId::from_bytes([2; 16]), ..first },
            Draft { forgiven: 5, doubt: true, ..first },
            Draft { fingerprint: Some(fingerprint), policy: Policy::Hold, ..first },
            Draft {
                operation_id: OperationId::from_bytes([2; 16]),
                token: Some(FencingToken::new(u64::MAX)),
                forgiven: 7,
                fingerprint: Some(fingerprint),
                checkpoint: &[],
                ..first
            },
        ];
        let completed = |conclusion, body| State::Completed(Outcome { conclusion, body });
        let states = [
            State::InProgress,
            State::Released { fresh_operation_id: false },
            State::Released { fresh_operation_id: true },
            State::Forgotten,
            completed(Conclusion::Succeeded, OutcomeBody::Kept(b"receipt")),
            completed(Conclusion::Failed, OutcomeBody::Kept(&[])),
            completed(Conclusion::Succeeded, OutcomeBody::TooLarge { len: u64::MAX }),
            completed(Conclusion::Failed, OutcomeBody::Unencodable),
            completed(Conclusion::Succeeded, OutcomeBody::Dropped { len: 3 }),
        ];
        let token = FencingToken::new(0x0102_0304_0506_0708);
        for (number, before) in befores.into_iter().enumerate() {
            for state in states {
                for (doubt, checkpoint) in [(false, &b"further on"[..]), (true, &[])] {
                    let (record, finished_at) = (Record::from(before), Some(UnixMillis(2_000)));
                    let before = &record;
                    let copied = FollowUp { before, token, state, doubt, checkpoint, finished_at };
                    let token = Some(token);
                    let anew = Draft { token, state, doubt, checkpoint, finished_at, ..record.draft() };
                    assert_eq!(Record::from(copied), Record::from(anew), "{number}, {state:?}");
                }
            }
        }
    }
}
