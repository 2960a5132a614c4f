//! What the tests and benches of the store crates share. Not published: a store of somebody else proves itself with
//! `oncekey::conformance`, and this is for what the kit cannot do, which is to kill servers and processes and to cut
//! connections.
//!
//! - [`server`]: throw-away PostgreSQL, Redis and pgbouncer.
//! - [`proxy`]: loses, cuts and delays what passes between a client and its server.

pub mod proxy;
pub mod server;
