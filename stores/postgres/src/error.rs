//! What goes wrong, and what to do about it.

use std::sync::Arc;
use std::time::Duration;

use crate::usage::Usage;
use oncekey::store::{StoreError, StoreErrorKind};
use tokio_postgres::error::{DbError, Severity, SqlState};

type Source = Arc<dyn std::error::Error + Send + Sync>;

/// An error of this store. Cheap to clone: one failure of a batch is the answer for each of its items.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection came free, or could be made, in time. Nothing was sent.
    #[error(
        "no connection came free, or could be made, within {waited:?}{}; enlarge the pool, look for code that holds connections across its work, or give the store a pool of its own, and check that the database can be reached",
        usage.map_or_else(String::new, |usage| format!(": {usage}"))
    )]
    #[non_exhaustive]
    PoolExhausted {
        /// How long was waited.
        waited: Duration,
        /// Who has the connections, where their source tells.
        usage: Option<Usage>,
    },
    /// A connection could not be made. Nothing was sent.
    #[error("no connection to the database: {}; check that it runs and can be reached", first_line(.source))]
    #[non_exhaustive]
    Connect {
        /// What the server said, if it answered.
        code: Option<SqlState>,
        /// Why.
        source: Source,
    },
    /// The connection was closed before this call. Nothing was sent.
    #[error("the connection to the database is closed; make a new one, or use a pool, which does")]
    Closed,
    /// The connection broke while the call was under way.
    #[error("the connection broke before the answer came; if the call was a write, it may have been applied")]
    #[non_exhaustive]
    Broken {
        /// What the client saw.
        source: Arc<tokio_postgres::Error>,
    },
    /// The server refused the statement.
    #[error("the database refused ({}): {}{}", code.code(), message(.source), advice(code))]
    #[non_exhaustive]
    Server {
        /// The SQLSTATE.
        code: SqlState,
        /// What the server said.
        source: Arc<tokio_postgres::Error>,
    },
    /// Somebody's transaction holds the row (a completion under way, or an inbox), and did not end in time. Nothing was
    /// applied.
    #[error(
        "the row of a key in scope `{scope}` is locked by a transaction, for {waited:?} and longer; it must end first"
    )]
    #[non_exhaustive]
    Locked {
        /// The scope of the key.
        scope: String,
        /// How long was waited: the store's `lock_wait`.
        waited: Duration,
    },
    /// The record is not what a completion in a transaction expects: the attempt was superseded, or a write of its own
    /// came between. Roll that transaction back.
    #[error(
        "the claim in scope `{scope}` is not what was prepared: another attempt has it, or it was renewed since; roll the transaction back"
    )]
    #[non_exhaustive]
    NotCurrent {
        /// The scope of the key.
        scope: String,
    },
    /// The record is larger than a row takes. Nothing was sent.
    #[error(
        "a record of {len} bytes in scope `{scope}` is over what a row takes, {max}; keep a reference to the outcome"
    )]
    #[non_exhaustive]
    TooLarge {
        /// The scope of the key.
        scope: String,
        /// Its encoded length in bytes.
        len: usize,
        /// The most that is taken.
        max: usize,
    },
    /// Others changed the record between each look at it and the write that followed. Nothing was applied.
    #[error("a claim in scope `{scope}` was overtaken by others {tries} times in a row; try again")]
    #[non_exhaustive]
    Overtaken {
        /// The scope of the key.
        scope: String,
        /// How often it was tried.
        tries: u32,
    },
    /// What is stored under the key does not decode.
    #[error(
        "the record in scope `{scope}`, with row_id {row_id}, {}; nothing was changed",
        unread(source, "psql")
    )]
    #[non_exhaustive]
    Record {
        /// The scope of the key.
        scope: String,
        /// Its row in `oncekey_records`.
        row_id: i64,
        /// What does not fit.
        source: oncekey::protocol::DecodeError,
    },
    /// A row has an invalid key: somebody wrote it by hand.
    #[error(
        "the row of oncekey_records with row_id {row_id} contains an invalid key; create keys with the function oncekey_key, and delete this row"
    )]
    #[non_exhaustive]
    Key {
        /// The row.
        row_id: i64,
        /// What does not fit.
        source: oncekey::protocol::KeyError,
    },
    /// What came back is not of the columns that this version knows.
    #[error("the answer does not fit this version's statements; run `migrate` of this version, or upgrade")]
    #[non_exhaustive]
    Unexpected {
        /// What does not fit.
        source: Arc<tokio_postgres::Error>,
    },
}

/// What to do about a record that does not decode; `look` says with what to look at it.
fn unread(source: &oncekey::protocol::DecodeError, look: &str) -> String {
    match source {
        oncekey::protocol::DecodeError::Newer { .. } => {
            "was written by a newer version; upgrade this process".to_owned()
        }
        _ => format!("does not decode; look at it with {look}"),
    }
}

impl Error {
    /// No connection came free within this time: for a source of connections of one's own.
    pub fn pool_exhausted(waited: Duration) -> Self {
        Self::PoolExhausted { waited, usage: None }
    }

    /// A connection could not be made: for a source of connections of one's own.
    pub fn connect(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&source);
        let mut code = None;
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<tokio_postgres::Error>() {
                code = error.code().cloned();
                break;
            }
            cause = error.source();
        }
        Self::Connect { code, source: Arc::new(source) }
    }

    /// What the client said of a statement that was sent.
    pub(crate) fn of_statement(source: tokio_postgres::Error) -> Self {
        let source = Arc::new(source);
        match source.as_db_error() {
            Some(error) if rolled_back(error) => Self::Server { code: error.code().clone(), source },
            // FATAL and PANIC end the connection, at any point, also after a commit.
            _ => Self::Broken { source },
        }
    }

    /// The SQLSTATE, if the server gave one.
    pub fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Server { code, .. } => Some(code),
            Self::Connect { code, .. } => code.as_ref(),
            Self::Broken { source } => source.code(),
            _ => None,
        }
    }

    /// The server rolled the statement back to keep order among transactions: serialization failures and deadlocks, class 40.
    pub(crate) fn is_out_of_order(&self) -> bool {
        matches!(self, Self::Server { code, .. } if code.code().starts_with("40"))
    }

    /// The statement does not fit the transaction that it came into, class 25: one that somebody left open, or that may only
    /// read.
    pub(crate) fn is_of_the_transaction(&self) -> bool {
        matches!(self, Self::Server { code, .. } if code.code().starts_with("25"))
    }

    pub(crate) fn is_lock_timeout(&self) -> bool {
        matches!(self, Self::Server { code, .. } if *code == SqlState::LOCK_NOT_AVAILABLE)
    }
}

/// A statement that ends with an ERROR took its transaction, which was its own, with it.
fn rolled_back(error: &DbError) -> bool {
    // But for those by which a pooler, say, tells of a server that went away in the middle.
    let unknown = [SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN, SqlState::TRANSACTION_RESOLUTION_UNKNOWN];
    let severe = error.parsed_severity() != Some(Severity::Error);
    !severe && !error.code().code().starts_with("08") && !unknown.contains(error.code())
}

impl StoreError for Error {
    fn maybe_applied(&self) -> bool {
        match self {
            Self::Broken { .. } | Self::Unexpected { .. } => true,
            Self::PoolExhausted { .. }
            | Self::Connect { .. }
            | Self::Closed
            | Self::Server { .. }
            | Self::Locked { .. }
            | Self::Overtaken { .. }
            | Self::TooLarge { .. }
            | Self::NotCurrent { .. }
            | Self::Record { .. }
            | Self::Key { .. } => false,
        }
    }

    fn kind(&self) -> StoreErrorKind {
        match self {
            Self::PoolExhausted { .. }
            | Self::Closed
            | Self::Broken { .. }
            | Self::Locked { .. }
            | Self::Overtaken { .. } => StoreErrorKind::Unavailable,
            Self::Connect { code: Some(code), .. } | Self::Server { code, .. } => kind_of(code),
            Self::Connect { code: None, .. } => StoreErrorKind::Unavailable,
            Self::TooLarge { .. } | Self::NotCurrent { .. } | Self::Unexpected { .. } => {
                StoreErrorKind::Rejected
            }
            Self::Record { source: oncekey::protocol::DecodeError::Newer { .. }, .. } => {
                StoreErrorKind::Newer
            }
            Self::Record { .. } | Self::Key { .. } => StoreErrorKind::Corrupt,
        }
    }
}

/// Which kind of trouble a SQLSTATE is: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
pub(crate) fn kind_of(code: &SqlState) -> StoreErrorKind {
    let code = code.code();
    match code {
        // The disk is full, or a disk quota or a table space is.
        "53100" => StoreErrorKind::Full,
        // Statement timeout, or cancelled by somebody.
        "57014" => StoreErrorKind::TimedOut,
        // A read-only transaction: a standby, as after a failover.
        "25006" => StoreErrorKind::Unavailable,
        // The rest of "invalid transaction state": the connection is left inside somebody's transaction.
        _ => match &code[..2] {
            // Connections; too many of them or out of memory; shutting down or starting up; the system's own I/O.
            "08" | "53" | "57" | "58" => StoreErrorKind::Unavailable,
            // Deadlock, serialization failure; lock timeouts and objects in use.
            "40" | "55" => StoreErrorKind::Unavailable,
            // Who one is, what one may, what is there, what fits.
            "28" | "3D" | "3F" | "42" | "0A" | "22" | "23" | "26" | "54" => StoreErrorKind::Rejected,
            // Damaged data or index: of the database, not of one record.
            "XX" => StoreErrorKind::Other,
            _ => StoreErrorKind::Other,
        },
    }
}

fn advice(code: &SqlState) -> &'static str {
    match code.code() {
        "42P01" | "42703" | "42883" | "3F000" => {
            "; the tables are missing or of an older version: run `migrate`, and check the schema's name"
        }
        "42501" => {
            "; grant SELECT, INSERT, UPDATE and DELETE on oncekey_records and USAGE on oncekey_versions, and USAGE on their schema"
        }
        "25006" => "; this server only reads: connect to the primary (target_session_attrs=read-write)",
        "40001" | "40P01" => {
            "; it was rolled back to keep order among transactions that ran at once: run the whole transaction again"
        }
        "53100" => "; free space on the database's disk, then purge",
        "22P05" => "; the database's encoding must be UTF8",
        "26000" | "42P05" => {
            "; a prepared statement is not on this connection, or already is, as behind a pooler in transaction mode that does not track them: leave `named_statements` off, or use pgbouncer 1.21 or later with max_prepared_statements"
        }
        _ => "",
    }
}

fn message(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

fn first_line(source: &Source) -> String {
    let mut text = source.to_string();
    let mut cause = source.source();
    // The client says "error connecting to server", and the reason is one below.
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text.lines().next().unwrap_or_default().to_owned()
}

/// A name that PostgreSQL does not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a name of {len} bytes: give a schema or channel a name of 1 to 63 bytes, without NUL")]
pub struct NameError {
    pub(crate) len: usize,
}

/// Why nobody listens any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// There can be no channel of this name.
    #[error("nothing to listen to")]
    Name(#[from] NameError),
    /// The connection ended, or LISTEN was refused. Waiters go on by polling.
    #[error("the connection that listens ended; connect again, waiters go on by polling")]
    Database(#[source] tokio_postgres::Error),
}

/// Why the tables could not be brought up to date. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// The database refused, or could not be reached.
    #[error(
        "the migration failed and was rolled back; the user must be allowed to create tables in the schema"
    )]
    Database(#[from] tokio_postgres::Error),
    /// The tables are of a newer version.
    #[error("the tables are at migration {found}, this version knows up to {newest}; upgrade this service")]
    #[non_exhaustive]
    Newer {
        /// The newest that was run.
        found: i32,
        /// The newest that this version has.
        newest: i32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_the_kind_of_what_one_does_about_it() {
        for (code, kind) in [
            ("53100", StoreErrorKind::Full),
            ("53200", StoreErrorKind::Unavailable),
            ("53300", StoreErrorKind::Unavailable),
            ("57P01", StoreErrorKind::Unavailable),
            ("57P03", StoreErrorKind::Unavailable),
            ("08006", StoreErrorKind::Unavailable),
            ("25006", StoreErrorKind::Unavailable),
            ("40001", StoreErrorKind::Unavailable),
            ("40P01", StoreErrorKind::Unavailable),
            ("55P03", StoreErrorKind::Unavailable),
            ("57014", StoreErrorKind::TimedOut),
            ("42P01", StoreErrorKind::Rejected),
            ("42501", StoreErrorKind::Rejected),
            ("28P01", StoreErrorKind::Rejected),
            ("3D000", StoreErrorKind::Rejected),
            ("26000", StoreErrorKind::Rejected),
            ("42P05", StoreErrorKind::Rejected),
            ("54000", StoreErrorKind::Rejected),
            ("22P05", StoreErrorKind::Rejected),
            ("XX001", StoreErrorKind::Other),
            ("P0001", StoreErrorKind::Other),
            ("25P02", StoreErrorKind::Other),
        ] {
            assert_eq!(kind_of(&SqlState::from_code(code)), kind, "{code}");
        }
    }

    #[test]
    fn only_what_was_under_way_may_have_been_applied() {
        let refused = Error::connect(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        assert!(refused.to_string().contains("connection refused"), "{refused}");
        assert_eq!((refused.kind(), refused.maybe_applied()), (StoreErrorKind::Unavailable, false));
        let exhausted = Error::pool_exhausted(Duration::from_secs(2));
        assert_eq!((exhausted.kind(), exhausted.maybe_applied()), (StoreErrorKind::Unavailable, false));
        let newer = oncekey::protocol::DecodeError::Newer { found: 9 };
        let newer = Error::Record { scope: "s".to_owned(), row_id: 17, source: newer };
        assert_eq!((newer.kind(), newer.maybe_applied()), (StoreErrorKind::Newer, false));
        assert!(newer.to_string().contains("row_id 17"), "{newer}");
    }
}
