//! What is on record of an outcome.

use crate::protocol::OutcomeBody;

/// What is on record of an operation's outcome: whether later calls get it.
///
/// The first caller has the whole value in any case, and is the last that can keep it elsewhere.
///
/// ```
/// # use oncekey::{Answer, Earlier, Deduplicator, Key, MemoryStore};
/// use oncekey::answer::Kept;
///
/// # futures::executor::block_on(async {
/// let dedup = Deduplicator::builder(MemoryStore::new()).outcome_len_max(1_000).build()?;
/// let report = || dedup.request(Key::new("reports.make", "2026-11").unwrap()).run(|_| async {
///     Ok::<_, std::io::Error>("x".repeat(5_000))
/// });
/// let first = report().await?;
/// assert!(matches!(first, Answer::Executed { kept: Kept::TooLarge { len: 5_000, .. }, .. }));
/// assert!(matches!(report().await?, Answer::Earlier(Earlier::Done { .. })));
/// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kept {
    /// The whole outcome. Later calls get it for as long as it is retained.
    Whole,
    /// Only that the operation is done: its outcome is over the engine's
    /// [`outcome_len_max`](crate::DeduplicatorBuilder::outcome_len_max). Later calls get no outcome, and do not run.
    #[non_exhaustive]
    TooLarge {
        /// Its encoded length in bytes.
        len: u64,
    },
    /// A part of a final failure: the [`Text`](crate::codec::Text) of it that is within the engine's
    /// [`outcome_len_max`](crate::DeduplicatorBuilder::outcome_len_max), say. Later calls get that part.
    #[non_exhaustive]
    Shortened {
        /// The encoded length in bytes of the whole failure.
        len: u64,
    },
    /// Only that the operation is done: the codec refused its outcome, or panicked. Later calls get no outcome, and do not run.
    Unencodable,
}

impl Kept {
    /// Whether later calls get the whole outcome.
    pub fn is_whole(self) -> bool {
        self == Self::Whole
    }

    /// What is kept where this is on record.
    pub(crate) fn of<B>(body: &OutcomeBody<B>) -> Self {
        match body {
            // Dropped at the end of its retention: it was kept as long as was promised.
            OutcomeBody::Kept(_) | OutcomeBody::Dropped { .. } => Self::Whole,
            OutcomeBody::TooLarge { len } => Self::TooLarge { len: *len },
            OutcomeBody::Unencodable => Self::Unencodable,
        }
    }
}
