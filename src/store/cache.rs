//! A bounded read-through cache of completed entries.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{
    AtOnce, BatchPut, Durability, Exchange, InDoubtPage, ListInDoubt, Purged, Put, Store, TrimOutcomes,
    Trimmed,
};
use crate::protocol::{Entry, Expected, Key, KeyMap, State, Status};
use crate::sync::Mutex;
use crate::time::{Clock, Moment, SystemClock};

/// A store with a cache of completed entries before it: a replay of a cached outcome does not go to the store.
///
/// It keeps completed entries only, at most `entries_max` of them, none longer than `age_max` from the moment its
/// request was sent, and none past its retention. Everything else goes to the store. What it gives up is S1 and S5 for
/// one case: a completed entry that an operator [forgets](crate::Deduplicator::forget) elsewhere, or here by a call that
/// reaches the store after it failed or was dropped, may be replayed here for up to `age_max` more. Completed entries
/// change in no other way.
///
/// ```
/// use oncekey::store::CachedStore;
/// use oncekey::{Deduplicator, MemoryStore};
/// use std::time::Duration;
/// let store = CachedStore::new(MemoryStore::new(), 10_000, Duration::from_secs(5));
/// let dedup = Deduplicator::new(store);
/// ```
pub struct CachedStore<S> {
    store: S,
    clock: Arc<dyn Clock>,
    age_max: Duration,
    /// Entries of one generation: the younger is filled until it has this many, then it becomes the older.
    half: usize,
    cached: Mutex<Generations>,
}

/// What is found in the older generation moves to the younger one; what is not asked for goes with the older one.
#[derive(Default)]
struct Generations {
    young: KeyMap<Cached>,
    old: KeyMap<Cached>,
    /// How many forgets through here have ended: what was asked for before may be forgotten.
    forgotten: u64,
    /// How many are under way: what is answered meanwhile may be forgotten already, and somebody may know.
    forgetting: usize,
}

/// A forget under way. It ends when this is dropped, and may have been applied whatever the answer was.
struct Forgetting<'c> {
    cached: &'c Mutex<Generations>,
    keys: Vec<Key>,
}

impl Drop for Forgetting<'_> {
    fn drop(&mut self) {
        let mut cached = self.cached.lock();
        cached.forgetting -= 1;
        cached.forgotten += 1;
        for key in &self.keys {
            cached.young.remove(key);
            cached.old.remove(key);
        }
    }
}

#[derive(Clone)]
struct Cached {
    entry: Entry,
    /// When the request was sent that the entry came from.
    at: Moment,
}

impl<S> CachedStore<S> {
    /// A cache of at most `entries_max` entries (at least two), none older than `age_max`: zero
    /// serves nothing from it, [`Duration::MAX`] serves whatever is live.
    pub fn new(store: S, entries_max: usize, age_max: Duration) -> Self {
        let clock = Arc::new(SystemClock::new());
        Self {
            store,
            clock,
            age_max,
            half: (entries_max / 2).max(1),
            cached: Mutex::new(Generations::default()),
        }
    }

    /// The clock that ages are counted by; a [`SystemClock`] otherwise.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The store behind.
    pub fn inner(&self) -> &S {
        &self.store
    }

    /// How many entries are cached now.
    pub fn cached(&self) -> usize {
        let cached = self.cached.lock();
        cached.young.len() + cached.old.len()
    }

    fn get(&self, key: &Key) -> Option<Entry> {
        let now = self.clock.now();
        let mut cached = self.cached.lock();
        let found = match cached.young.get(key) {
            Some(found) => found.clone(),
            None => {
                let found = cached.old.remove(key)?;
                self.put(&mut cached, key, found.clone());
                found
            }
        };
        let age = now.saturating_since(found.at);
        let left = found.entry.left.saturating_sub(age);
        if age >= self.age_max || left.is_zero() {
            cached.young.remove(key);
            return None;
        }
        Some(Entry { left, ..found.entry })
    }

    fn put(&self, cached: &mut Generations, key: &Key, entry: Cached) {
        if cached.young.len() >= self.half && cached.young.get(key).is_none() {
            cached.old = std::mem::take(&mut cached.young);
        }
        cached.young.insert(key, entry);
    }

    /// Keeps what was seen at a request sent at `at`, if it is completed and live; else drops what was kept.
    ///
    /// `forgotten` is the count when the request was sent: an answer that a forget may have overtaken is not kept.
    fn saw(&self, key: &Key, entry: Option<&Entry>, at: Moment, forgotten: u64) {
        let mut cached = self.cached.lock();
        let entry = entry.filter(|_| cached.forgotten == forgotten && cached.forgetting == 0);
        match entry {
            Some(entry) if entry.status() == Status::Completed => {
                cached.old.remove(key);
                self.put(&mut cached, key, Cached { entry: entry.clone(), at });
            }
            _ => {
                cached.young.remove(key);
                cached.old.remove(key);
            }
        }
    }

    /// What an answer is judged by: the moment before its request is sent, and how much was forgotten until then.
    fn asks(&self) -> (Moment, u64) {
        (self.clock.now(), self.cached.lock().forgotten)
    }

    /// To be held while these writes are under way, if any of them forgets.
    fn forgets<'p>(&self, puts: impl Iterator<Item = (&'p Key, Put<'p>)>) -> Option<Forgetting<'_>> {
        let forgets =
            |(key, put): (&'p Key, Put<'p>)| (put.record.state() == State::Forgotten).then(|| key.clone());
        let keys: Vec<_> = puts.filter_map(forgets).collect();
        if keys.is_empty() {
            return None;
        }
        self.cached.lock().forgetting += 1;
        Some(Forgetting { cached: &self.cached, keys })
    }

    fn saw_exchange<E>(
        &self,
        key: &Key,
        put: Put<'_>,
        answer: &Result<Exchange, E>,
        (at, forgotten): (Moment, u64),
    ) {
        match answer {
            Ok(Exchange::Done(version)) => {
                let entry = Entry { record: put.record.clone(), version: *version, left: put.live };
                self.saw(key, Some(&entry), at, forgotten);
            }
            Ok(Exchange::Conflict(entry)) => self.saw(key, entry.as_ref(), at, forgotten),
            Err(_) => self.saw(key, None, at, forgotten),
        }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<S: Store> Store for CachedStore<S> {
    type Error = S::Error;

    async fn load(&self, key: &Key) -> Result<Option<Entry>, Self::Error> {
        if let Some(entry) = self.get(key) {
            return Ok(Some(entry));
        }
        let (at, forgotten) = self.asks();
        let answer = self.store.load(key).await?;
        self.saw(key, answer.as_ref(), at, forgotten);
        Ok(answer)
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Expected,
        put: Put<'_>,
    ) -> Result<Exchange, Self::Error> {
        if expected == Expected::Vacant {
            if let Some(entry) = self.get(key) {
                return Ok(Exchange::Conflict(Some(entry)));
            }
        }
        let asks = self.asks();
        let _forgets = self.forgets(std::iter::once((key, put)));
        let answer = self.store.compare_exchange(key, expected, put).await;
        self.saw_exchange(key, put, &answer, asks);
        answer
    }

    async fn compare_exchange_many(&self, batch: &[BatchPut<'_>]) -> Vec<Result<Exchange, Self::Error>> {
        let hit = |item: &BatchPut<'_>| match item.expected {
            Expected::Vacant => self.get(item.key),
            Expected::At(_) => None,
        };
        let hits: Vec<_> = batch.iter().map(hit).collect();
        let asked: Vec<_> =
            batch.iter().zip(&hits).filter(|(_, hit)| hit.is_none()).map(|(item, _)| *item).collect();
        let asks = self.asks();
        let _forgets = self.forgets(asked.iter().map(|item| (item.key, item.put)));
        let mut answers = self.store.compare_exchange_many(&asked).await.into_iter();
        let mut merged = Vec::with_capacity(batch.len());
        for (item, hit) in batch.iter().zip(hits) {
            match hit {
                Some(entry) => merged.push(Ok(Exchange::Conflict(Some(entry)))),
                None => {
                    // A store that answers too few breaks its contract; so does this then, and the engine notices.
                    let Some(answer) = answers.next() else { break };
                    self.saw_exchange(item.key, item.put, &answer, asks);
                    merged.push(answer);
                }
            }
        }
        merged
    }

    async fn purge(&self, limit: usize) -> Result<Purged, Self::Error> {
        self.store.purge(limit).await
    }

    /// None: see the type.
    fn at_once(&self) -> Option<&dyn AtOnce<Error = Self::Error>> {
        None
    }

    fn lists(&self) -> Option<&dyn ListInDoubt<Error = Self::Error>> {
        self.store.lists()
    }

    fn trims(&self) -> Option<&dyn TrimOutcomes<Error = Self::Error>> {
        self.store.trims()
    }

    fn durability(&self) -> Durability {
        self.store.durability()
    }
}

#[async_trait]
impl<S: TrimOutcomes> TrimOutcomes for CachedStore<S> {
    /// The cache keeps what it has until its own time for it is over.
    async fn trim_outcomes(&self, cursor: Option<u64>, limit: usize) -> Result<Trimmed, Self::Error> {
        self.inner().trim_outcomes(cursor, limit).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<S: ListInDoubt> ListInDoubt for CachedStore<S> {
    async fn list_in_doubt(&self, cursor: Option<u64>, limit: usize) -> Result<InDoubtPage, Self::Error> {
        self.store.list_in_doubt(cursor, limit).await
    }
}

impl<S: fmt::Debug> fmt::Debug for CachedStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedStore")
            .field("store", &self.store)
            .field("cached", &self.cached())
            .field("age_max", &self.age_max)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(not(oncekey_loom))]
mod tests {
    use futures::executor::block_on;

    use super::*;
    use crate::engine::{AdminAnswer, Answer, Deduplicator};
    use crate::memory::MemoryStore;
    use crate::time::ManualClock;

    const SECOND: Duration = Duration::from_secs(1);

    fn bench(
        entries_max: usize,
    ) -> (ManualClock, Arc<MemoryStore>, Deduplicator<CachedStore<Arc<MemoryStore>>>) {
        let clock = ManualClock::new();
        let store = Arc::new(MemoryStore::builder().clock(clock.clone()).build());
        let cached = CachedStore::new(Arc::clone(&store), entries_max, 10 * SECOND).with_clock(clock.clone());
        let builder = Deduplicator::builder(cached).clock(clock.clone()).retention(60 * SECOND);
        (clock, store, builder.build().unwrap())
    }

    fn key(id: usize) -> Key {
        Key::new("s", id.to_string()).unwrap()
    }

    fn run<S: Store + 'static>(dedup: &Deduplicator<S>, key: Key, value: &str) -> Answer<String> {
        let value = value.to_owned();
        let request = dedup.request(key).run(|_| async move { Ok::<_, std::convert::Infallible>(value) });
        block_on(request).unwrap()
    }

    #[test]
    fn a_forget_elsewhere_is_seen_within_the_bound_and_at_once_past_it() {
        let (clock, store, cached) = bench(100);
        drop(run(&cached, key(1), "first"));
        let elsewhere = Deduplicator::builder(store).clock(clock.clone()).build().unwrap();
        assert_eq!(block_on(elsewhere.forget(&key(1))).unwrap(), AdminAnswer::Done);
        clock.advance(10 * SECOND - Duration::from_nanos(1));
        assert_eq!(run(&cached, key(1), "second").into_value().unwrap(), "first");
        clock.advance(Duration::from_nanos(1));
        assert!(matches!(run(&cached, key(1), "second"), Answer::Executed { .. }));
    }

    #[test]
    fn nothing_outlives_its_retention() {
        let (clock, _, cached) = bench(100);
        drop(run(&cached, key(1), "first"));
        clock.advance(55 * SECOND);
        assert!(!run(&cached, key(1), "second").ran_now(), "read from the store, and cached again");
        clock.advance(5 * SECOND - Duration::from_nanos(1));
        assert!(!run(&cached, key(1), "second").ran_now());
        clock.advance(Duration::from_nanos(1));
        assert!(run(&cached, key(1), "second").ran_now());
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_asked_for() {
        let (_, _, cached) = bench(10);
        drop(run(&cached, key(0), "kept"));
        for id in 1..1000 {
            drop(run(&cached, key(id), "x"));
            drop(run(&cached, key(0), "kept"));
            assert!(cached.store().cached() <= 10);
        }
        assert!(cached.store().get(&key(0)).is_some());
    }

    #[test]
    fn only_completed_entries_are_kept() {
        let (_, _, cached) = bench(10);
        let claim = block_on(cached.request(key(1)).claim()).unwrap();
        assert_eq!(cached.store().cached(), 0, "in progress");
        drop(claim);
        assert!(block_on(cached.store().load(&key(1))).unwrap().is_some());
        assert_eq!(cached.store().cached(), 0);
        drop(run(&cached, key(2), "x"));
        assert_eq!(cached.store().cached(), 1);
        assert_eq!(block_on(cached.forget(&key(2))).unwrap(), AdminAnswer::Done);
        assert_eq!(cached.store().cached(), 0, "a forget of this process is seen at once");
    }

    #[test]
    fn a_cached_answer_says_how_much_is_left_now() {
        let (clock, _, cached) = bench(10);
        drop(run(&cached, key(1), "x"));
        clock.advance(7 * SECOND);
        let entry = block_on(cached.store().load(&key(1))).unwrap().unwrap();
        assert_eq!(entry.left, 53 * SECOND);
        assert_eq!(cached.store().get(&key(1)), Some(entry), "it came from the cache");
    }

    #[test]
    fn it_holds_as_many_as_it_may() {
        let (_, _, cached) = bench(4);
        for id in 1..=4 {
            drop(run(&cached, key(id), "x"));
            assert_eq!(cached.store().cached(), id);
        }
    }

    /// Whatever the clock's origin is, and however often something was forgotten before.
    #[test]
    fn it_goes_on_keeping_late_and_after_a_forget() {
        let (clock, _, cached) = bench(10);
        clock.advance(1000 * SECOND);
        for id in 1..=3 {
            drop(run(&cached, key(id), "x"));
            assert!(cached.store().get(&key(id)).is_some(), "{id}");
            assert_eq!(block_on(cached.forget(&key(id))).unwrap(), AdminAnswer::Done);
            assert!(cached.store().get(&key(id)).is_none(), "{id}");
        }
    }

    /// One verdict per item, in order, whether the cache or the store gave it.
    #[test]
    fn a_batch_is_answered_item_by_item() {
        let (_, inner, cached) = bench(10);
        drop(run(&cached, key(1), "x"));
        let known = cached.store().get(&key(1)).unwrap();
        let put = || Put::new(&known.record, SECOND, SECOND);
        let (one, two) = (key(1), key(2));
        let stale = Expected::At(crate::protocol::Version::new(known.version.get() + 1));
        let batch = [
            BatchPut::new(&one, Expected::Vacant, put()),
            BatchPut::new(&two, Expected::Vacant, put()),
            BatchPut::new(&one, stale, put()),
        ];
        let answers = block_on(cached.store().compare_exchange_many(&batch));
        let [
            Ok(Exchange::Conflict(Some(hit))),
            Ok(Exchange::Done(version)),
            Ok(Exchange::Conflict(Some(there))),
        ] = &answers[..]
        else {
            panic!("{answers:?}")
        };
        assert_eq!((hit.version, there.version), (known.version, known.version));
        assert_eq!(block_on(inner.load(&two)).unwrap().unwrap().version, *version);
    }
}
