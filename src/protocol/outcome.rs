//! What a completed operation left.

use super::Payload;

/// Whether the operation succeeded, or failed for good.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Conclusion {
    /// It returned a value.
    Succeeded,
    /// It failed, and would fail again: replayed as a failure.
    Failed,
}

/// The bytes of an outcome, or why there are none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum OutcomeBody<B = Payload> {
    /// The encoded value.
    Kept(B),
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
///
/// Its bytes are a [`Payload`], or borrowed from a record: `Outcome<&[u8]>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Outcome<B = Payload> {
    /// Success, or a final failure.
    pub conclusion: Conclusion,
    /// The bytes, where they were kept.
    pub body: OutcomeBody<B>,
}

/// Bytes of an outcome that is about to be kept: somebody else's, or its own.
#[derive(Clone, Debug)]
pub(crate) enum Lent<'v> {
    Of(&'v [u8]),
    Own(Payload),
}

impl Lent<'_> {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Of(bytes) => bytes,
            Self::Own(bytes) => bytes,
        }
    }
}

impl<B> OutcomeBody<B> {
    /// The same, with its bytes in another form.
    #[inline]
    pub(crate) fn map<C>(self, bytes: impl FnOnce(B) -> C) -> OutcomeBody<C> {
        match self {
            Self::Kept(kept) => OutcomeBody::Kept(bytes(kept)),
            Self::TooLarge { len } => OutcomeBody::TooLarge { len },
            Self::Unencodable => OutcomeBody::Unencodable,
            Self::Dropped { len } => OutcomeBody::Dropped { len },
        }
    }

    #[inline]
    pub(crate) fn as_ref(&self) -> OutcomeBody<&B> {
        match self {
            Self::Kept(bytes) => OutcomeBody::Kept(bytes),
            Self::TooLarge { len } => OutcomeBody::TooLarge { len: *len },
            Self::Unencodable => OutcomeBody::Unencodable,
            Self::Dropped { len } => OutcomeBody::Dropped { len: *len },
        }
    }
}

impl Outcome<Lent<'_>> {
    pub(crate) fn lent(&self) -> Outcome<&[u8]> {
        Outcome { conclusion: self.conclusion, body: self.body.as_ref().map(Lent::bytes) }
    }

    pub(crate) fn into_owned(self) -> Outcome {
        let owned = |bytes| match bytes {
            Lent::Of(bytes) => bytes.into(),
            Lent::Own(bytes) => bytes,
        };
        Outcome { conclusion: self.conclusion, body: self.body.map(owned) }
    }
}

impl From<Outcome> for Outcome<Lent<'_>> {
    fn from(outcome: Outcome) -> Self {
        Self { conclusion: outcome.conclusion, body: outcome.body.map(Lent::Own) }
    }
}

impl Outcome {
    /// A success with these encoded bytes.
    pub fn success(bytes: impl Into<Payload>) -> Self {
        Self { conclusion: Conclusion::Succeeded, body: OutcomeBody::Kept(bytes.into()) }
    }

    /// A final failure with these encoded bytes.
    pub fn failure(bytes: impl Into<Payload>) -> Self {
        Self { conclusion: Conclusion::Failed, body: OutcomeBody::Kept(bytes.into()) }
    }

    /// The same, with its bytes borrowed.
    pub fn borrowed(&self) -> Outcome<&[u8]> {
        Outcome { conclusion: self.conclusion, body: self.body.as_ref().map(|bytes| &**bytes) }
    }
}

impl Outcome<&[u8]> {
    /// Whether this, which is on record, is what a completion with `again` would have put there. Of an outcome whose bytes
    /// were dropped, the length is known.
    pub(crate) fn is_again(&self, again: Self) -> bool {
        let same_body = match (self.body, again.body) {
            (OutcomeBody::Dropped { len }, OutcomeBody::Kept(bytes)) => len == bytes.len() as u64,
            (recorded, again) => recorded == again,
        };
        self.conclusion == again.conclusion && same_body
    }
}
