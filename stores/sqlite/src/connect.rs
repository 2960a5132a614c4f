//! Connections to the file, and what each of them is told.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use oncekey::store::{StoreError as _, StoreErrorKind};
use rusqlite::{Connection, OpenFlags};

use crate::error::{SqliteError, SqliteStep};
use crate::lock::{End, wait_by, waiting_at_most};
use crate::options::Synchronous;

/// The file of a store, and how it is opened.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    pub(crate) synchronous: Synchronous,
    pub(crate) busy_timeout: Duration,
}

/// Strict tables came with it.
const LIBRARY_MIN: i32 = 3_037_000;
/// The write-ahead log shrinks to this size on disk after it was longer.
const WAL_KEPT_BYTES: i64 = 64 << 20;
/// Pages that a reader keeps: the upper levels of a large index, and what is asked for again and again.
const READER_CACHE_KIB: i64 = 8 << 10;
/// All statements of a connection stay prepared.
const STATEMENTS: usize = 32;

impl Place {
    pub(crate) fn new(
        path: &Path,
        synchronous: Synchronous,
        busy_timeout: Duration,
    ) -> Result<Self, SqliteError> {
        if rusqlite::version_number() < LIBRARY_MIN {
            return Err(SqliteError::LibraryTooOld { found: rusqlite::version() });
        }
        let text = path.to_string_lossy();
        if text.is_empty() || text == ":memory:" || text.starts_with("file:") {
            return Err(SqliteError::NotAFile { path: path.to_owned() });
        }
        // A process may change its directory later; and no absolute path is taken for a URI.
        let path = std::path::absolute(path).map_err(|_| SqliteError::NotAFile { path: path.to_owned() })?;
        Ok(Self { path, synchronous, busy_timeout })
    }

    /// A connection that may write.
    pub(crate) fn connect(&self, create: bool) -> Result<Connection, SqliteError> {
        let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        flags.set(OpenFlags::SQLITE_OPEN_CREATE, create);
        let opened = Connection::open_with_flags(&self.path, flags);
        let mut connection = opened.map_err(|error| SqliteError::of(error, SqliteStep::Open))?;
        wait_by(waiting_at_most(self.busy_timeout), &mut connection)
            .map_err(|error| SqliteError::of(error, SqliteStep::Open))?;
        self.set_wal(&connection)?;
        self.set_up(&connection).map_err(|error| SqliteError::of(error, SqliteStep::Open))?;
        Ok(connection)
    }

    /// SQLite does not wait when two connections change the mode of a new file at once, so this does.
    fn set_wal(&self, connection: &Connection) -> Result<(), SqliteError> {
        let end = End::of(self.busy_timeout);
        loop {
            let mode = connection
                .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0));
            match mode.map_err(|error| SqliteError::of(error, SqliteStep::Open)) {
                Ok(mode) if mode.eq_ignore_ascii_case("wal") => return Ok(()),
                Ok(found) => return Err(SqliteError::NotWal { found }),
                Err(error) if error.kind() != StoreErrorKind::Unavailable || end.has_come() => {
                    return Err(error);
                }
                Err(_) => thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    fn set_up(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        connection.pragma_update(None, "journal_size_limit", WAL_KEPT_BYTES)?;
        let full = match self.synchronous {
            Synchronous::Full => true,
            Synchronous::Normal => false,
        };
        connection.pragma_update(None, "synchronous", if full { "FULL" } else { "NORMAL" })?;
        // On macOS a plain fsync leaves the data in the drive's cache; elsewhere these change nothing.
        connection.pragma_update(None, "fullfsync", full)?;
        connection.pragma_update(None, "checkpoint_fullfsync", full)
    }

    /// A connection that only reads.
    pub(crate) fn connect_reader(&self) -> Result<Connection, SqliteError> {
        let connection = self.connect(false)?;
        let set_up = || {
            connection.pragma_update(None, "query_only", true)?;
            connection.pragma_update(None, "cache_size", -READER_CACHE_KIB)
        };
        set_up().map_err(|error| SqliteError::of(error, SqliteStep::Open))?;
        Ok(connection)
    }
}
