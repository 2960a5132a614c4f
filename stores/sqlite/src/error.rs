//! The errors of the store, each with the remedy.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use oncekey::protocol::DecodeError;
use oncekey::store::{StoreError, StoreErrorKind};
use rusqlite::ErrorCode;

/// An error of a [`SqliteStore`](crate::SqliteStore).
///
/// Nothing was applied, unless the failing [`SqliteStep`] is the commit itself: see [`StoreError::maybe_applied`].
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqliteError {
    /// The path names no file: `:memory:`, an empty name, or a URI.
    #[error(
        "{path:?} is not the path of a file; a store needs one that several connections can open. For a store in \
         memory take oncekey::MemoryStore"
    )]
    NotAFile {
        /// The path given.
        path: PathBuf,
    },
    /// An option that cannot be.
    #[error("{problem}")]
    Options {
        /// Which, and what it may be.
        problem: &'static str,
    },
    /// The SQLite library that was linked is too old.
    #[error(
        "SQLite {found} is linked, and 3.37 or later is needed; use the feature `bundled`, or a newer library"
    )]
    LibraryTooOld {
        /// Its version.
        found: &'static str,
    },
    /// The file cannot be put into WAL mode.
    #[error(
        "the journal mode of the file is {found:?} and cannot be changed to WAL; WAL needs a local file system with \
         shared memory (no network share)"
    )]
    NotWal {
        /// The mode it stays in.
        found: String,
    },
    /// The file was written by a later version of this crate.
    #[error(
        "the file has schema {found} of oncekey, this version knows up to {known}; upgrade this process first"
    )]
    SchemaNewer {
        /// The schema of the file.
        found: u32,
        /// The schema that this version knows.
        known: u32,
    },
    /// The file lacks the schema, and the store was told not to create it.
    #[error(
        "the file has schema {found} of oncekey (0: none) and needs {known}; run the files of oncekey_sqlite::MIGRATIONS, \
         or open with migrate(true)"
    )]
    SchemaOlder {
        /// The schema of the file; 0: none.
        found: u32,
        /// The schema that is needed.
        known: u32,
    },
    /// Too many claims wait for the writer, or too many calls for the readers. Nothing was applied.
    #[error(
        "{waiting} calls wait already, the bound is {bound}; the disk is slower than the load, or another process \
         holds the write lock. Try again later, or raise queue_max"
    )]
    QueueFull {
        /// How many wait.
        waiting: usize,
        /// How many may wait.
        bound: usize,
    },
    /// The store is at its bound of records. Nothing was applied.
    #[error(
        "the file holds {records} records, the bound is {bound}; purge, raise records_max, or keep outcomes for less time"
    )]
    RecordsFull {
        /// How many there are.
        records: u64,
        /// How many there may be.
        bound: u64,
    },
    /// The record is larger than SQLite stores in one.
    #[error("the record has {len} bytes, more than SQLite stores in one value; keep less of the outcome")]
    TooLarge {
        /// Its length in bytes.
        len: usize,
        /// The error of SQLite.
        #[source]
        source: Failed,
    },
    /// Another connection kept the lock for longer than the busy timeout.
    #[error(
        "another connection, of this process or of another, holds the lock of the file; look for a transaction that is \
         left open (also in a sqlite3 shell or a backup), or raise busy_timeout"
    )]
    Busy(#[source] Failed),
    /// The disk is full, or a quota is reached.
    #[error(
        "the disk is full; make room. Nothing that was acknowledged is lost, and the store goes on by itself"
    )]
    DiskFull(#[source] Failed),
    /// The disk failed.
    #[error("the disk failed; look at the system's log. The store goes on by itself once the disk does")]
    Disk(#[source] Failed),
    /// The file is not a database, is damaged, or its tables are not as they should be.
    #[error(
        "the file is damaged, or is no database of oncekey; look with `PRAGMA integrity_check`, restore it, and read what a restored backup means"
    )]
    FileDamaged(#[source] Failed),
    /// SQLite refused: the rights, a missing directory, a read-only file, a missing table.
    #[error(
        "SQLite refuses; check the path, the rights on the file and on its directory, and that the tables are there"
    )]
    Refused(#[source] Failed),
    /// The file was deleted, moved or replaced while it was open, or its `-wal` or `-shm` was: other processes have another
    /// file, or none. Nothing is granted by the old one.
    #[error(
        "the file at {path:?} is no longer the one that this process has open, or its -wal or -shm was deleted: nothing \
         is granted. End all processes that have it open, restore file and log as they belong together, and start again"
    )]
    #[non_exhaustive]
    Replaced {
        /// The path of the store.
        path: PathBuf,
        /// Whether this call's write was committed, in the old file.
        committed: bool,
    },
    /// Anything else that SQLite says.
    #[error("SQLite failed; see the cause")]
    Other(#[source] Failed),
    /// A record does not decode.
    #[error(
        "a record in scope `{scope}`, row {row} of oncekey_records, {}",
        unread(source, "the view `oncekey`")
    )]
    Record {
        /// The scope of its key.
        scope: String,
        /// Its row.
        row: i64,
        /// Why it does not decode.
        #[source]
        source: DecodeError,
    },
    /// The table has a row with an invalid key.
    #[error(
        "row {row} of oncekey_records contains an invalid key, which this crate did not write; delete this row"
    )]
    KeyDamaged {
        /// The row.
        row: i64,
    },
    /// The store was closed before it came to this call, or its threads have ended by a panic. Nothing was applied.
    #[error("the store is closed; nothing was applied. Open it again")]
    Closed,
    /// The store's thread ended in the middle: a bug, or the process is ending.
    #[error(
        "the store's thread ended in the middle of the call; if that was a write, it may have been applied. Open the store again"
    )]
    ThreadGone,
}

/// What to do about a record that does not decode; `look` says with what to look at it.
fn unread(source: &DecodeError, look: &str) -> String {
    match source {
        DecodeError::Newer { .. } => "was written by a newer version; upgrade this process".to_owned(),
        _ => format!("does not decode; look at it with {look}"),
    }
}

/// In which step of its work SQLite failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SqliteStep {
    /// While the store was opened.
    Open,
    /// In a read.
    Read,
    /// In a transaction, before its commit was asked for. It was rolled back: nothing of it was applied.
    Write,
    /// In the commit. The transaction was rolled back, and no reader sees it; but should the process end before it
    /// writes again, what had reached the file may count when the file is next opened.
    Commit,
}

/// A failure of SQLite, and where it came.
#[derive(Clone, Debug)]
pub struct Failed {
    step: SqliteStep,
    source: Arc<rusqlite::Error>,
}

impl Failed {
    /// Where it came.
    pub fn step(&self) -> SqliteStep {
        self.step
    }

    /// The error of SQLite.
    pub fn sqlite(&self) -> &rusqlite::Error {
        &self.source
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.step {
            SqliteStep::Open => "opening the store failed",
            SqliteStep::Read => "a read failed",
            SqliteStep::Write => "a write failed and was rolled back",
            SqliteStep::Commit => "the commit failed",
        })
    }
}

impl Error for Failed {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}

impl SqliteError {
    pub(crate) fn of(source: rusqlite::Error, step: SqliteStep) -> Self {
        let code = source.sqlite_error_code();
        let failed = Failed { step, source: Arc::new(source) };
        match code {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy(failed),
            Some(ErrorCode::DiskFull) => Self::DiskFull(failed),
            Some(ErrorCode::SystemIoFailure) => Self::Disk(failed),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::FileDamaged(failed),
            Some(
                ErrorCode::ReadOnly
                | ErrorCode::PermissionDenied
                | ErrorCode::AuthorizationForStatementDenied
                | ErrorCode::CannotOpen
                // A statement that does not compile: a table or a column is missing.
                | ErrorCode::Unknown
                | ErrorCode::ConstraintViolation,
            ) => Self::Refused(failed),
            Some(_) => Self::Other(failed),
            // A value of another type than was asked for: the library has no code for it.
            None => Self::FileDamaged(failed),
        }
    }

    /// The failure of SQLite under this, if there is one.
    pub fn failed(&self) -> Option<&Failed> {
        match self {
            Self::TooLarge { source, .. } => Some(source),
            Self::Busy(failed)
            | Self::DiskFull(failed)
            | Self::Disk(failed)
            | Self::FileDamaged(failed)
            | Self::Refused(failed)
            | Self::Other(failed) => Some(failed),
            _ => None,
        }
    }

    /// The same for a call of the failed transaction that wrote nothing.
    pub(crate) fn of_unwritten(mut self) -> Self {
        match &mut self {
            Self::TooLarge { source: failed, .. }
            | Self::Busy(failed)
            | Self::DiskFull(failed)
            | Self::Disk(failed)
            | Self::FileDamaged(failed)
            | Self::Refused(failed)
            | Self::Other(failed) => failed.step = SqliteStep::Write,
            Self::Replaced { committed, .. } => *committed = false,
            _ => {}
        }
        self
    }

    /// The same, of a record of this length.
    pub(crate) fn of_record(self, len: usize) -> Self {
        match self {
            Self::Other(source) if source.source.sqlite_error_code() == Some(ErrorCode::TooBig) => {
                Self::TooLarge { len, source }
            }
            other => other,
        }
    }
}

impl StoreError for SqliteError {
    /// `false` but for a failure of the commit itself, and for a thread that ended in the middle.
    fn maybe_applied(&self) -> bool {
        match self {
            Self::ThreadGone => true,
            Self::Replaced { committed, .. } => *committed,
            _ => self.failed().is_some_and(|failed| failed.step == SqliteStep::Commit),
        }
    }

    fn kind(&self) -> StoreErrorKind {
        match self {
            Self::QueueFull { .. } | Self::Busy(_) | Self::Disk(_) | Self::Closed | Self::ThreadGone => {
                StoreErrorKind::Unavailable
            }
            Self::RecordsFull { .. } | Self::DiskFull(_) => StoreErrorKind::Full,
            Self::KeyDamaged { .. } => StoreErrorKind::Corrupt,
            Self::Record { source: DecodeError::Newer { .. }, .. } | Self::SchemaNewer { .. } => {
                StoreErrorKind::Newer
            }
            Self::Record { .. } => StoreErrorKind::Corrupt,
            Self::NotAFile { .. }
            | Self::Options { .. }
            | Self::LibraryTooOld { .. }
            | Self::NotWal { .. }
            | Self::SchemaOlder { .. }
            | Self::TooLarge { .. }
            | Self::Replaced { .. }
            | Self::Refused(_) => StoreErrorKind::Rejected,
            // Not corrupt, which is said of one key: a consumer would set every message of its queue aside. Nor what passes by
            // itself: nothing is to run unprotected for it.
            Self::FileDamaged(_) => StoreErrorKind::Rejected,
            Self::Other(_) => StoreErrorKind::Other,
        }
    }
}

/// Why a completion inside a transaction cannot be committed: see [`complete_in`](crate::complete_in).
///
/// Whatever it says, **roll the transaction back**: committed, it would hold the effect without its outcome.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompleteError {
    /// The claim is no longer the one that was prepared: taken over, renewed meanwhile, resolved, forgotten or gone.
    #[error(
        "the record is no longer at the version that the claim prepared for; roll back, and ask the claim with `settle` \
         what it still holds"
    )]
    Superseded,
    /// The connection is in no transaction: the outcome would be committed alone.
    #[error(
        "the connection is in no transaction; begin one with BEGIN IMMEDIATE, and write the effect in it too"
    )]
    NoTransaction,
    /// The transaction is on another file than the store, so that the two would not commit together.
    #[error(
        "the transaction is on {transaction:?} and the store on {store:?}; roll back, and use the store's file"
    )]
    OtherFile {
        /// The file of the transaction.
        transaction: Option<PathBuf>,
        /// The file of the store.
        store: PathBuf,
    },
    /// The transaction has written nothing yet, and another connection wrote since it first read.
    #[error(
        "another connection wrote since this transaction first read, so it cannot write any more; roll back, and begin \
         it with BEGIN IMMEDIATE"
    )]
    NotImmediate(#[source] Failed),
    /// The database failed.
    #[error("the completion could not be written; roll back")]
    Sqlite(#[source] SqliteError),
}

/// How long a transaction waits for the lock of another connection, by default: less than the engine waits for the store.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use super::*;

    /// A consumer sets the message aside whose key is corrupt: of a damaged file, that would be all of them.
    #[test]
    fn a_damaged_file_is_not_said_of_a_key() {
        for code in [rusqlite::ffi::SQLITE_CORRUPT, rusqlite::ffi::SQLITE_NOTADB] {
            for step in [SqliteStep::Open, SqliteStep::Read, SqliteStep::Write, SqliteStep::Commit] {
                let source = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
                let error = SqliteError::of(source, step);
                assert!(matches!(error, SqliteError::FileDamaged(_)), "{error:?}");
                assert_eq!(error.kind(), StoreErrorKind::Rejected, "{error:?}");
            }
        }
        assert_eq!(SqliteError::KeyDamaged { row: 1 }.kind(), StoreErrorKind::Corrupt);
    }
}
