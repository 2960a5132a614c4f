//! What a keeper does beside renewals: purges, which hold nothing up.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncekey::observe::{Event, Housekeeping, Observer};
use oncekey::store::Purged;
use oncekey::time::ManualClock;
use oncekey::{Deduplicator, Key, MemoryStore};
use oncekey_conformance::Intercept;

use crate::support::*;

/// How the next purges go.
#[derive(Clone, Copy)]
enum Plan {
    Answers {
        removed: usize,
        more: bool,
    },
    /// There is always more, and each step takes a second.
    IsSlow,
    Hangs,
    Panics,
}

/// What was told of housekeeping.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Observer for Told {
    fn event(&self, _: &Key, _: &Event<'_>) {}

    fn housekeeping(&self, done: &Housekeeping<'_>) {
        self.0.lock().unwrap().push(match done {
            Housekeeping::Purged { removed, behind, .. } => format!("{removed}, behind: {behind}"),
            Housekeeping::PurgeFailed { removed, .. } => format!("failed after {removed}"),
            Housekeeping::Trimmed { trimmed, more, .. } => format!("trimmed {trimmed}, more: {more}"),
            Housekeeping::Panicked { lane, .. } => format!("panicked: {lane}"),
            other => format!("{other:?}"),
        });
    }
}

impl Told {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

struct Purges {
    clock: ManualClock,
    told: Told,
    plans: Arc<Mutex<Vec<Plan>>>,
    steps: Arc<AtomicU32>,
    dedup: Deduplicator<Intercept<MemoryStore>>,
}

/// An engine over a store whose purges go as planned, and find nothing when all plans are used up.
fn purges(every: Duration) -> Purges {
    let (clock, told) = (ManualClock::new(), Told::default());
    let (plans, steps) = (Arc::new(Mutex::new(Vec::new())), Arc::<AtomicU32>::default());
    let inner = MemoryStore::builder().clock(clock.clone()).build();
    let (planned, count, time) = (Arc::clone(&plans), Arc::clone(&steps), clock.clone());
    let store = Intercept::new(inner).on_purge(move |_, limit| {
        assert_eq!(limit, 1_000);
        count.fetch_add(1, Ordering::SeqCst);
        let mut plans: std::sync::MutexGuard<'_, Vec<Plan>> = planned.lock().unwrap();
        let plan = match plans.first().copied() {
            Some(Plan::IsSlow) => Plan::IsSlow,
            Some(_) => plans.remove(0),
            None => Plan::Answers { removed: 0, more: false },
        };
        drop(plans);
        let time = time.clone();
        Box::pin(async move {
            match plan {
                Plan::Answers { removed, more } => Ok(Purged { removed, more }),
                Plan::IsSlow => {
                    time.advance(secs(1));
                    Ok(Purged { removed: 1, more: true })
                }
                Plan::Hangs => std::future::pending().await,
                Plan::Panics => panic!("planned"),
            }
        })
    });
    let builder = Deduplicator::builder(store).clock(clock.clone()).observer(told.clone());
    Purges { clock, told, plans, steps, dedup: builder.purge_every(every).build().unwrap() }
}

#[test]
fn a_keeper_purges_once_an_interval_until_there_is_no_more() {
    let purges = purges(secs(60));
    let some = |removed, more| Plan::Answers { removed, more };
    *purges.plans.lock().unwrap() = vec![some(1000, true), some(1000, true), some(500, false)];
    let mut tasks = Tasks::default();
    let _keeper = tasks.spawn(purges.dedup.keeper());
    tasks.pass(&purges.clock, secs(44));
    assert_eq!(purges.steps.load(Ordering::SeqCst), 0);
    tasks.pass(&purges.clock, secs(32));
    assert_eq!(
        (purges.steps.load(Ordering::SeqCst), purges.told.take()),
        (3, vec!["2500, behind: false".to_owned()])
    );
    tasks.pass(&purges.clock, secs(3600));
    let rounds = purges.told.take().len();
    assert!((48..=80).contains(&rounds), "{rounds} rounds in an hour");
}

#[test]
fn a_round_of_purges_ends_and_says_that_it_is_behind() {
    let purges = purges(secs(60));
    *purges.plans.lock().unwrap() = vec![Plan::IsSlow];
    let mut tasks = Tasks::default();
    let _keeper = tasks.spawn(purges.dedup.keeper());
    tasks.pass(&purges.clock, secs(76));
    assert_eq!(purges.told.take()[..1], ["30, behind: true".to_owned()]);
}

/// Of a store that can, for an engine with a tail: from where the last round left off, to the end, and then anew.
#[test]
fn a_keeper_trims_some_outcomes_a_round() {
    for tail in [secs(0), secs(86_400)] {
        let (clock, told) = (ManualClock::new(), Told::default());
        let one = std::num::NonZeroUsize::MIN;
        let store = Arc::new(MemoryStore::builder().clock(clock.clone()).shards(one).build());
        let builder = Deduplicator::builder(Arc::clone(&store)).clock(clock.clone()).observer(told.clone());
        let builder = builder.retention(secs(60)).tail(tail).purge_every(secs(60));
        let dedup = builder.build().unwrap();
        let mut tasks = Tasks::default();
        for id in 0..5_000 {
            let request = dedup.request(Key::new("orders.ship", id.to_string()).unwrap());
            let run = request.run(async |_| Ok::<_, String>("o".repeat(1_000)));
            assert!(futures::FutureExt::now_or_never(run).unwrap().unwrap().ran_now());
        }
        let before = store.usage().bytes;
        let _keeper = tasks.spawn(dedup.keeper());
        tasks.pass(&clock, secs(600));
        let trims: Vec<_> = told
            .take()
            .into_iter()
            .filter_map(|told| told.strip_prefix("trimmed ").map(str::to_owned))
            .collect();
        if tail.is_zero() {
            assert_eq!(trims, Vec::<String>::new());
            continue;
        }
        // Nothing is due before the retention is over.
        let rounds: Vec<_> = trims.iter().filter(|told| !told.starts_with("0,")).collect();
        assert_eq!(rounds, ["4000, more: true", "1000, more: false"], "{trims:?}");
        assert!(store.usage().bytes * 3 < before, "{} of {before} bytes are left", store.usage().bytes);
    }
}

#[test]
fn an_engine_that_is_told_so_never_purges() {
    let purges = purges(Duration::MAX);
    let mut tasks = Tasks::default();
    let _keeper = tasks.spawn(purges.dedup.keeper());
    tasks.pass(&purges.clock, secs(86_400));
    assert_eq!(purges.steps.load(Ordering::SeqCst), 0);
}

/// Nor does it end the keeper: the next round purges again.
#[test]
fn a_purge_that_hangs_or_panics_stops_no_renewal() {
    for (plan, told) in [(Plan::Hangs, "failed after 1000"), (Plan::Panics, "panicked: purge")] {
        let purges = purges(secs(10));
        let claim = claim(&purges.dedup);
        *purges.plans.lock().unwrap() = vec![
            Plan::Answers { removed: 1000, more: true },
            plan,
            Plan::Answers { removed: 7, more: false },
        ];
        let mut tasks = Tasks::default();
        let keeper = tasks.spawn(purges.dedup.keeper());
        for _ in 0..100 {
            tasks.pass(&purges.clock, secs(1));
            assert!(!claim.time_left().is_zero() && !keeper.is_done(), "{told}");
        }
        assert_eq!(purges.told.take()[..2], [told.to_owned(), "7, behind: false".to_owned()]);
    }
}
