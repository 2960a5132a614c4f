//! Consumers of messages over the embedded store. All time is moved by hand.
#![allow(clippy::unwrap_used, unreachable_pub)]
// Many a scenario begins with a call whose answer is not its point.
#![allow(unused_must_use)]

#[path = "../../../tests/it/support.rs"]
mod support;

mod after_effect; // codecs that panic, resolvers that do
mod consuming; // deliveries of messages, polls of them, redelivery
mod durations; // each duration of a user at its extremes
mod failures; // handlers that fail with any error
