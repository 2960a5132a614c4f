//! What goes wrong: an error that says so, nothing run, nothing lost, and all well again afterwards.

use std::io::Read as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use oncekey::store::{Exchange, Put, Store as _, StoreError as _, StoreErrorKind};
use oncekey::{Deduplicator, Expected, RunError};
use oncekey_sqlite::rusqlite::{Connection, params};
use oncekey_sqlite::{SqliteError, SqliteStore, Step};

use super::{HOUR, completed, in_progress, key, put, scratch, written};

#[test]
fn a_lock_that_is_held_is_told_and_runs_nothing() {
    let (_directory, path) = scratch();
    let store = SqliteStore::builder(&path).busy_timeout(Duration::from_millis(200)).open().unwrap();
    let dedup = Deduplicator::builder(store.clone()).claim_tries(1).build().unwrap();
    let (before, during) = (key("before"), key("during"));
    let run = |key, answer: &str| {
        let answer = answer.to_owned();
        block_on(dedup.request(key).run(|_| async { Ok::<_, SqliteError>(answer) }))
    };
    assert!(run(before.clone(), "kept").unwrap().ran_now());

    let holder = Connection::open(&path).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let begun = Instant::now();
    let error = put(&store, &during, Expected::Vacant, &in_progress(1)).unwrap_err();
    assert!(begun.elapsed() >= Duration::from_millis(200), "it gave up before its time");
    assert!(matches!(error, SqliteError::Busy(_)), "{error:?}");
    assert_eq!((error.kind(), error.maybe_applied()), (StoreErrorKind::Unavailable, false));
    assert!(error.to_string().contains("holds the lock"), "{error}");
    // Reads, and so replays, wait for no writer.
    assert_eq!(*run(before, "again").unwrap().value().unwrap(), "kept");
    let ran = AtomicUsize::new(0);
    let refused = block_on(dedup.request(during.clone()).run(|_| async {
        ran.fetch_add(1, Ordering::Relaxed);
        Ok::<_, SqliteError>("ran".to_owned())
    }));
    assert!(
        matches!(&refused, Err(RunError::Claim { source: oncekey::Error::Store { .. }, .. })),
        "{refused:?}"
    );
    assert_eq!(ran.load(Ordering::Relaxed), 0, "it ran without a claim");
    assert!(block_on(store.load(&during)).unwrap().is_none());

    holder.execute_batch("ROLLBACK").unwrap();
    assert_eq!(*run(during, "now").unwrap().value().unwrap(), "now");
}

/// A replay is answered while the lock is held, by an idle writer and beside one that waits for the lock.
#[test]
fn a_replay_waits_for_no_lock() {
    let (_directory, path) = scratch();
    let store = SqliteStore::builder(&path).busy_timeout(Duration::from_secs(60)).open().unwrap();
    let there = key("there");
    let version = written(put(&store, &there, Expected::Vacant, &completed(b"kept")));
    let holder = Connection::open(&path).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let replay = || {
        let begun = Instant::now();
        match put(&store, &there, Expected::Vacant, &in_progress(2)) {
            Ok(Exchange::Conflict(Some(entry))) => assert_eq!(entry.version, version),
            other => panic!("it is completed, and a claim was answered {other:?}"),
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "it waited for the lock");
    };
    // The writer sleeps by one of these, if not by the first.
    for _ in 0..20 {
        replay();
        thread::sleep(Duration::from_millis(5));
    }
    thread::scope(|scope| {
        let claim = scope.spawn(|| put(&store, &key("waits"), Expected::Vacant, &in_progress(1)));
        for _ in 0..20 {
            replay();
            thread::sleep(Duration::from_millis(5));
        }
        assert!(!claim.is_finished(), "it has the lock that somebody else holds");
        holder.execute_batch("ROLLBACK").unwrap();
        written(claim.join().unwrap());
    });
}

#[test]
fn a_full_disk_is_told_and_a_purge_makes_room() {
    let (_directory, path) = scratch();
    let store = SqliteStore::builder(&path).pages_max(200).open().unwrap();
    let big = completed(&[7; 20_000]);
    let mut kept = Vec::new();
    let error = loop {
        let key = key(format!("{}", kept.len()));
        let gone_soon = Put::new(&big, HOUR, Duration::ZERO);
        match block_on(store.compare_exchange(&key, Expected::Vacant, gone_soon)) {
            Ok(answer) => kept.push((key, written(Ok(answer)))),
            Err(error) => break error,
        }
        assert!(kept.len() < 200, "the disk never gets full");
    };
    assert!(matches!(error, SqliteError::DiskFull(_)), "{error:?}");
    assert_eq!((error.kind(), error.maybe_applied()), (StoreErrorKind::Full, false));
    for (key, version) in &kept {
        let entry = block_on(store.load(key)).unwrap().unwrap();
        assert_eq!((entry.record, entry.version), (big.clone(), *version));
    }
    let (first, version) = kept[0].clone();
    let ended = Put::new(&big, Duration::ZERO, Duration::ZERO);
    written(block_on(store.compare_exchange(&first, Expected::At(version), ended)));
    assert_eq!(block_on(store.purge(100)).unwrap().removed, 1);
    written(put(&store, &key("in its place"), Expected::Vacant, &big));
}

/// What the engine makes of it: a claim that has no room runs nothing; once there is room, it runs.
#[test]
fn a_full_disk_runs_no_operation() {
    let (_directory, path) = scratch();
    let store = SqliteStore::builder(&path).pages_max(200).open().unwrap();
    let dedup = Deduplicator::builder(store.clone()).claim_tries(2).build().unwrap();
    let big = completed(&[7; 3_000]);
    let mut kept = 0;
    while let Ok(answer) = block_on(store.compare_exchange(
        &key(format!("{kept}")),
        Expected::Vacant,
        Put::new(&big, Duration::ZERO, Duration::from_secs(1)),
    )) {
        written(Ok(answer));
        kept += 1;
        assert!(kept < 2_000, "the disk never gets full");
    }
    let ran = AtomicUsize::new(0);
    // Small records still find room in pages that are there; so that is filled up, too.
    let run = |id: usize| {
        let operation = |_| async {
            ran.fetch_add(1, Ordering::Relaxed);
            Ok::<_, SqliteError>("ran".to_owned())
        };
        block_on(dedup.request(key(format!("run {id}"))).run(operation))
    };
    let mut id = 0;
    let refused = loop {
        let before = ran.load(Ordering::Relaxed);
        match run(id) {
            Ok(answer) => assert!(answer.ran_now(), "{answer:?}"),
            Err(error) => {
                assert_eq!(ran.load(Ordering::Relaxed), before, "it ran without a claim");
                break error;
            }
        }
        id += 1;
        assert!(id < 2_000, "the disk never gets full");
    };
    let RunError::Claim { source: oncekey::Error::Store { source, .. }, .. } = &refused else {
        panic!("{refused:?}")
    };
    assert_eq!((source.kind(), source.maybe_applied()), (StoreErrorKind::Full, false));
    assert!(block_on(store.load(&key(format!("run {id}")))).unwrap().is_none());
    thread::sleep(Duration::from_millis(1_100));
    assert_eq!(block_on(store.purge(usize::MAX)).unwrap().removed, kept);
    assert!(run(id).unwrap().ran_now());
}

/// On a file system that is really full, in a mount namespace of its own.
#[test]
fn a_file_system_that_is_full_is_told_and_loses_nothing() {
    if std::env::var_os("ONCEKEY_NO_MOUNT").is_some() {
        println!("NOT SHOWN: a file system that is really full; ONCEKEY_NO_MOUNT is set");
        return;
    }
    assert!(
        std::process::Command::new("unshare").arg("--version").output().is_ok(),
        "this test mounts a small file system, and needs util-linux's unshare, which only Linux has: install it, or set \
         ONCEKEY_NO_MOUNT=1 to leave the test out by name"
    );
    let directory = tempfile::tempdir().unwrap();
    let mount = format!(
        "mount -t tmpfs -o size=2m tmpfs '{}' && exec \"$0\" \"$@\"",
        directory.path().to_str().unwrap()
    );
    // As root in its own right, or as root of a user namespace.
    let wrappers: [&[&str]; 2] = [
        &["unshare", "--mount", "sh", "-c", &mount],
        &["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", &mount],
    ];
    let mut said = String::new();
    for wrapper in wrappers {
        let mut child = super::child::start("fill the disk", &directory.path().join("store.db"), wrapper);
        child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        if child.wait().unwrap().success() && said.contains("FILLED") {
            return;
        }
    }
    panic!(
        "no small file system to fill: this test needs the right to mount one (util-linux's unshare, as root or with \
         user namespaces), or ONCEKEY_NO_MOUNT=1 to leave it out by name.\n{said}"
    );
}

pub(crate) fn fill_the_disk(path: &Path) {
    let store = SqliteStore::open(path).unwrap();
    let record = completed(&[7; 2_000]);
    let mut kept = Vec::new();
    let junk = path.with_file_name("junk");
    std::fs::write(&junk, vec![0; 1_000_000]).unwrap();
    let error = loop {
        let key = key(format!("{}", kept.len()));
        match put(&store, &key, Expected::Vacant, &record) {
            Ok(answer) => kept.push((key, written(Ok(answer)))),
            Err(error) => break error,
        }
        assert!(kept.len() < 2_000, "the disk never gets full");
    };
    assert!(matches!(error, SqliteError::DiskFull(_)), "{error:?}");
    assert_eq!(error.kind(), StoreErrorKind::Full);
    assert_eq!(error.maybe_applied(), error.failed().unwrap().step() == Step::Commit);
    let all_there = |store: &SqliteStore| {
        for (key, version) in &kept {
            let entry = block_on(store.load(key)).unwrap().unwrap();
            assert_eq!((&entry.record, entry.version), (&record, *version));
        }
    };
    all_there(&store);
    // The same store goes on once there is room.
    std::fs::remove_file(&junk).unwrap();
    let last = put(&store, &key("once there is room"), Expected::Vacant, &record);
    let last = written(last);
    assert!(kept.iter().all(|(_, version)| *version < last));
    all_there(&store);
    drop(store);
    all_there(&SqliteStore::open(path).unwrap());
    println!("FILLED after {} records: {error:?}", kept.len());
}

/// A record that does not decode is never taken for an absent one.
#[test]
fn a_damaged_record_is_an_error_and_stays() {
    let (_directory, path) = scratch();
    let store = SqliteStore::open(&path).unwrap();
    let key = key("damaged");
    written(put(&store, &key, Expected::Vacant, &in_progress(1)));
    let hand = Connection::open(&path).unwrap();
    for (body, kind) in
        [(&b"\x63from the future"[..], StoreErrorKind::Newer), (b"\x01", StoreErrorKind::Corrupt)]
    {
        hand.execute("UPDATE oncekey_records SET body = ?1", params![body]).unwrap();
        let read = block_on(store.load(&key)).unwrap_err();
        assert_eq!((read.kind(), read.maybe_applied()), (kind, false), "{read:?}");
        let claim = put(&store, &key, Expected::Vacant, &in_progress(2)).unwrap_err();
        assert_eq!((claim.kind(), claim.maybe_applied()), (kind, false), "{claim:?}");
        let stays: Vec<u8> =
            hand.query_row("SELECT body FROM oncekey_records", [], |row| row.get(0)).unwrap();
        assert_eq!(stays, body);
        let shown = format!("{read} {read:?}");
        assert!(shown.contains("tests") && !shown.contains("damaged\""), "the scope and not the id: {shown}");
    }
}

#[test]
fn tables_that_are_gone_are_told() {
    let (_directory, path) = scratch();
    let store = SqliteStore::open(&path).unwrap();
    Connection::open(&path).unwrap().execute_batch("DROP TABLE oncekey_records").unwrap();
    let errors = [
        block_on(store.load(&key("a"))).unwrap_err(),
        put(&store, &key("a"), Expected::At(oncekey::Version::new(1)), &in_progress(1)).unwrap_err(),
    ];
    for error in errors {
        assert_eq!((error.kind(), error.maybe_applied()), (StoreErrorKind::Rejected, false), "{error:?}");
    }
}

/// Claims are refused where too many wait; those who hold one are not.
#[test]
fn a_full_queue_refuses_claims_only() {
    let (_directory, path) = scratch();
    let store =
        SqliteStore::builder(&path).queue_max(3).busy_timeout(Duration::from_secs(60)).open().unwrap();
    let held = key("held");
    let version = written(put(&store, &held, Expected::Vacant, &in_progress(1)));
    let holder = Connection::open(&path).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    thread::scope(|scope| {
        let claims: Vec<_> = (0..30)
            .map(|index| {
                let store = &store;
                scope.spawn(move || put(store, &key(format!("{index}")), Expected::Vacant, &in_progress(1)))
            })
            .collect();
        // The writer holds what it took before it found the lock taken, three wait, and the others are refused.
        let end = Instant::now() + Duration::from_secs(60);
        while claims.iter().filter(|claim| claim.is_finished()).count() < 1 {
            assert!(Instant::now() < end, "no claim was refused");
            thread::sleep(Duration::from_millis(5));
        }
        let completion = scope.spawn(|| put(&store, &held, Expected::At(version), &completed(b"done")));
        thread::sleep(Duration::from_millis(50));
        holder.execute_batch("ROLLBACK").unwrap();
        written(completion.join().unwrap());
        let answers: Vec<_> = claims.into_iter().map(|claim| claim.join().unwrap()).collect();
        let refused: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
        assert!(!refused.is_empty());
        for error in refused {
            assert!(matches!(error, SqliteError::QueueFull { bound: 3, .. }), "{error:?}");
            assert_eq!((error.kind(), error.maybe_applied()), (StoreErrorKind::Unavailable, false));
        }
        assert!(answers.iter().any(|answer| matches!(answer, Ok(Exchange::Done(_)))), "some had room");
    });
}

/// A commit that fails leaves the transaction open; the next one must not find itself in it.
#[test]
fn a_commit_that_fails_is_rolled_back_and_may_be_applied() {
    let (_directory, path) = scratch();
    let store = SqliteStore::open(&path).unwrap();
    let hand = Connection::open(&path).unwrap();
    hand.execute_batch(
        "CREATE TABLE parent (id INTEGER PRIMARY KEY);
         CREATE TABLE child (id INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED);
         CREATE TRIGGER orphan AFTER INSERT ON oncekey_records BEGIN INSERT INTO child VALUES (1); END;",
    )
    .unwrap();
    let error = put(&store, &key("a"), Expected::Vacant, &in_progress(1)).unwrap_err();
    assert_eq!(error.failed().map(|failed| failed.step()), Some(Step::Commit), "{error:?}");
    assert!(error.maybe_applied());
    assert!(block_on(store.load(&key("a"))).unwrap().is_none());
    hand.execute_batch("DROP TRIGGER orphan").unwrap();
    written(put(&store, &key("a"), Expected::Vacant, &in_progress(1)));
    let orphans: i64 = hand.query_row("SELECT count(*) FROM child", [], |row| row.get(0)).unwrap();
    assert_eq!(orphans, 0, "the failed transaction was carried on");
}

/// Who has the lock nearly all the time leaves a gap now and then: whoever waits finds it, in the opening of the file and in
/// a transaction of the user's. SQLite's own waiting, which looks every 100 ms in the end, took twenty times as long.
#[test]
fn a_short_gap_between_two_locks_is_found() {
    let (_directory, path) = scratch();
    drop(SqliteStore::open(&path).unwrap());
    let ended = AtomicBool::new(false);
    let holder = Connection::open(&path).unwrap();
    holder.busy_timeout(Duration::ZERO).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let holder = holder;
            while !ended.load(Ordering::Relaxed) {
                // It may find the lock with the one who waited.
                if holder.execute_batch("BEGIN IMMEDIATE").is_err() {
                    thread::yield_now();
                    continue;
                }
                thread::sleep(Duration::from_millis(250));
                holder.execute_batch("ROLLBACK").unwrap();
                thread::sleep(Duration::from_millis(3));
            }
        });
        let _ended = EndOnDrop(&ended);
        let open = || SqliteStore::builder(&path).busy_timeout(Duration::from_secs(300)).open().unwrap();
        let begun = Instant::now();
        for _ in 0..8 {
            drop(open());
        }
        let store = open();
        for _ in 0..8 {
            let mine = store.connect().unwrap();
            mine.execute_batch("BEGIN IMMEDIATE; UPDATE oncekey_meta SET opened_ns = 0; COMMIT").unwrap();
        }
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(15), "{took:?}");
    });
}

/// However the test ends, the other thread does too.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
