//! The layer around real services.
#![allow(clippy::unwrap_used)]

mod axum_app;
