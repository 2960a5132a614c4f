//! Completion inside the caller's own transaction.

use oncekey::Prepared;
use oncekey::protocol::Expected;
use oncekey::store::{Exchange, Put};
use rusqlite::{Connection, ffi};

use crate::clock::WallClock;
use crate::error::{CompleteError, SqliteError, SqliteStep};
use crate::table::{self, Meta, OwnedPut};

/// [`SqliteStore::complete_in`](crate::SqliteStore::complete_in) for where no store is at hand. It is for the caller to see
/// to it that the transaction is on the store's file, as its main database.
///
/// # Errors
/// [`CompleteError`]; nothing was written, and the transaction must be rolled back.
pub fn complete_in(transaction: &Connection, prepared: &Prepared) -> Result<(), CompleteError> {
    complete_at(transaction, prepared, &WallClock::host())
}

pub(crate) fn complete_at(
    transaction: &Connection,
    prepared: &Prepared,
    clock: &WallClock,
) -> Result<(), CompleteError> {
    if transaction.is_autocommit() {
        return Err(CompleteError::NoTransaction);
    }
    // A write first: all that is read then is read under the lock.
    take_the_lock(transaction)?;
    let failed = |error| CompleteError::Sqlite(SqliteError::of(error, SqliteStep::Write));
    let mut meta = Meta::read(transaction).map_err(failed)?;
    let put = OwnedPut::new(Put::new(&prepared.record, prepared.live, prepared.linger));
    let asked = (&prepared.key, Expected::At(prepared.expected), &put);
    match table::exchange(transaction, &mut meta, asked, clock.now(), u64::MAX) {
        Ok(Exchange::Done(_)) => meta.write(transaction).map_err(failed),
        Ok(Exchange::Conflict(_)) => Err(CompleteError::Superseded),
        Err(error) => Err(CompleteError::Sqlite(error)),
    }
}

fn take_the_lock(transaction: &Connection) -> Result<(), CompleteError> {
    const TOUCH: &str = "UPDATE main.oncekey_meta SET last_version = last_version WHERE one = 1";
    let touched = transaction.prepare_cached(TOUCH).and_then(|mut statement| statement.execute([]));
    touched.map(drop).map_err(|error| {
        let too_late =
            error.sqlite_error().is_some_and(|failure| failure.extended_code == ffi::SQLITE_BUSY_SNAPSHOT);
        match SqliteError::of(error, SqliteStep::Write) {
            SqliteError::Busy(failed) if too_late => CompleteError::NotImmediate(failed),
            error => CompleteError::Sqlite(error),
        }
    })
}
