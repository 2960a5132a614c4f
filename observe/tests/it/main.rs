//! What a service sees of an engine, through the facades.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod measured;
mod readme;
mod support;
mod traces;
