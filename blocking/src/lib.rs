//! The engine from plain threads, and stores whose calls block.
//!
//! - [`Deduplicator`] is the engine for code without async: its calls block their thread, an operation is a plain closure
//!   that runs on that thread, and no runtime is in the caller's hands. It is a face over the async engine, not a second
//!   one: the same records, the same answers, the same promises, beside async callers of the same store.
//! - [`BlockingStore`] is a store whose client blocks; [`Blocking`] makes it a [`Store`](oncekey::Store), for both faces.
//!
//! ```
//! use oncekey::{Deduplicator, Key, MemoryStore};
//! use std::time::Duration;
//!
//! fn charge(cents: u32, id: oncekey::OperationId) -> std::io::Result<String> {
//!     Ok(format!("receipt for {cents} cents, {id}")) // a call that takes its time
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let dedup = oncekey_blocking::Deduplicator::new(Deduplicator::new(MemoryStore::new()))?;
//!     let click = || {
//!         dedup
//!             .request(Key::new("payments.charge", "7f3a-91")?)
//!             .wait(Duration::from_secs(5))
//!             .run(|attempt| charge(5000, attempt.operation_id()))?
//!             .into_value()
//!             .map_err(Box::<dyn std::error::Error>::from)
//!     };
//!     assert_eq!(click()?, click()?); // charged once
//!     Ok(())
//! }
//! ```
//!
//! # The thread behind it
//!
//! A closure keeps its thread busy, so somebody else must renew its lease. Each face has one thread for that,
//! `oncekey-keeper`: it runs the engine's [`keeper`](oncekey::Deduplicator::keeper) and its clean-up. It starts with the
//! face, and ends soon after the last clone of it and the last claim are dropped. A panic in an operation does not reach it.
//!
//! With the feature `tokio`, that thread has a small tokio runtime too, whose timers and sockets serve the store's futures on
//! whichever thread they are driven: for PostgreSQL, Redis and whatever else needs tokio, opened by
//! [`Deduplicator::open`]. [`Deduplicator::on`] takes a runtime of yours instead. When the thread ends, so does its runtime:
//! async handles of that engine should not outlive the face.
//!
//! # A lost lease
//!
//! An async operation is dropped when its lease is lost; a closure cannot be. It goes on, and is told **if it asks**: see
//! [`Attempt`]. Under [`OnLeaseLost`](oncekey::builder::OnLeaseLost), whichever is chosen, only an operation that has not begun is
//! dropped.
//!
//! # What may be called from where
//!
//! | from | calls that block | `new`, `on`, `changed`, `held`, `time_left`, `is_lost`, drops |
//! |---|---|---|
//! | a plain thread | yes | yes |
//! | inside a blocking operation, on any key | yes; on its own key, it is in progress, and not waited for | yes |
//! | `tokio::task::spawn_blocking`, `block_in_place` | yes | yes |
//! | a tokio task or `block_on`, with the feature `tokio` | panic | yes |
//! | the same without that feature, or another runtime's task | **not noticed**: it blocks that runtime's thread | yes |
//! | `futures::executor::block_on` and its pools | panic | yes |
//! | an observer, a resolver, a codec, a [`Store`](oncekey::Store), a future in `block_on` of this crate | panic | yes |
//! | a call of a [`BlockingStore`] | yes | yes |
//!
//! # Panics
//!
//! Every call here that blocks panics where its thread is known to drive futures: a thread that waits for what only it can
//! bring about would wait forever. That is a bug in the program and not a state of the world, so it is no error to be
//! handled, retried or taken for an answer; tokio does the same. Nothing was claimed or written then. (tokio tells only by a
//! panic of its own that a thread must not block, so its message comes before ours.)

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod attempt;
mod claim;
mod context;
mod deduplicator;
mod host;
mod many;
mod request;
mod store;

pub use attempt::Attempt;
pub use claim::Claim;
pub use deduplicator::Deduplicator;
pub use request::Request;
pub use store::{Blocking, BlockingError, BlockingListInDoubt, BlockingStore};

/// The README's code compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
