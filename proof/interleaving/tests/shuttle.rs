//! Many callers at once over the engine and the memory store, under schedules that shuttle samples: what loom shows of two
//! or three, looked for among 8 to 32.
//!
//! ```text
//! RUSTFLAGS="--cfg oncekey_shuttle" CARGO_TARGET_DIR=target/shuttle cargo test --release -p oncekey-interleaving --test shuttle
//! ```
//!
//! Schedules are drawn from one seed, so that a run that passed passes again. `ONCEKEY_SHUTTLE_SEED=7` draws others,
//! `ONCEKEY_SHUTTLE_TIMES=20` twenty times as many. `scripts/planted.sh shuttle` runs them in a copy of the sources, and plants
//! bugs there that they must find. A failure prints its schedule, and the command that runs just that one again; a test shows that the command
//! does.
//!
//! **What it shows.** Nothing for certain: it is a search. In each schedule at most one attempt of a key executes at once,
//! each generation has one outcome and all callers get that, fencing tokens rise, nobody waits for ever, and no seat, claim,
//! sleep or clean-up is left behind; among callers that wait or do not, are dropped at a random poll, fail in every way, or
//! hang, in one process or two, beside a keeper and an operator who forgets, over a store whose calls stop in the middle.
//! Each test also asserts that the events it is about do occur.
//!
//! **Bounds.** Two kinds of scenario. In a `rush` the clock stands, so that a lost wake-up is a deadlock; in a `storm` a
//! ticker moves it, past leases and the store's timeout, so that replies are lost and claims taken over. Schedules are
//! uniformly random, or by PCT of depth three: 7,500 in rushes and 3,000 in storms.
//!
//! **What it cannot show.** That there is no bug. Weak orderings: shuttle's atomics are sequentially consistent, orderings are
//! for loom. The real parking_lot, in whose place shuttle's locks are. In a storm a missed wake-up may pass for a wait until
//! the next look. An operation of this test polls often; how a deadline ends one that does not is for the scenario tests.
#![cfg(oncekey_shuttle)]
#![allow(clippy::unwrap_used)]

#[path = "shuttle/ledger.rs"]
mod ledger;
#[path = "shuttle/rush.rs"]
mod rush;
#[path = "interleaving/sometimes.rs"]
mod sometimes;
#[path = "interleaving/store.rs"]
mod store;
#[path = "shuttle/storm.rs"]
mod storm;
#[path = "shuttle/support.rs"]
mod support;
