//! A fault store with nothing planned keeps the whole contract: the kit sees no difference.
#![cfg(feature = "conformance")]
#![allow(clippy::unwrap_used)]

#[path = "conformance/harnesses.rs"]
#[allow(dead_code)]
mod harnesses;

use harnesses::Memory;
use oncekey::conformance::over;
use oncekey::store::{FaultStore, Odds};

mod nothing_planned {
    use super::*;
    oncekey::conformance_tests!(over(Memory, |store, time| FaultStore::new(store).with_clock(time.clone())));
}

mod odds_of_nothing {
    use super::*;
    oncekey::conformance_tests!(over(Memory, |store, time| {
        FaultStore::new(store).with_clock(time.clone()).with_odds(7, Odds::none())
    }));
}
