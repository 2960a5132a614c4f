//! Where a handler runs, and where it goes on once its client has gone away.

use std::sync::Arc;

use crate::context::Job;

pub(crate) type Spawn = dyn Fn(Job) + Send + Sync;

/// Where a handler runs.
pub(crate) enum Run {
    /// With its request, and in a task of its own once that is dropped: on the tokio runtime that
    /// the request is on.
    #[cfg(feature = "tokio")]
    Tokio,
    /// The same, on a spawner.
    Spawner(Arc<Spawn>),
    /// With its request: it ends with it.
    Request,
    /// No runtime was named.
    #[cfg(not(feature = "tokio"))]
    Unsaid,
}

impl Run {
    /// Where the rest of a request runs if it is dropped; `None` if its handler ends with it.
    ///
    /// # Panics
    /// Outside of a tokio runtime, if handlers run on tokio.
    pub(crate) fn runner(&self) -> Option<Runner> {
        match self {
            #[cfg(feature = "tokio")]
            Self::Tokio => Some(Runner::Tokio(tokio::runtime::Handle::current())),
            Self::Spawner(spawn) => Some(Runner::Spawner(Arc::clone(spawn))),
            Self::Request => None,
            #[cfg(not(feature = "tokio"))]
            Self::Unsaid => unreachable!("such a layer is not built"),
        }
    }
}

#[cfg(feature = "tokio")]
pub(crate) fn default_run() -> Run {
    Run::Tokio
}

#[cfg(not(feature = "tokio"))]
pub(crate) fn default_run() -> Run {
    Run::Unsaid
}

/// Where the rest of a request runs once nobody polls it any more.
pub(crate) enum Runner {
    /// The runtime that its request came in on: known here, since a drop may come from elsewhere.
    #[cfg(feature = "tokio")]
    Tokio(tokio::runtime::Handle),
    Spawner(Arc<Spawn>),
}

impl Runner {
    pub(crate) fn run(&self, job: Job) {
        match self {
            #[cfg(feature = "tokio")]
            Self::Tokio(runtime) => drop(runtime.spawn(job)),
            Self::Spawner(spawn) => spawn(job),
        }
    }
}
