//! A record that follows another one of the same attempt.

use super::draft::{flag, last_byte_len, last_len, state_and_last, time};
use super::encoding::{DOUBT, IN_PROGRESS, Parts, STATE, TOKEN, at};
use super::{FencingToken, Record, State, UnixMillis};

/// What a write after the grant changes. The rest, whose attempt it is and what it is bound to, is copied as it stands.
#[derive(Clone, Copy, Debug)]
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

impl FollowUp<'_> {
    /// How many bytes are copied.
    #[inline]
    fn copied(&self) -> usize {
        let before = self.before.as_bytes();
        Parts::of(before[at::FLAGS], before[at::DIGEST]).last
    }

    #[inline]
    pub(super) fn byte_len(&self) -> usize {
        self.copied() + last_byte_len(&self.state, self.checkpoint)
    }

    pub(super) fn write_to(&self, bytes: &mut [u8]) {
        let mut number = [0; 8];
        let (state, last) = state_and_last(&self.state, self.checkpoint, &mut number);
        let (front, end) = bytes.split_at_mut(self.copied());
        front.copy_from_slice(&self.before.as_bytes()[..front.len()]);
        end.copy_from_slice(last);
        let head: &mut [u8; at::REST] = front.first_chunk_mut().expect("the fixed part comes first");
        head[at::FLAGS] = head[at::FLAGS] & !(STATE | DOUBT) | TOKEN | state | flag(self.doubt, DOUBT);
        head[at::TOKEN..at::FINISHED].copy_from_slice(&self.token.get().to_be_bytes());
        let finished = if state == IN_PROGRESS { None } else { self.finished_at };
        head[at::FINISHED..at::LEN].copy_from_slice(&time(finished.unwrap_or_default()));
        head[at::LEN..].copy_from_slice(&last_len(last));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        Algorithm, Conclusion, Draft, Fingerprint, OperationId, Outcome, OutcomeBody, Owner, Policy,
        Unwritten,
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
                    assert_eq!(
                        Unwritten::from(copied).to_record(),
                        Record::from(anew),
                        "{number}, {state:?}"
                    );
                }
            }
        }
    }
}
