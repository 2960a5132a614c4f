//! What goes wrong: a typed error that says so, the operation not run, and recovery.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oncekey::protocol::Expected;
use oncekey::store::{
    BatchPut, DurabilityClass, Exchange, ListInDoubt as _, Put, StoreError as _, StoreErrorKind,
};
use oncekey::{Deduplicator, RunError, Store as _};
use oncekey_postgres::{Error, Finding, Inbox, OneConnection, PostgresStore, Schema, Wait, migrate};
use oncekey_store_testing::proxy::{Mode, Proxy};
use oncekey_store_testing::server::Postgres;

use crate::statements::{claim, some_record};
use crate::support::{
    PATIENCE, Tables, block_on, connect, database, key, number, pid, pool_to, shared_pool, until,
    until_waiting,
};

const DAY: Duration = Duration::from_secs(86_400);

/// The URL of the test's database with settings of the session.
pub(crate) fn with_options(options: &str) -> String {
    let url = database().url();
    let sign = if url.contains('?') { '&' } else { '?' };
    format!("{url}{sign}options={}", options.replace(' ', "%20").replace('=', "%3D"))
}

#[test]
fn without_tables_it_says_to_migrate() {
    block_on(async {
        let store = PostgresStore::builder(shared_pool().clone())
            .schema(Schema::named("no such schema").unwrap())
            .build();
        let record = some_record().await;
        let put = Put::new(&record, DAY, DAY);
        let claimed = store.compare_exchange(&key("a"), Expected::Vacant, put).await.unwrap_err();
        let loaded = store.load(&key("a")).await.unwrap_err();
        let checked = store.check().await.unwrap_err();
        for error in [claimed, loaded, checked] {
            assert_eq!((error.kind(), error.maybe_applied()), (StoreErrorKind::Rejected, false), "{error:?}");
            assert!(error.to_string().contains("run `migrate`"), "{error}");
        }
    });
}

/// The pool is held by others: a call is refused in time, the operation does not run; then it does.
#[test]
fn an_exhausted_pool_is_an_error_and_passes() {
    block_on(async {
        let tables = Tables::new().await;
        let pool = pool_to(database().url(), 1);
        let store = tables.builder(pool.clone()).connection_wait(Duration::from_millis(100)).build();
        let held = pool.get().await.unwrap();
        let error = store.load(&key("a")).await.unwrap_err();
        assert!(matches!(error, Error::PoolExhausted { .. }), "{error:?}");
        assert_eq!((error.kind(), error.maybe_applied()), (StoreErrorKind::Unavailable, false));
        assert!(error.to_string().contains("enlarge the pool"), "{error}");

        // A busy server may need longer than that for the run that must succeed.
        let patient = tables.builder(pool).build();
        let engine = |store| {
            Deduplicator::builder(store).tokio().call_timeout(Duration::from_secs(5)).build().unwrap()
        };
        let (hasty, patient) = (engine(store), engine(patient));
        let ran = AtomicBool::new(false);
        let run = async |dedup: &Deduplicator<_>| {
            let request = dedup.request(key("a")).json();
            let operation = |_| async {
                ran.store(true, Ordering::SeqCst);
                Ok::<_, std::io::Error>(1)
            };
            request.run(operation).await
        };
        let refused = run(&hasty).await.unwrap_err();
        assert!(matches!(refused, RunError::Claim { .. }), "{refused:?}");
        assert!(!ran.load(Ordering::SeqCst), "the operation is not run unclaimed");
        drop(held);
        assert!(run(&patient).await.unwrap().ran_now());
    });
}

#[test]
fn a_server_that_is_not_there() {
    block_on(async {
        // Nobody may listen on port 1.
        let nobody = "postgres://nobody@127.0.0.1:1/none";
        let store = PostgresStore::new(pool_to(nobody, 2));
        let error = store.load(&key("a")).await.unwrap_err();
        assert!(matches!(error, Error::Connect { .. }), "{error:?}");
        assert_eq!((error.kind(), error.maybe_applied()), (StoreErrorKind::Unavailable, false));
        assert!(error.to_string().contains("refused"), "{error}");
    });
}

/// A connection that is known to be closed: nothing is sent. One that breaks under a call: nobody knows.
#[test]
fn a_connection_that_closes_before_a_call_and_during_it() {
    block_on(async {
        let tables = Tables::new().await;
        let observer = connect(database().url()).await;
        let inbox = Inbox::new(tables.schema.clone()).wait(Wait::Always);
        let mut holder = connect(database().url()).await;
        let holding = holder.transaction().await.unwrap();
        let _ticket = inbox.claim(&holding, &key("held"), None).await.unwrap();

        let client = connect(database().url()).await;
        let waits = pid(&client).await;
        let store = std::sync::Arc::new(
            tables.builder(OneConnection::new(client)).lock_wait(Duration::from_secs(60)).build(),
        );
        let waiting = tokio::spawn({
            let store = std::sync::Arc::clone(&store);
            async move {
                let record = some_record().await;
                store.compare_exchange(&key("held"), Expected::Vacant, Put::new(&record, DAY, DAY)).await
            }
        });
        until_waiting(&observer, waits).await;
        observer.execute("SELECT pg_terminate_backend($1)", &[&waits]).await.unwrap();
        let broken = waiting.await.unwrap().unwrap_err();
        assert!(matches!(broken, Error::Broken { .. }), "{broken:?}");
        assert_eq!((broken.kind(), broken.maybe_applied()), (StoreErrorKind::Unavailable, true));

        let mut closed = store.load(&key("a")).await.unwrap_err();
        // The driver's task sees the end a moment later.
        until("the connection is known to be closed", async || {
            closed = store.load(&key("a")).await.unwrap_err();
            matches!(closed, Error::Closed)
        })
        .await;
        assert_eq!((closed.kind(), closed.maybe_applied()), (StoreErrorKind::Unavailable, false));
    });
}

/// A server that went away without a word: the connection that a call gave up on leaves the pool, and the next call has
/// another. A call that is dropped at once takes nothing along, if it is answered in time.
#[test]
fn a_connection_that_no_longer_answers_leaves_the_pool() {
    let server = Postgres::start();
    block_on(async {
        let database = server.database();
        migrate(&mut connect(database.url()).await, &Schema::of_search_path()).await.unwrap();
        let proxy = Proxy::start(server.addr());
        let pool = pool_to(&proxy.url(database.url()), 1);
        let lock_wait = Duration::from_millis(500);
        let store =
            PostgresStore::builder(pool.clone()).lock_wait(lock_wait).connection_wait(PATIENCE).build();
        assert!(store.load(&key("a")).await.unwrap().is_none());
        assert_eq!((proxy.connections(), pool.status().size), (1, 1));

        proxy.set(Mode::StallAnswers);
        let brief = tokio::time::timeout(lock_wait / 10, store.load(&key("a"))).await;
        assert!(brief.is_err());
        assert_eq!(pool.status().size, 1, "it may just have been slow");
        let long = tokio::time::timeout(lock_wait * 2, store.load(&key("a"))).await;
        assert!(long.is_err());
        // It keeps its place for some seconds, in which it might answer.
        assert_eq!(pool.status().size, 1);
        until("it leaves the pool", async || pool.status().size == 0).await;
        proxy.set(Mode::Pass);
        assert!(store.load(&key("a")).await.unwrap().is_none());
        assert_eq!(pool.status().size, 1);
        let connections = proxy.connections();
        // Slow is not dead.
        let version = claim(&store, &key("slow"), &some_record().await).await;
        let mut holder = connect(database.url()).await;
        let holding = holder.transaction().await.unwrap();
        holding.batch_execute("LOCK oncekey_records").await.unwrap();
        let slow = tokio::spawn(async move { (store.load(&key("slow")).await, store) });
        tokio::time::sleep(lock_wait * 2).await;
        assert!(!slow.is_finished());
        holding.rollback().await.unwrap();
        let (loaded, _store) = slow.await.unwrap();
        assert_eq!(loaded.unwrap().unwrap().version, version);
        assert_eq!((proxy.connections(), pool.status().size), (connections, 1));
    });
}

/// The codes by which a server, or a pooler, says that it does not know: never taken for "not applied".
#[test]
fn what_is_not_known_is_never_told_as_rolled_back() {
    block_on(async {
        let tables = Tables::new().await;
        // What was rolled back is tried again meanwhile.
        let store = tables.builder(shared_pool().clone()).lock_wait(Duration::from_millis(50)).build();
        let client = connect(database().url()).await;
        let record = some_record().await;
        let put = Put::new(&record, DAY, DAY);
        for (code, unknown) in [
            ("08000", true),
            ("08003", true),
            ("08006", true),
            ("08007", true),
            ("08P01", true),
            ("40003", true),
            ("40001", false),
            ("40P01", false),
            ("23505", false),
        ] {
            let raise = format!(
                "CREATE OR REPLACE FUNCTION \"{0}\".raise() RETURNS trigger LANGUAGE plpgsql AS \
                 $$ BEGIN RAISE 'as told' USING ERRCODE = '{code}'; END $$; \
                 DROP TRIGGER IF EXISTS raise ON {1}; CREATE TRIGGER raise BEFORE INSERT ON {1} FOR EACH ROW EXECUTE FUNCTION \"{0}\".raise()",
                tables.name,
                tables.records()
            );
            client.batch_execute(&raise).await.unwrap();
            let key = key(code);
            let alone = store.compare_exchange(&key, Expected::Vacant, put).await.unwrap_err();
            let batch = [BatchPut::new(&key, Expected::Vacant, put)];
            let batch = store.compare_exchange_many(&batch).await.remove(0).unwrap_err();
            for error in [alone, batch] {
                assert_eq!(error.code().unwrap().code(), code, "{error:?}");
                assert_eq!(error.maybe_applied(), unknown, "{error:?}");
                assert_eq!(matches!(error, Error::Broken { .. }), unknown, "{error:?}");
            }
        }
    });
}

/// As behind a pooler that does not keep prepared statements: the error says what to do.
#[test]
fn a_prepared_statement_that_is_not_there() {
    block_on(async {
        let tables = Tables::new().await;
        let client = std::sync::Arc::new(connect(database().url()).await);
        let store =
            tables.builder(OneConnection::new(std::sync::Arc::clone(&client))).named_statements(true).build();
        assert!(store.load(&key("a")).await.unwrap().is_none());
        client.batch_execute("DEALLOCATE ALL").await.unwrap();
        let error = store.load(&key("a")).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "26000");
        assert_eq!((error.kind(), error.maybe_applied()), (StoreErrorKind::Rejected, false));
        assert!(error.to_string().contains("leave `named_statements` off, or use pgbouncer 1.21"), "{error}");
    });
}

/// Listed with those around it, by its row_id, which the error of a call for its key names too.
#[test]
fn a_damaged_row_does_not_end_a_listing() {
    block_on(async {
        let tables = Tables::new().await;
        let store = tables.store();
        let record = some_record().await;
        let client = connect(database().url()).await;
        for id in ["a", "b", "c", "d"] {
            let put = Put::new(&record, Duration::ZERO, DAY);
            let _done = store.compare_exchange(&key(id), Expected::Vacant, put).await.unwrap();
        }
        let records = tables.records();
        client.batch_execute(&format!("UPDATE {records} SET body = '\\x00' WHERE id = 'b'")).await.unwrap();
        client.batch_execute(&format!("UPDATE {records} SET key = '\\x09' WHERE id = 'c'")).await.unwrap();
        let row_of =
            |id: &str| format!("SELECT row_id FROM \"{}\".oncekey_keys WHERE id = '{id}'", tables.name);
        let (b, c) = (number(&client, &row_of("b")).await, number(&client, &row_of("c")).await);
        for limit in [1, 2, 100] {
            let (mut cursor, mut ids, mut damaged, mut listed) = (None, Vec::new(), Vec::new(), Vec::new());
            loop {
                let found = store.in_doubt(cursor, limit).await.unwrap();
                ids.extend(found.page.entries.iter().map(|(key, _)| key.id().to_owned()));
                damaged.extend(found.damaged);
                let page = store.list_in_doubt(cursor, limit).await.unwrap();
                listed.extend(page.entries.iter().map(|(key, _)| key.id().to_owned()));
                assert_eq!(page.next, found.page.next);
                cursor = page.next;
                if cursor.is_none() {
                    break;
                }
            }
            assert_eq!(ids, ["a", "d"], "{limit}");
            assert_eq!(listed, ["a", "d"], "{limit}");
            assert!(matches!(damaged[0], Error::Record { row_id, .. } if row_id == b), "{damaged:?}");
            assert!(matches!(damaged[1], Error::Key { row_id, .. } if row_id == c), "{damaged:?}");
            assert_eq!(damaged.len(), 2, "{limit}: {damaged:?}");
        }
        for error in [
            store.load(&key("b")).await.unwrap_err(),
            store
                .compare_exchange(&key("b"), Expected::Vacant, Put::new(&record, DAY, DAY))
                .await
                .unwrap_err(),
        ] {
            assert!(error.to_string().contains(&format!("with row_id {b},")), "{error}");
        }
    });
}

#[test]
fn what_the_server_refuses_was_not_applied() {
    block_on(async {
        let tables = Tables::new().await;
        let record = some_record().await;
        let put = Put::new(&record, DAY, DAY);

        let read_only =
            tables.builder(pool_to(&with_options("-c default_transaction_read_only=on"), 1)).build();
        let error = read_only.compare_exchange(&key("a"), Expected::Vacant, put).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "25006");
        assert_eq!((error.kind(), error.maybe_applied()), (StoreErrorKind::Unavailable, false));
        assert!(error.to_string().contains("primary"), "{error}");
        let checked = read_only.check().await.unwrap();
        assert!(checked.findings.contains(&Finding::ReadOnly), "{checked:?}");

        let inbox = Inbox::new(tables.schema.clone()).wait(Wait::Always);
        let mut holder = connect(database().url()).await;
        let holding = holder.transaction().await.unwrap();
        let _ticket = inbox.claim(&holding, &key("held"), None).await.unwrap();
        let hasty = tables
            .builder(pool_to(&with_options("-c statement_timeout=200"), 1))
            .lock_wait(Duration::from_secs(60))
            .build();
        let error = hasty.compare_exchange(&key("held"), Expected::Vacant, put).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "57014");
        assert_eq!((error.kind(), error.maybe_applied()), (StoreErrorKind::TimedOut, false));
        holding.rollback().await.unwrap();
        // And indeed it was not.
        let _version = claim(&tables.store(), &key("held"), &record).await;
    });
}

/// The rights that the message and the README name are enough for a whole life, and fewer are an error that says so.
#[test]
fn the_rights_that_are_named_suffice() {
    block_on(async {
        let tables = Tables::new().await;
        let admin = connect(database().url()).await;
        let role = oncekey_store_testing::server::unique_name("app");
        let schema = &tables.name;
        admin
            .batch_execute(&format!("CREATE ROLE {role}; GRANT USAGE ON SCHEMA \"{schema}\" TO {role}"))
            .await
            .unwrap();
        // As a role of a session: the server may ask that role for a password.
        let store = tables.builder(pool_to(&with_options(&format!("-c role={role}")), 1)).build();
        let record = some_record().await;
        let put = Put::new(&record, Duration::ZERO, Duration::ZERO);
        let error = store.compare_exchange(&key("a"), Expected::Vacant, put).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "42501");
        assert_eq!((error.kind(), error.maybe_applied()), (StoreErrorKind::Rejected, false));
        assert!(error.to_string().contains("grant SELECT, INSERT, UPDATE and DELETE"), "{error}");

        admin
            .batch_execute(&format!(
                "GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {role}; \
                 GRANT USAGE ON \"{schema}\".oncekey_versions TO {role}",
                tables.records()
            ))
            .await
            .unwrap();
        let done = store.compare_exchange(&key("a"), Expected::Vacant, put).await.unwrap();
        assert!(matches!(done, Exchange::Done(_)));
        let version = claim(&store, &key("a"), &record).await;
        let done = store.compare_exchange(&key("a"), Expected::At(version), put).await.unwrap();
        assert!(matches!(done, Exchange::Done(_)));
        assert_eq!(store.purge(10).await.unwrap().removed, 1);
        drop(store);
        admin.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
    });
}

/// A row that does not decode is an error, and never an absent entry: nothing may run again over it.
#[test]
fn a_damaged_row_is_never_an_absent_one() {
    block_on(async {
        let tables = Tables::new().await;
        let store = tables.store();
        let record = some_record().await;
        let put = Put::new(&record, DAY, DAY);
        let version = claim(&store, &key("a"), &record).await;
        let client = connect(database().url()).await;
        for (body, kind) in [("'\\x00'", StoreErrorKind::Corrupt), ("'\\xff0102'", StoreErrorKind::Newer)] {
            client.batch_execute(&format!("UPDATE {} SET body = {body}", tables.records())).await.unwrap();
            let loaded = store.load(&key("a")).await.unwrap_err();
            let claimed = store.compare_exchange(&key("a"), Expected::Vacant, put).await.unwrap_err();
            let stale = Expected::At(oncekey::protocol::Version::new(version.get() + 1));
            let exchanged = store.compare_exchange(&key("a"), stale, put).await.unwrap_err();
            for error in [loaded, claimed, exchanged] {
                assert_eq!((error.kind(), error.maybe_applied()), (kind, false), "{error:?}");
                assert!(error.to_string().contains("scope `test`, with row_id 1,"), "{error}");
            }
        }
    });
}

#[test]
fn a_check_reads_what_the_server_is_set_to() {
    let unsafe_server = Postgres::start_with(&[("fsync", "off"), ("full_page_writes", "off")]);
    block_on(async {
        let tables = Tables::new().await;
        let checked = tables.store().check().await.unwrap();
        assert_eq!(checked.findings, [], "{checked:?}");
        assert!(checked.durability >= DurabilityClass::Disk, "{checked:?}");
        let hasty = tables.builder(pool_to(&with_options("-c synchronous_commit=off"), 1)).build();
        let checked = hasty.check().await.unwrap();
        assert_eq!(checked.findings, [Finding::SynchronousCommitOff]);
        assert_eq!(checked.durability, DurabilityClass::Machine);

        let strict = pool_to(&with_options("-c default_transaction_isolation=serializable"), 4);
        let checked = tables.builder(strict).build().check().await.unwrap();
        assert_eq!(checked.findings.len(), 1);
        assert!(checked.findings[0].to_string().contains("is serializable"), "{checked:?}");

        let mut client = connect(unsafe_server.url()).await;
        migrate(&mut client, &Schema::of_search_path()).await.unwrap();
        client.batch_execute("DELETE FROM oncekey_migrations").await.unwrap();
        let checked = PostgresStore::new(std::sync::Arc::new(client)).check().await.unwrap();
        assert_eq!(checked.durability, DurabilityClass::Machine);
        let texts: Vec<_> = checked.findings.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 3, "{texts:?}");
        for (text, part) in texts.iter().zip(["run `migrate`", "fsync is off", "full_page_writes is off"]) {
            assert!(text.contains(part), "{text}");
        }
    });
}
