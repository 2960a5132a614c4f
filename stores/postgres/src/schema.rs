//! Where the tables live, and the SQL that makes them.

use std::fmt;

use tokio_postgres::{Client, IsolationLevel};

use crate::error::{MigrateError, NameError};

/// The numbered files of `sql/`, in order: to be run by [`migrate`], or copied into a service's own migrations.
pub const MIGRATIONS: &[Migration] =
    &[Migration { number: 1, name: "0001_records", sql: include_str!("../sql/0001_records.sql") }];

/// One file of plain SQL. It ends by recording its own number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Migration {
    /// Its number, from 1.
    pub number: i32,
    /// The name of its file.
    pub name: &'static str,
    /// What it runs, in one transaction, with the search_path set to the schema that shall have it.
    pub sql: &'static str,
}

/// The database schema that has the tables.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Schema {
    name: Option<Name>,
}

impl Schema {
    /// Wherever the connection's `search_path` finds them: usually `public`.
    pub fn of_search_path() -> Self {
        Self { name: None }
    }

    /// The schema of this name. Any text that PostgreSQL takes for a name; it is quoted.
    ///
    /// # Errors
    /// [`NameError`] unless it has 1 to 63 bytes and no NUL.
    pub fn named(name: impl Into<String>) -> Result<Self, NameError> {
        Ok(Self { name: Some(Name::new(name)?) })
    }

    /// `"name".`, or nothing: what a statement puts before the name of a table.
    pub(crate) fn prefix(&self) -> String {
        self.name.as_ref().map_or_else(String::new, |name| format!("{name}."))
    }
}

/// A name that PostgreSQL takes: of a schema, of a channel. It displays quoted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Name(String);

impl Name {
    pub(crate) fn new(name: impl Into<String>) -> Result<Self, NameError> {
        let name = name.into();
        // A longer one would be cut, silently, to another name.
        if name.is_empty() || name.len() > 63 || name.contains('\0') {
            return Err(NameError { len: name.len() });
        }
        Ok(Self(name))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.replace('"', "\"\""))
    }
}

/// A text as a literal of SQL, whatever `standard_conforming_strings` says.
pub(crate) fn literal(text: &str) -> String {
    format!(" E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// The advisory lock under which migrations run: "oncekey" in ASCII.
const LOCK: i64 = 0x006f_6e63_656b_6579;

/// Brings the tables up to what this version needs: runs the [`MIGRATIONS`] that are missing, in order, in one
/// transaction, and answers their numbers. A named schema that is not there is created.
///
/// Nothing in this crate calls it: run it when the service is deployed. Several at once wait for each other.
///
/// # Errors
/// [`MigrateError`]: the database refused, or is newer than this version. Nothing was changed.
///
/// # Cancel safety
/// If dropped, all of it or nothing was done.
pub async fn migrate(client: &mut Client, schema: &Schema) -> Result<Vec<i32>, MigrateError> {
    let transaction =
        client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start().await?;
    transaction.batch_execute(&format!("SELECT pg_advisory_xact_lock({LOCK})")).await?;
    if let Some(name) = &schema.name {
        let there =
            format!("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname ={}", literal(name.as_str()));
        if transaction.query_typed(&there, &[]).await?.is_empty() {
            transaction.batch_execute(&format!("CREATE SCHEMA {name}")).await?;
        }
        transaction.batch_execute(&format!("SET LOCAL search_path = {name}")).await?;
    }
    let applied =
        match transaction.query_typed("SELECT to_regclass('oncekey_migrations') IS NOT NULL", &[]).await? {
            rows if rows.iter().any(|row| row.get::<_, bool>(0)) => {
                let rows = transaction.query_typed("SELECT number FROM oncekey_migrations", &[]).await?;
                rows.iter().map(|row| row.get::<_, i32>(0)).collect()
            }
            _ => Vec::new(),
        };
    let newest = MIGRATIONS.last().map_or(0, |last| last.number);
    if let Some(found) = applied.iter().copied().find(|number| *number > newest) {
        return Err(MigrateError::Newer { found, newest });
    }
    let mut run = Vec::new();
    for migration in MIGRATIONS.iter().filter(|migration| !applied.contains(&migration.number)) {
        transaction.batch_execute(migration.sql).await?;
        run.push(migration.number);
    }
    transaction.commit().await?;
    Ok(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_and_bounded() {
        assert_eq!(Schema::named("app").unwrap().prefix(), "\"app\".");
        assert_eq!(Schema::named("a\"; DROP TABLE x; --").unwrap().prefix(), "\"a\"\"; DROP TABLE x; --\".");
        assert_eq!(Schema::of_search_path().prefix(), "");
        for bad in [String::new(), "x".repeat(64), "a\0b".to_owned()] {
            assert!(Schema::named(bad.clone()).is_err(), "{bad:?}");
        }
        assert_eq!(literal("it's \\"), " E'it''s \\\\'");
    }

    #[test]
    fn migrations_are_numbered_from_one_and_record_themselves() {
        for (index, migration) in MIGRATIONS.iter().enumerate() {
            assert_eq!(usize::try_from(migration.number).unwrap(), index + 1);
            assert!(migration.name.starts_with(&format!("{:04}_", migration.number)));
            let record = format!("INSERT INTO oncekey_migrations (number) VALUES ({});", migration.number);
            assert!(migration.sql.contains(&record), "{}", migration.name);
        }
    }
}
