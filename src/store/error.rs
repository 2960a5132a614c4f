//! What a store says when it fails.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::words::InWords;

/// What kind of trouble a store has: what somebody would do about it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// It cannot be reached, or is overloaded: try again.
    Unavailable,
    /// It did not answer in time: try again.
    TimedOut,
    /// It is at its bound, or its disk is full: purge, or enlarge it.
    Full,
    /// What is stored under this one key does not decode: look at the record. Never for damage of the whole store, since
    /// a consumer sets the message of such a key aside.
    Corrupt,
    /// What is stored under the key was written by a newer version: upgrade this reader.
    Newer,
    /// The request cannot be served as it is (rights, schema, a record too large): trying again will not help.
    Rejected,
    /// Anything else.
    Other,
}

impl fmt::Display for StoreErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unavailable => "unavailable",
            Self::TimedOut => "timed out",
            Self::Full => "full",
            Self::Corrupt => "record does not decode",
            Self::Newer => "written by a newer version",
            Self::Rejected => "request rejected",
            Self::Other => "other trouble",
        })
    }
}

impl StoreErrorKind {
    /// What to do about it, for the end of a message.
    pub(crate) fn advice(self) -> &'static str {
        match self {
            Self::Unavailable => "try again, and check that the store runs and can be reached",
            Self::TimedOut => "try again, and check that the store is not overloaded",
            Self::Full => "make room in the store: purge, enlarge it, or keep outcomes for less time",
            Self::Corrupt => "trying again does not help: look at the record in the store",
            Self::Newer => "trying again does not help: upgrade this process",
            Self::Rejected => "trying again does not help: correct what the store refuses",
            Self::Other => "try again, and look at the store's own error if it lasts",
        }
    }

    /// Whether the same call may succeed later with nobody doing anything about it.
    pub fn is_transient(self) -> bool {
        match self {
            Self::Unavailable | Self::TimedOut | Self::Full | Self::Other => true,
            Self::Corrupt | Self::Newer | Self::Rejected => false,
        }
    }
}

/// An error of a [`Store`](super::Store).
///
/// Both methods have a default, and the defaults are the careful ones: a failed write *may have
/// been applied*, so the engine looks at the record before it acts again, and the kind is
/// [`Other`](StoreErrorKind::Other), which is tried again. `impl StoreError for MyError {}` is a
/// correct beginning. Saying more saves round trips: `maybe_applied` is false where the request was
/// certainly not sent, or the database refused it. A kind that is not
/// [transient](StoreErrorKind::is_transient) ends the retries.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say what a failed write means for the store",
    note = "`impl StoreError for {Self} {{}}` is a correct beginning: a failed write may then have been applied"
)]
pub trait StoreError: Error + Send + Sync + 'static {
    /// Whether the write that failed may have been applied all the same (clause S10); true by
    /// default. When in doubt, it may: the engine then looks before it acts.
    fn maybe_applied(&self) -> bool {
        true
    }

    /// What kind of trouble it is; [`StoreErrorKind::Other`] by default.
    fn kind(&self) -> StoreErrorKind {
        StoreErrorKind::Other
    }
}

impl StoreError for std::convert::Infallible {
    fn maybe_applied(&self) -> bool {
        match *self {}
    }

    fn kind(&self) -> StoreErrorKind {
        match *self {}
    }
}

/// An error of an [erased](super::erased()) store. It shows what the store's own error shows, and is of the same kind.
pub struct ErasedError {
    kind: StoreErrorKind,
    maybe_applied: bool,
    error: Box<dyn Error + Send + Sync>,
}

impl ErasedError {
    pub(super) fn new(error: impl StoreError) -> Self {
        Self { kind: error.kind(), maybe_applied: error.maybe_applied(), error: Box::new(error) }
    }

    /// The store's own error, if it is an `E`.
    pub fn downcast_ref<E: Error + 'static>(&self) -> Option<&E> {
        self.error.downcast_ref()
    }
}

impl fmt::Debug for ErasedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.error, f)
    }
}

impl fmt::Display for ErasedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl Error for ErasedError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

#[deny(clippy::missing_trait_methods)]
impl StoreError for ErasedError {
    fn maybe_applied(&self) -> bool {
        self.maybe_applied
    }

    fn kind(&self) -> StoreErrorKind {
        self.kind
    }
}

/// A store's error with its type erased, as the engine passes it on. Cheap to clone.
#[derive(Clone)]
pub struct StoreFailure {
    kind: StoreErrorKind,
    maybe_applied: bool,
    source: Arc<dyn Error + Send + Sync>,
}

impl StoreFailure {
    pub(crate) fn new(error: impl StoreError) -> Self {
        Self { kind: error.kind(), maybe_applied: error.maybe_applied(), source: Arc::new(error) }
    }

    pub(crate) fn timed_out(after: std::time::Duration) -> Self {
        Self { kind: StoreErrorKind::TimedOut, maybe_applied: true, source: Arc::new(TimedOut(after)) }
    }

    /// How long the engine waited for an answer that did not come.
    pub(crate) fn unanswered_for(&self) -> Option<std::time::Duration> {
        self.source.downcast_ref::<TimedOut>().map(|timed_out| timed_out.0)
    }

    /// The store answers, and too late each time.
    pub(crate) fn too_slow() -> Self {
        Self { kind: StoreErrorKind::TimedOut, maybe_applied: true, source: Arc::new(TooSlow) }
    }

    /// Of a read, or of a store's atomic step: whatever its error says, nothing was changed.
    pub(crate) fn without_effect(self) -> Self {
        Self { maybe_applied: false, ..self }
    }

    /// Where another try of the same write failed too, and may have been applied if so.
    pub(crate) fn or_applied(self, maybe_applied: bool) -> Self {
        Self { maybe_applied: self.maybe_applied || maybe_applied, ..self }
    }

    /// What kind of trouble it is.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// Whether the write that failed may have been applied.
    pub fn maybe_applied(&self) -> bool {
        self.maybe_applied
    }

    /// The store's own error, for a message.
    pub(crate) fn cause(&self) -> &dyn fmt::Display {
        &self.source
    }

    /// The store's own error, if it is an `E`; of an [erased](super::erased()) store too.
    pub fn downcast_ref<E: Error + 'static>(&self) -> Option<&E> {
        let erased = || self.source.downcast_ref::<ErasedError>()?.downcast_ref();
        self.source.downcast_ref().or_else(erased)
    }
}

impl fmt::Display for StoreFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let applied =
            if self.maybe_applied { "the write may have been applied" } else { "nothing was applied" };
        write!(f, "the store failed ({}; {applied})", self.kind)
    }
}

impl fmt::Debug for StoreFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreFailure")
            .field("kind", &self.kind)
            .field("maybe_applied", &self.maybe_applied)
            .field("source", &self.source)
            .finish()
    }
}

impl Error for StoreFailure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}

#[derive(Debug, thiserror::Error)]
#[error(
    "each answer came after the lease that it granted had ended; lengthen the lease, or find out what slows the store"
)]
struct TooSlow;

#[derive(Debug, thiserror::Error)]
#[error("no answer within {}, the time that the engine had for it", InWords(*.0))]
struct TimedOut(std::time::Duration);
