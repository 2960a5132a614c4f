//! The stored form of a response: what the engine keeps as the outcome.
//!
//! One byte of format, the status, the header fields, the body, a byte that says whether trailer
//! fields and the fields that the response depends on follow, and these; each byte string with its
//! length, each header field with a byte that says whether its value is sensitive, and each field
//! that the response depends on with a digest of its values. Integers are big-endian. A later
//! format gets another first byte.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use oncekey::Payload;
use oncekey::codec::CodecError;

use crate::vary::Varied;

const FORMAT: u8 = 1;
/// What follows the body.
const TRAILERS: u8 = 1;
const VARIED: u8 = 2;

/// What is kept of a response.
pub(crate) enum Kept {
    Whole(Box<Recorded>),
    /// That it is done: it was streamed, or is too large.
    NotReplayable,
    /// Nothing: it is no outcome.
    Nothing,
}

/// A response as it is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Recorded {
    pub(crate) status: StatusCode,
    /// As `http` keeps them: the values of one name in their order.
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
    pub(crate) varied: Varied,
}

/// The codec of responses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Responses;

#[derive(Debug, thiserror::Error)]
pub(crate) enum KeptError {
    #[error("a response that is streamed, or over the limit, is not kept")]
    NotReplayable,
    #[error(
        "the kept response has format {0}, and this version reads up to {FORMAT}; upgrade this reader first"
    )]
    Newer(u8),
    #[error("the kept response is damaged: {0}")]
    Damaged(&'static str),
}

impl Recorded {
    pub(crate) fn encode(&self) -> Bytes {
        let fields = |fields: &HeaderMap| {
            fields
                .iter()
                .map(|(name, value)| name.as_str().len() + value.len() + FIELD_LEN_MIN)
                .sum::<usize>()
        };
        let fields = fields(&self.headers) + self.trailers.as_ref().map_or(0, fields);
        let mut out = BytesMut::with_capacity(16 + fields + self.body.len());
        out.put_u8(FORMAT);
        out.put_u16(self.status.as_u16());
        put_fields(&mut out, &self.headers);
        put_bytes(&mut out, &self.body);
        let varied = &self.varied.0;
        let flag = |is_there, flag| if is_there { flag } else { 0 };
        out.put_u8(flag(self.trailers.is_some(), TRAILERS) | flag(!varied.is_empty(), VARIED));
        if let Some(trailers) = &self.trailers {
            put_fields(&mut out, trailers);
        }
        if !varied.is_empty() {
            out.put_u32(length(varied.len()));
            for (name, digest) in varied {
                put_bytes(&mut out, name.as_str().as_bytes());
                out.put_slice(digest);
            }
        }
        out.freeze()
    }

    /// The body shares memory with `bytes`.
    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, KeptError> {
        let mut input = Input(bytes);
        match input.u8()? {
            FORMAT => {}
            newer => return Err(KeptError::Newer(newer)),
        }
        let status = StatusCode::from_u16(input.u16()?).map_err(|_| KeptError::Damaged("no such status"))?;
        let headers = input.fields()?;
        let body = bytes.slice_ref(input.bytes()?);
        let follows = input.u8()?;
        if follows & !(TRAILERS | VARIED) != 0 {
            return Err(KeptError::Damaged("nobody knows what follows the body"));
        }
        let trailers = (follows & TRAILERS != 0).then(|| input.fields()).transpose()?;
        let varied = if follows & VARIED != 0 { input.varied()? } else { Varied::default() };
        if input.0.is_empty() {
            Ok(Self { status, headers, body, trailers, varied })
        } else {
            Err(KeptError::Damaged("it goes on after its end"))
        }
    }
}

impl Responses {
    pub(crate) fn encode_kept(self, value: &Kept) -> Result<Payload, CodecError> {
        match value {
            Kept::Whole(recorded) => Ok(Payload::from(&recorded.encode()[..])),
            Kept::NotReplayable | Kept::Nothing => Err(CodecError::from(KeptError::NotReplayable)),
        }
    }

    pub(crate) fn decode_kept(self, bytes: &Payload) -> Result<Kept, CodecError> {
        let bytes = Bytes::from_owner(bytes.clone());
        let recorded = Recorded::decode(&bytes).map_err(CodecError::from)?;
        Ok(Kept::Whole(Box::new(recorded)))
    }
}

/// The fewest bytes that a field takes: two lengths, and whether it is sensitive.
const FIELD_LEN_MIN: usize = 9;

fn length(len: usize) -> u32 {
    u32::try_from(len).expect("the limit of a kept response is below 4 GiB")
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32(length(bytes.len()));
    out.put_slice(bytes);
}

fn put_fields(out: &mut BytesMut, fields: &HeaderMap) {
    out.put_u32(length(fields.len()));
    for (name, value) in fields {
        put_bytes(out, name.as_str().as_bytes());
        put_bytes(out, value.as_bytes());
        out.put_u8(u8::from(value.is_sensitive()));
    }
}

struct Input<'b>(&'b [u8]);

impl<'b> Input<'b> {
    fn take(&mut self, len: usize) -> Result<&'b [u8], KeptError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(KeptError::Damaged("it breaks off"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, KeptError> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, KeptError> {
        Ok(u16::from_be_bytes(self.take(2)?.try_into().expect("two bytes were taken")))
    }

    fn len(&mut self) -> Result<usize, KeptError> {
        let len = u32::from_be_bytes(self.take(4)?.try_into().expect("four bytes were taken"));
        usize::try_from(len).map_err(|_| KeptError::Damaged("a length does not fit"))
    }

    fn bytes(&mut self) -> Result<&'b [u8], KeptError> {
        let len = self.len()?;
        self.take(len)
    }

    fn name(&mut self) -> Result<HeaderName, KeptError> {
        HeaderName::from_bytes(self.bytes()?).map_err(|_| KeptError::Damaged("a field has no such name"))
    }

    fn varied(&mut self) -> Result<Varied, KeptError> {
        let mut varied = Vec::new();
        for _ in 0..self.len()? {
            let (name, digest) = (self.name()?, self.take(16)?);
            varied.push((name, digest.try_into().expect("sixteen bytes were taken")));
        }
        match varied.is_empty() {
            true => Err(KeptError::Damaged("it depends on no field")),
            false => Ok(Varied(varied)),
        }
    }

    fn fields(&mut self) -> Result<HeaderMap, KeptError> {
        let count = self.len()?;
        let mut fields = HeaderMap::new();
        for _ in 0..count {
            let name = self.name()?;
            let value = HeaderValue::from_bytes(self.bytes()?);
            let mut value = value.map_err(|_| KeptError::Damaged("a field has no such value"))?;
            match self.u8()? {
                sensitive @ (0 | 1) => value.set_sensitive(sensitive == 1),
                _ => return Err(KeptError::Damaged("a value is neither sensitive nor not")),
            }
            fields.try_append(name, value).map_err(|_| KeptError::Damaged("it has too many fields"))?;
        }
        Ok(fields)
    }
}
