//! Traces and metrics of an oncekey engine, through the facades that services use already:
//! `tracing` and `metrics`.
//!
//! ```
//! use oncekey::{Deduplicator, MemoryStore};
//! use oncekey_observe::{Metrics, Traces};
//!
//! # fn main() -> Result<(), oncekey::builder::OptionsError> {
//! Metrics::describe();
//! let dedup = Deduplicator::builder(MemoryStore::new())
//!     .observer((Traces::new(), Metrics::new()))
//!     .build()?;
//! # Ok(()) }
//! ```
//!
//! Both sit on [`oncekey::observe::Observer`]: nothing is patched in, and an engine without them pays
//! nothing. Neither shows a key's id, nor an outcome, nor what an operation said.
//!
//! # Scopes
//!
//! A scope may have a tenant or a customer among its components. By default a metric has the first
//! component only, so that the number of series stays small, and a span has all of them:
//! [`ScopeLabel`] says otherwise.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `tracing` | yes | [`Traces`] |
//! | `metrics` | yes | [`Metrics`] |

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(clippy::print_stdout, clippy::print_stderr)]
#![cfg_attr(not(all(feature = "tracing", feature = "metrics")), allow(rustdoc::broken_intra_doc_links))]

#[cfg(feature = "metrics")]
mod measured;
mod scope;
#[cfg(feature = "tracing")]
mod traces;

#[cfg(feature = "metrics")]
pub use measured::{Metrics, names};
pub use scope::ScopeLabel;
#[cfg(feature = "tracing")]
pub use traces::Traces;

/// The README's code compiles.
#[cfg(all(doctest, feature = "tracing", feature = "metrics"))]
#[doc = include_str!("../README.md")]
struct Readme;
