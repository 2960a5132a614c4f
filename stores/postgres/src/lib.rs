//! PostgreSQL store for oncekey.

mod batch;
mod connections;
mod error;
mod purge;
mod row;
mod schema;
pub mod sql;
mod store;
mod times;

#[cfg(feature = "deadpool")]
pub use connections::Pooled;
pub use connections::{Connections, OneConnection};
pub use error::{Error, MigrateError, NameError};
pub use schema::{MIGRATIONS, Migration, Schema, migrate};
pub use store::{Builder, PostgresStore};
