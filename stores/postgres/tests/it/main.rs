//! The store against real servers.

#![allow(clippy::unwrap_used)]

mod kit;
mod support;
