//! An embeddable, storage-agnostic idempotency engine.
//!
//! Networks lose replies, people double-click, queues redeliver; so clients retry, and a retry must not charge the card
//! twice. A caller names one logical operation by a [`Key`]; the first call runs it, later calls get the stored answer,
//! and two racing calls never both run it.
//!
//! ```
//! use oncekey::{Deduplicator, Key, MemoryStore};
//! use std::time::Duration;
//! # #[derive(Clone)] struct Gateway;
//! # impl Gateway { async fn charge(&self, cents: u32, id: oncekey::OperationId) -> Result<String, std::io::Error> { Ok(format!("receipt for {cents} cents, {id}")) } }
//! # async fn handler(gateway: Gateway, body: &[u8]) -> Result<String, Box<dyn std::error::Error>> {
//! # let dedup = Deduplicator::new(MemoryStore::new());
//! let answer = dedup.request(Key::new("payments.charge", "7f3a-91")?)
//!     .fingerprint_of(body)
//!     .wait(Duration::from_secs(5))
//!     .run(|attempt| async move { gateway.charge(5000, attempt.operation_id()).await })
//!     .await?;
//! # Ok(answer.into_value()?) }
//! # futures::executor::block_on(handler(Gateway, b"pay 50")).unwrap();
//! ```
//!
//! # What is promised
//!
//! From the store's compare-and-exchange alone, with no assumption about pauses, and about clocks only what the store's
//! versions need (contract clause S2):
//!
//! - **P1, one outcome.** Per key and generation at most one completion is accepted, and its bytes are what every later
//!   caller gets.
//! - **P2, stale is inert.** Complete, renew, checkpoint and release by an attempt that was superseded change nothing,
//!   and say so.
//! - **P3, fencing.** Every granted claim of a key has a token greater than all before it, also across release, expiry,
//!   purge and forget.
//! - **P4, no unclaimed run.** The operation starts only after the store confirmed the claim, and before its own
//!   deadline. A store that cannot answer means no run, unless the call chose to [fail open](Request::fail_open); its
//!   answer says so.
//! - **P5, binding.** An outcome is replayed only for the same scope, key and fingerprint. A mismatch beats every other
//!   answer.
//! - **P6, lost replies.** Each write can be sent again after a lost reply without a second effect and without waiting
//!   for itself. The answer is the same while its record is readable; "superseded, possibly applied" when somebody else
//!   wrote since; "unknown", never "refused", when nothing is left to read.
//!
//! With one assumption (an attempt stops acting once its own deadline has passed; the store's clock and the owner's run
//! at rates within the [`margin`](DeduplicatorBuilder::margin); the store's clock does not step forward by more than it):
//!
//! - **T1, no overlap.** At most one attempt of a key is executing at any instant. What an operation spawned and left
//!   behind is not part of the attempt.
//!
//! # What no store can promise
//!
//! - A crash between the effect and its completion leaves the effect *in doubt*: run again ([`Policy::Reclaim`], the
//!   default) or refuse until resolved ([`Policy::Hold`]).
//! - A process frozen past its lease between its last check and its effect can act late; so can one on a suspended
//!   machine. Only the resource can stop it: by the fencing token ([`Attempt::fence`]), by deduplicating on our
//!   [`Attempt::operation_id`], or by completing inside the same database transaction ([`Claim::prepare`]).
//! - A store that loses acknowledged writes loses the promise. Each store documents its durability.
//! - A claim request that the network delivers late, to a key that is vacant again, or whose caller gave up, leaves an
//!   orphan claim: for one lease under `Reclaim`, until it is resolved under `Hold`. It never runs anything.
//!
//! | where the effect lives | what you get |
//! |---|---|
//! | same database, completed in the same transaction | exactly once, no clock assumption |
//! | a resource that compares fencing tokens, or dedups on the operation id | effectively once |
//! | elsewhere, `Hold` | at most once; a crash in the middle waits for a resolver |
//! | elsewhere, `Reclaim` (default) | never two at once, one outcome; a crash in the middle may repeat the effect |
//!
//! # Finding your way
//!
//! - For everything around the calls, from the choice of a key to production: the [`guide`].
//! - To wrap an operation: [`Deduplicator::request`], then [`Request::run`], or [`Request::run_or_fail`] if it can say how it
//!   failed; [`IntoValue`] for its value, or one error; [`Request::claim`] for the explicit way.
//! - To handle messages of a queue: [`oncekey-consume`].
//! - To call the engine from plain threads: [`oncekey-blocking`].
//! - To implement a store: [`store::Store`] has the contract, clause by clause, and a worked example. Prove yours with
//!   [`oncekey-conformance`]. [`store::erased`] is for a store that is chosen at run time.
//! - To understand a stuck key: [`Deduplicator::inspect`], [`Deduplicator::resolve`], [`Deduplicator::forget`], and [`admin`].
//! - To watch an engine: [`observe`], and [`oncekey-observe`] for traces and metrics.
//! - The state machine itself: [`protocol::decide`].
//!
//! The crate root has the names that a caller of `run` and `claim` meets; [`answer`] has what answers carry, [`builder`] the
//! choices of the [`DeduplicatorBuilder`].
//!
//! # Companions
//!
//! | crate | for |
//! |---|---|
//! | [`oncekey-sqlite`] | a store in one SQLite file, shared by the processes of a machine |
//! | [`oncekey-postgres`] | a store in PostgreSQL, with completion in the transaction of the effect |
//! | [`oncekey-redis`] | a store in Redis or Valkey, alone or in a cluster |
//! | [`oncekey-http`] | the `Idempotency-Key` header for every tower service: axum, hyper, tonic, warp |
//! | [`oncekey-consume`] | consumers of messages: a handler runs once, and what to do with each delivery |
//! | [`oncekey-blocking`] | the engine from plain threads, and stores whose calls block |
//! | [`oncekey-observe`] | traces and metrics |
//! | [`oncekey-conformance`] | tests: the kit that proves a store, and stores that fail on demand |
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `json` | yes | values as JSON by serde: [`Request::json`] |
//! | `sha256` | yes | `Fingerprint::sha256`, [`Request::fingerprint_of`] |
//! | `tokio` | no | `time::TokioClock`, `DeduplicatorBuilder::tokio` |
//!
//! No feature changes what another part does. Without any, the crate needs no runtime and does no I/O.
//!
//! [`oncekey-blocking`]: https://docs.rs/oncekey-blocking
//! [`oncekey-conformance`]: https://docs.rs/oncekey-conformance
//! [`oncekey-consume`]: https://docs.rs/oncekey-consume
//! [`oncekey-http`]: https://docs.rs/oncekey-http
//! [`oncekey-observe`]: https://docs.rs/oncekey-observe
//! [`oncekey-postgres`]: https://docs.rs/oncekey-postgres
//! [`oncekey-redis`]: https://docs.rs/oncekey-redis
//! [`oncekey-sqlite`]: https://docs.rs/oncekey-sqlite

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(clippy::print_stdout, clippy::print_stderr)]
#![cfg_attr(not(all(feature = "json", feature = "sha256")), allow(rustdoc::broken_intra_doc_links))]

pub mod codec;
mod engine;
#[cfg(test)]
#[cfg(all(feature = "json", feature = "sha256"))]
mod errors;
#[cfg(any(doc, doctest))]
pub mod guide;
mod kept;
pub mod memory;
pub mod observe;
pub mod protocol;
mod random;
pub mod store;
mod sync;
pub mod time;
mod words;

/// The README's code compiles.
#[cfg(all(doctest, feature = "json", feature = "sha256"))]
#[doc = include_str!("../README.md")]
struct Readme;

#[doc(hidden)]
pub use engine::samples;

/// What operators do about a key: answers of [`Deduplicator::inspect`], [`Deduplicator::resolve`] and their kin, and the
/// [`Resolver`](admin::Resolver) that is asked when a claim meets doubt.
pub mod admin {
    pub use crate::engine::{AdminAnswer, Doubt, Inspection, Resolver, ResolverFailure};
    pub use crate::protocol::Resolution;
}

/// What an [`Answer`], a [`ClaimAnswer`] and their errors carry.
pub mod answer {
    pub use crate::engine::{
        BoxedError, ClaimFate, FailureKind, FinalFailure, NoValue, RecordInfo, Unavailable, Unrecorded,
    };
    pub use crate::kept::Kept;
}

/// What an engine is set up with: the [`DeduplicatorBuilder`]'s choices, and what it refuses.
///
/// # Code of yours that the engine calls
/// Code that blocks its thread holds that thread, and nothing can end it. The engine holds no lock
/// meanwhile: calls on other threads go on, also for the same key.
///
/// | your code | if it never ends | if it panics |
/// |---|---|---|
/// | operation | dropped once [`renew_for_max`](DeduplicatorBuilder::renew_for_max) and its lease are over | the call panics, the claim is left to its lease |
/// | codecs, `encode` and `shortened` | blocks its thread | the operation goes on record as done or failed, without an outcome; then the call panics |
/// | codecs, `decode` | blocks its thread | the call panics; nothing runs, and the record stays |
/// | [`Resolver`](crate::admin::Resolver) | [`Error::Resolver`] after [`resolver_timeout`](DeduplicatorBuilder::resolver_timeout); nothing is granted | the same error |
/// | [`Observer`](crate::observe::Observer) | blocks its thread | the call panics; an operation that is running is dropped, one that has ended goes on record |
/// | [`Clock`](crate::time::Clock) | blocks its thread | the call panics, the claim is left to its lease at the worst |
/// | [`spawner`](DeduplicatorBuilder::spawner) | blocks the thread that drops a claim | the job is kept as if there were no spawner |
/// | [`Store`] | given up after [`store_timeout`](DeduplicatorBuilder::store_timeout) | the call panics; what it may have written is given up by the clean-up |
pub mod builder {
    pub use crate::engine::{DeduplicatorBuilder, OnDrop, OnLeaseLost, OptionsError};
}

#[doc(inline)]
pub use engine::{
    Answer, Attempt, Batch, Claim, ClaimAnswer, ClaimError, Deduplicator, DeduplicatorBuilder, Earlier,
    Error, Failure, IntoValue, OrFailure, Prepared, Request, RunError, Settled,
};
#[doc(inline)]
pub use memory::MemoryStore;
#[doc(inline)]
pub use protocol::{FencingToken, Fingerprint, Key, OperationId, Outcome, Payload, Policy};
#[doc(inline)]
pub use store::Store;
