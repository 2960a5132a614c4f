//! What the tests and benches of the store crates share. Not published: a store of somebody else proves itself with
//! `oncekey-conformance`, and this is for what the kit cannot do, which is to kill servers and processes and to cut
//! connections.
//!
//! - [`server`]: throw-away PostgreSQL, Redis and pgbouncer.
//! - [`proxy`]: loses, cuts and delays what passes between a client and its server.
//!
//! Over a [`deployment`], which says how a store is opened, the checks that all stores have in common:
//!
//! - [`races`]: many clients, and processes, on one key at once.
//! - [`crash`]: processes killed at each step, and at any moment; frozen past their lease.
//! - [`lost`]: requests and answers lost, cut and late, at each place of a call.
//! - [`outage`]: a server that is down, killed or hangs.
//! - [`load`]: a server killed under load.
//!
//! And [`bench`](mod@bench): timings beside the raw client.

pub mod bench;
pub mod child;
pub mod crash;
pub mod deployment;
pub mod ledger;
pub mod load;
pub mod lost;
pub mod outage;
mod process;
pub mod proxy;
pub mod races;
pub mod server;
