//! The layer around real services, with real clients over real sockets.
#![allow(clippy::unwrap_used)]

mod axum_app;
mod bodies;
mod curl;
mod disconnect;
mod duplicates;
mod failures;
#[cfg(feature = "axum")]
mod nested;
mod outcomes;
mod room;
mod streams;
mod support;
