//! The engine over the memory store, under every interleaving that loom finds within a bound of preemptions.
//!
//! ```text
//! RUSTFLAGS="--cfg oncekey_loom" CARGO_TARGET_DIR=target/loom cargo test --release -p oncekey-interleaving --test loom -- --test-threads=1
//! ```
//!
//! `scripts/planted.sh loom` runs them in a copy of the sources, and plants bugs there that they must find.
//!
//! **What it shows.** For two or three threads of callers, owners, operators, a keeper and a clock, and every
//! interleaving within the bound: no two attempts execute at once, one outcome is accepted and is what all get, nobody
//! misses a wake-up, no seat and no claim is left behind, and neither a writer that stalls nor an operator undoes what was
//! concluded. Each model also asserts that the interleavings it is about do occur.
//!
//! **Bounds.** Three preemptions, or two or one where three threads branch much (`PREEMPTIONS` and its kin in
//! `loom/support.rs`); `LOOM_MAX_PREEMPTIONS` goes deeper, or less deep, in every model. Planted
//! bugs are looked for at two.
//!
//! **What it cannot show.** Other numbers of callers, and deeper interleavings: shuttle samples those. The real parking_lot,
//! in whose place loom's locks are. Some reorderings of relaxed atomics, and a sequentially consistent fence beyond its
//! acquire and release, which is all that loom makes of one: the fences by which a completion and a new waiter see each
//! other rest on reasoning and on the lock of the store. The store's contract, lost replies and crashes are for other tests.
#![cfg(oncekey_loom)]
#![allow(clippy::unwrap_used)]

#[path = "loom/batches.rs"]
mod batches;
#[path = "loom/clean_up.rs"]
mod clean_up;
#[path = "loom/forgetting.rs"]
mod forgetting;
#[path = "loom/leaders.rs"]
mod leaders;
#[path = "loom/racing.rs"]
mod racing;
#[path = "interleaving/sometimes.rs"]
mod sometimes;
#[path = "interleaving/store.rs"]
mod store;
#[path = "loom/support.rs"]
mod support;
#[path = "loom/takeover.rs"]
mod takeover;
#[path = "loom/waiting.rs"]
mod waiting;
#[path = "loom/writers.rs"]
mod writers;
