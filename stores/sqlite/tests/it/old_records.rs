//! Records of earlier releases still read.

use std::time::Duration;

use futures::executor::block_on;
use oncekey::protocol::{ExpiredBecause, Status};
use oncekey::store::{ListInDoubt as _, Store as _};
use oncekey::{ClaimAnswer, Earlier, Key, Policy};
use oncekey_sqlite::rusqlite::Connection;
use oncekey_sqlite::{SCHEMA_VERSION, SqliteStore};

use super::{granted, patient, scratch};

/// Made by the first release: see `write_the_fixture`.
const SCHEMA_1: &str = include_str!("../fixtures/schema-1.sql");

/// 2026-11-24 00:00:00 UTC, when the records of the fixture were written by the store's clock.
const WRITTEN: Duration = Duration::from_secs(1_795_478_400);

#[test]
fn records_of_schema_1_still_read() {
    let (_directory, path) = scratch();
    Connection::open(&path).unwrap().execute_batch(SCHEMA_1).unwrap();
    let store = SqliteStore::builder(&path).clock(|| WRITTEN + Duration::from_secs(60)).open().unwrap();
    let found: u32 = Connection::open(&path)
        .unwrap()
        .query_row("SELECT schema_version FROM oncekey_meta", [], |row| row.get(0))
        .unwrap();
    assert_eq!(found, SCHEMA_VERSION, "opening brings it up to date");

    let entry = |key: &Key| block_on(store.load(key)).unwrap().unwrap();
    let key = |id: &str| Key::scoped(["fixture", "tenant-9"], id).unwrap();
    let shown = |id: &str| {
        let entry = entry(&key(id));
        (entry.status(), entry.record.attempt(), entry.record.policy(), entry.version.get())
    };
    assert_eq!(shown("completed"), (Status::Completed, 1, Policy::Reclaim, 2));
    assert_eq!(shown("failed"), (Status::Completed, 1, Policy::Reclaim, 4));
    assert_eq!(shown("in doubt"), (Status::Expired(ExpiredBecause::Abandoned), 1, Policy::Hold, 6));
    assert_eq!(shown("released"), (Status::Expired(ExpiredBecause::Released), 1, Policy::Reclaim, 8));
    assert_eq!(shown("forgotten"), (Status::Expired(ExpiredBecause::Forgotten), 1, Policy::Reclaim, 11));
    assert_eq!(shown("running"), (Status::InProgress, 1, Policy::Reclaim, 12));
    assert_eq!(entry(&key("completed")).left, Duration::from_secs(86_400 - 60));
    assert_eq!(entry(&key("running")).left, Duration::from_secs(300 - 60));

    let page = block_on(store.list_in_doubt(None, 10)).unwrap();
    assert_eq!(page.entries.iter().map(|(key, _)| key.id()).collect::<Vec<_>>(), ["in doubt"]);
    assert_eq!(page.next, None);

    let dedup = patient(store.clone()).build().unwrap();
    let claim = |body: &[u8]| block_on(dedup.request(key("completed")).fingerprint_of(body).claim()).unwrap();
    assert!(matches!(claim(b"another body"), ClaimAnswer::Answered(Earlier::Mismatch)));
    let ClaimAnswer::Answered(Earlier::Replayed { value, .. }) = claim(b"body") else {
        panic!("it is completed")
    };
    assert_eq!(&value[..], b"charged \xf0\x9f\x92\xb6");
    let claim = granted(block_on(dedup.request(key("new")).claim()).unwrap());
    assert_eq!(claim.fence().get(), 13, "versions go on from where they were");
}

/// Writes the records of the fixture, and prints it: `cargo test -p oncekey-sqlite --test it write_the_fixture --
/// --ignored --nocapture`. A fixture of a schema that was released is never written again.
#[test]
#[ignore = "makes the fixture of a new schema"]
fn write_the_fixture() {
    let (_directory, path) = scratch();
    let store = SqliteStore::builder(&path).clock(|| WRITTEN).open().unwrap();
    let dedup = patient(store)
        .lease(Duration::from_secs(300))
        .retention(Duration::from_secs(86_400))
        .build()
        .unwrap();
    let key = |id: &str| Key::scoped(["fixture", "tenant-9"], id).unwrap();
    let claim = async |id: &str, policy| {
        granted(dedup.request(key(id)).fingerprint_of(b"body").policy(policy).claim().await.unwrap())
    };
    block_on(async {
        claim("completed", Policy::Reclaim).await.complete("charged 💶".as_bytes()).await.unwrap();
        claim("failed", Policy::Reclaim).await.fail(&b"card declined"[..]).await.unwrap();
        claim("in doubt", Policy::Hold).await.abandon().await.unwrap();
        claim("released", Policy::Reclaim).await.release().await.unwrap();
        claim("forgotten", Policy::Reclaim).await.release().await.unwrap();
        let _ = dedup.forget(&key("forgotten")).await.unwrap();
        std::mem::forget(claim("running", Policy::Reclaim).await);
    });
    let dumped = std::process::Command::new("sqlite3").arg(&path).arg(".dump").output().unwrap();
    print!("{}", String::from_utf8(dumped.stdout).unwrap());
}
