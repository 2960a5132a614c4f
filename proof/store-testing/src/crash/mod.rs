//! Processes that are killed or frozen, and what others find then.

mod frozen;
mod policy;
mod steps;
mod storm;

pub use frozen::frozen;
pub use steps::check;
pub use storm::storm;

pub(crate) use frozen::child as frozen_child;
pub(crate) use steps::child as step_child;
pub(crate) use storm::child as storm_child;
