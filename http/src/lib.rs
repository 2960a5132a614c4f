//! `Idempotency-Key` for every tower service: a request that is sent again gets the first response,
//! and its handler does not run again.
//!
//! A [`tower_layer::Layer`] on `http` and `http-body` types over [`oncekey`] and any of its stores,
//! after
//! [draft-ietf-httpapi-idempotency-key-header-07](https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-idempotency-key-header-07).
//!
//! ```
//! use axum::{Extension, Router, middleware, routing::post};
//! use oncekey::{Attempt, Deduplicator, MemoryStore};
//! use oncekey_http::{IdempotencyLayer, LayerError, Principal};
//!
//! # #[derive(Clone)] struct Account(String);
//! # async fn authenticate(request: axum::extract::Request, next: middleware::Next) -> axum::response::Response { next.run(request).await }
//! fn app() -> Result<Router, LayerError> {
//!     let dedup = Deduplicator::new(MemoryStore::new()); // or any other store
//!     let caller = Principal::from_request(|parts| parts.extensions.get().map(|Account(id)| id.clone()));
//!     Ok(Router::new()
//!         .route("/charges", post(charge))
//!         .route_layer(IdempotencyLayer::builder(dedup, caller).required().build()?) // not the router's own 404s
//!         .layer(middleware::from_fn(authenticate))) // outside, so it runs first
//! }
//!
//! async fn charge(Extension(attempt): Extension<Attempt>, body: String) -> String {
//!     // The same id at each attempt: the key to hand to the bank.
//!     format!("charged {body} as {}", attempt.operation_id())
//! }
//! # if cfg!(feature = "tokio") { app().unwrap(); }
//! ```
//!
//! # What it does with a request
//!
//! 1. Other methods than POST and PATCH ([`methods`](Builder::methods)) and requests without a key
//!    pass untouched, unless a key is [required](Builder::required).
//! 2. The [key] is read: a structured-field string, or leniently a bare token. It belongs to its
//!    [principal](Principal), method and [route](Builder::route), so that no client collects the
//!    response of another.
//! 3. The body is read, up to [a limit](Builder::request_body_max). Its digest, with that of
//!    method, path, query and content type, tells whether the key was used for another request.
//!    [`Compared`] chooses other parts.
//! 4. The engine claims the key. Either the handler runs, with an [`oncekey::Attempt`] in the
//!    extensions of its request; or the first response is given again, marked `Idempotent-Replayed:
//!    true`; or the client gets a [problem](problem::Problem) that says what to do.
//! 5. The response is kept, or the key is released, or the effect counts as unknown. The
//!    [status](OutcomeRule::by_status) decides, or [a closure](Builder::outcome_rule), or the
//!    handler [itself](Effect). Responses over [a limit](Builder::response_body_max) and streams
//!    are passed on and recorded as done.
//!
//! # What to know
//!
//! - A client that goes away does not cancel its handler, unless
//!   [`run_in_request`](Builder::run_in_request) was chosen.
//!   What layers outside put around it goes along: [`carry_context`](Builder::carry_context). At a
//!   shutdown, [`close`](IdempotencyLayer::close) waits for it.
//! - A store that cannot answer means 503 and no run, unless [`fail_open`](Builder::fail_open) was
//!   chosen. A client waits for it no longer than a [budget](Builder::budget).
//! - All callers share the store: [`kept_max`](Builder::kept_max) bounds the keys of one.
//! - Webhooks, whose redelivery may have another body, need [`Compared::webhook`].
//! - Authentication, time limits and compression go outside of this layer. The principal comes from
//!   authentication; inside, a time limit would cut a handler off, and a compressed response would
//!   be kept.
//! - What happens if a process dies in the middle is the engine's [policy](Builder::policy):
//!   [`oncekey`] says what can be promised, and what nobody can.
//!
//! The README has tables of all that a client may get, for authors of clients, and of the order of
//! layers. In a clone of the repository, `cargo run --release -p oncekey-http --example checkout`
//! starts a shop to click in.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `tokio` | yes | handlers of clients that went away run on, on tokio's runtime |
//! | `tracing` | yes | those handlers stay in the tracing span of their request |
//! | `axum` | yes | for axum 0.8: two mounts of a nested router are two routes; `Route::matched_path()`; [`Effect`] in what a handler returns |

#![cfg_attr(docsrs, feature(doc_cfg))]

mod admit;
mod body;
mod bounds;
mod builder;
mod close;
mod context;
mod detach;
mod fingerprint;
#[doc(hidden)]
pub mod fuzzing;
mod given;
mod grpc;
mod grpc_problem;
mod headers;
mod keep;
mod kept;
pub mod key;
mod keyed_call;
mod layer;
mod operation;
mod options;
mod outcome_rule;
pub mod problem;
pub mod problems;
mod respond;
mod rules;
mod runner;
mod running;
mod scope;
mod shared;
mod structured;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod vary;

pub use body::{RequestBody, ResponseBody};
pub use builder::{Builder, LayerError};
pub use close::StillRunning;
pub use fingerprint::{Compared, Part};
pub use headers::KeptHeaders;
pub use key::Syntax;
pub use layer::{Idempotency, IdempotencyLayer};
pub use outcome_rule::{Effect, OutcomeRule};
pub use scope::{Principal, Route};
pub use vary::OnVary;

/// The README's code compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
