//! The threads that read: bounded in what waits for them, never waited for in vain, stopped by no damaged record.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::executor::block_on;
use oncekey::protocol::Expected;
use oncekey::store::{ListInDoubt as _, Put, Store as _, StoreError as _, StoreErrorKind};
use oncekey_sqlite::rusqlite::{Connection, params};
use oncekey_sqlite::{SqliteError, SqliteStore};

use super::{HOUR, MINUTE, in_progress, key, look, open, put, scratch, until, written};

fn host_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

#[test]
fn reads_above_the_bound_are_refused_at_once() {
    let (_directory, path) = scratch();
    let (stuck, looked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clock = {
        let (stuck, looked) = (Arc::clone(&stuck), Arc::clone(&looked));
        move || {
            looked.fetch_add(1, Ordering::SeqCst);
            until("the clock goes on", || !stuck.load(Ordering::SeqCst));
            host_time()
        }
    };
    let store = SqliteStore::builder(&path).readers(1).queue_max(2).clock(clock).open().unwrap();
    let key = key("read");
    let version = written(put(&store, &key, Expected::Vacant, &in_progress(1)));

    stuck.store(true, Ordering::SeqCst);
    let before = looked.load(Ordering::SeqCst);
    let mut first = store.load(&key);
    assert!(look(&mut first).is_pending());
    until("the reader has it", || looked.load(Ordering::SeqCst) > before);
    let mut waiting = [store.load(&key), store.load(&key)];
    for load in &mut waiting {
        assert!(look(load).is_pending(), "there is room for two");
    }
    let refused =
        [look(&mut store.load(&key)).map(drop_ok), look(&mut store.list_in_doubt(None, 10)).map(drop_ok)];
    for answer in refused {
        let Poll::Ready(Err(error)) = answer else {
            panic!("the bound is two, and another read was answered {answer:?}")
        };
        assert!(matches!(error, SqliteError::QueueFull { waiting: 2, bound: 2 }), "{error:?}");
        assert_eq!((error.kind(), error.maybe_applied()), (StoreErrorKind::Unavailable, false));
    }
    stuck.store(false, Ordering::SeqCst);
    for load in std::iter::once(first).chain(waiting) {
        assert_eq!(block_on(load).unwrap().unwrap().version, version, "what waited is answered");
    }
    assert!(block_on(store.load(&key)).unwrap().is_some(), "there is room again");
}

fn drop_ok<T>(answer: Result<T, SqliteError>) -> Result<(), SqliteError> {
    answer.map(drop)
}

/// A clock that panics takes a reader with it each time. The calls that they had, and those that come, are answered.
#[test]
fn no_call_waits_for_readers_that_are_all_gone() {
    let (_directory, path) = scratch();
    let broken = Arc::new(AtomicBool::new(false));
    let clock = {
        let broken = Arc::clone(&broken);
        move || {
            assert!(!broken.load(Ordering::SeqCst), "a clock that the test broke");
            host_time()
        }
    };
    let store = SqliteStore::builder(&path).readers(2).clock(clock).open().unwrap();
    let key = key("there");
    let version = written(put(&store, &key, Expected::Vacant, &in_progress(1)));
    broken.store(true, Ordering::SeqCst);
    let within_a_minute = |store: &SqliteStore| {
        let (sender, answer) = std::sync::mpsc::channel();
        let (store, key) = (store.clone(), key.clone());
        std::thread::spawn(move || sender.send(block_on(store.load(&key))));
        answer.recv_timeout(MINUTE).expect("the load is answered")
    };
    // More calls than there are readers. Those that come when the readers are gone are answered at once.
    let mut answers = Vec::new();
    let mut waiting: Vec<_> = (0..8).map(|_| store.load(&key)).collect();
    let mut take_answers = || {
        waiting.retain_mut(|load| match look(load) {
            Poll::Ready(answer) => {
                answers.push(answer);
                false
            }
            Poll::Pending => true,
        });
        waiting.is_empty()
    };
    take_answers();
    until("the readers are gone", || matches!(within_a_minute(&store), Err(SqliteError::Closed)));
    until("all are answered", take_answers);
    drop(waiting);
    assert_eq!(answers.len(), 8);
    for answer in answers {
        assert!(
            matches!(answer, Err(SqliteError::ThreadGone | SqliteError::Closed)),
            "nobody reads any more, and a load was answered {answer:?}"
        );
    }
    // The writer goes on, and so does another store.
    broken.store(false, Ordering::SeqCst);
    let error = block_on(store.load(&key)).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error:?}");
    let renewed = written(put(&store, &key, Expected::At(version), &in_progress(1)));
    drop(store);
    let other = open(&path);
    assert_eq!(block_on(other.load(&key)).unwrap().unwrap().version, renewed);
}

/// Nothing before it is hidden, it is told itself, and its row leads on to what is behind it.
#[test]
fn a_damaged_record_does_not_end_a_listing() {
    let (_directory, path) = scratch();
    let store = open(&path);
    let record = in_progress(1);
    for index in 0..6 {
        let doubt = Put::new(&record, Duration::ZERO, HOUR);
        written(block_on(store.compare_exchange(&key(format!("{index}")), Expected::Vacant, doubt)));
    }
    let hand = Connection::open(&path).unwrap();
    hand.execute("UPDATE oncekey_records SET body = x'01' WHERE id = '2'", []).unwrap();
    hand.execute("UPDATE oncekey_records SET key = ?1 WHERE id = '3'", params![&b"\xffno key"[..]]).unwrap();
    for limit in [1, 2, 3, 100] {
        let (mut cursor, mut ids, mut rows) = (None, Vec::new(), Vec::new());
        loop {
            assert!(ids.len() + rows.len() < 20, "no end of pages");
            cursor = match block_on(store.list_in_doubt(cursor, limit)) {
                Ok(page) => {
                    assert!(page.entries.len() <= limit);
                    ids.extend(page.entries.into_iter().map(|(key, _)| key.id().to_owned()));
                    match page.next {
                        None => break,
                        next => next,
                    }
                }
                Err(SqliteError::Record { row, scope, .. }) if scope == "tests" => {
                    rows.push(row);
                    u64::try_from(row).ok()
                }
                Err(SqliteError::KeyDamaged { row }) => {
                    rows.push(row);
                    u64::try_from(row).ok()
                }
                Err(error) => panic!("{error:?}"),
            };
        }
        assert_eq!(
            (ids.as_slice(), rows.as_slice()),
            (&["0", "1", "4", "5"].map(str::to_owned)[..], &[3, 4][..]),
            "{limit}"
        );
    }
}
