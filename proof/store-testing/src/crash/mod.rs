//! Processes that are killed or frozen, and what others find then.

mod frozen;
mod steps;
mod storm;

pub use crate::child::run as worker;
pub use frozen::frozen;
pub use steps::check;
pub use storm::storm;

pub(crate) use frozen::child as frozen_child;
pub(crate) use steps::child as step_child;
pub(crate) use storm::child as storm_child;

use oncekey::Policy;

fn policy(name: &str) -> Policy {
    match name {
        "reclaim" => Policy::Reclaim,
        "hold" => Policy::Hold,
        other => panic!("no such policy: {other}"),
    }
}

fn name(policy: Policy) -> &'static str {
    match policy {
        Policy::Reclaim => "reclaim",
        Policy::Hold => "hold",
    }
}
