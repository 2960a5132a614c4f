//! Callers of two processes while time passes: leases end, claims are taken over, calls to the store time out in the
//! middle, an operator forgets, keepers renew.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use oncekey::Key;
use oncekey::admin::AdminAnswer;
use oncekey::builder::OnDrop;
use oncekey::observe::Event;
use oncekey::time::{Clock, ManualClock};
use shuttle::future::{block_on, spawn};
use shuttle::sync::RwLock;
use shuttle::thread;

use crate::ledger::Ledger;
use crate::sometimes::Sometimes;
use crate::store::{ModelStore, pend};
use crate::support::{
    By, Caller, Came, Ends, Engine, LEASE, Work, assert_idle, check_all, engine, explore, fair, key, one_in,
    some, store_pauses,
};

/// What must occur.
#[derive(Clone)]
struct Seen {
    executed: Sometimes,
    replayed: Sometimes,
    refused: Sometimes,
    failed_before: Sometimes,
    dropped: Sometimes,
    lease_lost: Sometimes,
    taken_over: Sometimes,
    renewed: Sometimes,
    reply_lost: Sometimes,
    forgotten: Sometimes,
    not_forgotten: Sometimes,
}

impl Seen {
    fn new() -> Self {
        Self {
            executed: Sometimes::new("a caller executes"),
            replayed: Sometimes::new("a caller is told"),
            refused: Sometimes::new("a caller is sent away"),
            failed_before: Sometimes::new("a final failure is told"),
            dropped: Sometimes::new("a call is dropped after its operation began"),
            lease_lost: Sometimes::new("an operation is dropped at its deadline"),
            taken_over: Sometimes::new("a claim is taken over"),
            renewed: Sometimes::new("a lease is renewed"),
            reply_lost: Sometimes::new("a call to the store times out"),
            forgotten: Sometimes::new("a key is forgotten"),
            not_forgotten: Sometimes::new("a live claim is not forgotten"),
        }
    }

    fn saw(&self, came: Came) {
        self.executed.saw(came == Came::Executed);
        self.replayed.saw(came == Came::Replayed);
        self.refused.saw(came == Came::InProgress);
        self.failed_before.saw(came == Came::FailedBefore);
        self.dropped.saw(came == Came::Dropped(true));
        self.lease_lost.saw(came == Came::LeaseLost);
    }

    fn observe(&self, _: &Key, event: &Event<'_>) {
        self.taken_over.saw(matches!(event, Event::Granted { after_doubt: true, .. }));
        self.renewed.saw(matches!(event, Event::Renewed));
        self.reply_lost.saw(matches!(event, Event::StoreFailed { .. }));
    }

    fn check(&self) {
        check_all(&[
            self.executed.clone(),
            self.replayed.clone(),
            self.refused.clone(),
            self.failed_before.clone(),
            self.dropped.clone(),
            self.lease_lost.clone(),
            self.taken_over.clone(),
            self.renewed.clone(),
            self.reply_lost.clone(),
            self.forgotten.clone(),
            self.not_forgotten.clone(),
        ]);
    }
}

#[test]
fn random_storm_of_8() {
    explore_storm("storm::random_storm_of_8", By::Random, 1200, 8, 1);
}

#[test]
fn random_storm_of_32_on_two_keys() {
    explore_storm("storm::random_storm_of_32_on_two_keys", By::Random, 200, 32, 2);
}

#[test]
fn pct_storm_of_8() {
    explore_storm("storm::pct_storm_of_8", By::Pct, 1200, 8, 1);
}

#[test]
fn pct_storm_of_16_on_two_keys() {
    explore_storm("storm::pct_storm_of_16_on_two_keys", By::Pct, 400, 16, 2);
}

fn explore_storm(test: &'static str, by: By, schedules: usize, callers: u32, keys: u32) {
    let seen = Seen::new();
    let saw = seen.clone();
    explore(test, by, schedules, move || storm(callers, keys, &saw));
    seen.check();
}

fn some_caller(number: u32, keys: u32) -> Caller {
    let ends = match some(0..16) {
        0..3 => Ends::WithoutEffect,
        3..6 => Ends::InDoubt,
        6 => Ends::ForGood,
        7 => Ends::Never,
        _ => Ends::Well,
    };
    Caller {
        name: format!("caller {number}"),
        key: some(0..keys) as usize,
        wait: [Duration::ZERO, LEASE, Duration::MAX, Duration::MAX][some(0..4) as usize],
        work: Work {
            steps: some(0..3),
            sleeps: if one_in(3) { LEASE * some(0..8) / 4 } else { Duration::ZERO },
            ends,
        },
        dropped_at_poll: one_in(5).then(|| some(1..9)),
    }
}

/// Time, which passes beside the callers.
#[derive(Clone)]
struct Time {
    ledger: Ledger,
    clock: ManualClock,
    /// Held by each poll while time stands in it.
    polls: Option<Arc<RwLock<()>>>,
    /// It passes in the least steps from here on.
    slow: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
}

impl Time {
    /// Polls a future between the steps of the clock, if time stands in polls.
    async fn stands_in<F: Future>(self, future: F) -> F::Output {
        let mut future = Box::pin(future);
        let output = poll_fn(|cx| {
            let _stands = self.polls.as_ref().map(|polls| polls.read().unwrap());
            future.as_mut().poll(cx)
        })
        .await;
        let _stands = self.polls.as_ref().map(|polls| polls.read().unwrap());
        drop(future);
        output
    }

    /// Passes until it is over, in steps of this order, and now and then right to the end of a sleep.
    fn passes(self) -> thread::JoinHandle<()> {
        let step = [LEASE / 100, LEASE / 30, LEASE / 8][some(0..3) as usize];
        thread::spawn(move || {
            while !self.over.load(Ordering::SeqCst) {
                {
                    let _moves = self.polls.as_ref().map(|polls| polls.write().unwrap());
                    let to_wake = self.clock.next_wake().filter(|_| one_in(8));
                    let step = if self.slow.load(Ordering::SeqCst) { LEASE / 100 } else { step };
                    let duration = to_wake.map_or(step, |at| at.saturating_since(self.clock.now()));
                    self.ledger.advance(duration.min(LEASE));
                }
                thread::yield_now();
            }
        })
    }
}

/// Forgets some key at some time.
async fn operator(engine: Engine, keys: u32, seen: Seen, forgotten: Arc<AtomicUsize>) {
    for _ in 0..some(1..4) {
        pend(some(0..200)).await;
        match engine.forget(&key(some(0..keys) as usize)).await {
            // The reply to an earlier copy was lost, and somebody wrote since.
            Ok(AdminAnswer::Changed { possibly_applied: true, .. }) => {
                forgotten.fetch_add(1, Ordering::SeqCst);
            }
            Ok(AdminAnswer::Live { .. } | AdminAnswer::Changed { .. }) => seen.not_forgotten.saw(true),
            Ok(AdminAnswer::Done) => {
                seen.forgotten.saw(true);
                forgotten.fetch_add(1, Ordering::SeqCst);
            }
            Ok(AdminAnswer::Absent) => {}
            Ok(other) => panic!("not an answer to a forgetting: {other:?}"),
            // It may have been applied.
            Err(_) => drop(forgotten.fetch_add(1, Ordering::SeqCst)),
        }
    }
}

fn storm(callers: u32, keys: u32, seen: &Seen) {
    let clock = ManualClock::new();
    clock.advance(Duration::from_secs(1000));
    let store = Arc::new(ModelStore::pausing(&clock, store_pauses));
    let stands = one_in(2);
    let ledger = Ledger::new(&clock, stands);
    let polls = stands.then(Arc::default);
    let time = Time {
        ledger: ledger.clone(),
        clock: clock.clone(),
        polls,
        slow: Arc::default(),
        over: Arc::default(),
    };
    let engines = [(); 2].map(|()| {
        let on_drop = if one_in(2) { OnDrop::KeepLease } else { OnDrop::ExpireNow };
        let saw = seen.clone();
        engine(&store, &clock, |builder| {
            builder
                .on_drop(on_drop)
                .poll_every(LEASE / 100, LEASE / 4)
                .observer(move |key: &Key, event: &Event<'_>| saw.observe(key, event))
        })
    });
    let keepers: Vec<_> = engines
        .iter()
        .filter(|_| one_in(2))
        .map(|engine| spawn(time.clone().stands_in(fair(engine.keeper()))))
        .collect();
    let forgotten = Arc::new(AtomicUsize::new(0));
    let operator = spawn(operator(engines[0].clone(), keys, seen.clone(), Arc::clone(&forgotten)));
    let ticker = time.clone().passes();
    let calls: Vec<_> = (0..callers)
        .map(|number| {
            let engine = engines[some(0..2) as usize].clone();
            let call = some_caller(number, keys).call(engine, ledger.clone(), clock.clone());
            spawn(time.clone().stands_in(call))
        })
        .collect();
    for call in calls {
        seen.saw(block_on(call).unwrap());
    }
    block_on(operator).unwrap();

    time.slow.store(true, Ordering::SeqCst);
    for index in 0..keys as usize {
        assert_of_use(index, &engines[1], &ledger, &clock, &time);
    }
    assert!(
        ledger.generations() <= keys as usize + forgotten.load(Ordering::SeqCst),
        "a generation ends by being forgotten, and in no other way here"
    );
    for engine in engines {
        block_on(fair(engine.flush()));
        assert_idle(&engine);
    }
    for keeper in keepers {
        block_on(keeper).unwrap();
    }
    time.over.store(true, Ordering::SeqCst);
    ticker.join().unwrap();
    assert_eq!(clock.sleepers(), 0, "a sleep is left behind");
}

/// Whatever became of all calls, calling again gets an outcome in the end. Time passes with each step here, so it has to be
/// slow: a run has more steps than a lease has of the clock's longest. And a call that takes clean-up along has less of its
/// lease: it goes alone.
fn assert_of_use(index: usize, engine: &Engine, ledger: &Ledger, clock: &ManualClock, time: &Time) {
    for number in 0..50 {
        block_on(fair(engine.flush()));
        let last = Caller {
            name: format!("last caller {number} of {index}"),
            key: index,
            wait: Duration::MAX,
            work: Work { steps: 1, sleeps: Duration::ZERO, ends: Ends::Well },
            dropped_at_poll: None,
        };
        let call = last.call(engine.clone(), ledger.clone(), clock.clone());
        let came = block_on(pin!(time.clone().stands_in(call)));
        if matches!(came, Came::Executed | Came::Replayed | Came::FailedBefore) {
            return;
        }
    }
    panic!("a key is of no more use");
}
