//! What must happen at least once while a model is explored.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Something that must happen in some interleaving, or the model says nothing.
#[derive(Clone)]
pub(crate) struct Sometimes(&'static str, Arc<AtomicUsize>);

impl Sometimes {
    pub(crate) fn new(what: &'static str) -> Self {
        Self(what, Arc::default())
    }

    pub(crate) fn saw(&self, happened: bool) {
        self.1.fetch_add(usize::from(happened), Ordering::Relaxed);
    }

    /// Call it after the model was explored.
    pub(crate) fn check(&self) {
        assert!(self.count() > 0, "no interleaving in which {}: the model is vacuous", self.0);
    }

    /// How often it happened.
    pub(crate) fn count(&self) -> usize {
        self.1.load(Ordering::Relaxed)
    }
}
