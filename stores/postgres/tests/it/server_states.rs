//! The states of a server, and of a session, that an error can tell of: each on a real server. A call that meets one fails
//! typed, and once the state is over the same store is served again.

use std::time::Duration;

use deadpool_postgres::{Manager, Pool};
use oncekey::store::{StoreError as _, StoreErrorKind};
use oncekey_postgres::{Error, Schema, migrate};
use oncekey_store_testing::server::{Pgbouncer, Postgres};
use tokio_postgres::{Client, NoTls};

use crate::other_server::{Claims, SIZE, claims, fill, store_over};
use crate::support::{block_on, connect, number, pid, pool_to, until};

/// A server with the tables, and a pool all of whose connections are made.
async fn set_up(url: &str) -> (Client, Pool) {
    let mut admin = connect(url).await;
    migrate(&mut admin, &Schema::of_search_path()).await.unwrap();
    let pool = pool_to(url, SIZE);
    fill(&pool).await;
    (admin, pool)
}

/// The state is over: some calls may still meet a connection that broke, each once, and then all are served.
async fn assert_served(claims: &Claims<'_>) {
    let (mut broken, mut served) = (0, 0);
    while served < SIZE * 2 {
        match claims.one().await {
            Ok(()) => served += 1,
            Err(error) => {
                assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error:?}");
                broken += 1;
                assert!(broken <= SIZE, "no call fails on a connection that another failed on: {error:?}");
            }
        }
    }
}

/// Calls until one is refused a connection with this code. Those before it may meet what broke.
async fn until_refused(claims: &Claims<'_>, code: &str) -> Error {
    let mut refused = None;
    until(code, async || {
        let error = claims.one().await.expect_err("the server is not there");
        refused = matches!(&error, Error::Connect { code: Some(said), .. } if said.code() == code)
            .then_some(error);
        refused.is_some()
    })
    .await;
    let refused = refused.unwrap();
    assert!(!refused.maybe_applied(), "nothing was sent: {refused:?}");
    refused
}

#[test]
fn a_server_that_is_starting() {
    let server = Postgres::start();
    block_on(async {
        let (_admin, pool) = set_up(server.url()).await;
        let store = store_over(&pool);
        let claims = claims(&store).await;
        claims.one().await.unwrap();
        tokio::task::block_in_place(|| server.restart_into_recovery());
        let refused = until_refused(&claims, "57P03").await;
        assert_eq!(refused.kind(), StoreErrorKind::Unavailable, "{refused:?}");
        tokio::task::block_in_place(|| server.finish_recovery());
        assert_served(&claims).await;
    });
}

#[test]
fn a_server_that_is_stopping() {
    let server = Postgres::start();
    block_on(async {
        let (_admin, pool) = set_up(server.url()).await;
        let store = store_over(&pool);
        let old = claims(&store).await;
        let late = store_over(&pool_to(server.url(), 1));
        let late = claims(&late).await;
        late.next.set(1000);
        server.stop_after_clients();
        let refused = until_refused(&late, "57P03").await;
        assert_eq!(refused.kind(), StoreErrorKind::Unavailable, "{refused:?}");
        old.one().await.expect("who was there is served");
        tokio::task::block_in_place(|| server.stop());
        assert_eq!(old.one().await.unwrap_err().kind(), StoreErrorKind::Unavailable);
        tokio::task::block_in_place(|| server.start_again());
        assert_served(&old).await;
        assert_served(&late).await;
    });
}

/// The server ends all sessions when the process of one crashes (57P02), and recovers.
#[test]
fn a_session_that_crashes_and_takes_all_others_along() {
    let server = Postgres::start();
    block_on(async {
        let (admin, pool) = set_up(server.url()).await;
        let store = store_over(&pool);
        let claims = claims(&store).await;
        claims.one().await.unwrap();
        server.kill_session(u32::try_from(pid(&admin).await).unwrap());
        until("the server ended all sessions", async || admin.is_closed()).await;
        until("it has recovered", async || match claims.one().await {
            Ok(()) => true,
            Err(error) => {
                assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error:?}");
                false
            }
        })
        .await;
        assert_served(&claims).await;
    });
}

/// The password of the service's role is changed. Sessions that are there go on; connections are refused, and once the
/// password is the one that the service has, they are made again.
#[test]
fn a_password_that_was_changed() {
    let server = Postgres::start();
    block_on(async {
        let (admin, _pool) = set_up(server.url()).await;
        let asks = "CREATE ROLE app LOGIN PASSWORD 'first'; GRANT ALL ON oncekey_records TO app; \
                    GRANT USAGE ON oncekey_versions TO app; \
                    DO $$ BEGIN EXECUTE format('COPY (VALUES (%L), (%L)) TO %L', \
                    'host all app 127.0.0.1/32 scram-sha-256', 'host all all 127.0.0.1/32 trust', \
                    current_setting('hba_file')); END $$; SELECT pg_reload_conf()";
        admin.batch_execute(asks).await.unwrap();
        let mut config: tokio_postgres::Config = server.url().parse().unwrap();
        config.user("app").password("wrong");
        until("the server asks for passwords", async || config.connect(NoTls).await.is_err()).await;
        config.password("first");
        let pool = Pool::builder(Manager::new(config, NoTls)).max_size(1).build().unwrap();
        let store = store_over(&pool);
        let claims = claims(&store).await;
        claims.one().await.unwrap();
        admin.batch_execute("ALTER ROLE app PASSWORD 'second'").await.unwrap();
        claims.one().await.expect("the session goes on");
        let sessions = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'";
        admin.batch_execute(sessions).await.unwrap();
        let refused = until_refused(&claims, "28P01").await;
        assert_eq!(refused.kind(), StoreErrorKind::Rejected, "{refused:?}");
        admin.batch_execute("ALTER ROLE app PASSWORD 'first'").await.unwrap();
        claims.one().await.unwrap();
    });
}

/// The server ends sessions that are idle (57P05), or idle in a transaction that somebody left open (25P03).
#[test]
fn sessions_that_were_idle_for_too_long() {
    block_on(async {
        for setting in ["idle_session_timeout", "idle_in_transaction_session_timeout"] {
            let database = Postgres::shared().database();
            let (admin, pool) = set_up(database.url()).await;
            let name = database.name();
            let others = format!(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND pid <> pg_backend_pid()"
            );
            let all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
                       AND pid <> pg_backend_pid()";
            admin
                .batch_execute(&format!("ALTER DATABASE {name} SET {setting} = '100ms'; {all}"))
                .await
                .unwrap();
            until("all are ended", async || number(&admin, &others).await == 0).await;
            let store = store_over(&pool);
            let claims = claims(&store).await;
            for _ in 0..2 {
                assert_served(&claims).await;
                if let Ok(left) = pool.get().await {
                    let _may_be_ended = left.batch_execute("BEGIN").await;
                }
                let session = match setting {
                    "idle_session_timeout" => others.clone(),
                    _ => format!("{others} AND state LIKE 'idle in transaction%'"),
                };
                until("the server ends what is idle", async || number(&admin, &session).await == 0).await;
            }
            assert_served(&claims).await;
        }
    });
}

/// The database is dropped, and restored under its name.
#[test]
fn a_database_that_is_gone_for_a_while() {
    let server = Postgres::start();
    block_on(async {
        let admin = connect(server.url()).await;
        admin.batch_execute("CREATE DATABASE app").await.unwrap();
        let url = server.url().replace("/postgres", "/app");
        let (session, pool) = set_up(&url).await;
        drop(session);
        let store = store_over(&pool);
        let claims = claims(&store).await;
        claims.one().await.unwrap();
        admin.batch_execute("DROP DATABASE app WITH (FORCE)").await.unwrap();
        let refused = until_refused(&claims, "3D000").await;
        assert_eq!(refused.kind(), StoreErrorKind::Rejected, "{refused:?}");
        admin.batch_execute("CREATE DATABASE app").await.unwrap();
        migrate(&mut connect(&url).await, &Schema::of_search_path()).await.unwrap();
        assert_served(&claims).await;
    });
}
