//! A doubt settled by hand: what the functions in SQL write is what the engine writes.

use std::time::Duration;

use oncekey::admin::{AdminAnswer, Resolution};
use oncekey::protocol::{
    Act, ClaimCommand, Command, Decision, Holder, HolderCommand, Lifetimes, OnDoubt, OperatorCommand, Order,
    decide,
};
use oncekey::protocol::{Entry, Expected, Owner, Record, UnixMillis, Version};
use oncekey::store::Put;
use oncekey::{
    Answer, Deduplicator, Earlier, Fingerprint, Key, OperationId, Outcome, Payload, Policy, Store as _,
};
use oncekey_postgres::PostgresStore;
use tokio_postgres::Client;

use crate::statements::some_record;
use crate::support::{Tables, block_on, connect, database, granted, in_time, key, psql, psql_prints};

const DAY: Duration = Duration::from_secs(86_400);
const LIFETIMES: Lifetimes = Lifetimes { lease: Duration::ZERO, retention: DAY, tail: Duration::ZERO };

/// The key as psql is told it.
fn sql_key(key: &Key) -> String {
    format!("oncekey_key('{}', '{}')", key.scope().next().unwrap(), key.id())
}

/// An entry after this command.
fn after<C: Command>(entry: Option<&Entry>, command: &C, version: u64) -> Entry {
    let Decision::Write(write) = decide(entry, command, &LIFETIMES) else { panic!("it writes") };
    Entry { record: write.record, version: Version::new(version), left: Duration::ZERO }
}

fn claimed(
    entry: Option<&Entry>,
    owner: u8,
    policy: Policy,
    fingerprint: Option<Fingerprint>,
    version: u64,
) -> Entry {
    let claim = ClaimCommand {
        owner: Owner::from_bytes([owner; 16]),
        operation_id: OperationId::from_bytes([if owner % 2 == 0 { owner } else { 0xee }; 16]),
        fingerprint,
        policy,
        attempts_max: None,
        on_doubt: OnDoubt::GoByPolicy,
        now: UnixMillis(1_795_478_400_000),
    };
    after(entry, &claim, version)
}

fn by<'a>(entry: &Entry, act: Act<'a>) -> HolderCommand<'a> {
    let record = &entry.record;
    let holder = Holder { owner: record.owner(), token: entry.fencing_token(), attempt: record.attempt() };
    HolderCommand { holder, act }
}

/// Records in progress with and without each part that a record can have.
pub(crate) fn abandoned() -> Vec<(&'static str, Record)> {
    let bound = Some(Fingerprint::sha256(b"a request"));
    let own_id = claimed(None, 2, Policy::Hold, None, 5);
    let other_id = claimed(None, 3, Policy::Reclaim, None, 5);
    let with_print = claimed(None, 2, Policy::Hold, bound, 200);
    let renewed = after(Some(&with_print), &by(&with_print, Act::Renew), 201);
    let note = Payload::from("so far ".repeat(40));
    let noted = after(Some(&renewed), &by(&renewed, Act::Checkpoint(&note)), 20_000);
    // Taken over, so in doubt about the attempt before too.
    let reclaim = after(Some(&other_id), &by(&other_id, Act::Checkpoint(&note)), 70_000);
    let taken = claimed(Some(&reclaim), 4, Policy::Hold, None, 80_000);
    let mut many = claimed(None, 2, Policy::Reclaim, bound, 5);
    for number in 0..200 {
        many = claimed(Some(&many), 4 + number % 2, Policy::Reclaim, bound, 10 + u64::from(number));
    }
    let forgiven = after(Some(&many), &OperatorCommand { at: None, order: Order::ResetAttempts }, 300);
    vec![
        ("first attempt, its own id", own_id.record),
        ("first attempt, another id", other_id.record),
        ("bound", with_print.record),
        ("bound, renewed", renewed.record),
        ("bound, with a checkpoint", noted.record),
        ("taken over, with a checkpoint", taken.record),
        ("the 201st attempt", many.record),
        ("its attempts forgiven", forgiven.record),
    ]
}

struct Desk {
    tables: Tables,
    store: PostgresStore<deadpool_postgres::Pool>,
    client: Client,
}

impl Desk {
    async fn new() -> Self {
        let tables = Tables::new().await;
        Self { store: tables.store(), client: connect(database().url()).await, tables }
    }

    /// A record that is in doubt.
    async fn put(&self, key: &Key, record: &Record) -> Entry {
        let put = Put::new(record, Duration::ZERO, DAY);
        let _done = self.store.compare_exchange(key, Expected::Vacant, put).await.unwrap();
        self.store.load(key).await.unwrap().unwrap()
    }

    /// Calls a function with the key, the version and the rest of its arguments.
    async fn call(&self, function: &str, key: &Key, version: Version, rest: &str) -> Result<i64, String> {
        let sql = format!("SELECT \"{}\".{function}($1, {}{rest})", self.tables.name, version.get());
        let answer = in_time(self.client.query_one(&sql, &[&key.as_bytes()])).await;
        answer.map(|row| row.get(0)).map_err(|error| {
            let error = error.as_db_error().expect("the server's word");
            format!("{} {}", error.code().code(), error.message())
        })
    }

    /// Everything that a row has, but for what is its own and for times.
    async fn row(&self, key: &Key) -> String {
        let sql = format!(
            "SELECT concat_ws(' ', body, version, live_until, gone_at, updated_at, finished_at, state, ctid) FROM {} WHERE key = $1",
            self.tables.records()
        );
        let rows = self.client.query(&sql, &[&key.as_bytes()]).await.unwrap();
        rows.first().map(|row| row.get(0)).unwrap_or_default()
    }

    /// The row of `key`, over `before`, is what the engine would have written at the time that is on record.
    async fn assert_written(
        &self,
        what: &str,
        key: &Key,
        before: &Entry,
        resolution: &Resolution,
        keep: Duration,
    ) {
        let entry = self.store.load(key).await.unwrap().unwrap_or_else(|| panic!("{what}: nothing there"));
        assert!(entry.version > before.version, "{what}: the version rises");
        let finished = entry.record.finished_at().unwrap();
        let lifetimes = Lifetimes { retention: keep, ..LIFETIMES };
        let command = OperatorCommand { at: None, order: Order::Resolve(resolution, finished) };
        let Decision::Write(write) = decide(Some(before), &command, &lifetimes) else {
            panic!("{what}: the engine would not write")
        };
        let sql = format!(
            "SELECT body, state, attempt, extract(epoch FROM finished_at)::numeric * 1000 = {}, \
             live_until - updated_at = $2::text::interval, gone_at - updated_at = $3::text::interval, \
             abs(extract(epoch FROM updated_at) * 1000 - {}) FROM {} WHERE key = $1",
            finished.0,
            finished.0,
            self.tables.records()
        );
        let (live, gone) = (seconds(write.live), seconds(write.live + write.linger));
        let row = self.client.query_one(&sql, &[&key.as_bytes(), &live, &gone]).await.unwrap();
        assert_eq!(row.get::<_, Vec<u8>>(0), write.record.as_bytes(), "{what}: not the bytes of the engine");
        let state = match resolution {
            Resolution::NoEffect => "released",
            Resolution::Completed(outcome) if *outcome == Outcome::failure(value(outcome)) => "failed",
            Resolution::Completed(_) => "completed",
        };
        assert_eq!(
            (row.get::<_, &str>(1), row.get::<_, i64>(2)),
            (state, i64::from(before.record.attempt())),
            "{what}"
        );
        assert!(row.get::<_, bool>(3), "{what}: finished_at");
        assert!(row.get::<_, bool>(4) && row.get::<_, bool>(5), "{what}: its lifetimes");
    }
}

fn value(outcome: &Outcome) -> Payload {
    match &outcome.body {
        oncekey::protocol::OutcomeBody::Kept(bytes) => bytes.clone(),
        other => panic!("{other:?}"),
    }
}

fn seconds(duration: Duration) -> String {
    format!("{} seconds", duration.as_secs())
}

/// Each resolution of each record, byte by byte, beside what `resolve` writes over the same record.
#[test]
fn what_sql_writes_is_what_the_engine_writes() {
    block_on(async {
        let desk = Desk::new().await;
        let dedup = Deduplicator::builder(desk.tables.store()).tokio().build().unwrap();
        let keep = Duration::from_secs(7200);
        for (number, (name, record)) in abandoned().into_iter().enumerate() {
            let mut resolutions = vec![Resolution::NoEffect];
            for len in [0, 1, 127, 128, 20_000] {
                resolutions.push(Resolution::Completed(Outcome::success("x".repeat(len))));
            }
            resolutions.push(Resolution::Completed(Outcome::failure("refused")));
            for (way, resolution) in resolutions.iter().enumerate() {
                let what = format!("{name}, resolution {way}");
                let key = key(&format!("by hand {number} {way}"));
                let before = desk.put(&key, &record).await;
                let written = match resolution {
                    Resolution::NoEffect => {
                        desk.call("oncekey_resolve_no_effect", &key, before.version, ", '2 hours'").await
                    }
                    Resolution::Completed(outcome) => {
                        let text = String::from_utf8(value(outcome).to_vec()).unwrap();
                        let failed = *outcome == Outcome::failure(text.as_str());
                        let rest = format!(", convert_to('{text}', 'UTF8'), '2 hours', failed => {failed}");
                        desk.call("oncekey_resolve_completed", &key, before.version, &rest).await
                    }
                };
                let written = written.unwrap_or_else(|refused| panic!("{what}: {refused}"));
                desk.assert_written(&what, &key, &before, resolution, keep).await;
                let entry = desk.store.load(&key).await.unwrap().unwrap();
                assert_eq!(
                    i64::try_from(entry.version.get()).unwrap(),
                    written,
                    "{what}: it answers its version"
                );

                // The same by the engine, to see that this is a fair judge.
                let key = crate::support::key(&format!("by the engine {number} {way}"));
                let before = desk.put(&key, &record).await;
                assert_eq!(dedup.resolve(&key, resolution).await.unwrap(), AdminAnswer::Done, "{what}");
                desk.assert_written(&format!("{what}, by the engine"), &key, &before, resolution, DAY).await;
            }
        }
    });
}

#[test]
fn for_ever_and_a_tail() {
    block_on(async {
        let desk = Desk::new().await;
        let record = some_record().await;
        let before = desk.put(&key("for ever"), &record).await;
        desk.call("oncekey_resolve_completed", &key("for ever"), before.version, ", '', NULL").await.unwrap();
        let entry = desk.store.load(&key("for ever")).await.unwrap().unwrap();
        assert_eq!(entry.left, Duration::MAX);

        let before = desk.put(&key("tail"), &record).await;
        desk.call("oncekey_resolve_completed", &key("tail"), before.version, ", '', '0', '1 hour'")
            .await
            .unwrap();
        let entry = desk.store.load(&key("tail")).await.unwrap().expect("it is known that it was done");
        assert_eq!(
            (format!("{:?}", entry.status()), entry.left),
            ("Expired(Completed)".to_owned(), Duration::ZERO)
        );
    });
}

/// psql resolves, and the engine goes on from there; a late completion of the old attempt bounces off.
#[test]
fn the_engine_goes_on_from_what_psql_wrote() {
    let tables = block_on(Tables::new());
    let dedup = block_on(async {
        let builder = Deduplicator::builder(tables.store()).tokio();
        builder.policy(Policy::Hold).build().unwrap()
    });
    let run = |key: &Key| {
        block_on(async {
            let request = dedup.request(key.clone()).json();
            request.run(|_| async { Ok::<_, std::io::Error>("anew".to_owned()) }).await.unwrap()
        })
    };
    for happened in [true, false] {
        let key = key(&format!("happened {happened}"));
        let mut claim = block_on(granted(&dedup, &key));
        block_on(tables.end_lease(&key));
        let answer = run(&key);
        assert!(matches!(answer, Answer::Earlier(Earlier::InDoubt { .. })), "{answer:?}");
        let version =
            psql_prints(&tables, &format!("SELECT version FROM oncekey_keys WHERE key = {}", sql_key(&key)));
        let version = version.trim();
        let channel = format!("{}.resolved", tables.name);
        let resolve = if happened {
            let outcome = "convert_to('\"receipt\"', 'UTF8')";
            format!(
                "oncekey_resolve_completed({}, {version}, {outcome}, channel => '{channel}')",
                sql_key(&key)
            )
        } else {
            format!("oncekey_resolve_no_effect({}, {version}, channel => '{channel}')", sql_key(&key))
        };
        let told = psql_prints(&tables, &format!("LISTEN \"{channel}\"; SELECT {resolve}"));
        let hex: String = key.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(told.contains(&format!("with payload \"{hex}\"")), "waiters are told: {told}");

        let answer = run(&key);
        match &answer {
            Answer::Earlier(Earlier::Replayed { value, info, .. }) if happened => {
                assert_eq!((value.as_str(), info.attempt, info.after_doubt), ("receipt", 1, false));
                assert_eq!(info.operation_id, claim.operation_id());
            }
            Answer::Executed { value, info, .. } if !happened => {
                assert_eq!((value.as_str(), info.attempt, info.after_doubt), ("anew", 2, false));
                assert_eq!(info.operation_id, claim.operation_id(), "the same operation");
            }
            other => panic!("happened: {happened}: {other:?}"),
        }
        let late = block_on(claim.complete("\"late\""));
        assert!(late.is_err(), "{late:?}");
        let kept = if happened { "receipt" } else { "anew" };
        let answer = run(&key);
        assert!(
            matches!(&answer, Answer::Earlier(Earlier::Replayed { value, .. }) if value == kept),
            "{answer:?}"
        );

        let again = psql(&tables, &format!("SELECT {resolve}")).unwrap_err();
        assert!(again.contains("nothing was changed: the record is at version"), "{again}");
    }
}

/// Whatever is not a doubt, at the version that was looked at, is left as it is.
#[test]
fn what_is_not_in_doubt_is_left_alone() {
    block_on(async {
        let desk = Desk::new().await;
        let dedup = Deduplicator::builder(desk.tables.store()).tokio().lease(DAY / 2).build().unwrap();
        let record = some_record().await;
        let mut running = granted(&dedup, &key("running")).await;
        granted(&dedup, &key("completed")).await.complete("\"x\"").await.unwrap();
        granted(&dedup, &key("released")).await.release().await.unwrap();
        granted(&dedup, &key("forgotten")).await.complete("\"x\"").await.unwrap();
        let _forgotten = dedup.forget(&key("forgotten")).await.unwrap();
        let _moved = desk.put(&key("moved on"), &record).await;
        let gone = Put::new(&record, Duration::ZERO, Duration::ZERO);
        let _gone = desk.store.compare_exchange(&key("gone"), Expected::Vacant, gone).await.unwrap();
        let sound = desk.put(&key("sound"), &record).await;
        let doubt = ", convert_to('x', 'UTF8')";
        for (id, rest, refusal) in [
            (
                "running",
                doubt,
                "55000 oncekey: nothing was changed: the operation is running, and holds its claim until 2",
            ),
            (
                "completed",
                doubt,
                "55000 oncekey: nothing was changed: there is no doubt, the operation is completed",
            ),
            (
                "released",
                doubt,
                "55000 oncekey: nothing was changed: there is no doubt, the operation is released",
            ),
            (
                "forgotten",
                doubt,
                "55000 oncekey: nothing was changed: there is no doubt, the operation is forgotten",
            ),
            ("gone", doubt, "55000 oncekey: nothing was changed: there is no record under this key"),
            ("absent", doubt, "55000 oncekey: nothing was changed: there is no record under this key"),
            ("moved on", doubt, "55000 oncekey: nothing was changed: the record is at version "),
            ("sound", ", NULL", "22004 oncekey: nothing was changed: null for an argument"),
            (
                "sound",
                ", '', '-1 second'",
                "22023 oncekey: nothing was changed: it cannot be kept for less than no time",
            ),
            ("sound", ", '', '1 second', '-1 second'", "22023 oncekey: nothing was changed"),
            ("sound", ", '', '1 second', NULL", "22004 oncekey: nothing was changed"),
        ] {
            let key = key(id);
            let found = desk.store.load(&key).await.unwrap();
            let mut version = found.map_or(Version::new(1), |entry| entry.version);
            if id == "moved on" {
                version = Version::new(version.get() - 1);
            }
            let before = desk.row(&key).await;
            let refused = desk.call("oncekey_resolve_completed", &key, version, rest).await.unwrap_err();
            assert!(refused.starts_with(refusal), "{id}{rest}: {refused}");
            assert_eq!(desk.row(&key).await, before, "{id}{rest}");
        }
        running.complete("\"on\"").await.unwrap();

        // A completion in a transaction is under way: that may be what settles it.
        let mut other = connect(database().url()).await;
        let transaction = other.transaction().await.unwrap();
        let lock = format!("SELECT 1 FROM {} WHERE key = $1 FOR UPDATE", desk.tables.records());
        transaction.query_one(&lock, &[&key("sound").as_bytes()]).await.unwrap();
        let refused =
            desk.call("oncekey_resolve_no_effect", &key("sound"), sound.version, "").await.unwrap_err();
        assert!(
            refused.starts_with("55P03 oncekey: nothing was changed: a transaction holds this row"),
            "{refused}"
        );
        transaction.rollback().await.unwrap();
        desk.call("oncekey_resolve_no_effect", &key("sound"), sound.version, "").await.unwrap();
    });
}

/// A record of a later format, and one that is damaged anywhere, is refused rather than written over.
#[test]
fn what_it_cannot_read_it_refuses() {
    block_on(async {
        let desk = Desk::new().await;
        let records = abandoned();
        let key = key("damaged");
        let sound = desk.put(&key, &records[4].1).await;
        let bytes = sound.record.as_bytes();
        let mut cases = Vec::new();
        // Each cut, also within its numbers; more than there is to say; a length beyond the end.
        for len in 0..bytes.len() {
            cases.push((bytes[..len].to_vec(), "XX001"));
        }
        cases.push(([bytes, b"x"].concat(), "XX001"));
        cases.push(([&bytes[..34], &[0xff; 40]].concat(), "XX001"));
        cases.push(([&[0], &bytes[1..]].concat(), "XX001"));
        cases.push(([&[2], &bytes[1..]].concat(), "0A000"));
        cases.push(([&[255], &bytes[1..]].concat(), "0A000"));
        for (body, code) in cases {
            let update = format!("UPDATE {} SET body = $2 WHERE key = $1", desk.tables.records());
            desk.client.execute(&update, &[&key.as_bytes(), &body]).await.unwrap();
            let before = desk.row(&key).await;
            for (function, rest) in [("oncekey_resolve_completed", ", ''"), ("oncekey_resolve_no_effect", "")]
            {
                let refused = desk.call(function, &key, sound.version, rest).await.unwrap_err();
                assert!(refused.starts_with(code), "{body:02x?}: {refused}");
                assert!(refused.contains("oncekey: nothing was changed: the record "), "{refused}");
            }
            assert_eq!(desk.row(&key).await, before);
        }
    });
}
