//! How many keys one principal may have in progress, and kept: counted in this process.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oncekey::Key;
use oncekey::time::{Clock, Moment};

use crate::scope;

/// Whoever is past a bound is not told to wait for longer, where keys are kept forever too.
const ASK_AGAIN_MAX: Duration = Duration::from_secs(24 * 3600);

/// The bounds of each principal.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Limits {
    pub(crate) in_progress_max: Option<usize>,
    /// How many, and for how long one counts.
    pub(crate) kept_max: Option<(usize, Duration)>,
}

pub(crate) struct Bounds {
    limits: Limits,
    clock: Arc<dyn Clock>,
    hasher: RandomState,
    all: Mutex<All>,
}

#[derive(Default)]
struct All {
    principals: HashMap<String, Tally>,
    /// So many principals are looked through for those that have nothing any more.
    sweep_at: usize,
}

/// The keys of one principal.
#[derive(Default)]
struct Tally {
    keys: HashMap<u64, Use>,
    in_progress: usize,
    /// Before this, no key stops to count.
    look_again: Moment,
}

#[derive(Default)]
struct Use {
    /// Requests with this key that are under way.
    requests: usize,
    /// Until when it counts once they have ended; none if nothing was put on record.
    until: Option<Moment>,
}

/// What a request meets.
pub(crate) enum Entered {
    /// There are no bounds.
    Unbounded,
    /// It counts for as long as this is there, and its record after that.
    In(Place),
    /// Its principal has used up the bound of keys in progress.
    Busy,
    /// Its principal has used up the bound of keys kept. One stops to count after this.
    Full(Duration),
}

/// A request that counts.
pub(crate) struct Place {
    bounds: Arc<Bounds>,
    principal: String,
    key: u64,
    /// Nothing is on record of it.
    nothing: bool,
    /// Its record counts from its end on, also where one was known before.
    ran: bool,
}

impl Bounds {
    pub(crate) fn new(limits: Limits, clock: Arc<dyn Clock>) -> Self {
        Self { limits, clock, hasher: RandomState::new(), all: Mutex::default() }
    }

    fn all(&self) -> MutexGuard<'_, All> {
        // Nothing under the lock panics halfway.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for a request, if there is one.
    pub(crate) fn enter(self: &Arc<Self>, key: &Key) -> Entered {
        let Limits { in_progress_max, kept_max } = self.limits;
        if in_progress_max.is_none() && kept_max.is_none() {
            return Entered::Unbounded;
        }
        let principal = scope::principal_of(key).to_owned();
        let key = self.hasher.hash_one(key.as_bytes());
        let now = self.clock.now();
        let mut all = self.all();
        all.sweep(now);
        let tally = all.principals.entry(principal.clone()).or_default();
        tally.prune(now);
        let known = tally.keys.get(&key);
        if known.is_none_or(|known| known.requests == 0) {
            if in_progress_max.is_some_and(|most| tally.in_progress >= most) {
                return Entered::Busy;
            }
            if let Some((_, within)) =
                kept_max.filter(|(most, _)| known.is_none() && tally.keys.len() >= *most)
            {
                return Entered::Full(tally.look_again.saturating_since(now).min(within).min(ASK_AGAIN_MAX));
            }
            tally.in_progress += 1;
        }
        tally.keys.entry(key).or_default().requests += 1;
        Entered::In(Place { bounds: Arc::clone(self), principal, key, nothing: false, ran: false })
    }
}

impl All {
    /// Now and then, so that principals that never come again are forgotten.
    fn sweep(&mut self, now: Moment) {
        const FEW: usize = 64;
        if self.principals.len() >= self.sweep_at.max(FEW) {
            self.principals.retain(|_, tally| {
                tally.prune(now);
                !tally.keys.is_empty()
            });
            self.sweep_at = self.principals.len() * 2;
        }
    }
}

impl Tally {
    fn prune(&mut self, now: Moment) {
        if now < self.look_again {
            return;
        }
        self.keys.retain(|_, key| key.requests > 0 || key.until.is_some_and(|until| until > now));
        self.look_again = self.keys.values().filter_map(|key| key.until).min().unwrap_or(Moment::NEVER);
    }
}

impl Place {
    /// Notes that nothing is on record: its claim failed.
    pub(crate) fn left_nothing(&mut self) {
        self.nothing = true;
    }

    /// Notes that it ran here.
    pub(crate) fn ran(&mut self) {
        self.ran = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let kept = self.bounds.limits.kept_max.map(|(_, within)| self.bounds.clock.now() + within);
        let mut all = self.bounds.all();
        let Some(tally) = all.principals.get_mut(&self.principal) else { return };
        let Some(key) = tally.keys.get_mut(&self.key) else { return };
        key.requests -= 1;
        if !self.nothing && (self.ran || key.until.is_none()) {
            key.until = kept;
        }
        let (ended, until) = (key.requests == 0, key.until);
        if ended {
            tally.in_progress -= 1;
            match until {
                Some(until) => tally.look_again = tally.look_again.min(until),
                None => drop(tally.keys.remove(&self.key)),
            }
        }
    }
}
