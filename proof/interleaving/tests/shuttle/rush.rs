//! Callers of one process while the clock stands: each wakes by what the others do, or waits for ever, and shuttle says
//! that it is a deadlock.

use std::time::Duration;

use oncekey::builder::OnDrop;
use oncekey::protocol::Status;
use oncekey::time::ManualClock;
use shuttle::future::{block_on, spawn};
use shuttle::thread;
use std::sync::Arc;

use crate::ledger::Ledger;
use crate::sometimes::Sometimes;
use crate::store::ModelStore;
use crate::support::{
    By, Caller, Came, Ends, LEASE, Work, assert_idle, check_all, engine, explore, fair, key, one_in, some,
    store_pauses,
};

/// What must occur.
#[derive(Clone)]
struct Seen {
    executed: Sometimes,
    replayed: Sometimes,
    refused: Sometimes,
    failed: Sometimes,
    failed_before: Sometimes,
    dropped_early: Sometimes,
    dropped_late: Sometimes,
    again: Sometimes,
}

impl Seen {
    fn new() -> Self {
        Self {
            executed: Sometimes::new("a caller executes"),
            replayed: Sometimes::new("a caller is told"),
            refused: Sometimes::new("a caller that does not wait is sent away"),
            failed: Sometimes::new("an operation fails"),
            failed_before: Sometimes::new("a final failure is told"),
            dropped_early: Sometimes::new("a call is dropped before its operation begins"),
            dropped_late: Sometimes::new("a call is dropped after its operation began"),
            again: Sometimes::new("a key is executed again"),
        }
    }

    fn saw(&self, came: Came) {
        self.executed.saw(came == Came::Executed);
        self.replayed.saw(came == Came::Replayed);
        self.refused.saw(came == Came::InProgress);
        self.failed.saw(came == Came::Failed);
        self.failed_before.saw(came == Came::FailedBefore);
        self.dropped_early.saw(came == Came::Dropped(false));
        self.dropped_late.saw(came == Came::Dropped(true));
    }

    fn check(&self) {
        check_all(&[
            self.executed.clone(),
            self.replayed.clone(),
            self.refused.clone(),
            self.failed.clone(),
            self.failed_before.clone(),
            self.dropped_early.clone(),
            self.dropped_late.clone(),
            self.again.clone(),
        ]);
    }
}

#[test]
fn random_rush_of_8() {
    explore_rush("rush::random_rush_of_8", By::Random, 3000, 8, 1);
}

#[test]
fn random_rush_of_32_on_two_keys() {
    explore_rush("rush::random_rush_of_32_on_two_keys", By::Random, 500, 32, 2);
}

#[test]
fn pct_rush_of_8() {
    explore_rush("rush::pct_rush_of_8", By::Pct, 3000, 8, 1);
}

#[test]
fn pct_rush_of_16_on_two_keys() {
    explore_rush("rush::pct_rush_of_16_on_two_keys", By::Pct, 1000, 16, 2);
}

fn explore_rush(test: &'static str, by: By, schedules: usize, callers: u32, keys: u32) {
    let seen = Seen::new();
    let saw = seen.clone();
    explore(test, by, schedules, move || rush(callers, keys, &saw));
    seen.check();
}

fn some_caller(number: u32, keys: u32) -> Caller {
    let ends = match some(0..16) {
        0..5 => Ends::WithoutEffect,
        5..8 => Ends::InDoubt,
        8 => Ends::ForGood,
        _ => Ends::Well,
    };
    Caller {
        name: format!("caller {number}"),
        key: some(0..keys) as usize,
        wait: if one_in(6) { Duration::ZERO } else { Duration::MAX },
        work: Work { steps: some(0..4), sleeps: Duration::ZERO, ends },
        dropped_at_poll: one_in(4).then(|| some(1..9)),
    }
}

fn rush(callers: u32, keys: u32, seen: &Seen) {
    let clock = ManualClock::new();
    clock.advance(Duration::from_secs(1000));
    let store = Arc::new(ModelStore::pausing(&clock, store_pauses));
    let ledger = Ledger::new(&clock, true);
    // Nobody looks again by himself while the clock stands, and what is dropped is given up at once.
    let never = Duration::from_secs(600);
    let engine =
        engine(&store, &clock, |builder| builder.poll_every(never, never).on_drop(OnDrop::ExpireNow));
    // For the clean-up: no lease is due while the clock stands.
    let keeper = spawn(fair(engine.keeper()));
    let calls: Vec<_> = (0..callers)
        .map(|number| spawn(some_caller(number, keys).call(engine.clone(), ledger.clone(), clock.clone())))
        .collect();
    for call in calls {
        let came = block_on(call).unwrap();
        seen.saw(came);
        let fits = !matches!(came, Came::Unrecorded | Came::LeaseLost | Came::NoStore);
        assert!(fits, "no lease and no timeout ends while the clock stands: {came:?}");
    }
    seen.again.saw(ledger.executions() > keys as usize);

    for index in 0..keys as usize {
        // Whatever became of them, the key is of use: one more call gets an outcome.
        let last = Caller {
            name: format!("last caller of {index}"),
            key: index,
            wait: Duration::MAX,
            work: Work { steps: 1, sleeps: Duration::ZERO, ends: Ends::Well },
            dropped_at_poll: None,
        };
        let came = block_on(last.call(engine.clone(), ledger.clone(), clock.clone()));
        assert!(matches!(came, Came::Executed | Came::Replayed | Came::FailedBefore), "{came:?}");
        let found = block_on(engine.inspect(&key(index))).unwrap().expect("it is on record");
        assert_eq!(found.state, Status::Completed);
    }
    assert_eq!(ledger.generations(), keys as usize, "what nobody forgot is concluded once");
    block_on(fair(engine.flush()));
    assert_idle(&engine);
    drop(engine);
    // It ends within a part of a lease; it may have begun to sleep only now.
    while !keeper.is_finished() {
        clock.advance(LEASE);
        thread::yield_now();
    }
    assert_eq!(clock.sleepers(), 0, "a sleep is left behind");
}
