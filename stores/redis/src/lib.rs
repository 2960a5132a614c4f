//! Redis and Valkey as a store for [`oncekey`]: a retried or raced operation runs once, across processes.
//!
//! ```no_run
//! use oncekey::{Deduplicator, Key};
//! use oncekey_redis::RedisStore;
//! # async fn charge(cents: u32) -> Result<String, std::io::Error> { Ok(cents.to_string()) }
//! # async fn handler() -> Result<(), Box<dyn std::error::Error>> {
//! let store = RedisStore::connect("redis://127.0.0.1/").await?;
//! let dedup = Deduplicator::builder(store).tokio().build()?;
//! let answer = dedup.request(Key::new("payments.charge", "7f3a-91")?).run(|_| charge(5000)).await?;
//! # let _ = answer; Ok(()) }
//! ```
//!
//! The contract of [`Store`](oncekey::Store) is one script on the server: one call, one round trip, one key, so it works
//! in a cluster too. The scripts are called by their digest, and brought along when the server does not have them. Time
//! is the server's.
//!
//! # What it keeps, and what it can lose
//!
//! It is as durable as the server is set to be: [`durability`](oncekey::Store::durability) tells what was found.
//!
//! | the server | class | what is lost |
//! |---|---|---|
//! | no append-only file | process | what came after the last snapshot, when the server ends |
//! | `appendfsync everysec` | process | a second or two, on a power loss, and also when the server is killed while it flushes |
//! | `appendfsync no` | machine | on a power loss, what the system had not written out |
//! | `appendfsync always` | disk | nothing that was acknowledged |
//! | `always`, with replicas or in a cluster | machine | in a failover, what had not reached the replica |
//!
//! **A failover forgets.** Replication is asynchronous, and a replica that is promoted does not have what was
//! acknowledged a moment before: a claim, so that two run, or an outcome, so that the operation runs again.
//! [`wait_replicas`](RedisStoreBuilder::wait_replicas) makes it less likely and does not rule it out. Where that must not
//! be, let the resource compare fencing tokens ([`Attempt::fence`](oncekey::Attempt::fence)), which go on rising, or
//! deduplicate on the operation id; or use a store that commits with the effect.
//!
//! **Eviction forgets.** A server whose `maxmemory-policy` is not `noeviction` is refused
//! ([`RedisStoreError::Evicts`]), unless [`accept_eviction`](RedisStoreBuilder::accept_eviction) says otherwise. With
//! `noeviction`, a server that is full refuses new claims ([`RedisStoreError::Full`]), and takes every renewal and
//! completion, and answers every replay. `FLUSHALL`, `DEL` and the like forget too.
//!
//! **A replica answers nothing**: no claim, and no replay or look either, since it may have old data, as one that was the
//! primary before a failover and hears of nobody since. Each script finds out by a write that changes nothing. (A replica
//! with `replica-read-only no` cannot be told from a primary: leave it at `yes`.)
//!
//! **Versions** are microseconds of the server's clock, or one more than the version before, whichever is greater. They
//! rise forever as long as that clock does not step back by more than the record lingered and a minute, which a hash
//! outlives its record by. Servers that replace one another need clocks that agree as well as that.
//!
//! Lifetimes are counted in microseconds, rounded up; those over fifty years are forever.
//!
//! # The connection
//!
//! [`RedisStore::connect`] makes one socket for all calls. It is made again when it breaks, and when an answer says that it is
//! not, or no longer, the one to have: `READONLY`, `MASTERDOWN`, `UNBLOCKED` (a replica, as after a failover), `LOADING`,
//! `CLUSTERDOWN`, `NOAUTH`, `WRONGPASS`, `NOPERM`, or no answer that can be read; ten times a second at most. That call is
//! told; the next connects to the server that has the address by then. So no outage lasts until a restart. What a server
//! refuses wherever one connects (`OOM`, `MISCONF`, `NOREPLICAS`, `BUSY`), or of a key's slot (`MOVED`, `ASK`), costs no
//! connection. A connection of your own ([`over`](RedisStoreBuilder::over)) does as it does itself: the client's
//! `ConnectionManager` stays with a server that became a replica, and with a password that was refused.
//!
//! # In a cluster (feature `cluster`)
//!
//! [`connect_cluster`](RedisStoreBuilder::connect_cluster). The client sends a call again by itself when its answer is
//! lost; each call has an id, by which the script knows its own copy. Errors of a cluster are therefore always "maybe
//! applied". A batch goes as calls beside each other. In doubt is listed node by node, not through the cluster.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `cluster` | no | Redis Cluster: `RedisStoreBuilder::connect_cluster` |
//! | `tls` | no | `rediss://`, by rustls with ring and the system's authorities; others by [`connect_client`](RedisStoreBuilder::connect_client) |
//!
//! It runs on tokio. A program that brings another rustls provider beside ring must install one as the process's default
//! (`rustls::crypto::CryptoProvider::install_default`), as with any two of them.

#![warn(clippy::print_stdout, clippy::print_stderr)]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod about;
mod builder;
mod call_id;
mod connection;
mod error;
#[cfg(test)]
mod errors;
mod fate;
mod lifetime;
mod link;
mod listing;
mod script;
mod server;
mod store;
mod wait;

pub use builder::RedisStoreBuilder;
pub use connection::Connection;
pub use error::RedisStoreError;
/// The client, whose connections the store takes.
pub use redis;
pub use server::{Persistence, Server};
pub use store::RedisStore;

/// The README's code compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
