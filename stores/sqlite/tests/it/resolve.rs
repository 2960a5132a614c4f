//! A doubt resolved by hand, with the plain sqlite3 shell and `ops/resolve.sql`: as the engine does it, and nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::executor::block_on;
use oncekey::admin::{AdminAnswer, Resolution};
use oncekey::protocol::{Algorithm, Fingerprint};
use oncekey::protocol::{Expected, Record, State};
use oncekey::store::{Put, Store as _};
use oncekey::time::ManualClock;
use oncekey::{Claim, ClaimAnswer, Deduplicator, Earlier, Key, Outcome, Policy};
use oncekey_sqlite::rusqlite::types::Value;
use oncekey_sqlite::rusqlite::{Connection, Row};
use oncekey_sqlite::{SqliteStore, Synchronous};

use super::stuck_key::{commands, piped_to_sqlite3, shell};
use super::{HOUR, completed, granted, in_progress, open, patient, put, scratch, written};

/// The key of the page.
fn key() -> Key {
    Key::new("payments.charge", "7f3a-91").unwrap()
}

/// The commands of the page with what stands there put in place of the page's own.
fn resolve(path: &Path, version: u64, what: &str, outcome: &str) -> String {
    let page = commands("completed");
    let commands = page
        .replace("2 AS version", &format!("{version} AS version"))
        .replace("'completed'", what)
        .replace("'\"receipt 17\"'", outcome)
        .replace("86400", "3600");
    shell(path, &[], &commands)
}

fn version(path: &Path) -> u64 {
    let version: i64 = Connection::open(path)
        .unwrap()
        .query_row("SELECT version FROM oncekey_records WHERE id = '7f3a-91'", [], |row| row.get(0))
        .unwrap();
    version.try_into().unwrap()
}

/// All that the tables hold, but for when a store last opened the file.
fn contents(path: &Path) -> Vec<Vec<Value>> {
    let connection = Connection::open(path).unwrap();
    let mut all = Vec::new();
    for sql in
        ["SELECT * FROM oncekey_records ORDER BY row", "SELECT last_version, records FROM oncekey_meta"]
    {
        let mut statement = connection.prepare(sql).unwrap();
        let columns = statement.column_count();
        let row = |row: &Row<'_>| (0..columns).map(|column| row.get(column)).collect();
        all.extend(statement.query_map([], row).unwrap().map(Result::unwrap));
    }
    all
}

fn engine(store: SqliteStore, policy: Policy) -> Deduplicator<SqliteStore> {
    patient(store).policy(policy).retention(HOUR).build().unwrap()
}

fn claim(dedup: &Deduplicator<SqliteStore>) -> Claim<SqliteStore> {
    granted(block_on(dedup.request(key()).fingerprint_of("pay 50").claim()).unwrap())
}

type MakeDoubt = fn(&Path);

/// Records in doubt of every shape that the encoding has.
fn doubts() -> Vec<(&'static str, MakeDoubt)> {
    fn store(path: &Path) -> SqliteStore {
        open(path)
    }
    fn checkpoint(path: &Path, policy: Policy, bytes: &[u8]) {
        let dedup = engine(store(path), policy);
        let mut claim = claim(&dedup);
        block_on(claim.checkpoint(bytes.to_vec())).unwrap();
        block_on(claim.abandon()).unwrap();
    }
    vec![
        ("nothing was written after the grant", |path| {
            let record = in_progress(7);
            let write = Put::new(&record, Duration::ZERO, HOUR);
            written(block_on(store(path).compare_exchange(&key(), Expected::Vacant, write)));
        }),
        ("no fingerprint", |path| {
            let dedup = patient(store(path)).build().unwrap();
            let claimed = block_on(dedup.request(key()).policy(Policy::Hold).claim()).unwrap();
            block_on(granted(claimed).abandon()).unwrap();
        }),
        ("a fingerprint", |path| block_on(claim(&engine(store(path), Policy::Hold)).abandon()).unwrap()),
        ("a fingerprint of the application's own making", |path| {
            let digest = Fingerprint::from_digest(Algorithm::private(5), &[0x81; 32]).unwrap();
            let dedup = engine(store(path), Policy::Hold);
            let claimed = block_on(dedup.request(key()).fingerprint(digest).claim()).unwrap();
            block_on(granted(claimed).abandon()).unwrap();
        }),
        ("a checkpoint of one byte", |path| checkpoint(path, Policy::Reclaim, &[0])),
        ("a long checkpoint", |path| {
            let bytes: Vec<u8> = (0..=255).cycle().take(40_000).collect();
            checkpoint(path, Policy::Hold, &bytes);
        }),
        ("a second attempt, in doubt of the first", |path| {
            checkpoint(path, Policy::Reclaim, &[0xff; 200]);
            block_on(claim(&engine(store(path), Policy::Hold)).abandon()).unwrap();
        }),
        ("attempts that an operator forgave", |path| {
            let store = SqliteStore::builder(path).synchronous(Synchronous::Normal).open().unwrap();
            let dedup = engine(store, Policy::Reclaim);
            for _ in 0..130 {
                block_on(claim(&dedup).abandon()).unwrap();
            }
            assert!(matches!(block_on(dedup.reset_attempts(&key())), Ok(AdminAnswer::Done)));
        }),
    ]
}

/// Says of which kinds the script is given an outcome: in SQL, and the bytes that are meant.
fn outcomes() -> Vec<(String, Vec<u8>)> {
    let blob = |len: usize| {
        let bytes: Vec<u8> = (0..=255_u8).map(|byte| byte.wrapping_mul(7)).cycle().take(len).collect();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        (format!("x'{hex}'"), bytes)
    };
    let mut outcomes = vec![
        ("'\"receipt 17\"'".to_owned(), b"\"receipt 17\"".to_vec()),
        ("'grüße'".to_owned(), "grüße".as_bytes().to_vec()),
        ("''".to_owned(), Vec::new()),
    ];
    outcomes.extend([0, 1, 127, 128, 16_383, 16_384].map(blob));
    outcomes
}

/// The same on a copy of the file by the engine itself, at the same time to the nanosecond: the files end the same.
#[test]
fn it_writes_what_the_engine_writes() {
    let last_versions: [u64; 5] = [0, 126, 16_382, (1 << 35) - 1, (1 << 56) + 5];
    let (mut written_rows, outcomes) = (0, outcomes());
    for (index, (shape, doubt)) in doubts().into_iter().enumerate() {
        for (other, (sql, bytes)) in outcomes.iter().enumerate() {
            let (directory, path) = scratch();
            drop(open(&path));
            let last = i64::try_from(last_versions[(index + other) % last_versions.len()]).unwrap();
            Connection::open(&path)
                .unwrap()
                .execute("UPDATE oncekey_meta SET last_version = ?1", [last])
                .unwrap();
            doubt(&path);
            let resolutions = [
                ("'completed'", sql.as_str(), Resolution::Completed(Outcome::success(bytes.clone()))),
                ("'failed'", sql.as_str(), Resolution::Completed(Outcome::failure(bytes.clone()))),
                ("'no_effect'", "NULL", Resolution::NoEffect),
            ];
            let (what, outcome, resolution) = &resolutions[(index + other) % resolutions.len()];
            let place = format!("{shape}, {what} {} bytes, after version {last}", bytes.len());
            let copy = directory.path().join("copy.db");
            copy_of(&path, &copy);

            let said = resolve(&path, version(&path), what, outcome);
            assert!(said.starts_with("done: "), "{place}: {said}");
            let now_ns: i64 = Connection::open(&path)
                .unwrap()
                .query_row("SELECT written_ns FROM oncekey_records", [], |row| row.get(0))
                .unwrap();
            let now = Duration::from_nanos(now_ns.try_into().unwrap());
            assert!(now.as_nanos() % 1_000_000 == 0 && now > Duration::from_secs(1_700_000_000), "{now:?}");
            let clock = ManualClock::new();
            clock.advance(now);
            let store = SqliteStore::builder(&copy).clock(move || now).open().unwrap();
            let dedup = patient(store).clock(clock).retention(HOUR).build().unwrap();
            let answer = block_on(dedup.resolve(&key(), resolution)).unwrap();
            assert!(matches!(answer, AdminAnswer::Done), "{place}: {answer:?}");
            drop(dedup);
            assert_eq!(contents(&path), contents(&copy), "{place}");
            written_rows += 1;
        }
    }
    assert_eq!(written_rows, 8 * 9);
}

/// No store has it open.
fn copy_of(path: &Path, copy: &PathBuf) {
    Connection::open(path).unwrap().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    fs::copy(path, copy).unwrap();
}

/// While the service runs: its next call gets the outcome, and the attempt that stopped in the middle can write nothing.
#[test]
fn what_happened_is_replayed_and_the_old_attempt_is_refused() {
    for (what, succeeded) in [("'completed'", true), ("'failed'", false)] {
        let (_directory, path) = scratch();
        let dedup = engine(open(&path), Policy::Hold);
        let mut stuck = claim(&dedup);
        block_on(stuck.checkpoint("half way")).unwrap();
        let prepared = block_on(stuck.prepare("too late")).unwrap();
        let mut late = forget_its_lease(&dedup, stuck);
        let said = resolve(&path, version(&path), what, "'\"receipt 17\"'");
        assert!(said.starts_with("done: completed, version "), "{said}");

        let transaction = dedup.store().connect().unwrap();
        transaction.execute_batch("BEGIN IMMEDIATE").unwrap();
        dedup.store().complete_in(&transaction, &prepared).unwrap_err();
        drop(transaction);
        block_on(late.complete("too late")).unwrap_err();
        block_on(late.renew()).unwrap_err();
        let claim = |body: &str| block_on(dedup.request(key()).fingerprint_of(body).claim()).unwrap();
        match claim("pay 50") {
            ClaimAnswer::Answered(Earlier::Replayed { value, .. }) if succeeded => {
                assert_eq!(&value[..], b"\"receipt 17\"");
            }
            ClaimAnswer::Answered(Earlier::FailedBefore { .. }) if !succeeded => {}
            other => panic!("a replay is due, and the claim answered {other:?}"),
        }
        assert!(matches!(claim("pay 51"), ClaimAnswer::Answered(Earlier::Mismatch)));
        let again = resolve(&path, version(&path), what, "'another'");
        assert_eq!(again.trim(), "refused: it is not in doubt, it is completed");
    }
}

#[test]
fn what_did_not_happen_runs_again_as_the_same_operation() {
    let (_directory, path) = scratch();
    let dedup = engine(open(&path), Policy::Hold);
    let stuck = claim(&dedup);
    let (operation_id, fence) = (stuck.operation_id(), stuck.fence());
    let mut late = forget_its_lease(&dedup, stuck);
    let held = block_on(dedup.request(key()).fingerprint_of("pay 50").claim()).unwrap();
    assert!(matches!(held, ClaimAnswer::Answered(Earlier::InDoubt { .. })), "{held:?}");
    let page = commands("no effect").replace("2 AS version", &format!("{} AS version", version(&path)));
    let said = shell(&path, &[], &page);
    assert!(said.starts_with("done: released, version "), "{said}");
    block_on(late.complete("too late")).unwrap_err();

    let mut next = claim(&dedup);
    assert_eq!((next.operation_id(), next.number(), next.after_doubt()), (operation_id, 2, false));
    assert!(next.fence() > fence);
    block_on(late.complete("too late")).unwrap_err();
    block_on(next.complete("charged")).unwrap();
}

/// Its lease is over, and its owner does not know.
fn forget_its_lease(dedup: &Deduplicator<SqliteStore>, claim: Claim<SqliteStore>) -> Claim<SqliteStore> {
    let connection = dedup.store().connect().unwrap();
    let expired = "UPDATE oncekey_records SET live_until_ns = written_ns";
    assert_eq!(connection.execute(expired, []).unwrap(), 1);
    claim
}

#[test]
fn it_touches_nothing_but_an_abandoned_record_of_the_version_and_format_it_knows() {
    let (_directory, path) = scratch();
    let store = open(&path);
    let hand = Connection::open(&path).unwrap();
    let refused = |said: &str, version: u64, what: &str, outcome: &str| {
        let before = contents(&path);
        let answer = resolve(&path, version, what, outcome);
        assert!(answer.starts_with(&format!("refused: {said}")), "{answer:?}, and {said:?} is due");
        assert_eq!(contents(&path), before, "{said}");
    };
    refused("there is nothing under this key", 1, "'completed'", "'x'");
    let other = written(put(
        &store,
        &Key::new("payments.charge", "other").unwrap(),
        Expected::Vacant,
        &in_progress(1),
    ));

    // Running.
    let version = written(put(&store, &key(), Expected::Vacant, &in_progress(1)));
    refused("the operation is running", version.get(), "'completed'", "'x'");
    hand.execute("UPDATE oncekey_records SET live_until_ns = NULL", []).unwrap();
    refused("the operation is running", version.get(), "'no_effect'", "NULL");
    hand.execute("UPDATE oncekey_records SET live_until_ns = written_ns", []).unwrap();

    // In doubt, and what is asked does not fit.
    let now = version.get();
    for other in [now - 1, now + 1, other.get()] {
        refused(&format!("it has version {now} by now"), other, "'completed'", "'x'");
    }
    refused("say completed, failed or no_effect", now, "'forget'", "'x'");
    refused("say completed, failed or no_effect", now, "NULL", "'x'");
    refused("completed takes the outcome", now, "'completed'", "NULL");
    refused("failed takes the outcome", now, "'failed'", "NULL");
    refused("no_effect takes no outcome", now, "'no_effect'", "'x'");
    for seconds in ["0", "-1", "NULL", "'soon'", "1.5", "3000000001"] {
        let page = commands("completed").replace("2 AS version", &format!("{now} AS version"));
        let said = shell(&path, &[], &page.replace("86400", seconds));
        assert!(said.starts_with("refused: the seconds to keep it"), "{seconds}: {said}");
    }
    let twice = commands("completed")
        .replace(".read", "INSERT INTO temp.resolution SELECT * FROM temp.resolution;\n.read");
    assert!(shell(&path, &[], &twice).starts_with("refused: temp.resolution has 2 rows"));
    let none = commands("completed").replace(".read", "DELETE FROM temp.resolution;\n.read");
    assert!(shell(&path, &[], &none).starts_with("refused: temp.resolution has 0 rows"));

    // Records that are not as they should be, and a file of another schema.
    let body = |change: &str| {
        let sql = format!("UPDATE oncekey_records SET body = CAST({change} AS BLOB) WHERE id = '7f3a-91'");
        assert_eq!(hand.execute(&sql, []).unwrap(), 1);
    };
    let keep: Vec<u8> = in_progress(1).as_bytes().to_vec();
    let hex: String = keep.iter().map(|byte| format!("{byte:02x}")).collect();
    for (change, said) in [
        ("x'02' || substr(body, 2)", "this is a record of another format than 1"),
        ("x''", "this is a record of another format than 1"),
        ("x'01'", "the record is damaged"),
        ("body || x'00'", "the record is damaged"),
        ("substr(body, 1, length(body) - 1)", "the record is damaged"),
        ("substr(body, 1, 10)", "the record is damaged"),
        ("substr(body, 1, 20) || x'ffffffffffffffffffffffff'", "the record is damaged"),
        ("x'0182' || substr(body, 3)", "the record is damaged"),
        ("x'01c0' || substr(body, 3) || x'ffffff7f61'", "the record is damaged"),
    ] {
        body(change);
        refused(said, now, "'completed'", "'x'");
        body(&format!("x'{hex}'"));
    }
    hand.execute("UPDATE oncekey_meta SET schema_version = 2", []).unwrap();
    refused("the schema is not 1", now, "'completed'", "'x'");
    hand.execute("UPDATE oncekey_meta SET schema_version = 1", []).unwrap();
    hand.execute("UPDATE oncekey_records SET gone_at_ns = written_ns", []).unwrap();
    refused("the record is gone", now, "'completed'", "'x'");
    hand.execute("UPDATE oncekey_records SET gone_at_ns = NULL", []).unwrap();

    // Another than in progress.
    let done = written(put(&store, &key(), Expected::At(version), &completed(b"its own")));
    refused("it is not in doubt, it is completed", done.get(), "'completed'", "'x'");
    let entry = block_on(store.load(&key())).unwrap().unwrap();
    assert!(matches!(entry.record.state(), State::Completed(_)));
    let dedup = patient(store).build().unwrap();
    let _ = block_on(dedup.forget(&key())).unwrap();
    refused("it is not in doubt, it is forgotten", done.get() + 1, "'no_effect'", "NULL");
}

/// A lock that is held: nothing is done, and the shell says so by its end.
#[test]
fn a_lock_that_is_held_leaves_all_as_it_was() {
    let (_directory, path) = scratch();
    let store = open(&path);
    let record: Record = in_progress(1);
    let write = Put::new(&record, Duration::ZERO, HOUR);
    let version = written(block_on(store.compare_exchange(&key(), Expected::Vacant, write)));
    let holder = Connection::open(&path).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let before = contents(&path);
    // Also without the page's own -bail.
    let page = commands("completed").replace("2 AS version", &format!("{} AS version", version.get()));
    let ran = piped_to_sqlite3(&path, &[], &page);
    assert!(!ran.status.success(), "{ran:?}");
    assert!(String::from_utf8_lossy(&ran.stderr).contains("locked"), "{ran:?}");
    assert!(ran.stdout.is_empty(), "{ran:?}");
    holder.execute_batch("ROLLBACK").unwrap();
    assert_eq!(contents(&path), before);
}
