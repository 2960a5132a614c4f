//! The ways to one store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use oncekey::MemoryStore;
use oncekey::memory::MemoryError;
use oncekey::protocol::{Entry, Expected, Key};
use oncekey::store::{AtOnce, Exchange, Put, Step, StepPut, Store};
use oncekey::time::{Moment, Timeline};

/// How the engines get to their store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By its short way.
    AtOnce,
    /// By its short way, where each step is asked about something else before it is asked about what is there.
    AskedTwice,
    /// By exchanges, as to a database.
    ByExchange,
}

impl Way {
    pub const ALL: [Self; 3] = [Self::AtOnce, Self::AskedTwice, Self::ByExchange];

    pub fn to(self, store: &Arc<MemoryStore>) -> Arc<dyn Store<Error = MemoryError>> {
        match self {
            Self::AtOnce => Arc::clone(store) as _,
            Self::AskedTwice => Arc::new(AskedTwice { store: Arc::clone(store), written: Mutex::default() }),
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

/// A store that asks a step again, as one may that finds that another write came first: what counts is what the step
/// answers last.
struct AskedTwice {
    store: Arc<MemoryStore>,
    /// What was written last under each key.
    written: Mutex<BTreeMap<Key, Entry>>,
}

/// A step that is asked about an entry that is gone where there is none, and about none where there is one, and then again.
struct Twice<'s> {
    step: &'s mut (dyn Step + Send),
    gone: Option<Entry>,
}

impl Step for Twice<'_> {
    fn next(&mut self, found: Option<Entry>) -> Option<StepPut<'_>> {
        let other = if found.is_some() { None } else { self.gone.clone() };
        let _unused = self.step.next(other);
        self.step.next(found)
    }

    fn read_at(&mut self, now: Moment) {
        self.step.read_at(now);
    }
}

impl AtOnce for AskedTwice {
    type Error = MemoryError;

    fn update(&self, key: &Key, step: &mut (dyn Step + Send)) -> Result<Option<Entry>, MemoryError> {
        let mut last = self.written.lock().expect("no step panics");
        let written = self.store.update(key, &mut Twice { step, gone: last.get(key).cloned() })?;
        if let Some(entry) = &written {
            last.insert(key.clone(), entry.clone());
        }
        Ok(written)
    }

    fn timeline(&self) -> Option<Timeline> {
        self.store.timeline()
    }
}

#[async_trait]
impl Store for AskedTwice {
    type Error = MemoryError;

    async fn load(&self, key: &Key) -> Result<Option<Entry>, MemoryError> {
        self.store.load(key).await
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Expected,
        put: Put<'_>,
    ) -> Result<Exchange, MemoryError> {
        self.store.compare_exchange(key, expected, put).await
    }

    fn at_once(&self) -> Option<&dyn AtOnce<Error = MemoryError>> {
        Some(self)
    }
}
