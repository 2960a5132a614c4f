//! A store for [`oncekey`] in Redis or Valkey.

#![warn(clippy::print_stdout, clippy::print_stderr)]

mod about;
mod builder;
mod call_id;
mod error;
mod lifetime;
mod link;
mod listing;
mod script;
mod server;
mod store;

pub use builder::RedisStoreBuilder;
pub use error::RedisStoreError;
pub use server::{Persistence, Server};
pub use store::RedisStore;
