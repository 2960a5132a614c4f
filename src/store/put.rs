//! What a store is asked to write, and what it answers.

use std::time::Duration;

use crate::protocol::{Entry, Expected, Key, Record, Version};

/// One write: the record, and how long it lives.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Put<'a> {
    /// What to keep.
    pub record: &'a Record,
    /// How long the entry stays live from now, by the store's clock; zero: it is expired at once, and still
    /// readable. [`Duration::MAX`]: forever, and so much is then left at any time. Sums saturate.
    pub live: Duration,
    /// How much longer it stays readable after that. [`Duration::MAX`]: forever.
    pub linger: Duration,
}

impl<'a> Put<'a> {
    /// A write of `record`.
    pub fn new(record: &'a Record, live: Duration, linger: Duration) -> Self {
        Self { record, live, linger }
    }
}

/// What a compare-and-exchange answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Exchange {
    /// The write was done, and got this version.
    Done(Version),
    /// The key was not as expected, and nothing changed. Carries what was there; `None`: nothing readable.
    Conflict(Option<Entry>),
}

/// One write of a batch.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct BatchPut<'a> {
    /// The key to write.
    pub key: &'a Key,
    /// What the write expects to find.
    pub expected: Expected,
    /// What it puts there.
    pub put: Put<'a>,
}

impl<'a> BatchPut<'a> {
    /// A write of `put` to `key`.
    pub fn new(key: &'a Key, expected: Expected, put: Put<'a>) -> Self {
        Self { key, expected, put }
    }
}
