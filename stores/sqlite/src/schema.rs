//! The schema: plain numbered files, run in order.

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};

use crate::error::{SqliteError, SqliteStep};

/// The schema that this version writes and reads.
pub const SCHEMA_VERSION: u32 = 1;

/// One step of the schema.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Migration {
    /// The schema version that it leads to, from the one before.
    pub version: u32,
    /// The name of the file in this crate's folder `sql/`.
    pub file: &'static str,
    /// The statements. They must be run in one transaction.
    pub sql: &'static str,
}

/// All steps, in order: for those who run their migrations themselves, with
/// [`migrate(false)`](crate::SqliteStoreBuilder::migrate).
pub const MIGRATIONS: &[Migration] =
    &[Migration { version: 1, file: "0001_records.sql", sql: include_str!("../sql/0001_records.sql") }];

/// Brings the schema of this file up to [`SCHEMA_VERSION`], in one transaction; does nothing if it is there.
///
/// Opening a store does the same, unless told not to.
///
/// # Errors
/// [`SqliteError::SchemaNewer`] if the file was written by a later version of this crate; as the database fails.
pub fn migrate(connection: &mut Connection) -> Result<(), SqliteError> {
    if check(found(connection)?)?.is_empty() {
        return Ok(());
    }
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(|error| SqliteError::of(error, SqliteStep::Open))?;
    // Another process may have been quicker.
    for migration in check(found(&transaction)?)? {
        transaction.execute_batch(migration.sql).map_err(|error| SqliteError::of(error, SqliteStep::Open))?;
    }
    transaction.commit().map_err(|error| SqliteError::of(error, SqliteStep::Open))
}

/// Refuses a schema that is not the one this version reads.
pub(crate) fn require(connection: &Connection) -> Result<(), SqliteError> {
    let found = found(connection)?;
    if check(found)?.is_empty() {
        return Ok(());
    }
    Err(SqliteError::SchemaOlder { found, known: SCHEMA_VERSION })
}

/// The schema version of this file; 0: none.
fn found(connection: &Connection) -> Result<u32, SqliteError> {
    let there: Option<i64> = connection
        .query_row(
            "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = 'oncekey_meta'",
            [],
            |row| row.get(0),
        )
        .optional()
        .map_err(|error| SqliteError::of(error, SqliteStep::Open))?;
    if there.is_none() {
        return Ok(0);
    }
    connection
        .query_row("SELECT schema_version FROM main.oncekey_meta WHERE one = 1", [], |row| row.get(0))
        .map_err(|error| SqliteError::of(error, SqliteStep::Open))
}

/// The steps that are still to be run.
fn check(found: u32) -> Result<&'static [Migration], SqliteError> {
    if found > SCHEMA_VERSION {
        return Err(SqliteError::SchemaNewer { found, known: SCHEMA_VERSION });
    }
    Ok(&MIGRATIONS[MIGRATIONS.partition_point(|migration| migration.version <= found)..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_numbered_without_a_gap() {
        let numbers: Vec<u32> = MIGRATIONS.iter().map(|migration| migration.version).collect();
        assert_eq!(numbers, (1..=SCHEMA_VERSION).collect::<Vec<_>>());
        for migration in MIGRATIONS {
            assert!(migration.file.starts_with(&format!("{:04}_", migration.version)), "{}", migration.file);
        }
    }

    #[test]
    fn migrating_twice_is_migrating_once() {
        let mut connection = Connection::open_in_memory().unwrap();
        assert!(matches!(require(&connection), Err(SqliteError::SchemaOlder { found: 0, .. })));
        for _ in 0..2 {
            migrate(&mut connection).unwrap();
            require(&connection).unwrap();
        }
    }

    #[test]
    fn a_newer_schema_is_refused() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection).unwrap();
        connection.execute("UPDATE oncekey_meta SET schema_version = 99", []).unwrap();
        assert!(matches!(migrate(&mut connection), Err(SqliteError::SchemaNewer { found: 99, known: 1 })));
        assert!(matches!(require(&connection), Err(SqliteError::SchemaNewer { .. })));
    }
}
