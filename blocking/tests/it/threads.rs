//! The thread behind a face, from begin to end.

use std::cell::RefCell;
use std::sync::Mutex;

use oncekey::builder::OnDrop;
use oncekey::observe::Event;
use oncekey::{Deduplicator, Key, MemoryStore, Store as _};
use oncekey_conformance::Intercept;

use super::*;

thread_local! {
    static LAST: RefCell<Option<Gone>> = const { RefCell::new(None) };
}

/// A face over a memory store that marks the thread which sends it batches, as only a keeper does here, and one of its
/// claims.
struct Marked {
    clock: ManualClock,
    dedup: blocking::Deduplicator<Intercept<MemoryStore>>,
    claim: blocking::Claim<Intercept<MemoryStore>>,
    /// The thread is gone.
    ended: Arc<AtomicBool>,
    /// The store is.
    dropped: Arc<AtomicBool>,
}

fn marked() -> Marked {
    let clock = ManualClock::new();
    let (ended, dropped) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let (mark, with_the_store) = (Arc::clone(&ended), Gone(Arc::clone(&dropped)));
    let store = MemoryStore::builder().clock(clock.clone()).build();
    let store = Intercept::new(store).on_batch(move |store, batch| {
        assert!(!with_the_store.0.load(Ordering::SeqCst));
        assert_eq!(std::thread::current().name(), Some("oncekey-keeper"));
        LAST.with_borrow_mut(|last| {
            last.get_or_insert_with(|| Gone(Arc::clone(&mark))).0.load(Ordering::SeqCst)
        });
        store.compare_exchange_many(batch)
    });
    let builder = Deduplicator::builder(store).clock(clock.clone());
    let engine = builder.purge_every(Duration::MAX).build().unwrap();
    let dedup = blocking::Deduplicator::new(engine).unwrap();
    let Ok(oncekey::ClaimAnswer::Granted(claim)) = dedup.request(key()).claim() else {
        panic!("not granted")
    };
    for _ in 0..5 {
        eventually("the keeper sleeps", || clock.sleepers() == 1);
        clock.advance(Duration::from_millis(2500));
    }
    eventually("the keeper sleeps", || clock.sleepers() == 1);
    assert_eq!(claim.time_left(), Duration::from_millis(24_500), "renewed once");
    Marked { clock, dedup, claim, ended, dropped }
}

#[test]
fn it_ends_with_the_last_face_and_claim_and_takes_the_store_with_it() {
    for claim_first in [true, false] {
        let Marked { clock, dedup, claim, ended, dropped } = marked();
        let clone = dedup.clone();
        drop(dedup);
        if claim_first {
            drop(claim);
            assert!(clone.inspect(&key()).unwrap().is_some());
            assert!(!ended.load(Ordering::SeqCst), "a face is left");
            drop(clone);
        } else {
            drop(clone);
            claim.renew().unwrap();
            assert!(!ended.load(Ordering::SeqCst), "a claim is left");
            drop(claim);
        }
        // No time passes: it is told, and does not wait for its next round.
        eventually("the thread is gone", || ended.load(Ordering::SeqCst));
        assert!(dropped.load(Ordering::SeqCst), "it keeps a dead engine alive");
        assert_eq!(clock.sleepers(), 0);
    }
}

#[test]
fn an_async_handle_keeps_the_engine_and_not_the_thread() {
    let Marked { dedup, claim, ended, .. } = marked();
    let engine = dedup.engine().clone();
    drop((dedup, claim));
    eventually("the thread is gone", || ended.load(Ordering::SeqCst));
    assert_eq!(ready(engine.inspect(&key())).unwrap().unwrap().attempt, 1);
    let other = marked();
    assert!(!other.ended.load(Ordering::SeqCst));
}

/// Many faces, many threads, and none of them is left.
#[test]
fn no_thread_is_left_behind() {
    let faces: Vec<_> = (0..50).map(|_| marked()).collect();
    let ended: Vec<_> = faces.iter().map(|face| Arc::clone(&face.ended)).collect();
    drop(faces);
    eventually("all threads are gone", || ended.iter().all(|ended| ended.load(Ordering::SeqCst)));
}

#[test]
fn what_is_queued_when_it_is_told_to_end_is_brought_to_its_end() {
    let threads = threads_with(|builder| builder.on_drop(OnDrop::ExpireNow));
    let Threads { clock, store, dedup } = threads;
    let Ok(oncekey::ClaimAnswer::Granted(claim)) = dedup.request(key()).claim() else {
        panic!("not granted")
    };
    store.yields.store(true, Ordering::SeqCst);
    drop((claim, dedup));
    eventually("the claim is given up", || store.peek(&key()).unwrap().left.is_zero());
    eventually("the thread is gone", || clock.sleepers() == 0);
}

/// One claim whose renewal panics must not cost the others theirs.
#[test]
fn a_keeper_that_panics_is_started_again() {
    let panics = Arc::new(Mutex::new(0));
    let left = Arc::clone(&panics);
    let threads = threads_with(|builder| {
        builder.observer(move |_: &Key, event: &Event<'_>| {
            let mut left = left.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if matches!(event, Event::Renewed) && *left > 0 {
                *left -= 1;
                drop(left);
                panic!("planned");
            }
        })
    });
    let Ok(oncekey::ClaimAnswer::Granted(claim)) = threads.dedup.request(key()).claim() else {
        panic!("not granted")
    };
    for round in 0..3 {
        *panics.lock().unwrap() = 2;
        threads.pass(secs(40));
        assert_eq!(*panics.lock().unwrap(), 0, "round {round}");
        assert!(claim.time_left() > secs(0), "round {round}");
        assert!(!claim.is_lost());
    }
}

#[test]
fn a_face_whose_engine_cannot_be_built_leaves_no_thread() {
    let told = blocking::Deduplicator::<MemoryStore>::open(async {
        assert!(std::thread::current().name() != Some("oncekey-keeper"));
        Err::<Deduplicator<MemoryStore>, _>(std::io::Error::other("no such store"))
    });
    assert_eq!(told.unwrap_err().to_string(), "no such store");
    let engine = async { Ok::<_, std::io::Error>(Deduplicator::new(MemoryStore::new())) };
    let dedup = blocking::Deduplicator::open(engine).unwrap();
    assert!(dedup.request(key()).run(|_| Ok::<_, ()>(())).is_ok());
}
