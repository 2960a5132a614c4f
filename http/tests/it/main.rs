//! The layer around real services, with real clients over real sockets.
#![allow(clippy::unwrap_used)]

mod axum_app;
mod bodies;
mod bounds;
mod budget;
mod clients;
mod compared;
mod context;
mod curl;
mod disconnect;
mod duplicates;
mod failures;
mod grpc;
mod hooks;
mod nested;
mod outcomes;
mod refusals;
mod room;
mod shutdown;
mod streams;
mod support;
mod twice;
mod warp_app;
