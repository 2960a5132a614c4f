//! The code of `replay_log`, and the program itself.
#![allow(clippy::unwrap_used)]

mod replays;
mod runs;
#[cfg(all(feature = "sqlite", feature = "postgres", feature = "redis"))]
mod stores;

#[allow(dead_code)] // its `main` is for cargo to call
#[path = "../../src/main.rs"]
mod replay_log;
