//! The two ways to one store.

use std::sync::Arc;

use async_trait::async_trait;
use oncekey::MemoryStore;
use oncekey::memory::MemoryError;
use oncekey::protocol::{Entry, Expected, Key};
use oncekey::store::{Exchange, Put, Store};

/// How the engines get to their store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By its short way.
    AtOnce,
    /// By exchanges, as to a database.
    ByExchange,
}

impl Way {
    pub fn to(self, store: &Arc<MemoryStore>) -> Arc<dyn Store<Error = MemoryError>> {
        match self {
            Self::AtOnce => Arc::clone(store) as _,
            Self::ByExchange => Arc::new(Hidden(Arc::clone(store))),
        }
    }
}

/// A store whose short way is hidden.
struct Hidden(Arc<MemoryStore>);

#[async_trait]
impl Store for Hidden {
    type Error = MemoryError;

    async fn load(&self, key: &Key) -> Result<Option<Entry>, MemoryError> {
        self.0.load(key).await
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Expected,
        put: Put<'_>,
    ) -> Result<Exchange, MemoryError> {
        self.0.compare_exchange(key, expected, put).await
    }
}
