//! The engine over the memory store, under every interleaving that loom finds within a bound of preemptions.
//!
//! ```text
//! RUSTFLAGS="--cfg oncekey_loom" CARGO_TARGET_DIR=target/loom cargo test --release --test loom -- --test-threads=1
//! ```
//!
//! `LOOM_MAX_PREEMPTIONS` goes deeper, or less deep, in every model. What these models show holds for their number of
//! callers and their bound, with loom's locks in place of the real ones. The store's contract, lost replies and other
//! processes' crashes are for other tests.
//!
//! `ONCEKEY_PLANT` plants one of the bugs of `planted.rs`, to watch a model find it.
#![cfg(oncekey_loom)]
#![allow(clippy::unwrap_used)]

#[path = "loom/planted.rs"]
mod planted;
#[path = "loom/racing.rs"]
mod racing;
#[path = "loom/support.rs"]
mod support;
#[path = "loom/takeover.rs"]
mod takeover;
#[path = "loom/waiting.rs"]
mod waiting;
