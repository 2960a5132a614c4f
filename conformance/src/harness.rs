//! The harness that a store author provides: fresh stores, and a way to let their time pass.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::env::env_number;
use super::park;
use oncekey::protocol::UnixMillis;
use oncekey::store::Store;
use oncekey::time::{Clock, ManualClock, Moment, SystemClock};

/// How the kit gets at a store: implement it once, in the tests of the crate that has the store.
///
/// The kit makes one harness per case, and cases run in parallel, as tests do. Whatever two subjects of one or of two
/// harnesses share (a server, a directory) must not let one see the other's entries.
///
/// # The time of a store
///
/// Cases let time pass, so a harness says by which clock its store judges expiry:
///
/// - A store that takes a [`Clock`] gets the kit's: make a [`ManualClock`], hand a clone to the store, and
///   give the clock to [`Time::manual`]. The kit moves it, and no case waits. Give a store of your own such a
///   setting, even if only its tests use it: a field `clock: Arc<dyn Clock>`, `self.clock.now()` where the
///   store stamps or compares a time, and [`SystemClock`] by default. Times are then [`Moment`]s in place of
///   [`Instant`](std::time::Instant)s.
/// - A store whose time is its server's, or the system's, says [`Time::real`]. Cases then sleep.
///
/// A store that reads `Instant::now()` and says `Time::manual` fails `s3_past_live_and_linger_is_vacant`,
/// since its time does not pass.
///
/// See the [crate](crate) for a whole example.
pub trait Harness: Sync {
    /// The store under test.
    type Store: Store + 'static;
    /// Whatever must outlive the store and clean up after it: a temporary directory, a schema that is dropped; `()` if
    /// there is nothing. It is dropped after the store.
    type Guard: Send + Sync + 'static;

    /// A fresh, empty store.
    ///
    /// # Panics
    /// May panic if the store cannot be built: a store that is not there is a failure, not a pass.
    fn fresh(&self) -> Subject<Self::Store, Self::Guard>;

    /// Runs a future to its end on this thread, as the store needs it: `runtime.block_on(future)` for a store that
    /// lives on a runtime. It is called from several threads at once.
    ///
    /// The default parks the thread between polls, which does for a store that brings its own threads or none.
    fn block_on<F: Future>(&self, future: F) -> F::Output {
        park::block_on(future)
    }

    /// A fresh, empty store that holds at most `records_max` entries; `None` if this store has no bound of its own
    /// (the certificate then says that this part of S8 was not shown).
    fn fresh_bounded(&self, records_max: usize) -> Option<Subject<Self::Store, Self::Guard>> {
        let _ = records_max;
        None
    }

    /// The store again over the same data, after the first was dropped: what a restart of the process sees. `None`
    /// if nothing survives, which must be what the store [declares](Store::durability).
    fn reopen(&self, guard: Self::Guard) -> Option<Subject<Self::Store, Self::Guard>> {
        drop(guard);
        None
    }

    /// The abilities of this store beyond the contract.
    fn abilities(&self) -> Abilities {
        Abilities::default()
    }

    /// How much to try.
    fn effort(&self) -> Effort {
        Effort::default()
    }
}

/// A fresh store, the time it lives in, and what cleans up after it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Subject<S, G = ()> {
    /// The store.
    pub store: S,
    /// The time by which it judges expiry.
    pub time: Time,
    /// Dropped after the store.
    pub guard: G,
}

impl<S> Subject<S> {
    /// A store that needs no cleaning up.
    pub fn new(store: S, time: Time) -> Self {
        Self { store, time, guard: () }
    }
}

impl<S, G> Subject<S, G> {
    /// A store with its clean-up.
    pub fn guarded(store: S, time: Time, guard: G) -> Self {
        Self { store, time, guard }
    }
}

/// How the time of a store passes.
#[derive(Clone, Debug)]
pub struct Time(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Manual(ManualClock),
    Real { clock: Arc<SystemClock>, step: Duration, resolution: Duration },
}

impl Time {
    /// The store judges expiry by this clock, of which no other store knows: the kit moves it, and nothing ever waits.
    pub fn manual(clock: ManualClock) -> Self {
        Self(Kind::Manual(clock))
    }

    /// The store has a clock that runs by itself, so letting time pass takes time.
    ///
    /// `step` is the shortest lifetime that the kit gives an entry where it wants to see it live: long against a slow
    /// round trip (100 ms for a local database). `resolution` is what the store rounds times to; a lifetime may end so
    /// much later than asked for, never earlier; one of zero ends at once all the same.
    pub fn real(step: Duration, resolution: Duration) -> Self {
        Self(Kind::Real { clock: Arc::new(SystemClock::new()), step, resolution })
    }

    /// The unit in which the kit measures lifetimes: one second on a manual clock.
    pub fn step(&self) -> Duration {
        match &self.0 {
            Kind::Manual(_) => Duration::from_secs(1),
            Kind::Real { step, .. } => *step,
        }
    }

    /// How much later than asked for a lifetime may end.
    pub fn resolution(&self) -> Duration {
        match &self.0 {
            Kind::Manual(_) => Duration::ZERO,
            Kind::Real { resolution, .. } => *resolution,
        }
    }

    /// The clock to move, if there is one.
    pub fn manual_clock(&self) -> Option<&ManualClock> {
        match &self.0 {
            Kind::Manual(clock) => Some(clock),
            Kind::Real { .. } => None,
        }
    }

    /// Lets so much time pass: at once, or by waiting.
    pub fn pass(&self, duration: Duration) {
        match &self.0 {
            Kind::Manual(clock) => clock.advance(duration),
            Kind::Real { .. } => std::thread::sleep(duration),
        }
    }
}

impl Clock for Time {
    fn now(&self) -> Moment {
        match &self.0 {
            Kind::Manual(clock) => clock.now(),
            Kind::Real { clock, .. } => clock.now(),
        }
    }

    fn sleep_until(&self, until: Moment) -> BoxFuture<'static, ()> {
        match &self.0 {
            Kind::Manual(clock) => clock.sleep_until(until),
            Kind::Real { clock, .. } => clock.sleep_until(until),
        }
    }

    fn unix(&self, now: Moment) -> UnixMillis {
        match &self.0 {
            Kind::Manual(clock) => clock.unix(now),
            Kind::Real { clock, .. } => clock.unix(now),
        }
    }
}

/// The abilities of a store beyond the contract. By default it has none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Abilities {
    /// [`Store::purge`] removes what is past live + linger, and counts it. A store that reclaims by itself need not.
    pub purges: bool,
}

impl Abilities {
    /// A purge removes and counts.
    #[must_use]
    pub fn purging(mut self) -> Self {
        self.purges = true;
        self
    }
}

/// How much the kit tries. More finds more, and takes longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Effort {
    /// Threads in a race.
    pub racers: usize,
    /// Rounds of each race.
    pub races: u32,
    /// Random histories of each kind.
    pub histories: u32,
    /// Seeds of the engine over the store with faults.
    pub seeds: u32,
}

impl Default for Effort {
    /// For a store that answers in microseconds: a few seconds in all.
    fn default() -> Self {
        Self { racers: 8, races: 100, histories: 256, seeds: 100 }
    }
}

impl Effort {
    /// For a store behind a network or a disk.
    pub fn modest() -> Self {
        Self { racers: 8, races: 20, histories: 24, seeds: 2 }
    }

    /// So many times the races, histories and seeds, by the environment's `ONCEKEY_KIT_EFFORT` (a number, 1 if unset).
    pub(super) fn times_env(self) -> Self {
        let factor = env_number("ONCEKEY_KIT_EFFORT").unwrap_or(1);
        let factor = u32::try_from(factor).unwrap_or(u32::MAX);
        Self {
            races: self.races.saturating_mul(factor),
            histories: self.histories.saturating_mul(factor),
            seeds: self.seeds.saturating_mul(factor),
            ..self
        }
    }
}

/// A harness over a harness: each store is wrapped, with its time, before the kit sees it.
///
/// ```
/// # use oncekey_conformance::{Harness, Subject, Time, over};
/// # use oncekey::{MemoryStore, time::ManualClock};
/// # struct MyHarness;
/// # impl Harness for MyHarness {
/// #     type Store = MemoryStore;
/// #     type Guard = ();
/// #     fn fresh(&self) -> Subject<MemoryStore> {
/// #         let clock = ManualClock::new();
/// #         Subject::new(MemoryStore::builder().clock(clock.clone()).build(), Time::manual(clock))
/// #     }
/// # }
/// use oncekey::store::CachedStore;
/// use std::time::Duration;
/// let cached = over(MyHarness, |store, time| {
///     CachedStore::new(store, 100, Duration::from_secs(10)).with_clock(time.clone())
/// });
/// ```
pub fn over<H, F, S>(harness: H, wrap: F) -> Over<H, F>
where
    H: Harness,
    F: Fn(H::Store, &Time) -> S + Sync,
    S: Store + 'static,
{
    Over { harness, wrap }
}

/// See [`over`].
pub struct Over<H, F> {
    harness: H,
    wrap: F,
}

impl<H: fmt::Debug, F> fmt::Debug for Over<H, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Over").field("harness", &self.harness).finish_non_exhaustive()
    }
}

impl<H, F, S> Over<H, F>
where
    H: Harness,
    F: Fn(H::Store, &Time) -> S + Sync,
{
    fn wrapped(&self, subject: Subject<H::Store, H::Guard>) -> Subject<S, H::Guard> {
        let store = (self.wrap)(subject.store, &subject.time);
        Subject { store, time: subject.time, guard: subject.guard }
    }
}

#[deny(clippy::missing_trait_methods)]
impl<H, F, S> Harness for Over<H, F>
where
    H: Harness,
    F: Fn(H::Store, &Time) -> S + Sync,
    S: Store + 'static,
{
    type Store = S;
    type Guard = H::Guard;

    fn fresh(&self) -> Subject<S, H::Guard> {
        self.wrapped(self.harness.fresh())
    }

    fn block_on<T: Future>(&self, future: T) -> T::Output {
        self.harness.block_on(future)
    }

    fn fresh_bounded(&self, records_max: usize) -> Option<Subject<S, H::Guard>> {
        self.harness.fresh_bounded(records_max).map(|subject| self.wrapped(subject))
    }

    fn reopen(&self, guard: H::Guard) -> Option<Subject<S, H::Guard>> {
        self.harness.reopen(guard).map(|subject| self.wrapped(subject))
    }

    fn abilities(&self) -> Abilities {
        self.harness.abilities()
    }

    fn effort(&self) -> Effort {
        self.harness.effort()
    }
}
