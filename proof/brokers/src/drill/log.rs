//! The log of a drill, in one order for all processes: a table in a file of its own, to which each writes.
//!
//! It is not flushed: what a killed process wrote is there all the same.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oncekey_sqlite::rusqlite::{self, Connection, OptionalExtension as _, params};

/// The event that a line of the log tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A delivery was received.
    Received,
    /// A handler began.
    Begun,
    /// Its effect happened, where that is outside of the transaction.
    Effect,
    /// It came to its end, or was dropped.
    Ended,
    /// It was decided what becomes of a delivery: the note says `ack`, `later`, `extend` or `dead`, and why.
    Decided,
    /// The process stays in the middle of a handler until it is killed: written again and again.
    Stays,
    /// The drill killed the process; the note says what that cut.
    Killed,
    /// It ended by itself.
    Crashed,
}

const NAMES: [(What, &str); 8] = [
    (What::Received, "received"),
    (What::Begun, "begun"),
    (What::Effect, "effect"),
    (What::Ended, "ended"),
    (What::Decided, "decided"),
    (What::Stays, "stays"),
    (What::Killed, "killed"),
    (What::Crashed, "crashed"),
];

/// A line of the log.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Its place.
    pub(super) seq: i64,
    /// Which process wrote it, or is killed or crashed.
    pub(super) process: String,
    /// The event.
    pub(super) what: What,
    /// Which publication was delivered, where it is of a delivery.
    pub(super) copy: Option<u32>,
    /// The message's id.
    pub(super) id: String,
    /// More.
    pub(super) note: String,
    /// The number of the handler's attempt, where it is of one.
    pub(super) attempt: u32,
    /// Whether its process was stalled since the handler began, where it is of one.
    pub(super) is_stalled: bool,
}

/// The log, as one process has it.
#[derive(Debug)]
pub(super) struct Log {
    connection: Mutex<Connection>,
    process: String,
}

impl Log {
    /// Opens it, making it if it is not there.
    ///
    /// # Errors
    /// If the file cannot be used.
    pub(super) fn open(path: &Path, process: &str) -> rusqlite::Result<Self> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(300))?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "off")?;
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS log (
                seq INTEGER PRIMARY KEY, process TEXT NOT NULL, what TEXT NOT NULL, copy INTEGER, id TEXT NOT NULL,
                note TEXT NOT NULL, attempt INTEGER NOT NULL, is_stalled INTEGER NOT NULL
            ) STRICT;
            CREATE TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY) STRICT;",
        )?;
        Ok(Self { connection: Mutex::new(connection), process: process.to_owned() })
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process that writes here.
    pub(super) fn process(&self) -> &str {
        &self.process
    }

    /// Writes a line of any process.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn write_of(
        &self,
        process: &str,
        what: What,
        id: &str,
        note: &str,
        attempt: u32,
    ) -> rusqlite::Result<()> {
        insert(&self.connection(), process, what, None, id, note, (attempt, false))
    }

    /// Writes a line of a handler of this process. It asks whether the handler was stalled when nobody else can write: a
    /// line of another process is either before that, or after this line.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn write_handler(
        &self,
        what: What,
        id: &str,
        note: &str,
        attempt: u32,
        is_stalled: impl FnOnce() -> bool,
    ) -> rusqlite::Result<()> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        insert(&transaction, &self.process, what, None, id, note, (attempt, is_stalled()))?;
        transaction.commit()
    }

    /// Writes a line for each of these deliveries (copy, id, note), together.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn write_all(&self, what: What, deliveries: &[(u32, String, String)]) -> rusqlite::Result<()> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        for (copy, id, note) in deliveries {
            insert(&transaction, &self.process, what, Some(*copy), id, note, (0, false))?;
        }
        transaction.commit()
    }

    /// The lines after this place.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(super) fn after(&self, seq: i64) -> rusqlite::Result<Vec<Line>> {
        const LINES: &str = "SELECT seq, process, what, copy, id, note, attempt, is_stalled FROM log
            WHERE seq > ?1 ORDER BY seq";
        let connection = self.connection();
        let mut statement = connection.prepare_cached(LINES)?;
        let lines = statement.query_map([seq], |row| {
            let name: String = row.get(2)?;
            let what = NAMES.iter().find(|(_, known)| *known == name);
            Ok(Line {
                seq: row.get(0)?,
                process: row.get(1)?,
                what: what.expect("only these are written").0,
                copy: row.get(3)?,
                id: row.get(4)?,
                note: row.get(5)?,
                attempt: row.get(6)?,
                is_stalled: row.get(7)?,
            })
        })?;
        lines.collect()
    }

    /// Whether it was decided that a handler of this message failed without effect.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(super) fn has_failed(&self, id: &str) -> rusqlite::Result<bool> {
        const FAILED: &str = "SELECT 1 FROM log
            WHERE what = 'decided' AND id = ?1 AND note IN ('later no-effect', 'later unknown-effect') LIMIT 1";
        let found = self.connection().query_row(FAILED, [id], |_| Ok(()));
        Ok(found.optional()?.is_some())
    }

    /// Whether the plain consumer noted this message as done.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(super) fn is_seen(&self, id: &str) -> rusqlite::Result<bool> {
        let found = self.connection().query_row("SELECT 1 FROM seen WHERE id = ?1", [id], |_| Ok(()));
        Ok(found.optional()?.is_some())
    }

    /// Notes a message as done, for the plain consumer.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn see(&self, id: &str) -> rusqlite::Result<()> {
        self.connection().execute("INSERT OR IGNORE INTO seen (id) VALUES (?1)", [id]).map(drop)
    }
}

fn insert(
    connection: &Connection,
    process: &str,
    what: What,
    copy: Option<u32>,
    id: &str,
    note: &str,
    (attempt, is_stalled): (u32, bool),
) -> rusqlite::Result<()> {
    let name = NAMES.iter().find(|(named, _)| *named == what).expect("each has a name").1;
    const INSERT: &str = "INSERT INTO log (process, what, copy, id, note, attempt, is_stalled)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let mut statement = connection.prepare_cached(INSERT)?;
    statement.execute(params![process, name, copy, id, note, attempt, is_stalled]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_writes_between_the_question_about_a_stall_and_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.db");
        let log = Log::open(&path, "b1").unwrap();
        let other = Connection::open(&path).unwrap();
        other.busy_timeout(Duration::ZERO).unwrap();
        let asked = || {
            let written = insert(&other, "a0", What::Begun, None, "x", "", (2, false));
            assert!(written.is_err(), "another process wrote meanwhile");
            true
        };
        log.write_handler(What::Effect, "x", "", 1, asked).unwrap();
        let lines = log.after(0).unwrap();
        assert_eq!(
            lines.iter().map(|line| (line.what, line.is_stalled)).collect::<Vec<_>>(),
            [(What::Effect, true)]
        );
    }
}
