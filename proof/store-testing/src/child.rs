//! Child processes of a test: its own binary again, which runs one ignored test there.

pub use crate::process::{Child, Job, say, work};

use crate::crash::{frozen_child, step_child, storm_child};
use crate::deployment::Deployment;
use crate::races::child as race_child;

/// The body of the ignored test that a [`Deployment`] names. Outside of a child process it does nothing.
///
/// # Panics
/// If the child has something to complain about: its parent sees it fail.
pub fn run<D: Deployment>(deployment: &D) {
    work(|job| async move {
        match job.get("role") {
            "race" => race_child(deployment, job).await,
            "step" => step_child(deployment, job).await,
            "frozen" => frozen_child(deployment, job).await,
            "storm" => storm_child(deployment, job).await,
            role => panic!("no such role: {role}"),
        }
    });
}
