//! Which claims an engine holds, and their renewal outside of their own tasks.

pub(in crate::engine) mod clean_up;
pub(in crate::engine) mod helped;
mod lanes;

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, Stream as _};
use hashbrown::HashTable;

use crate::engine::lease::{Lease, Step, Turn};
use crate::engine::{Deduplicator, Inner};
use crate::observe::Housekeeping;
use crate::protocol::{Decision, Entry, Key, Write};
use crate::random;
use crate::store::{BatchPut, Put, Store, StoreFailure};
use crate::sync::{AtomicUsize, Mutex, Ordering};
use crate::time::Moment;
use helped::help;
use lanes::Lane;

/// Under how many locks claims are registered.
const SHARDS: usize = 16;
/// How many records a purge looks for at once.
const PURGE_STEP: usize = 1_000;
/// How many outcomes one step of a trim drops at most, and how many steps a round has.
const TRIM_STEP: usize = 200;
const TRIM_STEPS: usize = 20;
/// How many renewals go to the store at once.
const BATCH: usize = 64;

/// The claims that an engine holds.
pub(crate) struct Leases<S: Store + 'static> {
    shards: [Mutex<HashTable<Registered<S>>>; SHARDS],
    /// How many keepers work.
    keepers: AtomicUsize,
}

/// A claim by the hash of its key. One key may have several: of all but one the lease is lost.
type Registered<S> = (u64, Weak<Lease<S>>);

impl<S: Store + 'static> Leases<S> {
    pub(crate) fn new() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::new(HashTable::new())), keepers: AtomicUsize::new(0) }
    }

    /// Whether a keeper works for this engine.
    pub(in crate::engine) fn has_keeper(&self) -> bool {
        self.keepers.load(Ordering::Relaxed) > 0
    }

    /// Whether this engine holds the claim of `entry`, under `key`.
    pub(in crate::engine) fn holds(&self, key: &Key, entry: &Entry) -> bool {
        self.any(key, |lease| entry.is_held_by(&lease.facts.holder) && lease.key == *key)
    }

    /// Whether a claim is one that is looked for. Only those are asked about whose keys have the hash of `key`.
    fn any(&self, key: &Key, mut is_it: impl FnMut(&Lease<S>) -> bool) -> bool {
        let hash = key.hash64();
        let claims = self.shard(hash).lock();
        claims.find(hash, |(_, lease)| lease.upgrade().is_some_and(|lease| is_it(&lease))).is_some()
    }

    fn shard(&self, hash: u64) -> &Mutex<HashTable<Registered<S>>> {
        // A table goes by the other bits.
        &self.shards[usize::try_from((hash >> 32) % SHARDS as u64).expect("less than SHARDS")]
    }

    /// Registers a claim.
    pub(crate) fn add(&self, lease: &Arc<Lease<S>>) {
        let hash = lease.key.hash64();
        let claim = (hash, Arc::downgrade(lease));
        self.shard(hash).lock().insert_unique(hash, claim, |(hash, _)| *hash);
    }

    pub(crate) fn remove(&self, lease: &Lease<S>) {
        let hash = lease.key.hash64();
        let claim = {
            let mut claims = self.shard(hash).lock();
            let found = claims.find_entry(hash, |(_, claim)| std::ptr::eq(claim.as_ptr(), lease));
            found.ok().map(|found| found.remove().0)
        };
        debug_assert!(claim.is_some(), "a claim is removed once, by its guard");
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// What is to be renewed, each with its deadline: the most urgent first.
    fn due(&self, now: Moment) -> Vec<(Moment, Arc<Lease<S>>)> {
        let mut due = Vec::new();
        for shard in &self.shards {
            let claims: Vec<_> = shard.lock().iter().filter_map(|(_, lease)| lease.upgrade()).collect();
            let claims = claims.into_iter().filter(|lease| lease.wants_renewal(now));
            due.extend(claims.filter_map(|lease| lease.times().ok().map(|(deadline, _)| (deadline, lease))));
        }
        // By their keys too, so that the order does not depend on the secret of their hashes.
        due.sort_unstable_by(|(deadline, lease), (other, than)| {
            (deadline, &lease.key, lease.facts.holder.token).cmp(&(other, &than.key, than.facts.holder.token))
        });
        due
    }
}

impl<S: Store + 'static> Deduplicator<S> {
    /// Renews all claims that this engine holds, in batches: for operations that block their thread, and cannot renew
    /// from their own task. It also runs the engine's clean-up, and helps to store how operations ended whose task is
    /// blocked by a neighbour. Spawn it once, on any runtime or thread of its own; it
    /// ends when the last handle and claim of the engine are gone.
    ///
    /// It also has the store purge what nobody can read any more, every
    /// [`purge_every`](crate::engine::DeduplicatorBuilder::purge_every), so that nothing else needs to; and, for an engine with a
    /// [`tail`](crate::engine::DeduplicatorBuilder::tail) over a store that can, trim outcomes. Renewals never wait for these,
    /// unless the store blocks its thread.
    ///
    /// A store that panics under it costs a batch one round, and an observer that does costs
    /// nothing; neither ends it.
    ///
    /// A claim is renewed for at most [`renew_for_max`](crate::engine::DeduplicatorBuilder::renew_for_max) from its grant. One
    /// whose completion is prepared for a transaction is left alone.
    ///
    /// # Cancel safety
    /// Dropping it stops renewal from outside; `run` goes on renewing by itself. Renewals in flight may be applied.
    pub fn keeper(&self) -> impl Future<Output = ()> + Send + 'static {
        keep(Arc::downgrade(&self.inner))
    }
}

/// Counts a keeper for as long as it works.
struct AtWork<S: Store + 'static>(Weak<Inner<S>>);

impl<S: Store + 'static> AtWork<S> {
    fn begin(engine: &Weak<Inner<S>>) -> Self {
        if let Some(engine) = engine.upgrade() {
            engine.leases.keepers.fetch_add(1, Ordering::Relaxed);
        }
        Self(Weak::clone(engine))
    }
}

impl<S: Store + 'static> Drop for AtWork<S> {
    fn drop(&mut self) {
        if let Some(engine) = self.0.upgrade() {
            if engine.leases.keepers.fetch_sub(1, Ordering::Relaxed) == 1 {
                engine.background.without_keeper();
            }
        }
    }
}

async fn keep<S: Store + 'static>(engine: Weak<Inner<S>>) {
    let _at_work = AtWork::begin(&engine);
    let Some(mut clean_up) = engine.upgrade().map(|engine| engine.background.work()) else { return };
    let lane = |name, work: fn(Weak<Inner<S>>) -> BoxFuture<'static, ()>| {
        let engine = Weak::clone(&engine);
        Lane::new(name, move || work(Weak::clone(&engine)))
    };
    let mut renewal = lane("renewal", |engine| renewal(engine).boxed());
    let mut helping = lane("helping", |engine| helping(engine).boxed());
    let mut purging = lane("purge", |engine| purging(engine).boxed());
    poll_fn(|cx| {
        // Renewals first: nothing else is in a hurry.
        let renewal = renewal.poll(cx);
        let _idle: Poll<()> = clean_up.poll(cx);
        for lane in [renewal, helping.poll(cx), purging.poll(cx)].into_iter().flatten() {
            if let Some(engine) = engine.upgrade() {
                let tell = || engine.tell_of_housekeeping(&Housekeeping::Panicked { lane });
                let _panicked = catch_unwind(AssertUnwindSafe(tell));
            }
        }
        if engine.strong_count() == 0 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Renews what is due, round by round, for as long as there is an engine.
async fn renewal<S: Store + 'static>(engine: Weak<Inner<S>>) {
    while let Some(strong) = engine.upgrade() {
        strong.renew_due().await;
        let sleep = strong.clock().sleep_until(strong.clock().now() + strong.keeper_tick());
        drop(strong);
        sleep.await;
    }
}

/// Helps with what was under way a round ago already. It sleeps for nothing: the renewals end its rounds.
async fn helping<S: Store + 'static>(engine: Weak<Inner<S>>) {
    let mut work = FuturesUnordered::new();
    let (mut helped, mut seen, mut round_ends) = (0, 0, Moment::ORIGIN);
    poll_fn(|cx| {
        let Some(engine) = engine.upgrade() else { return Poll::Ready(()) };
        let now = engine.clock().now();
        if now >= round_ends {
            work.extend(engine.help_wanted.between(helped, seen).into_iter().map(help));
            (helped, seen) = (seen, engine.help_wanted.next());
            round_ends = now + engine.keeper_tick();
        }
        drop(engine);
        while let Poll::Ready(Some(())) = Pin::new(&mut work).poll_next(cx) {}
        Poll::Pending
    })
    .await;
}

/// Purges and trims now and then, for as long as there is an engine.
async fn purging<S: Store + 'static>(engine: Weak<Inner<S>>) {
    let mut trimmed_to = None;
    while let Some(strong) = engine.upgrade() {
        let every = strong.options.purge_every;
        if every == Duration::MAX {
            return;
        }
        let now = strong.clock().now();
        // From three quarters of the interval to five.
        let part = 192 + u32::from(random::id(now.as_nanos())[0] % 128);
        let sleep = strong.clock().sleep_until(now + every.saturating_mul(part) / 256);
        drop(strong);
        sleep.await;
        purge_round(&engine, every / 2).await;
        trim_round(&engine, &mut trimmed_to).await;
    }
}

/// Purges step by step, until there is no more or the time is over. The other lanes come between the steps.
async fn purge_round<S: Store + 'static>(engine: &Weak<Inner<S>>, at_most: Duration) {
    let (mut removed, mut ends) = (0, None);
    while let Some(strong) = engine.upgrade() {
        let ends = *ends.get_or_insert(strong.clock().now() + at_most);
        let port = &strong.port;
        let step = port.in_time(strong.options.store_timeout, port.store.purge(PURGE_STEP)).await;
        match step.and_then(|purged| purged.map_err(StoreFailure::new)) {
            Ok(purged) => {
                removed += purged.removed;
                let is_over = strong.clock().now() >= ends;
                if !purged.more || is_over {
                    let behind = purged.more;
                    return strong.tell_of_housekeeping(&Housekeeping::Purged { removed, behind });
                }
            }
            Err(failure) => {
                return strong.tell_of_housekeeping(&Housekeeping::PurgeFailed { failure: &failure });
            }
        }
        drop(strong);
        give_way().await;
    }
}

/// Drops bytes of outcomes whose retention is over, where the store can and there is a tail: some steps a round, from where
/// the last round left off.
async fn trim_round<S: Store + 'static>(engine: &Weak<Inner<S>>, trimmed_to: &mut Option<u64>) {
    let mut trimmed = 0;
    for _ in 0..TRIM_STEPS {
        let Some(strong) = engine.upgrade() else { return };
        let port = &strong.port;
        let Some(store) = port.store.trims().filter(|_| !strong.options.lifetimes.tail.is_zero()) else {
            return;
        };
        let step = store.trim_outcomes(*trimmed_to, TRIM_STEP);
        match port
            .in_time(strong.options.store_timeout, step)
            .await
            .and_then(|t| t.map_err(StoreFailure::new))
        {
            Ok(done) => {
                trimmed += done.trimmed;
                *trimmed_to = done.next;
            }
            Err(failure) => {
                return strong.tell_of_housekeeping(&Housekeeping::TrimFailed { failure: &failure });
            }
        }
        if trimmed_to.is_none() {
            break;
        }
        drop(strong);
        give_way().await;
    }
    if let Some(strong) = engine.upgrade() {
        strong.tell_of_housekeeping(&Housekeeping::Trimmed { trimmed, more: trimmed_to.is_some() });
    }
}

/// Pending once.
async fn give_way() {
    let mut gave_way = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut gave_way, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl<S: Store + 'static> Inner<S> {
    /// How long a keeper sleeps: often enough that what falls due just after a round is renewed well before its deadline.
    pub(in crate::engine) fn keeper_tick(&self) -> Duration {
        let options = &self.options;
        let grace = options.lifetimes.lease - options.margin - options.renew_every;
        (options.renew_every / 4).min(grace / 2).max(Duration::from_millis(1))
    }

    /// One round: renews what is due and is not being written by its owner just now, the most urgent first. Claims past
    /// their deadline are renewed last, in a batch of their own, so that they cannot delay claims that can still be saved.
    async fn renew_due(&self) {
        let now = self.clock().now();
        let due = self.leases.due(now);
        let (late, timely) = due.split_at(due.partition_point(|(deadline, _)| *deadline <= now));
        for chunk in timely.chunks(BATCH) {
            self.renew_batch_alone(chunk, self.options.store_timeout).await;
        }
        // One batch of those a round, another each time.
        let chunks = late.chunks(BATCH);
        let turn = usize::try_from(now.as_nanos() / 1_000_000).unwrap_or(0) % chunks.len().max(1);
        for chunk in chunks.skip(turn).take(1) {
            self.renew_batch_alone(chunk, self.options.store_timeout.min(self.keeper_tick() / 2)).await;
        }
    }

    /// As [`renew_batch`](Self::renew_batch). A store that panics costs this batch its round: all
    /// other claims depend on the keeper.
    async fn renew_batch_alone(&self, chunk: &[(Moment, Arc<Lease<S>>)], at_most: Duration) {
        let _panicked = AssertUnwindSafe(self.renew_batch(chunk, at_most)).catch_unwind().await;
    }

    /// Renews these together; the call may take so long, or half of what is left until the first of their deadlines.
    async fn renew_batch(&self, chunk: &[(Moment, Arc<Lease<S>>)], at_most: Duration) {
        let mut batch: Vec<(Arc<Lease<S>>, Turn<S>, Write)> = Vec::with_capacity(chunk.len());
        for (_, lease) in chunk {
            let Some(turn) = lease.try_turn() else { continue };
            // Its owner may have written since it was found due.
            if !lease.wants_renewal(self.clock().now()) {
                continue;
            }
            if let Decision::Write(write) = lease.decide(&Step::Renew) {
                batch.push((Arc::clone(lease), turn, write));
            }
        }
        if batch.is_empty() {
            return;
        }
        let puts: Vec<_> = batch
            .iter()
            .map(|(lease, _, write)| {
                BatchPut::new(&lease.key, write.expected, Put::new(&write.record, write.live, write.linger))
            })
            .collect();
        let sent = self.clock().now();
        // Should this be dropped before the answers, the claims are unsure of what is on record.
        for (lease, _, _) in &batch {
            lease.sent_unanswered(&Step::Renew);
        }
        // One call that hangs must leave time for another, whichever lease is the next to end.
        let deadlines = batch.iter().filter_map(|(lease, _, _)| lease.times().ok());
        let patience = deadlines
            .filter(|(deadline, _)| *deadline > sent)
            .map(|(deadline, _)| batch[0].0.patience(&Step::Renew, sent, deadline))
            .min();
        let patience = patience.map_or(at_most, |patience| patience.min(at_most));
        let answers = self.port.exchange_many(patience, &puts).await;
        drop(puts);
        for ((lease, turn, write), answer) in batch.into_iter().zip(answers) {
            // It tells the observer, which may panic for one claim; the others were answered too.
            let _panicked = catch_unwind(AssertUnwindSafe(|| lease.renewed(answer, write, sent)));
            drop(turn);
        }
    }
}

#[cfg(test)]
#[cfg(not(oncekey_loom))]
mod tests {
    use crate::{ClaimAnswer, Deduplicator, Key, MemoryStore};
    use futures::FutureExt as _;

    /// How many claims are held makes no difference to the answer whether one is.
    #[test]
    fn few_claims_are_compared_however_many_are_held() {
        let dedup = Deduplicator::new(MemoryStore::new());
        let key = |id: usize| Key::new("orders.ship", id.to_string()).unwrap();
        let claim = |id| dedup.request(key(id)).claim().now_or_never().expect("the store answers at once");
        let claims: Vec<_> = (0..10_000).map(claim).collect();
        assert_eq!(dedup.held(), 10_000);
        let lease = &dedup.inner.leases;
        let mut compared = 0;
        for id in 0..20_000 {
            let mut is_it = |key: &Key, other: &Key| {
                compared += 1;
                key == other
            };
            assert_eq!(lease.any(&key(id), |claim| is_it(&key(id), &claim.key)), id < 10_000);
        }
        // A table looks at seven bits of a hash, and at what has them in the same group.
        assert!(compared < 40_000, "{compared} comparisons");
        assert!(claims.iter().all(|claim| matches!(claim, Ok(ClaimAnswer::Granted(_)))));
        drop(claims);
        assert_eq!(dedup.held(), 0);
    }
}
