//! A blocking store as a store.

use std::future::Future;
use std::sync::atomic::{AtomicU32, AtomicUsize};
use std::sync::{Mutex, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread::{self, ThreadId};

use oncekey::ClaimAnswer;
use oncekey::answer::Unrecorded;
use oncekey::memory::MemoryError;
use oncekey::protocol::{Entry, Expected, Record};
use oncekey::store::{
    BatchPut, Durability, DurabilityClass, Exchange, InDoubtPage, ListInDoubt as _, Purged, Put,
    StoreError as _, StoreErrorKind,
};
use oncekey::time::{Clock as _, Moment};
use oncekey::{Answer, ClaimError, Deduplicator, Earlier, Error, Key, MemoryStore, RunError, Store};
use oncekey_blocking::{Blocking, BlockingError, BlockingListInDoubt, BlockingStore};

use super::*;

type Hook = Box<dyn Fn(&'static str) + Send + Sync>;

/// A memory store asked by calls that block; `hook` hears of each call on the thread that makes it, and may keep it there.
struct Plain {
    inner: MemoryStore,
    hook: Mutex<Option<Arc<Hook>>>,
    on: Mutex<Vec<ThreadId>>,
    calls: AtomicU32,
}

impl Plain {
    fn new() -> Self {
        Self::over(MemoryStore::new())
    }

    fn by(clock: &ManualClock) -> Self {
        Self::over(MemoryStore::builder().clock(clock.clone()).build())
    }

    fn over(inner: MemoryStore) -> Self {
        Self { inner, hook: Mutex::default(), on: Mutex::default(), calls: AtomicU32::default() }
    }

    fn hook(&self, hook: impl Fn(&'static str) + Send + Sync + 'static) {
        *self.hook.lock().unwrap() = Some(Arc::new(Box::new(hook)));
    }

    fn unhook(&self) {
        *self.hook.lock().unwrap() = None;
    }

    fn called(&self, what: &'static str) {
        self.on.lock().unwrap().push(thread::current().id());
        let hook = self.hook.lock().unwrap().clone();
        if let Some(hook) = hook {
            hook(what);
        }
        self.calls.fetch_add(1, Ordering::SeqCst);
    }
}

impl BlockingStore for Plain {
    type Error = MemoryError;

    fn load(&self, key: &Key) -> Result<Option<Entry>, MemoryError> {
        self.called("load");
        ready(self.inner.load(key))
    }

    fn compare_exchange(&self, key: &Key, expected: Expected, put: Put<'_>) -> Result<Exchange, MemoryError> {
        self.called("compare_exchange");
        ready(self.inner.compare_exchange(key, expected, put))
    }

    fn compare_exchange_many(&self, batch: &[BatchPut<'_>]) -> Vec<Result<Exchange, MemoryError>> {
        self.called("compare_exchange_many");
        ready(self.inner.compare_exchange_many(batch))
    }

    fn purge(&self, limit: usize) -> Result<Purged, MemoryError> {
        self.called("purge");
        ready(self.inner.purge(limit))
    }

    fn durability(&self) -> Durability {
        Durability::new(DurabilityClass::Process, "for tests")
    }
}

impl BlockingListInDoubt for Plain {
    fn list_in_doubt(&self, cursor: Option<u64>, limit: usize) -> Result<InDoubtPage, MemoryError> {
        self.called("list_in_doubt");
        ready(self.inner.list_in_doubt(cursor, limit))
    }
}

fn face(
    store: &Arc<Plain>,
    change: impl FnOnce(DeduplicatorBuilder<Blocking<Arc<Plain>>>) -> DeduplicatorBuilder<Blocking<Arc<Plain>>>,
) -> blocking::Deduplicator<Blocking<Arc<Plain>>> {
    let builder = Deduplicator::builder(Blocking::new(Arc::clone(store))).purge_every(Duration::MAX);
    blocking::Deduplicator::new(change(builder).build().unwrap()).unwrap()
}

/// Longer than any machine is busy.
const AGES: Duration = Duration::from_secs(3600);

fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

#[test]
fn each_call_is_made_off_the_threads_that_drive_futures() {
    let store = Arc::new(Plain::new());
    let dedup = face(&store, |builder| builder);
    assert!(matches!(dedup.request(key()).run(|_| text("done")), Ok(Answer::Executed { .. })));
    let many = [0, 1].map(|id| (dedup.request(Key::new("many", id.to_string()).unwrap()), |_| text("done")));
    assert!(dedup.run_many(many).iter().all(Result::is_ok));
    assert!(dedup.inspect(&key()).unwrap().is_some());
    dedup.block_on(dedup.store().purge(10)).unwrap();
    assert!(dedup.list_in_doubt(None, 10).unwrap().entries.is_empty());
    assert_eq!(dedup.store().durability().about, "for tests");
    // Outcomes of two operations go together, or one after the other.
    assert!((7..=8).contains(&store.calls.load(Ordering::SeqCst)));
    assert!(!store.on.lock().unwrap().contains(&thread::current().id()));
    let engine = dedup.engine().clone();
    let answer = futures::executor::block_on(engine.request(key()).run(|_| async { text("twice") }));
    assert!(matches!(answer, Ok(Answer::Earlier(Earlier::Replayed { .. }))));
}

/// Outcomes of quick operations gather while those before them are on their way.
#[test]
fn many_operations_over_a_slow_store_take_few_calls() {
    const OPERATIONS: usize = 500;
    let store = Arc::new(Plain::new());
    let dedup = face(&store, |builder| {
        builder.store_timeout(AGES).lease(AGES).completion_timeout(AGES) // a busy machine ends nothing
    });
    let (ran, begun) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
    let so_many = Arc::clone(&ran);
    store.hook(move |_| {
        // The claims are not held up; the first outcome is on its way until the last operation has ended.
        if begun.fetch_add(1, Ordering::SeqCst) == 1 {
            eventually("all operations end", || so_many.load(Ordering::SeqCst) == OPERATIONS);
        }
    });
    let many: Vec<_> = (0..OPERATIONS)
        .map(|id| {
            let ran = &ran;
            (dedup.request(Key::new("many", id.to_string()).unwrap()), move |_| {
                ran.fetch_add(1, Ordering::SeqCst);
                Ok::<_, String>(id.to_string())
            })
        })
        .collect();
    let answers = dedup.run_many(many);
    assert!(answers.iter().all(|told| matches!(told, Ok(Answer::Executed { .. }))), "{answers:?}");
    let calls = store.calls.load(Ordering::SeqCst);
    assert!(calls <= 4, "{calls} calls for 500 claims and 500 completions");
    println!("{calls} calls for 500 operations");
}

/// A store behind `dyn` is one too, and has all of its own methods.
#[test]
fn a_shared_blocking_store_is_one() {
    let store: Arc<dyn BlockingStore<Error = MemoryError>> = Arc::new(Plain::new());
    let dedup = blocking::Deduplicator::new(Deduplicator::new(Blocking::new(store))).unwrap();
    assert!(matches!(dedup.request(key()).run(|_| text("done")), Ok(Answer::Executed { .. })));
    assert_eq!(dedup.store().get_ref().durability().class, DurabilityClass::Process);
    assert!(format!("{:?}", dedup.store()).starts_with("Blocking("));
}

/// Nothing but the two methods that must be there.
struct Least(MemoryStore);

impl BlockingStore for Least {
    type Error = MemoryError;

    fn load(&self, key: &Key) -> Result<Option<Entry>, MemoryError> {
        ready(self.0.load(key))
    }

    fn compare_exchange(&self, key: &Key, expected: Expected, put: Put<'_>) -> Result<Exchange, MemoryError> {
        ready(self.0.compare_exchange(key, expected, put))
    }
}

#[test]
fn two_methods_make_a_store() {
    let dedup =
        blocking::Deduplicator::new(Deduplicator::new(Blocking::new(Least(MemoryStore::new())))).unwrap();
    let many =
        [0, 1, 2].map(|id| (dedup.request(Key::new("many", id.to_string()).unwrap()), |_| text("done")));
    assert!(dedup.run_many(many).iter().all(|told| matches!(told, Ok(Answer::Executed { .. }))));
    let purged = dedup.block_on(dedup.store().purge(10)).unwrap();
    assert_eq!((purged.removed, purged.more), (0, false));
    assert_eq!(dedup.store().durability(), Durability::undeclared());
}

#[test]
fn a_panic_in_the_store_is_an_error_and_may_have_been_applied() {
    let store = Arc::new(Plain::new());
    let dedup = face(&store, |builder| builder.store_timeout(AGES));
    store.hook(|_| panic!("the {} caught fire", "disk"));
    let refused = dedup.request(key()).run(|_| text("unclaimed"));
    let Err(RunError::Claim { source: Error::Store { source, .. }, .. }) = refused else {
        panic!("{refused:?}")
    };
    assert!(source.maybe_applied());
    let error: &BlockingError<MemoryError> = source.downcast_ref().unwrap();
    assert_eq!(
        error.to_string(),
        "the store's call panicked (the disk caught fire); if that was a write, it may have been applied"
    );
    assert_eq!((error.kind(), error.maybe_applied()), (StoreErrorKind::Other, true));
    let Err(Error::Store { source, .. }) = dedup.inspect(&key()) else { panic!("it was read") };
    assert!(!source.maybe_applied(), "a read changes nothing");
    for told in dedup.claim_many([0, 1].map(|id| dedup.request(Key::new("many", id.to_string()).unwrap()))) {
        assert!(matches!(&told, Err(Error::Store { source, .. }) if source.maybe_applied()), "{told:?}");
    }
    store.unhook();
    // Panics while it is completed: it is tried again, as after any failure; and the pool's threads live on.
    let times = AtomicU32::new(2);
    store.hook(move |_| {
        if times.load(Ordering::SeqCst) > 0 && times.fetch_sub(1, Ordering::SeqCst) == 1 {
            std::panic::panic_any(7);
        }
    });
    let answer = dedup.request(Key::new("payments.charge", "second").unwrap()).run(|_| text("done"));
    assert!(matches!(answer, Ok(Answer::Executed { .. })), "{answer:?}");
}

/// The error is the store's own where that is what it is.
#[test]
fn an_error_of_the_store_is_told_as_it_is() {
    #[derive(Debug, thiserror::Error)]
    #[error("read only")]
    struct ReadOnly;

    impl oncekey::store::StoreError for ReadOnly {
        fn maybe_applied(&self) -> bool {
            false
        }

        fn kind(&self) -> StoreErrorKind {
            StoreErrorKind::Rejected
        }
    }

    struct Refusing;

    impl BlockingStore for Refusing {
        type Error = ReadOnly;

        fn load(&self, _: &Key) -> Result<Option<Entry>, ReadOnly> {
            Err(ReadOnly)
        }

        fn compare_exchange(&self, _: &Key, _: Expected, _: Put<'_>) -> Result<Exchange, ReadOnly> {
            Err(ReadOnly)
        }
    }

    let dedup = blocking::Deduplicator::new(Deduplicator::new(Blocking::new(Refusing))).unwrap();
    let Err(Error::Store { source, .. }) = dedup.request(key()).claim() else { panic!("granted") };
    assert_eq!((source.kind(), source.maybe_applied()), (StoreErrorKind::Rejected, false));
    let error: &BlockingError<ReadOnly> = source.downcast_ref().unwrap();
    assert_eq!(error.to_string(), "read only");
}

/// The engine's bound on a store's call holds on a plain thread too.
#[test]
fn a_call_that_hangs_is_given_up() {
    const TIMEOUT: Duration = Duration::from_secs(5);
    let clock = ManualClock::new();
    let store = Arc::new(Plain::by(&clock));
    let dedup =
        face(&store, |builder| builder.clock(clock.clone()).store_timeout(TIMEOUT).call_timeout(TIMEOUT));
    let (let_go, may_go_on) = mpsc::channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    let (first, passes, landed) = (AtomicBool::new(true), clock.clone(), Arc::downgrade(&store));
    store.hook(move |_| {
        if first.swap(false, Ordering::SeqCst) {
            // Its caller waits no longer than this.
            eventually("the keeper and the caller sleep", || passes.sleepers() >= 2);
            passes.advance(TIMEOUT);
            let _closed = may_go_on.lock().unwrap().recv();
        } else if let Some(store) = landed.upgrade() {
            // The clean-up looks once, so it comes after the claim. No clock moves meanwhile.
            eventually("the claim is written", || ready(store.inner.load(&key())).unwrap().is_some());
        }
    });
    let refused = dedup.request(key()).run(|_| text("unclaimed"));
    let Err(RunError::Claim { source: Error::Store { source, .. }, .. }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!((source.kind(), source.maybe_applied()), (StoreErrorKind::TimedOut, true));
    assert_eq!(store.calls.load(Ordering::SeqCst), 0);
    drop(let_go);
    // It goes on to its end; and what the engine gave up is released behind it, so that nobody waits for a lease.
    eventually("the claim is given up", || {
        dedup.flush();
        ready(store.inner.load(&key())).unwrap().is_some_and(|entry| entry.left.is_zero())
    });
    assert!(clock.now() < Moment::ORIGIN + TIMEOUT * 2, "no lease ended");
    assert!(matches!(dedup.request(key()).run(|_| text("done")), Ok(Answer::Executed { .. })));
}

/// Cancelling a call: not yet taken up, it is not made; under way, it goes on to its end.
#[test]
fn a_call_whose_future_is_dropped_goes_on_to_its_end() {
    let store = Arc::new(Plain::new());
    let (started, has_started) = mpsc::channel();
    let (let_go, may_go_on) = mpsc::channel::<()>();
    let (started, may_go_on) = (Mutex::new(started), Mutex::new(may_go_on));
    store.hook(move |_| {
        started.lock().unwrap().send(()).unwrap();
        may_go_on.lock().unwrap().recv().unwrap();
    });
    let blocking = Blocking::new(Arc::clone(&store));
    let record = record_of_a_claim();
    let put = Put::new(&record, LEASE, RETENTION);
    let owned_key = key();
    {
        let mut call = Box::pin(blocking.compare_exchange(&owned_key, Expected::Vacant, put));
        assert!(matches!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
        has_started.recv().unwrap();
    }
    assert!(ready(store.inner.load(&key())).unwrap().is_none());
    let_go.send(()).unwrap();
    eventually("the write is done", || ready(store.inner.load(&key())).unwrap().is_some());
}

/// Any record will do.
fn record_of_a_claim() -> Record {
    let bench = bench();
    let _claim = claim(&bench.dedup);
    bench.store.peek(&key()).unwrap().record
}

/// Every call to such a store takes a while, so a renewal of the run's own could be under way when the operation begins to
/// block: then nobody could bring it to its end, or take its turn.
#[test]
fn a_lease_is_kept_though_the_grant_came_late() {
    let clock = ManualClock::new();
    let store = Arc::new(Plain::by(&clock));
    let dedup = face(&store, |builder| {
        // Due at 0.1 s; the grant comes at 1.2 s of the 2.7 s that the lease is good for.
        builder.clock(clock.clone()).lease(secs(3)).margin(millis(300)).renew_every(millis(100))
    });
    let (first, passes) = (AtomicBool::new(true), clock.clone());
    store.hook(move |_| {
        if first.swap(false, Ordering::SeqCst) {
            passes.advance(millis(1200));
        }
    });
    let answer = dedup.request(key()).run(|attempt| {
        // Longer than a lease, in rounds of the keeper, while this blocks its thread.
        for _ in 0..160 {
            clock.advance(millis(25));
            eventually("the keeper has made its round", || {
                clock.sleepers() > 0 && attempt.time_left() > secs(2)
            });
        }
        assert!(!attempt.is_lost());
        text("done")
    });
    assert!(matches!(answer, Ok(Answer::Executed { .. })), "{answer:?}");
}

/// Real threads and real time: 16 threads hold claims over a store whose calls block, until each was renewed several times.
#[test]
fn claims_over_a_blocking_store_are_kept_by_the_keeper() {
    let store = Arc::new(Plain::new());
    // Far longer than the keeper is ever put aside: renewed they are long before the lease asks for it.
    let dedup = face(&store, |builder| builder.lease(AGES).renew_every(millis(50)));
    thread::scope(|scope| {
        for id in 0..16 {
            let (dedup, store) = (&dedup, &store);
            scope.spawn(move || {
                let key = Key::new("slow", id.to_string()).unwrap();
                let answer = dedup.request(key.clone()).run(|attempt| {
                    let version = || ready(store.inner.load(&key)).unwrap().unwrap().version;
                    for time in 0..5 {
                        let (before, ends_by) = (version(), ends_by(&attempt));
                        eventually(&format!("it is renewed, {time}"), || version() > before);
                        eventually(&format!("it lasts longer, {time}"), || ends_after(&attempt) > ends_by);
                        assert!(!attempt.wait_lost(millis(1)));
                    }
                    let second = dedup.request(key.clone()).claim().unwrap();
                    assert!(
                        matches!(second, ClaimAnswer::Answered(Earlier::InProgress { .. })),
                        "{second:?}"
                    );
                    text("done")
                });
                assert!(matches!(answer, Ok(Answer::Executed { .. })), "{answer:?}");
            });
        }
    });
}

/// The outcome of an operation whose store is gone for good is told as it is.
#[test]
fn a_completion_that_panics_for_as_long_as_it_is_tried_is_unrecorded() {
    let store = Arc::new(Plain::new());
    let dedup = face(&store, |builder| builder.completion_timeout(Duration::from_millis(200)));
    let breaking = Arc::clone(&store);
    let answer = dedup.request(key()).run(move |_| {
        breaking.hook(|_| panic!("planned"));
        text("done")
    });
    let Ok(Answer::Unrecorded { why: Unrecorded::Completion(ClaimError::Store { source, .. }), .. }) = answer
    else {
        panic!("{answer:?}")
    };
    assert!(source.maybe_applied());
}
