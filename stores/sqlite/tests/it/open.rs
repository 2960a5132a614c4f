//! Opening a file, and what is refused.

use std::fs;
use std::time::Duration;

use futures::executor::block_on;
use oncekey::protocol::Expected;
use oncekey::store::{BatchPut, DurabilityClass, Put, Store as _, StoreError as _, StoreErrorKind};
use oncekey_sqlite::rusqlite::Connection;
use oncekey_sqlite::{MIGRATIONS, SqliteError, SqliteStore, SqliteStoreBuilder, Synchronous};

use super::{HOUR, MINUTE, in_progress, key, look, open, put, scratch, until, written};

#[test]
fn a_path_that_names_no_file_is_refused() {
    for path in ["", ":memory:", "file::memory:", "file:x.db?mode=memory&cache=shared"] {
        let error = SqliteStore::open(path).unwrap_err();
        assert!(matches!(error, SqliteError::NotAFile { .. }), "{path:?}: {error:?}");
        assert_eq!((error.kind(), error.maybe_applied()), (StoreErrorKind::Rejected, false));
    }
}

#[test]
fn options_that_cannot_be_are_refused() {
    let (_directory, path) = scratch();
    let builder = || SqliteStore::builder(&path);
    for builder in [builder().group_max(0), builder().queue_max(0), builder().readers(0)] {
        assert!(matches!(builder.open(), Err(SqliteError::Options { .. })));
    }
    assert!(!path.exists());
}

/// Each duration at its extremes, by the clock of a user's own too.
#[test]
fn each_duration_at_its_extremes_works() {
    type Set = fn(SqliteStoreBuilder, Duration) -> SqliteStoreBuilder;
    let cases: [(&str, Set); 2] = [
        ("busy_timeout", |builder, duration| builder.busy_timeout(duration)),
        ("clock", |builder, duration| builder.clock(move || duration)),
    ];
    for (option, set) in cases {
        for duration in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
            let (_directory, path) = scratch();
            let store = set(SqliteStore::builder(&path), duration).open().unwrap();
            let version = written(put(&store, &key("a"), Expected::Vacant, &in_progress(1)));
            written(put(&store, &key("a"), Expected::At(version), &in_progress(1)));
            assert!(block_on(store.load(&key("a"))).unwrap().is_some(), "{option} of {duration:?}");
        }
    }
}

/// A wait without end ends when the lock is free.
#[test]
fn a_call_that_waits_for_ever_gets_the_lock_when_it_is_free() {
    let (_directory, path) = scratch();
    let store = SqliteStore::builder(&path).busy_timeout(Duration::MAX).open().unwrap();
    let lock = Connection::open(&path).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    std::thread::scope(|scope| {
        let claims = scope.spawn(|| written(put(&store, &key("a"), Expected::Vacant, &in_progress(1))));
        // The claim may come before this or after it: it is answered all the same.
        lock.execute_batch("COMMIT").unwrap();
        claims.join().unwrap();
    });
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let (_directory, path) = scratch();
    let text = "not a database at all, but longer than a header of one hundred bytes would be: ".repeat(9);
    fs::write(&path, &text).unwrap();
    let error = SqliteStore::open(&path).unwrap_err();
    assert!(matches!(error, SqliteError::FileDamaged(_)), "{error:?}");
    assert_eq!(error.kind(), StoreErrorKind::Rejected, "not of one key: {error:?}");
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn a_directory_that_is_not_there_is_refused() {
    let (directory, _) = scratch();
    let error = SqliteStore::open(directory.path().join("absent/store.db")).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Rejected, "{error:?}");
}

#[test]
fn a_newer_schema_is_refused() {
    let (_directory, path) = scratch();
    drop(open(&path));
    Connection::open(&path).unwrap().execute("UPDATE oncekey_meta SET schema_version = 7", []).unwrap();
    for migrate in [true, false] {
        let error = SqliteStore::builder(&path).migrate(migrate).open().unwrap_err();
        assert!(matches!(error, SqliteError::SchemaNewer { found: 7, known: 1 }), "{error:?}");
        assert_eq!(error.kind(), StoreErrorKind::Newer);
    }
}

#[test]
fn told_not_to_migrate_it_creates_nothing() {
    let (_directory, path) = scratch();
    let opened = || SqliteStore::builder(&path).migrate(false).open();
    assert_eq!(opened().unwrap_err().kind(), StoreErrorKind::Rejected);
    assert!(!path.exists(), "no file was made");
    let connection = Connection::open(&path).unwrap();
    connection.execute("CREATE TABLE mine (x)", []).unwrap();
    assert!(matches!(opened(), Err(SqliteError::SchemaOlder { found: 0, known: 1 })));
    for migration in MIGRATIONS {
        connection.execute_batch(&format!("BEGIN;\n{}\nCOMMIT;", migration.sql)).unwrap();
    }
    written(put(&opened().unwrap(), &key("a"), Expected::Vacant, &in_progress(1)));
}

/// The application keeps tables of its own in the file.
#[test]
fn other_tables_and_settings_of_the_file_stay() {
    let (_directory, path) = scratch();
    let mine = Connection::open(&path).unwrap();
    mine.execute_batch("PRAGMA user_version = 42; PRAGMA application_id = 43; CREATE TABLE mine (x); INSERT INTO mine VALUES (1)")
        .unwrap();
    let store = open(&path);
    written(put(&store, &key("a"), Expected::Vacant, &in_progress(1)));
    let number = |sql: &str| mine.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(number("PRAGMA user_version"), 42);
    assert_eq!(number("PRAGMA application_id"), 43);
    assert_eq!(number("SELECT count(*) FROM mine"), 1);
    assert_eq!(
        number(
            "SELECT count(*) FROM sqlite_schema WHERE name NOT LIKE 'oncekey%' AND name NOT LIKE 'sqlite_%'"
        ),
        1
    );
}

#[test]
fn a_new_file_that_many_open_at_once_is_opened_by_all() {
    for round in 0..10 {
        let (_directory, path) = scratch();
        std::thread::scope(|scope| {
            let opening: Vec<_> = (0..8).map(|_| scope.spawn(|| open(&path))).collect();
            for (index, store) in opening.into_iter().enumerate() {
                written(put(
                    &store.join().unwrap(),
                    &key(format!("{index}")),
                    Expected::Vacant,
                    &in_progress(1),
                ));
            }
        });
        let records: i64 = Connection::open(&path)
            .unwrap()
            .query_row("SELECT records FROM oncekey_meta", [], |row| row.get(0))
            .unwrap();
        assert_eq!(records, 8, "round {round}");
    }
}

#[test]
fn it_declares_how_durable_it_is_and_is_set_up_so() {
    let (_directory, path) = scratch();
    for (synchronous, class, level) in
        [(Synchronous::Full, DurabilityClass::Disk, 2), (Synchronous::Normal, DurabilityClass::Machine, 1)]
    {
        let store = SqliteStore::builder(&path).synchronous(synchronous).open().unwrap();
        assert_eq!(store.durability().class, class);
        let connection = store.connect().unwrap();
        let pragma = |name: &str| {
            connection.query_row(&format!("PRAGMA {name}"), [], |row| {
                row.get_ref(0).map(|value| format!("{value:?}"))
            })
        };
        assert_eq!(pragma("synchronous").unwrap(), format!("Integer({level})"));
        assert!(pragma("journal_mode").unwrap().contains("[119, 97, 108]"), "wal");
    }
}

/// A handle is the store; with the last one its threads end and its file is closed.
#[test]
fn the_threads_end_with_the_last_handle() {
    let (directory, path) = scratch();
    let store = SqliteStore::builder(&path).readers(3).open().unwrap();
    let other = store.clone();
    drop(store);
    written(put(&other, &key("a"), Expected::Vacant, &in_progress(1)));
    assert!(block_on(other.load(&key("a"))).unwrap().is_some());
    drop(other);
    // The last connection that is closed takes the log with it, if it is closed alone.
    let left: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(left, ["store.db"], "a connection is open, or two were closed at once");
}

/// Another connection holds the lock for longer than the test takes: the end of the store does not wait for it.
#[test]
fn a_store_ends_while_its_writer_waits_for_a_lock() {
    let (_directory, path) = scratch();
    let store = SqliteStore::builder(&path).queue_max(1).busy_timeout(HOUR).open().unwrap();
    let (held, claimed, record) = (key("held"), key("claimed"), in_progress(1));
    let version = written(put(&store, &held, Expected::Vacant, &record));
    let holder = Connection::open(&path).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    {
        // The writer cannot leave this one, though nobody waits for it.
        let put = Put::new(&record, HOUR, HOUR);
        assert!(look(&mut store.compare_exchange(&held, Expected::At(version), put)).is_pending());
        // A claim is refused while the write still waits in the queue, where one has room.
        let batch = [BatchPut::new(&claimed, Expected::Vacant, put)];
        until("the writer has the write", || look(&mut store.compare_exchange_many(&batch)).is_pending());
    }
    let (ended, has_ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(store);
        ended.send(()).unwrap();
    });
    has_ended.recv_timeout(MINUTE).expect("it ends while the lock is held");
    holder.execute_batch("ROLLBACK").unwrap();
}
