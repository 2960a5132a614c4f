//! The short way of the stores of the scenarios: offered where a scenario is played at once.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use oncekey::Key;
use oncekey::protocol::Entry;
use oncekey::store::{AtOnce, Step};
use oncekey::time::Timeline;

use super::{Fault, FaultyStore, Planned};

thread_local! {
    /// Whether stores made on this thread offer the short way.
    static SHORT: Cell<bool> = const { Cell::new(false) };
}

/// Whether a store that is made here and now offers the short way.
pub(super) fn is_offered() -> bool {
    SHORT.get()
}

/// Plays a scenario over stores that offer the short way.
pub fn at_once<T>(scenario: impl FnOnce() -> T) -> T {
    struct Back;
    impl Drop for Back {
        fn drop(&mut self) {
            SHORT.set(false);
        }
    }
    SHORT.set(true);
    let _back = Back;
    scenario()
}

/// A test for each of these scenarios of the module, over stores that offer the short way. The others plan what cannot go
/// wrong at once, or are about what a call does while it waits for its store.
macro_rules! also_at_once {
    ($($scenario:ident)*) => {
        mod at_once {
            $(
                #[test]
                fn $scenario() {
                    crate::support::at_once(super::$scenario);
                }
            )*
        }
    };
}
pub(crate) use also_at_once;

impl AtOnce for FaultyStore {
    type Error = Planned;

    fn update(&self, key: &Key, step: &mut (dyn Step + Send)) -> Result<Option<Entry>, Planned> {
        // Where there is no short way, a step is most often one exchange.
        self.exchanges.fetch_add(1, Ordering::SeqCst);
        match self.next() {
            Fault::None | Fault::Twice => {}
            fault @ (Fault::Refused | Fault::Hopeless) => return Err(Planned { fault }),
            fault => panic!("no store goes wrong like this at once: {fault:?}"),
        }
        let written = self.inner.update(key, step).unwrap();
        self.written.lock().unwrap().extend(written.as_ref().map(|entry| entry.record.clone()));
        Ok(written)
    }

    fn timeline(&self) -> Option<Timeline> {
        self.inner.timeline()
    }
}
