//! Policies by name, as a child process is told them.

use oncekey::Policy;

pub(super) fn policy(name: &str) -> Policy {
    match name {
        "reclaim" => Policy::Reclaim,
        "hold" => Policy::Hold,
        other => panic!("no such policy: {other}"),
    }
}

pub(super) fn name(policy: Policy) -> &'static str {
    match policy {
        Policy::Reclaim => "reclaim",
        Policy::Hold => "hold",
    }
}
