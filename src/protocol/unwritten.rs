//! A record that was decided on, and is not written out yet.

use super::follow_up::FollowUp;
use super::payload::filled;
use super::{ClaimCommand, Draft, Payload, Policy, Record};

/// What a write puts on record, before its bytes are made: so that a store in this process can have them written to where
/// it keeps them, instead of copying them there.
#[derive(Clone, Debug)]
pub struct Unwritten<'a>(Form<'a>);

#[derive(Clone, Debug)]
enum Form<'a> {
    First(&'a ClaimCommand),
    /// Apart: it is rare, and large.
    Anew(Box<Draft<'a>>),
    FollowUp(FollowUp<'a>),
    Whole(Record),
}

impl Unwritten<'_> {
    /// How many bytes it has.
    #[inline]
    pub fn byte_len(&self) -> usize {
        match &self.0 {
            Form::First(claim) => claim.first_attempt().byte_len(),
            Form::Anew(draft) => draft.byte_len(),
            Form::FollowUp(follow_up) => follow_up.byte_len(),
            Form::Whole(record) => record.as_bytes().len(),
        }
    }

    /// Writes its bytes: [`Record::as_bytes`] of the record that this is.
    ///
    /// # Panics
    /// If `bytes` are not [`byte_len`](Self::byte_len) many.
    #[inline]
    pub fn write_to(&self, bytes: &mut [u8]) {
        match &self.0 {
            Form::First(claim) => claim.first_attempt().write_to(bytes),
            Form::Anew(draft) => draft.write_to(bytes),
            Form::FollowUp(follow_up) => follow_up.write_to(bytes),
            Form::Whole(record) => bytes.copy_from_slice(record.as_bytes()),
        }
    }

    /// The record, in a buffer of its own.
    pub fn to_record(&self) -> Record {
        match &self.0 {
            Form::Whole(record) => record.clone(),
            Form::First(_) | Form::Anew(_) | Form::FollowUp(_) => {
                Record::from_own(Payload::from_shared(filled(self.byte_len(), |bytes| self.write_to(bytes))))
            }
        }
    }

    #[inline]
    pub(super) fn policy(&self) -> Policy {
        match &self.0 {
            Form::First(claim) => claim.policy,
            Form::Anew(draft) => draft.policy,
            Form::FollowUp(follow_up) => follow_up.before.policy(),
            Form::Whole(record) => record.policy(),
        }
    }
}

/// The first attempt of a generation that this claim begins.
impl<'a> From<&'a ClaimCommand> for Unwritten<'a> {
    #[inline]
    fn from(claim: &'a ClaimCommand) -> Self {
        Self(Form::First(claim))
    }
}

impl<'a> From<Draft<'a>> for Unwritten<'a> {
    #[inline]
    fn from(draft: Draft<'a>) -> Self {
        Self(Form::Anew(Box::new(draft)))
    }
}

impl<'a> From<FollowUp<'a>> for Unwritten<'a> {
    #[inline]
    fn from(follow_up: FollowUp<'a>) -> Self {
        Self(Form::FollowUp(follow_up))
    }
}

impl From<Record> for Unwritten<'_> {
    fn from(record: Record) -> Self {
        Self(Form::Whole(record))
    }
}
