//! The stored form of a record, format 1.
//!
//! | at | bytes | what |
//! |--:|--:|---|
//! | 0 | 1 | the format: 1 |
//! | 1 | 1 | the state in the low four bits (below); bit 4: in doubt; 5: `Hold`; 6: the token is known; 7: the operation id is the owner's |
//! | 2 | 1 | the digest's length in the low six bits, 0 to 32 (0: no fingerprint); bit 7: attempts were reset |
//! | 3 | 16 | the owner |
//! | 19 | 4 | the number of the attempt |
//! | 23 | 6 | when the generation began, in milliseconds since 1970 |
//! | 29 | 8 | the fencing token; zero where it is not known yet |
//! | 37 | 6 | when it was completed, released or forgotten; zero while it is in progress |
//! | 43 | 4 | the length of what comes last |
//! | 47 | 16 | the operation id, unless it is the owner's |
//! | | 4 | how many attempts a reset took out of the count, if there was a reset |
//! | | 1 + n | the algorithm of the fingerprint, and its digest, if there is one |
//! | | n | the checkpoint in progress or released; of a completed record the outcome's bytes, or, where they are not kept, their length in 8 bytes |
//!
//! Numbers are big-endian. States: 0 in progress, 1 released, 2 released and the next attempt gets a new operation id, 3
//! forgotten; completed: 4 and its bytes are there, 6 too large, 8 not encodable, 10 dropped, each one more if it failed.
//!
//! Every record has one form, and a reader that meets anything else refuses it. A later format gets another first byte, so
//! that an old reader says "newer", never "absent".

use super::Fingerprint;

/// Stored bytes that are not a record this version can read. Never to be treated as an absent record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The record was written by a newer version of this crate.
    #[error("the record has format {found}, this version reads up to {FORMAT}; upgrade this reader first")]
    Newer {
        /// The format byte found.
        found: u8,
    },
    /// The bytes are damaged, or are no record.
    #[error("the record is damaged: {problem}")]
    Damaged {
        /// What does not fit.
        problem: &'static str,
    },
}

/// The format that this version writes.
pub(super) const FORMAT: u8 = 1;

/// Where the fields of fixed place begin.
pub(super) mod at {
    pub(crate) const FLAGS: usize = 1;
    pub(crate) const DIGEST: usize = 2;
    pub(crate) const OWNER: usize = 3;
    pub(crate) const ATTEMPT: usize = 19;
    pub(crate) const CREATED: usize = 23;
    pub(crate) const TOKEN: usize = 29;
    pub(crate) const FINISHED: usize = 37;
    pub(crate) const LEN: usize = 43;
    /// Where what follows may be absent.
    pub(crate) const REST: usize = 47;
}

/// Bytes of a time: until the year 10889.
pub(super) const TIME_LEN: usize = 6;
pub(super) const TIME_MAX: u64 = (1 << (8 * TIME_LEN)) - 1;

// In the byte of flags.
pub(super) const STATE: u8 = 0b0000_1111;
pub(super) const DOUBT: u8 = 0b0001_0000;
pub(super) const HOLD: u8 = 0b0010_0000;
pub(super) const TOKEN: u8 = 0b0100_0000;
/// The operation id is the owner's: so it is in the first attempt, and is not written twice.
pub(super) const OWN_ID: u8 = 0b1000_0000;

// In the byte of the digest's length.
const DIGEST_LEN: u8 = 0b0011_1111;
pub(super) const RESET: u8 = 0b1000_0000;

// States.
pub(super) const IN_PROGRESS: u8 = 0;
pub(super) const RELEASED: u8 = 1;
pub(super) const RELEASED_FRESH: u8 = 2;
pub(super) const FORGOTTEN: u8 = 3;
pub(super) const KEPT: u8 = 4;
pub(super) const TOO_LARGE: u8 = 6;
pub(super) const UNENCODABLE: u8 = 8;
pub(super) const DROPPED: u8 = 10;
pub(super) const FAILED: u8 = 1;

/// Where the parts begin that may be absent, and the last one.
#[derive(Clone, Copy)]
pub(super) struct Parts {
    pub(super) forgiven: usize,
    pub(super) fingerprint: usize,
    pub(super) last: usize,
}

impl Parts {
    #[inline]
    pub(super) fn of(flags: u8, digest: u8) -> Self {
        let forgiven = at::REST + if flags & OWN_ID == 0 { 16 } else { 0 };
        let fingerprint = forgiven + if digest & RESET == 0 { 0 } else { 4 };
        let len = usize::from(digest & DIGEST_LEN);
        Self { forgiven, fingerprint, last: fingerprint + if len == 0 { 0 } else { 1 + len } }
    }
}

/// Whether these bytes are a record: all that its accessors rely on, and that there is no other form of it.
pub(super) fn check(bytes: &[u8]) -> Result<(), DecodeError> {
    match bytes.first() {
        None => return Err(damaged("cut short")),
        Some(&FORMAT) => {}
        Some(&found) if found > FORMAT => return Err(DecodeError::Newer { found }),
        Some(_) => return Err(damaged("no such format")),
    }
    let Some(head) = bytes.first_chunk::<{ at::REST }>() else { return Err(damaged("cut short")) };
    let (flags, digest) = (head[at::FLAGS], head[at::DIGEST]);
    if usize::from(digest & DIGEST_LEN) > Fingerprint::LEN_MAX || digest & !(DIGEST_LEN | RESET) != 0 {
        return Err(damaged("fingerprint length"));
    }
    let parts = Parts::of(flags, digest);
    // A store that cuts long values is found out here.
    let last = number(&head[at::LEN..]);
    match bytes.len().checked_sub(parts.last) {
        Some(there) if there as u64 == last => {}
        Some(there) if there as u64 > last => return Err(damaged("bytes after the end")),
        _ => return Err(damaged("cut short")),
    }
    if flags & OWN_ID == 0 && bytes[at::REST..at::REST + 16] == bytes[at::OWNER..at::ATTEMPT] {
        return Err(damaged("an id written twice"));
    }
    let attempt = number(&head[at::ATTEMPT..at::CREATED]);
    if attempt == 0 {
        return Err(damaged("attempts do not add up"));
    }
    if digest & RESET != 0 {
        let forgiven = number(&bytes[parts.forgiven..parts.fingerprint]);
        if forgiven == 0 || forgiven > attempt {
            return Err(damaged("attempts do not add up"));
        }
    }
    if flags & TOKEN == 0 && number(&head[at::TOKEN..at::FINISHED]) != 0 {
        return Err(damaged("a token that is not known"));
    }
    let state = flags & STATE;
    if state == IN_PROGRESS && number(&head[at::FINISHED..at::LEN]) != 0 {
        return Err(damaged("a time at which it was not finished"));
    }
    let fits = match state & !FAILED {
        _ if state < FORGOTTEN => true,
        _ if state == FORGOTTEN => last == 0,
        KEPT => true,
        TOO_LARGE | DROPPED => last == 8,
        UNENCODABLE => last == 0,
        _ => return Err(damaged("no such state")),
    };
    if fits { Ok(()) } else { Err(damaged("bytes that its state does not have")) }
}

fn damaged(problem: &'static str) -> DecodeError {
    DecodeError::Damaged { problem }
}

/// A big-endian number of at most eight bytes.
#[inline]
pub(super) fn number(bytes: &[u8]) -> u64 {
    let mut number = [0; 8];
    number[8 - bytes.len()..].copy_from_slice(bytes);
    u64::from_be_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::super::fingerprint::Algorithm;
    use super::super::{
        Conclusion, Draft, FencingToken, OperationId, Outcome, OutcomeBody, Owner, Payload, Policy, Record,
        State, UnixMillis,
    };
    use super::*;

    #[test]
    fn a_newer_format_says_so() {
        assert_eq!(Record::decode(&[2, 0, 0][..]), Err(DecodeError::Newer { found: 2 }));
        assert_eq!(Record::decode(&[0, 0, 0][..]), Err(damaged("no such format")));
        assert_eq!(Record::decode(Payload::empty()), Err(damaged("cut short")));
    }

    /// The bytes of format 1 are fixed: this record was written by the first release.
    #[test]
    fn format_1_reads_forever() {
        let mut bytes = vec![1, KEPT | FAILED | TOKEN, RESET | 2];
        bytes.extend([0xaa; 16]);
        bytes.extend([0, 0, 0, 2, 0, 0, 0, 0, 1, 44, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 1, 45, 0, 0, 0, 3]);
        bytes.extend([0xbb; 16]);
        bytes.extend([0, 0, 0, 1, 2, 0xcc, 0xdd, b'n', b'o', b'!']);
        let record = Record::decode(bytes.clone()).unwrap();
        assert_eq!((record.owner().to_bytes(), record.operation_id().to_bytes()), ([0xaa; 16], [0xbb; 16]));
        assert_eq!((record.attempt(), record.attempts_counted()), (2, 1));
        assert_eq!(record.created_at(), UnixMillis(300));
        assert_eq!(record.finished_at(), Some(UnixMillis(301)));
        assert_eq!(record.token(), Some(FencingToken::new(7)));
        assert_eq!((record.doubt(), record.policy()), (false, Policy::Reclaim));
        let fingerprint = record.fingerprint().unwrap();
        assert_eq!((fingerprint.algorithm(), fingerprint.digest()), (Algorithm::BLAKE3, &[0xcc, 0xdd][..]));
        assert_eq!(record.outcome(), Some(Outcome::failure("no!")));
        assert_eq!(record.checkpoint(), Payload::empty());
        assert_eq!(Record::from(record.draft()).as_bytes(), bytes);

        let mut first = vec![1, IN_PROGRESS | OWN_ID | DOUBT | HOLD, 0];
        first.extend([0xaa; 16]);
        first.extend([0, 0, 0, 1, 0, 0, 0, 0, 1, 44]);
        first.extend([0; 18]);
        let record = Record::decode(first.clone()).unwrap();
        assert_eq!(record.operation_id().to_bytes(), record.owner().to_bytes());
        assert_eq!((record.doubt(), record.policy(), record.token()), (true, Policy::Hold, None));
        assert_eq!((record.state(), record.finished_at()), (State::InProgress, None));
        assert_eq!(Record::from(record.draft()).as_bytes(), first);
        assert_eq!(first.len(), at::REST, "a first claim has the fixed part only");
    }

    fn longest() -> Draft<'static> {
        let body = OutcomeBody::TooLarge { len: u64::MAX };
        Draft {
            state: State::Completed(Outcome { conclusion: Conclusion::Failed, body }),
            owner: Owner::from_bytes([1; 16]),
            token: Some(FencingToken::new(u64::MAX)),
            attempt: u32::MAX,
            forgiven: u32::MAX,
            operation_id: OperationId::from_bytes([2; 16]),
            doubt: true,
            policy: Policy::Hold,
            fingerprint: Some(Fingerprint::from_digest(Algorithm::BLAKE3, &[3; 32]).unwrap()),
            checkpoint: &[],
            created_at: UnixMillis(TIME_MAX),
            finished_at: Some(UnixMillis(TIME_MAX)),
        }
    }

    /// Each field at its largest comes back, and there is room for all of them.
    #[test]
    fn the_largest_numbers_come_back() {
        let record = Record::from(longest());
        let again = Record::decode(record.as_bytes()).unwrap();
        assert_eq!(again.token(), Some(FencingToken::new(u64::MAX)));
        assert_eq!((again.attempt(), again.attempts_counted()), (u32::MAX, 0));
        assert_eq!(again.outcome().unwrap().body, OutcomeBody::TooLarge { len: u64::MAX });
        assert_eq!(
            (again.created_at(), again.finished_at()),
            (UnixMillis(TIME_MAX), Some(UnixMillis(TIME_MAX)))
        );
        assert_eq!(again.created_at().to_string(), "10889-08-02T05:31:50.655Z");
    }

    #[test]
    fn a_time_that_there_is_no_room_for_is_kept_as_the_last_one() {
        let late = UnixMillis(u64::MAX);
        let record = Record::from(Draft { created_at: late, finished_at: Some(late), ..longest() });
        assert_eq!(
            (record.created_at(), record.finished_at()),
            (UnixMillis(TIME_MAX), Some(UnixMillis(TIME_MAX)))
        );
    }

    /// What nobody can have written is refused, though every field of it could be read.
    #[test]
    fn a_record_that_does_not_add_up_is_damaged() {
        let sound = |flags: u8| {
            let mut bytes = vec![FORMAT, flags, 0];
            bytes.extend([0xaa; 16]);
            bytes.extend([0, 0, 0, 3, 0, 0, 0, 0, 0, 9]);
            bytes.extend([0; 18]);
            bytes
        };
        let with = |mut bytes: Vec<u8>, changes: &[(usize, u8)], last: &[u8]| {
            for &(at, byte) in changes {
                bytes[at] = byte;
            }
            bytes.extend_from_slice(last);
            // What comes last is what follows the parts.
            let parts = Parts::of(bytes[at::FLAGS], bytes[at::DIGEST]);
            let len = u32::try_from(bytes.len().saturating_sub(parts.last)).unwrap();
            bytes[at::LEN..at::REST].copy_from_slice(&len.to_be_bytes());
            Record::decode(bytes)
        };
        let own = sound(IN_PROGRESS | OWN_ID);
        assert!(with(own.clone(), &[], b"half way").is_ok());
        let state = |state: u8, last: &[u8]| with(sound(state | OWN_ID), &[], last);

        assert_eq!(
            with(own.clone(), &[(at::CREATED - 1, 0)], &[]),
            Err(damaged("attempts do not add up")),
            "from 1"
        );
        let reset = |forgiven: u8| with(own.clone(), &[(at::DIGEST, RESET)], &[0, 0, 0, forgiven]);
        assert_eq!(reset(0), Err(damaged("attempts do not add up")), "a reset of none is not written");
        assert_eq!(reset(4), Err(damaged("attempts do not add up")), "no more is forgiven than there was");
        assert_eq!(reset(3).unwrap().attempts_counted(), 0);
        assert_eq!(reset(2).unwrap().attempts_counted(), 1);

        let id = |id: u8| with(sound(IN_PROGRESS), &[], &[id; 16]);
        assert_eq!(id(0xaa), Err(damaged("an id written twice")));
        assert_eq!(id(0xbb).unwrap().operation_id().to_bytes(), [0xbb; 16]);

        for at in at::TOKEN..at::FINISHED {
            assert_eq!(with(own.clone(), &[(at, 1)], &[]), Err(damaged("a token that is not known")), "{at}");
        }
        for at in at::FINISHED..at::LEN {
            let found = with(own.clone(), &[(at, 1)], &[]);
            assert_eq!(found, Err(damaged("a time at which it was not finished")), "{at}");
            assert!(with(sound(RELEASED | OWN_ID), &[(at, 1)], &[]).is_ok(), "{at}");
        }

        for bit in [0b0100_0000, 33, 63] {
            assert_eq!(with(own.clone(), &[(at::DIGEST, bit)], &[7; 64]), Err(damaged("fingerprint length")));
        }
        assert_eq!(with(own.clone(), &[(at::DIGEST, 32)], &[7; 32]), Err(damaged("cut short")));
        assert_eq!(
            with(own, &[(at::DIGEST, 32)], &[7; 33]).unwrap().fingerprint().unwrap().digest(),
            [7; 32]
        );

        for last in [&[][..], &[0], &[0; 8], &[0; 9]] {
            let (none, number) = (last.is_empty(), last.len() == 8);
            for other in [RELEASED, RELEASED_FRESH, KEPT, KEPT | FAILED] {
                assert!(state(other, last).is_ok(), "{other}: {last:?}");
            }
            for other in [FORGOTTEN, UNENCODABLE, UNENCODABLE | FAILED] {
                assert_eq!(state(other, last).is_ok(), none, "{other}: {last:?}");
            }
            for other in [TOO_LARGE, TOO_LARGE | FAILED, DROPPED, DROPPED | FAILED] {
                assert_eq!(state(other, last).is_ok(), number, "{other}: {last:?}");
            }
            for other in DROPPED + 2..=STATE {
                assert_eq!(state(other, last), Err(damaged("no such state")), "{other}: {last:?}");
            }
        }
        assert_eq!(state(FORGOTTEN, &[0]), Err(damaged("bytes that its state does not have")));
    }

    #[test]
    fn a_cut_or_extended_record_is_damaged() {
        let bytes = Record::from(longest()).as_bytes().to_vec();
        for len in 0..bytes.len() {
            assert_eq!(Record::decode(&bytes[..len]), Err(damaged("cut short")), "{len}");
        }
        assert_eq!(Record::decode([&bytes[..], &[0]].concat()), Err(damaged("bytes after the end")));
    }
}
