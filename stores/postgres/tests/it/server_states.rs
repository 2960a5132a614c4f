//! The states of a server, and of a session, that an error can tell of: each on a real server. A call that meets one fails
//! typed, and once the state is over the same store is served again.

use std::net::SocketAddr;
use std::sync::Arc;

use deadpool_postgres::{Manager, Pool};
use oncekey::store::{StoreError as _, StoreErrorKind};
use oncekey_postgres::{Error, Schema, migrate};
use oncekey_store_testing::server::{Pgbouncer, Postgres};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
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
        refused =
            matches!(&error, Error::Connect { code: Some(said), .. } if said.code() == code).then_some(error);
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
        let ended = "all server processes terminated";
        until("the server ended all sessions", async || server.log().contains(ended)).await;
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
    let server = Postgres::start();
    block_on(async {
        for setting in ["idle_session_timeout", "idle_in_transaction_session_timeout"] {
            let database = server.database();
            let (admin, pool) = set_up(database.url()).await;
            let name = database.name();
            let others = format!(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND pid <> pg_backend_pid()"
            );
            let all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
                       AND pid <> pg_backend_pid()";
            admin.batch_execute(&format!("ALTER DATABASE {name} SET {setting} = '2s'; {all}")).await.unwrap();
            until("all are ended", async || number(&admin, &others).await == 0).await;
            let store = store_over(&pool);
            let claims = claims(&store).await;
            assert_served(&claims).await;
            let idle = if setting == "idle_session_timeout" {
                others
            } else {
                pool.get().await.unwrap().batch_execute("BEGIN").await.unwrap();
                format!("{others} AND state LIKE 'idle in transaction%'")
            };
            until("the server ends what is idle", async || number(&admin, &idle).await == 0).await;
            assert_served(&claims).await;
        }
    });
}

/// pgbouncer is there, and its server is not (08P01). It lets calls wait, for two seconds here, and goes on to connect.
#[test]
fn a_pooler_whose_server_is_away() {
    let server = Postgres::start();
    let database = server.database();
    let bouncer =
        Pgbouncer::start_with(&server, 2, &[("query_wait_timeout", "2"), ("server_login_retry", "1")]);
    block_on(async {
        drop(set_up(database.url()).await);
        let pool = pool_to(&bouncer.url(&database), SIZE);
        let store = store_over(&pool);
        let claims = claims(&store).await;
        claims.one().await.unwrap();
        tokio::task::block_in_place(|| server.kill());
        let mut seen = Vec::new();
        until("the pooler tells that its server is away", async || {
            let error = claims.one().await.expect_err("the server is not there");
            assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error:?}");
            seen.push(error.code().map(|code| code.code().to_owned()));
            seen.contains(&Some("08P01".to_owned()))
        })
        .await;
        tokio::task::block_in_place(|| server.start_again());
        until("the pooler has found its server", async || claims.one().await.is_ok()).await;
        assert_served(&claims).await;
    });
}

/// What the server sends is not what was asked for: once what is no message at all, and once the end of an answer that
/// nobody asked for. A call on that connection would read the answer of the one before.
#[test]
fn a_connection_whose_protocol_is_out_of_step() {
    const NO_MESSAGE: &[u8] = &[0xff; 16];
    const READY: &[u8] = b"Z\0\0\0\x05I";
    let server = Postgres::start();
    block_on(async {
        drop(set_up(server.url()).await);
        let (relay, next) = relay(server.addr()).await;
        let pool = pool_to(&server.url().replace(&server.addr().to_string(), &relay.to_string()), 1);
        let store = store_over(&pool);
        let claims = claims(&store).await;
        for junk in [NO_MESSAGE, READY] {
            claims.one().await.unwrap();
            *next.lock() = Some(junk);
            let broken = claims.one().await.unwrap_err();
            assert!(matches!(broken, Error::Broken { .. }), "{broken:?}");
            assert_eq!((broken.kind(), broken.maybe_applied()), (StoreErrorKind::Unavailable, true));
            // On another connection, each with an answer of its own.
            for _ in 0..3 {
                claims.one().await.unwrap();
            }
        }
    });
}

type Junk = Arc<Mutex<Option<&'static [u8]>>>;

/// Passes everything on, and puts these bytes before the next answer.
async fn relay(server: SocketAddr) -> (SocketAddr, Junk) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, next) = (listener.local_addr().unwrap(), Junk::default());
    let junk = Arc::clone(&next);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (mut asks, mut answered) = client.into_split();
            let (mut answers, mut asked) = TcpStream::connect(server).await.unwrap().into_split();
            tokio::spawn(async move { tokio::io::copy(&mut asks, &mut asked).await });
            let junk = Arc::clone(&junk);
            tokio::spawn(async move {
                let mut bytes = vec![0; 1 << 16];
                while let Ok(len @ 1..) = answers.read(&mut bytes).await {
                    let before = junk.lock().take().unwrap_or_default();
                    if answered.write_all(&[before, &bytes[..len]].concat()).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    (addr, next)
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
