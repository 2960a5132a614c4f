//! What goes wrong: a typed error that says so, the operation not run, and recovery.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oncekey::store::{DurabilityClass, Exchange, Put, StoreError as _, StoreErrorKind};
use oncekey::{Deduplicator, Expected, RunError, Store as _};
use oncekey_postgres::{Error, Finding, Inbox, OneConnection, PostgresStore, Schema, Wait, migrate};
use oncekey_store_testing::server::Postgres;

use crate::statements::{claim, some_record};
use crate::support::{Tables, block_on, connect, database, key, pool_to, until_waiting};

const DAY: Duration = Duration::from_secs(86_400);

/// The URL of the test's database with settings of the session.
fn with_options(options: &str) -> String {
    let url = database().url();
    let sign = if url.contains('?') { '&' } else { '?' };
    format!("{url}{sign}options={}", options.replace(' ', "%20").replace('=', "%3D"))
}

#[test]
fn without_tables_it_says_to_migrate() {
    block_on(async {
        let store = PostgresStore::builder(crate::support::shared_pool().clone())
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

        let dedup = Deduplicator::builder(store).tokio().claim_tries(1).build().unwrap();
        let ran = AtomicBool::new(false);
        let run = || {
            dedup.request(key("a")).json().run(|_| async {
                ran.store(true, Ordering::SeqCst);
                Ok::<_, std::io::Error>(1)
            })
        };
        let refused = run().await.unwrap_err();
        assert!(matches!(refused, RunError::Claim { .. }), "{refused:?}");
        assert!(!ran.load(Ordering::SeqCst), "the operation is not run unclaimed");
        drop(held);
        assert!(run().await.unwrap().ran_now());
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
        let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
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
        until_waiting(&observer, 1).await;
        observer.execute("SELECT pg_terminate_backend($1)", &[&pid]).await.unwrap();
        let broken = waiting.await.unwrap().unwrap_err();
        assert!(matches!(broken, Error::Broken { .. }), "{broken:?}");
        assert_eq!((broken.kind(), broken.maybe_applied()), (StoreErrorKind::Unavailable, true));

        let mut closed = store.load(&key("a")).await.unwrap_err();
        // The driver's task sees the end a moment later.
        for _ in 0..200 {
            if matches!(closed, Error::Closed) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
            closed = store.load(&key("a")).await.unwrap_err();
        }
        assert!(matches!(closed, Error::Closed), "{closed:?}");
        assert_eq!((closed.kind(), closed.maybe_applied()), (StoreErrorKind::Unavailable, false));
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
        let _version = claim(&hasty, &key("held"), &record).await;
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
            let stale = Expected::At(oncekey::Version::new(version.get() + 1));
            let exchanged = store.compare_exchange(&key("a"), stale, put).await.unwrap_err();
            for error in [loaded, claimed, exchanged] {
                assert_eq!((error.kind(), error.maybe_applied()), (kind, false), "{error:?}");
                assert!(error.to_string().contains("scope `test`"), "{error}");
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
