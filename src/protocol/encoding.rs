//! The stored form of a record.
//!
//! One byte of format, one of flags, then fixed ids and variable-length integers (LEB128, shortest form only),
//! then the byte strings, each with its length. Every record has one encoding, and a decoder that meets anything
//! else refuses it. A later format gets another first byte, so that an old reader says "newer", never "absent".

use super::fingerprint::Algorithm;
use super::record::Fields;
use super::{
    Conclusion, FencingToken, Fingerprint, OperationId, Outcome, OutcomeBody, Owner, Payload, Policy, Record,
    State, UnixMillis,
};

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
const FORMAT: u8 = 1;

const STATE: u8 = 0b0000_0011;
const DOUBT: u8 = 0b0000_0100;
const HOLD: u8 = 0b0000_1000;
const FINGERPRINT: u8 = 0b0001_0000;
const TOKEN: u8 = 0b0010_0000;
const CHECKPOINT: u8 = 0b0100_0000;
/// The operation id is the owner's: so it is in the first attempt, and is not written twice.
const OWN_ID: u8 = 0b1000_0000;

const IN_PROGRESS: u8 = 0;
const COMPLETED: u8 = 1;
const RELEASED: u8 = 2;
const FORGOTTEN: u8 = 3;

const FAILED: u8 = 0b001;
const TOO_LARGE: u8 = 0b010;
const UNENCODABLE: u8 = 0b100;
const DROPPED: u8 = 0b110;

impl Record {
    /// The stored form, for a store to keep.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.encoded_len_hint());
        self.encode_into(&mut bytes);
        bytes
    }

    /// An upper bound, close, of what [`Record::encode`] takes.
    pub(crate) fn encoded_len_hint(&self) -> usize {
        let fields = self.fields();
        let outcome = match &fields.state {
            State::Completed(Outcome { body: OutcomeBody::Kept(bytes), .. }) => bytes.len() + 6,
            State::Completed(_) => 11,
            _ => 1,
        };
        72 + fields.fingerprint.as_ref().map_or(0, |f| 2 + f.digest().len())
            + fields.checkpoint.len()
            + 5
            + outcome
    }

    /// Appends the stored form.
    pub(crate) fn encode_into(&self, out: &mut Vec<u8>) {
        let fields = self.fields();
        let state = match fields.state {
            State::InProgress => IN_PROGRESS,
            State::Completed(_) => COMPLETED,
            State::Released { .. } => RELEASED,
            State::Forgotten => FORGOTTEN,
        };
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let flags = state
            | flag(fields.doubt, DOUBT)
            | flag(fields.policy == Policy::Hold, HOLD)
            | flag(fields.fingerprint.is_some(), FINGERPRINT)
            | flag(fields.token.is_some(), TOKEN)
            | flag(!fields.checkpoint.is_empty(), CHECKPOINT)
            | flag(has_own_id(fields), OWN_ID);
        out.extend_from_slice(&[FORMAT, flags]);
        out.extend_from_slice(&fields.owner.to_bytes());
        if !has_own_id(fields) {
            out.extend_from_slice(&fields.operation_id.to_bytes());
        }
        put_varint(out, u64::from(fields.attempt));
        put_varint(out, u64::from(fields.forgiven));
        put_varint(out, fields.created_at.0);
        if let Some(token) = fields.token {
            put_varint(out, token.get());
        }
        if fields.state != State::InProgress {
            put_varint(out, fields.finished_at.unwrap_or_default().0);
        }
        if let Some(fingerprint) = &fields.fingerprint {
            out.push(fingerprint.algorithm().number());
            put_bytes(out, fingerprint.digest());
        }
        if !fields.checkpoint.is_empty() {
            put_bytes(out, &fields.checkpoint);
        }
        match &fields.state {
            State::InProgress | State::Forgotten => {}
            State::Released { fresh_operation_id } => out.push(u8::from(*fresh_operation_id)),
            State::Completed(outcome) => {
                let failed = flag(outcome.conclusion == Conclusion::Failed, FAILED);
                match &outcome.body {
                    OutcomeBody::Kept(bytes) => {
                        out.push(failed);
                        put_bytes(out, bytes);
                    }
                    OutcomeBody::TooLarge { len } => {
                        out.push(failed | TOO_LARGE);
                        put_varint(out, *len);
                    }
                    OutcomeBody::Unencodable => out.push(failed | UNENCODABLE),
                    OutcomeBody::Dropped { len } => {
                        out.push(failed | DROPPED);
                        put_varint(out, *len);
                    }
                }
            }
        }
    }

    /// Reads the stored form back. Checkpoint and outcome share the buffer.
    ///
    /// # Errors
    /// [`DecodeError::Newer`] for a record of a later format, [`DecodeError::Damaged`] for anything else that
    /// [`Record::encode`] cannot have written.
    pub fn decode(encoded: &Payload) -> Result<Self, DecodeError> {
        // What every record begins with, read in one piece.
        let Some((&[format, flags], rest)) = encoded.split_first_chunk::<2>() else {
            return Err(damaged("cut short"));
        };
        if format > FORMAT {
            return Err(DecodeError::Newer { found: format });
        }
        if format != FORMAT {
            return Err(damaged("no such format"));
        }
        let has = |bit: u8| flags & bit != 0;
        let Some((&owner, rest)) = rest.split_first_chunk::<16>() else { return Err(damaged("cut short")) };
        let (id, at) = match rest.first_chunk::<16>() {
            _ if has(OWN_ID) => (owner, 18),
            Some(&id) if id == owner => return Err(damaged("an id written twice")),
            Some(&id) => (id, 34),
            None => return Err(damaged("cut short")),
        };
        let (owner, operation_id) = (Owner::from_bytes(owner), OperationId::from_bytes(id));
        let mut reader = Reader { payload: encoded, bytes: encoded, at };
        let attempt = reader.varint_u32()?;
        let forgiven = reader.varint_u32()?;
        if attempt == 0 || forgiven > attempt {
            return Err(damaged("attempts do not add up"));
        }
        let created_at = UnixMillis(reader.varint()?);
        let token = if has(TOKEN) { Some(FencingToken::new(reader.varint()?)) } else { None };
        let in_progress = flags & STATE == IN_PROGRESS;
        let finished_at = if in_progress { None } else { Some(UnixMillis(reader.varint()?)) };
        let fingerprint = if has(FINGERPRINT) { Some(reader.fingerprint()?) } else { None };
        let checkpoint = if has(CHECKPOINT) { reader.payload()? } else { Payload::empty() };
        if has(CHECKPOINT) && checkpoint.is_empty() {
            return Err(damaged("an empty checkpoint is not written"));
        }
        let state = match flags & STATE {
            IN_PROGRESS => State::InProgress,
            COMPLETED => State::Completed(reader.outcome()?),
            RELEASED => State::Released { fresh_operation_id: reader.bool()? },
            _ => State::Forgotten,
        };
        if reader.at != encoded.len() {
            return Err(damaged("bytes after the end"));
        }
        Ok(Self::from(Fields {
            state,
            owner,
            token,
            attempt,
            forgiven,
            operation_id,
            doubt: has(DOUBT),
            policy: if has(HOLD) { Policy::Hold } else { Policy::Reclaim },
            fingerprint,
            checkpoint,
            created_at,
            finished_at,
        }))
    }
}

fn has_own_id(fields: &Fields) -> bool {
    fields.operation_id.to_bytes() == fields.owner.to_bytes()
}

fn damaged(problem: &'static str) -> DecodeError {
    DecodeError::Damaged { problem }
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push((number & 0x7f) as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

struct Reader<'a> {
    payload: &'a Payload,
    /// The same bytes, looked up once.
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, DecodeError> {
        let byte = *self.bytes.get(self.at).ok_or(damaged("cut short"))?;
        self.at += 1;
        Ok(byte)
    }

    fn take(&mut self, len: usize) -> Result<std::ops::Range<usize>, DecodeError> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.bytes.len());
        let range = self.at..end.ok_or(damaged("cut short"))?;
        self.at = range.end;
        Ok(range)
    }

    fn bool(&mut self) -> Result<bool, DecodeError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(damaged("neither false nor true")),
        }
    }

    fn varint(&mut self) -> Result<u64, DecodeError> {
        let rest = &self.bytes[self.at..];
        if let Some(&byte) = rest.first().filter(|&&byte| byte < 0x80) {
            self.at += 1;
            return Ok(u64::from(byte));
        }
        let mut number = 0_u64;
        for (index, &byte) in rest.iter().take(10).enumerate() {
            let bits = u64::from(byte & 0x7f);
            if index == 9 && bits > 1 {
                break;
            }
            number |= bits << (7 * index);
            if byte & 0x80 == 0 {
                if byte == 0 && index > 0 {
                    return Err(damaged("a number not in its shortest form"));
                }
                self.at += index + 1;
                return Ok(number);
            }
        }
        Err(damaged(if rest.len() < 10 { "cut short" } else { "a number over 64 bits" }))
    }

    fn varint_u32(&mut self) -> Result<u32, DecodeError> {
        u32::try_from(self.varint()?).map_err(|_| damaged("a number over 32 bits"))
    }

    fn range(&mut self) -> Result<std::ops::Range<usize>, DecodeError> {
        let len = usize::try_from(self.varint()?).map_err(|_| damaged("cut short"))?;
        self.take(len)
    }

    fn payload(&mut self) -> Result<Payload, DecodeError> {
        let range = self.range()?;
        Ok(if range.is_empty() { Payload::empty() } else { self.payload.slice(range) })
    }

    fn fingerprint(&mut self) -> Result<Fingerprint, DecodeError> {
        let algorithm = Algorithm::from_number(self.byte()?);
        let range = self.range()?;
        Fingerprint::from_digest(algorithm, &self.bytes[range]).map_err(|_| damaged("fingerprint length"))
    }

    fn outcome(&mut self) -> Result<Outcome, DecodeError> {
        let kind = self.byte()?;
        let conclusion = if kind & FAILED != 0 { Conclusion::Failed } else { Conclusion::Succeeded };
        let body = match kind & !FAILED {
            0 => OutcomeBody::Kept(self.payload()?),
            TOO_LARGE => OutcomeBody::TooLarge { len: self.varint()? },
            UNENCODABLE => OutcomeBody::Unencodable,
            DROPPED => OutcomeBody::Dropped { len: self.varint()? },
            _ => return Err(damaged("no such outcome")),
        };
        Ok(Outcome { conclusion, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_format_says_so() {
        assert_eq!(Record::decode(&[2, 0, 0][..].into()), Err(DecodeError::Newer { found: 2 }));
        assert!(matches!(Record::decode(&[0, 0, 0][..].into()), Err(DecodeError::Damaged { .. })));
        assert!(matches!(Record::decode(&Payload::empty()), Err(DecodeError::Damaged { .. })));
    }

    /// The bytes of format 1 are fixed: this record was written by the first release.
    #[test]
    fn format_1_reads_for_ever() {
        let mut bytes = vec![1, COMPLETED | TOKEN | FINGERPRINT];
        bytes.extend([0xaa; 16]);
        bytes.extend([0xbb; 16]);
        bytes.extend([2, 0, 0xac, 0x02, 7, 0xad, 0x02, 1, 2, 0xcc, 0xdd, FAILED, 3, b'n', b'o', b'!']);
        let record = Record::decode(&bytes.clone().into()).unwrap();
        assert_eq!(record.attempt(), 2);
        assert_eq!(record.created_at(), UnixMillis(300));
        assert_eq!(record.finished_at(), Some(UnixMillis(301)));
        assert_eq!(record.token(), Some(FencingToken::new(7)));
        assert_eq!(record.fingerprint().unwrap().digest(), [0xcc, 0xdd]);
        assert_eq!(record.outcome(), Some(&Outcome::failure("no!")));
        assert_eq!(record.encode(), bytes);

        let mut first = vec![1, IN_PROGRESS | OWN_ID];
        first.extend([0xaa; 16]);
        first.extend([1, 0, 0xac, 0x02]);
        let record = Record::decode(&first.clone().into()).unwrap();
        assert_eq!(record.operation_id().to_bytes(), record.owner().to_bytes());
        assert_eq!(record.encode(), first);
    }

    /// The buffer that is set aside is large enough for the largest numbers, so that it never grows.
    #[test]
    fn the_longest_record_is_within_the_bound() {
        let body = OutcomeBody::TooLarge { len: u64::MAX };
        let record = Record::from(Fields {
            state: State::Completed(Outcome { conclusion: Conclusion::Failed, body }),
            owner: Owner::from_bytes([1; 16]),
            token: Some(FencingToken::new(u64::MAX)),
            attempt: u32::MAX,
            forgiven: u32::MAX,
            operation_id: OperationId::from_bytes([2; 16]),
            doubt: true,
            policy: Policy::Hold,
            fingerprint: Some(Fingerprint::from_digest(Algorithm::BLAKE3, &[3; 32]).unwrap()),
            checkpoint: Payload::empty(),
            created_at: UnixMillis(u64::MAX),
            finished_at: Some(UnixMillis(u64::MAX)),
        });
        let bytes = record.encode();
        assert!(bytes.len() <= record.encoded_len_hint(), "{} bytes", bytes.len());
        assert_eq!(Record::decode(&bytes.into()).unwrap(), record);
    }

    /// Nor is much more set aside than a small record takes.
    #[test]
    fn the_bound_of_a_short_record_is_close() {
        let record = Record::from(Fields {
            state: State::InProgress,
            owner: Owner::from_bytes([1; 16]),
            token: None,
            attempt: 1,
            forgiven: 0,
            operation_id: OperationId::from_bytes([1; 16]),
            doubt: false,
            policy: Policy::Reclaim,
            fingerprint: Some(Fingerprint::from_digest(Algorithm::BLAKE3, &[3; 32]).unwrap()),
            checkpoint: Payload::empty(),
            created_at: UnixMillis(0),
            finished_at: None,
        });
        assert!(record.encoded_len_hint() <= record.encode().len() + 72);
    }

    /// What `encode` cannot have written is refused, though every field of it could be read.
    #[test]
    fn a_record_that_does_not_add_up_is_damaged() {
        let record = |flags: u8, ids: &[[u8; 16]], numbers: &[u8]| {
            let bytes = [&[FORMAT, flags], ids.as_flattened(), numbers].concat();
            Record::decode(&bytes.into())
        };
        let (own, other) = ([0xaa; 16], [0xbb; 16]);
        let attempts = |attempt, forgiven| record(IN_PROGRESS | OWN_ID, &[own], &[attempt, forgiven, 7]);
        assert_eq!(attempts(0, 0), Err(damaged("attempts do not add up")), "attempts count from 1");
        assert_eq!(
            attempts(2, 3),
            Err(damaged("attempts do not add up")),
            "no more is forgiven than there was"
        );
        assert_eq!(attempts(3, 3).unwrap().attempts_counted(), 0);
        assert_eq!(attempts(3, 2).unwrap().attempts_counted(), 1);
        assert_eq!(record(IN_PROGRESS, &[own, own], &[1, 0, 7]), Err(damaged("an id written twice")));
        assert_eq!(record(IN_PROGRESS, &[own, other], &[1, 0, 7]).unwrap().operation_id().to_bytes(), other);
    }

    #[test]
    fn numbers_have_one_form() {
        let varint = |bytes: &[u8]| Reader { payload: &Payload::empty(), bytes, at: 0 }.varint();
        assert_eq!(varint(&[0x80, 0x00]), Err(damaged("a number not in its shortest form")));
        assert_eq!(varint(&[0xff; 11]), Err(damaged("a number over 64 bits")));
        let ten = |last: u8| varint(&[&[0xff; 9], &[last][..]].concat());
        assert_eq!(ten(0x01), Ok(u64::MAX));
        assert_eq!(ten(0x02), Err(damaged("a number over 64 bits")), "the tenth byte has room for one bit");
        assert_eq!(ten(0x00), Err(damaged("a number not in its shortest form")));
        assert_eq!(varint(&[0x80]), Err(damaged("cut short")));
        assert_eq!(varint(&[]), Err(damaged("cut short")));
        for number in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, number);
            assert_eq!(varint(&out), Ok(number));
        }
    }
}
