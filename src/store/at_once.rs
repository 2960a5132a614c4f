//! One atomic step, for a store that lives in this process.

use std::time::Duration;

use super::error::StoreError;
use super::put::{Exchange, Put};
use crate::protocol::{Entry, Expected, Key, Unwritten};
use crate::time::{Moment, Timeline};

/// A store that can look at a key and write to it in one atomic step, without waiting: under a lock of its own, say.
///
/// An engine over such a store has no conflicts to meet, no replies to lose and no futures to poll: see
/// [`Store::at_once`](super::Store::at_once), by which a store offers it.
///
/// # The contract
///
/// [`update`](Self::update) and the two methods of [`Store`](super::Store) are doors to one register: S1 to S9 hold across
/// them. A store that writes [`load`](super::Store::load) and [`compare_exchange`](super::Store::compare_exchange) by
/// [`load_at_once`] and [`exchange_at_once`] has one door, and nothing to keep in agreement.
///
/// On top of that, and instead of S10:
///
/// - **An error means that nothing was done**, and so does a panic. After a step that panicked the store goes on: its lock
///   is neither kept nor poisoned.
/// - The store may ask the step more than once in one update, each time with what is there then; what the last
///   answer says is what counts.
/// - A step that writes nothing succeeds whatever bound the store is at.
/// - What the step does under the store's lock is the engine's: it decides, and nothing of a user's runs there.
///
/// A store that wraps another must not hand this through if it does anything in `load` or `compare_exchange`: calls would
/// go round it. The conformance kit has cases for stores that offer the short way; over others they say that they show
/// nothing.
///
/// # Example
///
/// ```
/// # use std::{collections::BTreeMap, sync::{Mutex, PoisonError}, time::Duration};
/// use oncekey::protocol::{Entry, Expected, Key, Record, Version};
/// use oncekey::store::{AtOnce, Exchange, Put, Step, Store, exchange_at_once, load_at_once};
/// # #[derive(Debug, thiserror::Error)]
/// # #[error("this table does not fail")]
/// # struct TableError;
/// # impl oncekey::store::StoreError for TableError {}
///
/// /// A table whose entries do not expire, to keep the example short.
/// #[derive(Default)]
/// struct Table(Mutex<(BTreeMap<Key, (Record, Version)>, u64)>);
///
/// impl AtOnce for Table {
///     type Error = TableError;
///
///     fn update(&self, key: &Key, step: &mut (dyn Step + Send)) -> Result<Option<Entry>, TableError> {
///         // Nothing is written before the step has answered: a step that panicked left nothing half done.
///         let (rows, version) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
///         let found = rows.get(key).cloned();
///         let found = found.map(|(record, version)| Entry { record, version, left: Duration::MAX });
///         let Some(put) = step.next(found) else { return Ok(None) };
///         *version += 1;
///         let (record, version) = (put.record.to_record(), Version::new(*version));
///         rows.insert(key.clone(), (record.clone(), version));
///         Ok(Some(Entry { record, version, left: Duration::MAX }))
///     }
/// }
///
/// #[async_trait::async_trait]
/// impl Store for Table {
///     type Error = TableError;
///
///     async fn load(&self, key: &Key) -> Result<Option<Entry>, TableError> {
///         load_at_once(self, key)
///     }
///
///     async fn compare_exchange(&self, key: &Key, expected: Expected, put: Put<'_>)
///         -> Result<Exchange, TableError>
///     {
///         exchange_at_once(self, key, expected, put)
///     }
///
///     fn at_once(&self) -> Option<&dyn AtOnce<Error = TableError>> {
///         Some(self)
///     }
/// }
/// ```
pub trait AtOnce: Send + Sync {
    /// What goes wrong in this store: the error of its [`Store`](super::Store).
    type Error: StoreError;

    /// Asks `step` what to do about what is under `key`, and does it, all in one atomic step. Answers the entry as it was
    /// written; `None` if the step wrote nothing.
    ///
    /// # Errors
    /// The store's own. Nothing was done.
    fn update(&self, key: &Key, step: &mut (dyn Step + Send)) -> Result<Option<Entry>, Self::Error>;

    /// Of whose moments it tells each step, before it asks it; see [`Step::read_at`].
    #[doc(hidden)]
    fn timeline(&self) -> Option<Timeline> {
        None
    }
}

/// What an update does. Made by the engine, and by [`load_at_once`] and [`exchange_at_once`].
pub trait Step {
    /// What to write, if `found` is what is readable under the key; `None`: nothing.
    fn next(&mut self, found: Option<Entry>) -> Option<StepPut<'_>>;

    /// When the store read its clock, under its lock: if it is the engine's too, that need not be read again.
    #[doc(hidden)]
    fn read_at(&mut self, now: Moment) {
        let _unused = now;
    }
}

/// One write of a step.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StepPut<'a> {
    /// What to keep.
    pub record: Unwritten<'a>,
    /// As [`Put::live`].
    pub live: Duration,
    /// As [`Put::linger`].
    pub linger: Duration,
}

impl<'a> StepPut<'a> {
    /// A write of `record`.
    #[inline]
    pub fn new(record: Unwritten<'a>, live: Duration, linger: Duration) -> Self {
        Self { record, live, linger }
    }
}

/// [`Store::load`](super::Store::load), by an update that writes nothing.
///
/// # Errors
/// The store's own.
pub fn load_at_once<E: StoreError>(store: &dyn AtOnce<Error = E>, key: &Key) -> Result<Option<Entry>, E> {
    struct Look(Option<Entry>);
    impl Step for Look {
        fn next(&mut self, found: Option<Entry>) -> Option<StepPut<'_>> {
            self.0 = found;
            None
        }
    }
    let mut look = Look(None);
    store.update(key, &mut look)?;
    Ok(look.0)
}

/// [`Store::compare_exchange`](super::Store::compare_exchange), by one update.
///
/// # Errors
/// The store's own. Nothing was done.
pub fn exchange_at_once<E: StoreError>(
    store: &dyn AtOnce<Error = E>,
    key: &Key,
    expected: Expected,
    put: Put<'_>,
) -> Result<Exchange, E> {
    struct Swap<'p> {
        expected: Expected,
        put: Put<'p>,
        found: Option<Entry>,
    }
    impl Step for Swap<'_> {
        fn next(&mut self, found: Option<Entry>) -> Option<StepPut<'_>> {
            let as_expected = match (self.expected, &found) {
                (Expected::Vacant, None) => true,
                (Expected::At(version), Some(found)) => found.version == version,
                _ => false,
            };
            self.found = found;
            let Put { record, live, linger } = self.put;
            as_expected.then(|| StepPut::new(record.clone().into(), live, linger))
        }
    }
    let mut swap = Swap { expected, put, found: None };
    Ok(match store.update(key, &mut swap)? {
        Some(written) => Exchange::Done(written.version),
        None => Exchange::Conflict(swap.found),
    })
}
