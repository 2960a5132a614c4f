//! Where the rest of a request runs once its client has gone away.

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::detach::Onto;

pub(crate) type Spawn = dyn Fn(BoxFuture<'static, ()>) + Send + Sync;

/// Where a handler runs.
pub(crate) enum Run {
    /// With its request, and in a task of its own once that is dropped: on the tokio runtime that the request is on.
    #[cfg(feature = "tokio")]
    Tokio,
    /// So too, on a spawner.
    Spawner(Arc<Spawn>),
    /// With its request: it ends with it.
    Request,
    /// Nobody said.
    #[cfg(not(feature = "tokio"))]
    Unsaid,
}

impl Run {
    /// Where the rest of a request goes if it is dropped; nowhere if it is to end with it.
    ///
    /// # Panics
    /// Outside of a tokio runtime, where one was to be used.
    pub(crate) fn onto(&self) -> Option<Onto> {
        match self {
            #[cfg(feature = "tokio")]
            Self::Tokio => Some(Onto::Tokio(tokio::runtime::Handle::current())),
            Self::Spawner(spawn) => Some(Onto::Spawner(Arc::clone(spawn))),
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
