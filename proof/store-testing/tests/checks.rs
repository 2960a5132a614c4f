//! The checks themselves: that a right store passes, and that each finds the store that is wrong in its way.

#![allow(clippy::unwrap_used)]

#[path = "checks/toy.rs"]
mod toy;

#[path = "checks/races.rs"]
mod races;

#[path = "checks/crash.rs"]
mod crash;

#[path = "checks/lost.rs"]
mod lost;

#[path = "checks/servers.rs"]
mod servers;
