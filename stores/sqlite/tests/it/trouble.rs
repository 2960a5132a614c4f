//! Failures: each is an error that says so; nothing runs, nothing is lost, and the store goes on afterwards.

use std::io::Read as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use futures::executor::block_on;
use oncekey::protocol::{Expected, Version};
use oncekey::store::{Put, Store as _, StoreError as _, StoreErrorKind};
use oncekey::{Key, RunError};
use oncekey_sqlite::rusqlite::{Connection, params};
use oncekey_sqlite::{SqliteError, SqliteStep, SqliteStore};

use super::{HOUR, completed, in_progress, key, look, open, patient, put, scratch, written};

/// Claims one key after the other until the disk is full: what was written, and the error.
fn fill(store: &SqliteStore, put: Put<'_>) -> (Vec<(Key, Version)>, SqliteError) {
    let mut kept = Vec::new();
    loop {
        let key = key(format!("{}", kept.len()));
        match block_on(store.compare_exchange(&key, Expected::Vacant, put)) {
            Ok(answer) => kept.push((key, written(Ok(answer)))),
            Err(error) => {
                assert!(matches!(error, SqliteError::DiskFull(_)), "{error:?}");
                assert_eq!(error.kind(), StoreErrorKind::Full);
                return (kept, error);
            }
        }
        assert!(kept.len() < 2_000, "the disk never gets full");
    }
}

#[test]
fn a_full_disk_is_told_and_a_purge_makes_room() {
    let (_directory, path) = scratch();
    let store = SqliteStore::builder(&path).pages_max(200).open().unwrap();
    let big = completed(&[7; 20_000]);
    let (kept, error) = fill(&store, Put::new(&big, HOUR, Duration::ZERO));
    assert!(!error.maybe_applied());
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

/// Through the engine: a claim that has no room runs nothing; once there is room, it runs.
#[test]
fn a_full_disk_runs_no_operation() {
    let (_directory, path) = scratch();
    let store = SqliteStore::builder(&path).pages_max(200).open().unwrap();
    let dedup = patient(store.clone()).call_timeout(Duration::from_secs(3)).build().unwrap();
    let big = completed(&[7; 3_000]);
    let (kept, _) = fill(&store, Put::new(&big, Duration::ZERO, Duration::from_secs(1)));
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
    assert_eq!(block_on(store.purge(usize::MAX)).unwrap().removed, kept.len());
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
    let store = open(path);
    let record = completed(&[7; 2_000]);
    let junk = path.with_file_name("junk");
    std::fs::write(&junk, vec![0; 1_000_000]).unwrap();
    let (kept, error) = fill(&store, Put::new(&record, HOUR, HOUR));
    assert_eq!(error.maybe_applied(), error.failed().unwrap().step() == SqliteStep::Commit);
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
    all_there(&open(path));
    println!("FILLED after {} records: {error:?}", kept.len());
}

/// A record that does not decode is never taken for an absent one.
#[test]
fn a_damaged_record_is_an_error_and_stays() {
    let (_directory, path) = scratch();
    let store = open(&path);
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
    let store = open(&path);
    Connection::open(&path).unwrap().execute_batch("DROP TABLE oncekey_records").unwrap();
    let errors = [
        block_on(store.load(&key("a"))).unwrap_err(),
        put(&store, &key("a"), Expected::At(Version::new(1)), &in_progress(1)).unwrap_err(),
    ];
    for error in errors {
        assert_eq!((error.kind(), error.maybe_applied()), (StoreErrorKind::Rejected, false), "{error:?}");
    }
}

/// Claims are refused where too many wait; those who hold one are not.
#[test]
fn a_full_queue_refuses_claims_only() {
    let (_directory, path) = scratch();
    let store = SqliteStore::builder(&path).readers(1).queue_max(3).busy_timeout(HOUR).open().unwrap();
    let held = key("held");
    let version = written(put(&store, &held, Expected::Vacant, &in_progress(1)));
    let holder = Connection::open(&path).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (keys, record) = ((0..30).map(|index| key(format!("{index}"))).collect::<Vec<_>>(), in_progress(1));
    let claim = |key| store.compare_exchange(key, Expected::Vacant, Put::new(&record, HOUR, HOUR));
    let mut waiting = Vec::new();
    let mut refused = Vec::new();
    for key in &keys {
        let mut claim = claim(key);
        match look(&mut claim) {
            Poll::Ready(answer) => refused.push(answer),
            Poll::Pending => waiting.push(claim),
        }
        // The reader hands the claim to the writer, and comes to this afterwards.
        assert!(block_on(store.load(key)).unwrap().is_none());
    }
    // The writer holds what it took before it found the lock taken, three wait, and the others are refused.
    waiting.retain_mut(|claim| match look(claim) {
        Poll::Ready(answer) => {
            refused.push(answer);
            false
        }
        Poll::Pending => true,
    });
    assert!((3..=6).contains(&waiting.len()), "{} claims wait", waiting.len());
    for answer in refused {
        let error = answer.unwrap_err();
        assert!(matches!(error, SqliteError::QueueFull { waiting: 3, bound: 3 }), "{error:?}");
        assert_eq!((error.kind(), error.maybe_applied()), (StoreErrorKind::Unavailable, false));
    }
    let done = completed(b"done");
    let mut completion = store.compare_exchange(&held, Expected::At(version), Put::new(&done, HOUR, HOUR));
    assert!(look(&mut completion).is_pending(), "it waits with the claims");
    holder.execute_batch("ROLLBACK").unwrap();
    for answer in waiting.into_iter().chain([completion]) {
        written(block_on(answer));
    }
}

/// A commit that fails leaves the transaction open; the next one must not find itself in it.
#[test]
fn a_commit_that_fails_is_rolled_back_and_may_be_applied() {
    let (_directory, path) = scratch();
    let store = open(&path);
    let hand = Connection::open(&path).unwrap();
    hand.execute_batch(
        "CREATE TABLE parent (id INTEGER PRIMARY KEY);
         CREATE TABLE child (id INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED);
         CREATE TRIGGER orphan AFTER INSERT ON oncekey_records BEGIN INSERT INTO child VALUES (1); END;",
    )
    .unwrap();
    let error = put(&store, &key("a"), Expected::Vacant, &in_progress(1)).unwrap_err();
    assert_eq!(error.failed().map(|failed| failed.step()), Some(SqliteStep::Commit), "{error:?}");
    assert!(error.maybe_applied());
    assert!(block_on(store.load(&key("a"))).unwrap().is_none());
    hand.execute_batch("DROP TRIGGER orphan").unwrap();
    written(put(&store, &key("a"), Expected::Vacant, &in_progress(1)));
    let orphans: i64 = hand.query_row("SELECT count(*) FROM child", [], |row| row.get(0)).unwrap();
    assert_eq!(orphans, 0, "the failed transaction was carried on");
}
