//! The tables: made, made twice, made by several at once, and read when they are old.

use std::time::Duration;

use oncekey::protocol::{Entry, Expected, Status};
use oncekey::store::Put;
use oncekey::{Key, Store as _};
use oncekey_postgres::{MIGRATIONS, MigrateError, PostgresStore, Schema, migrate};
use oncekey_store_testing::server::Postgres;
use tokio::task::JoinSet;

use crate::statements::{claim, some_record};
use crate::support::{PATIENCE, block_on, connect, key, number, pool_to, shared_pool, store_over};

#[test]
fn several_at_once_migrate_once() {
    let database = Postgres::shared().database();
    block_on(async {
        let schema = Schema::named("it's \"odd\" Ünïcode").unwrap();
        let mut tasks = JoinSet::new();
        for _ in 0..8 {
            let (url, schema) = (database.url().to_owned(), schema.clone());
            tasks.spawn(async move { migrate(&mut connect(&url).await, &schema).await.unwrap() });
        }
        let ran = tasks.join_all().await.concat();
        assert_eq!(ran, MIGRATIONS.iter().map(|migration| migration.number).collect::<Vec<_>>());
        let mut client = connect(database.url()).await;
        assert_eq!(migrate(&mut client, &schema).await.unwrap(), Vec::<i32>::new());
        assert_eq!(
            client.query_one("SHOW search_path", &[]).await.unwrap().get::<_, String>(0),
            "\"$user\", public"
        );

        let store = PostgresStore::builder(pool_to(database.url(), 1))
            .connection_wait(PATIENCE)
            .schema(schema.clone())
            .notify("it's")
            .unwrap()
            .build();
        let version = claim(&store, &key("a"), &some_record().await).await;
        assert_eq!(store.load(&key("a")).await.unwrap().unwrap().version, version);

        client
            .batch_execute("INSERT INTO \"it's \"\"odd\"\" Ünïcode\".oncekey_migrations VALUES (9999)")
            .await
            .unwrap();
        let newer = migrate(&mut client, &schema).await.unwrap_err();
        assert!(matches!(newer, MigrateError::Newer { found: 9999, .. }), "{newer:?}");
    });
}

/// By psql's way: the files as they are, on the search path.
#[test]
fn the_files_run_as_they_are() {
    let database = Postgres::shared().database();
    block_on(async {
        let mut client = connect(database.url()).await;
        for migration in MIGRATIONS {
            client.batch_execute(migration.sql).await.unwrap();
        }
        assert_eq!(migrate(&mut client, &Schema::of_search_path()).await.unwrap(), Vec::<i32>::new());
        let store = store_over(pool_to(database.url(), 1));
        let _version = claim(&store, &key("a"), &some_record().await).await;
        // Nothing that a renewal or a completion changes is in an index, or they would not be HOT.
        let columns = "SELECT count(*) FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) \
                       WHERE i.indrelid = 'oncekey_records'::regclass AND a.attname NOT IN ('key', 'row_id')";
        assert_eq!(number(&client, columns).await, 0);
    });
}

#[test]
fn a_failed_migration_changes_nothing() {
    let database = Postgres::shared().database();
    block_on(async {
        let mut client = connect(database.url()).await;
        client.batch_execute("CREATE TABLE oncekey_records (mine int)").await.unwrap();
        let refused = migrate(&mut client, &Schema::of_search_path()).await.unwrap_err();
        assert!(matches!(refused, MigrateError::Database(_)), "{refused:?}");
        let rest = "SELECT count(*) FROM pg_class WHERE relname LIKE 'oncekey%'";
        assert_eq!(number(&client, rest).await, 1, "its own table only");
    });
}

/// Rows that the first release of schema 1 wrote, in each state, are read by this version after its migrations; later
/// ones may not change the file.
#[test]
fn rows_of_schema_1_are_read() {
    let database = Postgres::shared().database();
    block_on(async {
        let mut client = connect(database.url()).await;
        client.batch_execute(MIGRATIONS[0].sql).await.unwrap();
        client.batch_execute(include_str!("../fixtures/schema-1.sql")).await.unwrap();
        let _ran = migrate(&mut client, &Schema::of_search_path()).await.unwrap();
        let store = store_over(pool_to(database.url(), 1));
        for (id, judged, attempt) in [
            ("in progress", "InProgress", 1),
            ("abandoned", "Expired(Abandoned)", 1),
            ("completed", "Completed", 1),
            ("failed", "Completed", 2),
            ("released", "Expired(Released)", 1),
            ("forgotten", "Expired(Forgotten)", 1),
        ] {
            let key = Key::scoped(["old", "tenant/1"], id).unwrap();
            let entry: Entry = store.load(&key).await.unwrap().unwrap_or_else(|| panic!("{id} is not there"));
            let found: Status = entry.status();
            assert_eq!((format!("{found:?}"), entry.record.attempt()), (judged.to_owned(), attempt), "{id}");
            let people = "SELECT concat_ws(' ', operation_id, policy, attempt, scope, id) FROM oncekey_keys WHERE key = $1";
            let people: String = client.query_one(people, &[&key.as_bytes()]).await.unwrap().get(0);
            let operation = entry.record.operation_id();
            assert_eq!(people, format!("{operation} reclaim {attempt} old/tenant\\/1 {id}"));
            if let Some(outcome) = entry.record.outcome() {
                assert!(format!("{outcome:?}").contains("Payload(9 bytes)"), "{id}: {outcome:?}");
            }
            // And can be written over, with a greater version.
            let put = Put::new(&entry.record, Duration::from_secs(60), Duration::ZERO);
            let done = store.compare_exchange(&key, Expected::At(entry.version), put).await.unwrap();
            assert!(matches!(done, oncekey::store::Exchange::Done(version) if version > entry.version));
        }
    });
}

/// Tables are out there that were made by these files: whoever needs other ones adds a file.
#[test]
fn what_was_released_is_as_it_was() {
    const RULE: &str = "changed? Take the change back, and write `sql/0002_*.sql` instead";
    let hash = |text: &str| {
        let digest = oncekey::Fingerprint::sha256(text.replace("\r\n", "\n").as_bytes());
        digest.digest().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let released = ["cc2821dd7e0d5b878405a4efedf1fc21ccf4234f6252c328071cfa4145c0f0a7"];
    assert!(MIGRATIONS.len() >= released.len(), "a file is gone");
    for (migration, released) in MIGRATIONS.iter().zip(released) {
        assert_eq!(hash(migration.sql), released, "{}: {RULE}", migration.name);
    }
    let fixture = hash(include_str!("../fixtures/schema-1.sql"));
    let released = "37174aceb7de553cbc497c5ec18fd72044bd4576267945db0490d2de39c1f319";
    assert_eq!(fixture, released, "tests/fixtures/schema-1.sql: {RULE}, with a fixture of its own");
}

/// Writes the fixture of schema 1.
#[test]
#[ignore = "writes tests/fixtures/schema-1.sql, which was done once"]
fn write_rows_of_schema_1() {
    use oncekey::Deduplicator;
    use std::fmt::Write as _;
    block_on(async {
        let tables = crate::support::Tables::new().await;
        let engine = |lease| {
            Deduplicator::builder(tables.builder(shared_pool().clone()).build())
                .tokio()
                .lease(lease)
                .build()
                .unwrap()
        };
        let dedup = engine(Duration::from_secs(300));
        let brief = engine(Duration::from_millis(50));
        let key = |id| Key::scoped(["old", "tenant/1"], id).unwrap();
        let mut kept = vec![crate::support::granted(&dedup, &key("in progress")).await];
        drop(crate::support::granted(&brief, &key("abandoned")).await);
        crate::support::granted(&dedup, &key("completed")).await.complete("\"receipt\"").await.unwrap();
        crate::support::granted(&dedup, &key("failed")).await.release().await.unwrap();
        crate::support::granted(&dedup, &key("failed")).await.fail("\"refused\"").await.unwrap();
        crate::support::granted(&dedup, &key("released")).await.release().await.unwrap();
        crate::support::granted(&dedup, &key("forgotten")).await.complete("\"x\"").await.unwrap();
        let _forgotten = dedup.forget(&key("forgotten")).await.unwrap();
        let client = connect(crate::support::database().url()).await;
        let rows = format!(
            "SELECT format('INSERT INTO oncekey_records (key, version, live_until, gone_at, updated_at, created_at, finished_at, \
             attempt, state, scope, id, operation_id, policy, body) VALUES (%L, %s, %s, %s, now(), %L, %L, %s, %L, %L, %L, %L, %L, %L);', key, version, \
             CASE WHEN state IN ('completed', 'failed', 'in progress') AND id <> 'abandoned' THEN '''infinity''' ELSE 'now()' END, \
             '''infinity''', created_at, finished_at, attempt, state, scope, id, operation_id, policy, body) FROM {} ORDER BY row_id",
            tables.records()
        );
        let mut file =
            String::from("-- Rows of schema 1, as its first release wrote them. Never change this file.\n");
        for row in client.query(&rows, &[]).await.unwrap() {
            writeln!(file, "{}", row.get::<_, String>(0)).unwrap();
        }
        writeln!(file, "SELECT setval('oncekey_versions', 100);").unwrap();
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/schema-1.sql"), file).unwrap();
        kept.clear();
    });
}
