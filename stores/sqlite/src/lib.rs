//! A [`Store`](oncekey::Store) in one SQLite file.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod builder;
mod clock;
mod complete;
mod connect;
mod error;
mod queue;
mod reader;
mod schema;
mod store;
mod table;
mod writer;

pub use builder::{Reads, SqliteStoreBuilder, Synchronous};
pub use complete::complete_in;
pub use error::{CompleteError, Failed, SqliteError, Step};
pub use rusqlite;
pub use schema::{MIGRATIONS, Migration, SCHEMA_VERSION, migrate};
pub use store::SqliteStore;
