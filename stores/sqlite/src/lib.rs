//! A [`Store`](oncekey::Store) for [`oncekey`] in one SQLite file: embedded, durable, shared by the processes of one machine.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("orders.db");
//! use oncekey::Deduplicator;
//! use oncekey_sqlite::SqliteStore;
//!
//! let dedup = Deduplicator::new(SqliteStore::open(path)?);
//! # Ok(()) }
//! ```
//!
//! - [`SqliteStore`]: the store. [`SqliteStoreBuilder`]: how it is set up.
//! - [`SqliteStore::complete_in`]: an outcome that commits together with your own writes to the same file, or not at all: exactly
//!   once, with no assumption about clocks.
//! - [`MIGRATIONS`]: the schema as plain SQL, for those who run it themselves. Opening a store does, by default.
//! - [`SqliteError`]: the errors, each with the remedy.
//!
//! # How it works
//!
//! One thread writes. It takes all that waits, judges each call on its own inside one `BEGIN IMMEDIATE` .. `COMMIT`, takes along
//! what came meanwhile, and answers when the commit is on disk: one flush serves many callers, and a lone caller waits for no
//! other. Reads have connections of their own; a claim first looks by one of them, so a replay waits for no flush.
//!
//! With `synchronous = FULL`, SQLite flushes the write-ahead log before it makes a commit visible to readers (`walFrames` in its
//! `wal.c`: first the sync, then the header of the wal-index), so an entry that is read is as durable as one that was
//! acknowledged. After a crash SQLite can find commits in the log again that had not been flushed: opening a store makes a commit
//! of its own, which flushes the whole log, before it answers anything.
//!
//! # The clock
//!
//! Expiry is judged by the wall clock of the host, to the nanosecond. A step back only delays: what was written as expired stays so,
//! and no lifetime gets longer than it was written. A step forward ends leases early by as much; if it is more than the engine's
//! margin, an attempt may still run when the next begins. Let a daemon slew the clock. Versions have nothing to do with it: they come
//! from a counter in the file, which outlives the records.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `bundled` | yes | SQLite itself is compiled in; without it the system's is linked: 3.37 or later, with rusqlite 0.41 and later 3.45.3 or later |
//!
//! [`rusqlite`] is exported again, so that your transactions use the version that this crate does.

#![warn(clippy::print_stdout, clippy::print_stderr)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod builder;
mod clock;
mod complete;
mod connect;
mod error;
#[cfg(test)]
mod errors;
mod job;
mod lock;
mod options;
mod queue;
mod reader;
mod schema;
mod store;
mod table;
mod threads;
mod trim;
mod watch;
mod writer;

pub use builder::SqliteStoreBuilder;
pub use complete::complete_in;
pub use error::{CompleteError, Failed, SqliteError, SqliteStep};
pub use options::{Reads, Synchronous};
pub use rusqlite;
pub use schema::{MIGRATIONS, Migration, SCHEMA_VERSION, migrate};
pub use store::SqliteStore;

/// The README's code compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
