//! The kit over our own stores: the memory store, plain, behind `Arc<dyn Store>`, and behind each decorator; on a clock
//! moved by hand and on real time. And over the store that the docs show how to write.
#![allow(clippy::unwrap_used)]

#[path = "conformance/harnesses.rs"]
#[allow(dead_code, reason = "other tests have harnesses in it too")]
mod harnesses;
#[path = "conformance/table.rs"]
mod table;

use std::sync::Arc;
use std::time::Duration;

use harnesses::{Memory, MemoryOnRealTime};
use oncekey::Store;
use oncekey::memory::MemoryError;
use oncekey::store::CachedStore;
use oncekey_conformance::{FaultStore, Intercept, over};

mod memory {
    oncekey_conformance::conformance_tests!(super::Memory);
}

mod memory_on_real_time {
    oncekey_conformance::conformance_tests!(super::MemoryOnRealTime);
}

mod table_of_the_docs {
    oncekey_conformance::conformance_tests!(super::table::TableHarness);
}

mod behind_dyn {
    use super::*;
    oncekey_conformance::conformance_tests!(over(Memory, |store, _| {
        Arc::new(store) as Arc<dyn Store<Error = MemoryError>>
    }));
}

mod cached {
    use super::*;
    oncekey_conformance::conformance_tests!(over(Memory, |store, time| {
        CachedStore::new(store, 100, Duration::from_secs(10)).with_clock(time.clone())
    }));
}

mod small_cache {
    use super::*;
    oncekey_conformance::conformance_tests!(over(Memory, |store, time| {
        CachedStore::new(store, 2, Duration::from_secs(2)).with_clock(time.clone())
    }));
}

mod faults_unplanned {
    use super::*;
    oncekey_conformance::conformance_tests!(
        over(Memory, |store, time| FaultStore::new(store).with_clock(time.clone()))
    );
}

mod passed_on {
    use super::*;
    oncekey_conformance::conformance_tests!(over(Memory, |store, _| Intercept::new(store)));
}

mod erased {
    use super::*;
    oncekey_conformance::conformance_tests!(over(Memory, |store, _| oncekey::store::erased(store)));
}

mod erased_behind_a_cache {
    use super::*;
    oncekey_conformance::conformance_tests!(over(Memory, |store, time| {
        let store = oncekey::store::erased(store);
        CachedStore::new(store, 100, Duration::from_secs(10)).with_clock(time.clone())
    }));
}
