//! PostgreSQL store for oncekey.

mod batch;
mod check;
mod completion;
mod connections;
mod error;
mod inbox;
mod notice;
mod purge;
mod row;
mod schema;
pub mod sql;
mod store;
mod times;

pub use check::{Checked, Finding};
#[cfg(feature = "deadpool")]
pub use connections::Pooled;
pub use connections::{Connections, OneConnection};
pub use error::{Error, ListenError, MigrateError, NameError};
pub use inbox::{Inbox, InboxAnswer, Ticket, Wait};
pub use notice::listen;
pub use schema::{MIGRATIONS, Migration, Schema, migrate};
pub use store::{Builder, PostgresStore};
