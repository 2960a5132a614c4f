//! Errors that are about the connection, and not about the call: the pool does not lend that connection on, and finds the
//! server that is the right one by now. No outage lasts until a restart of the service.

use std::time::Duration;

use deadpool_postgres::{Manager, Pool};
use oncekey::Store as _;
use oncekey::protocol::Expected;
use oncekey::store::{Exchange, Put, StoreError as _, StoreErrorKind};
use oncekey_postgres::{Error, PostgresStore, Schema, migrate};
use oncekey_store_testing::server::Postgres;
use tokio_postgres::config::{Config, TargetSessionAttrs};
use tokio_postgres::{Client, NoTls};

use crate::statements::some_record;
use crate::support::{PATIENCE, Tables, block_on, connect, database, key, number, pool_to, until};

const DAY: Duration = Duration::from_secs(86_400);
pub(crate) const SIZE: usize = 4;

/// Makes all connections that the pool has places for.
pub(crate) async fn fill(pool: &Pool) {
    let all: Vec<_> = futures::future::join_all((0..SIZE).map(|_| pool.get())).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(pool.status().size, SIZE);
}

pub(crate) fn store_over(pool: &Pool) -> PostgresStore<Pool> {
    PostgresStore::builder(pool.clone()).connection_wait(PATIENCE).build()
}

/// Claims a key of its own at each call.
pub(crate) struct Claims<'s> {
    store: &'s PostgresStore<Pool>,
    record: oncekey::protocol::Record,
    pub(crate) next: std::cell::Cell<u32>,
}

impl Claims<'_> {
    pub(crate) async fn one(&self) -> Result<(), Error> {
        let id = key(&format!("claim {}", self.next.replace(self.next.get() + 1)));
        let put = Put::new(&self.record, DAY, DAY);
        match self.store.compare_exchange(&id, Expected::Vacant, put).await? {
            Exchange::Done(_) => Ok(()),
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) async fn claims(store: &PostgresStore<Pool>) -> Claims<'_> {
    Claims { store, record: some_record().await, next: std::cell::Cell::new(0) }
}

/// A planned failover: the server that the pool is connected to takes no writes from now on, and another does. One call is
/// refused, and all that follow are served by the other.
#[test]
fn a_server_that_becomes_read_only_is_left_for_the_one_that_is_not() {
    let (before, after) = (Postgres::start(), Postgres::start());
    block_on(async {
        for server in [&before, &after] {
            migrate(&mut connect(server.url()).await, &Schema::of_search_path()).await.unwrap();
        }
        let mut config: Config = before.url().parse().unwrap();
        config.host("127.0.0.1").port(after.port()).target_session_attrs(TargetSessionAttrs::ReadWrite);
        let pool = Pool::builder(Manager::new(config, NoTls)).max_size(SIZE).build().unwrap();
        fill(&pool).await;
        let store = store_over(&pool);
        let claims = claims(&store).await;
        claims.one().await.unwrap();
        let admin = connect(before.url()).await;
        let records = "SELECT count(*) FROM oncekey_records";
        assert_eq!(number(&admin, records).await, 1);
        let session = pool.get().await.unwrap();
        admin.batch_execute("ALTER SYSTEM SET default_transaction_read_only = on").await.unwrap();
        admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        until("the setting has arrived", async || {
            session.query_one("SHOW default_transaction_read_only", &[]).await.unwrap().get::<_, String>(0)
                == "on"
        })
        .await;
        drop(session);

        let refused = claims.one().await.unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "25006", "{refused:?}");
        assert_eq!((refused.kind(), refused.maybe_applied()), (StoreErrorKind::Unavailable, false));
        let all = futures::future::join_all((0..SIZE * 2).map(|_| claims.one())).await;
        assert!(all.iter().all(Result::is_ok), "{all:?}");
        let there = number(&connect(after.url()).await, records).await;
        assert_eq!(there, i64::try_from(SIZE * 2).unwrap());
    });
}

/// As where no other takes its place: each call finds out again, and as soon as the server takes writes they are served.
#[test]
fn a_server_that_only_reads_for_a_while() {
    let server = Postgres::start();
    block_on(async {
        let database = server.database();
        let mut admin = connect(database.url()).await;
        migrate(&mut admin, &Schema::of_search_path()).await.unwrap();
        let pool = pool_to(database.url(), SIZE);
        fill(&pool).await;
        let store = store_over(&pool);
        let claims = claims(&store).await;
        let set = async |value: &str| {
            let name = database.name();
            admin
                .batch_execute(&format!(
                    "ALTER DATABASE \"{name}\" SET default_transaction_read_only = {value}"
                ))
                .await
                .unwrap();
        };
        set("on").await;
        // Sessions that were there before go on.
        terminate(&admin, database.name()).await;
        let mut refused = 0;
        until("the calls are refused", async || {
            match claims.one().await {
                Err(Error::Server { code, .. }) if code.code() == "25006" => refused += 1,
                other => assert!(refused == 0, "{other:?}"),
            }
            refused == 3
        })
        .await;
        set("off").await;
        let all = futures::future::join_all((0..SIZE * 2).map(|_| claims.one())).await;
        assert!(all.iter().all(Result::is_ok), "{all:?}");
    });
}

/// Ends the sessions of all others in this database.
async fn terminate(admin: &Client, database: &str) {
    let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()";
    admin.query(others, &[&database]).await.unwrap();
}

/// Sessions that an administrator ends: each is found out once at most.
#[test]
fn sessions_that_were_terminated() {
    block_on(async {
        let server = Postgres::shared().database();
        let mut admin = connect(server.url()).await;
        migrate(&mut admin, &Schema::of_search_path()).await.unwrap();
        let pool = pool_to(server.url(), SIZE);
        fill(&pool).await;
        let store = store_over(&pool);
        let claims = claims(&store).await;
        for _ in 0..3 {
            claims.one().await.unwrap();
            terminate(&admin, server.name()).await;
            // The client hears of some of them by itself.
            let (mut broken, mut served) = (0, 0);
            while served < SIZE * 2 {
                match claims.one().await {
                    Ok(()) => served += 1,
                    Err(error) => {
                        assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error:?}");
                        broken += 1;
                        assert!(
                            broken <= SIZE,
                            "no call fails on a connection that another failed on: {error:?}"
                        );
                    }
                }
            }
        }
    });
}

/// Somebody takes the prepared statements of a connection away: it is not lent again.
#[test]
fn a_connection_whose_prepared_statements_are_gone() {
    block_on(async {
        let tables = Tables::new().await;
        let pool = pool_to(database().url(), 1);
        let store = tables.builder(pool.clone()).named_statements(true).build();
        assert!(store.load(&key("a")).await.unwrap().is_none());
        pool.get().await.unwrap().batch_execute("DEALLOCATE ALL").await.unwrap();
        let error = store.load(&key("a")).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "26000", "{error:?}");
        assert!(store.load(&key("a")).await.unwrap().is_none(), "on another connection");
    });
}

/// A server that takes no more connections, and a role that may not log in: typed, nothing sent, and over with the reason.
#[test]
fn connections_that_are_refused_for_a_while() {
    let server = Postgres::start_with(&[("max_connections", "8"), ("superuser_reserved_connections", "0")]);
    block_on(async {
        let mut admin = connect(server.url()).await;
        migrate(&mut admin, &Schema::of_search_path()).await.unwrap();
        let pool = pool_to(server.url(), 1);
        let store = store_over(&pool);
        let claims = claims(&store).await;
        let mut others = Vec::new();
        while let Ok((client, connection)) = tokio_postgres::connect(server.url(), NoTls).await {
            others.push((client, tokio::spawn(connection)));
        }
        let refused = claims.one().await.unwrap_err();
        assert!(matches!(refused, Error::Connect { .. }), "{refused:?}");
        assert_eq!(refused.code().unwrap().code(), "53300");
        assert_eq!((refused.kind(), refused.maybe_applied()), (StoreErrorKind::Unavailable, false));
        drop(others);
        until("there is room again", async || claims.one().await.is_ok()).await;

        admin.batch_execute("CREATE ROLE app LOGIN; GRANT ALL ON oncekey_records TO app").await.unwrap();
        admin.batch_execute("GRANT USAGE ON oncekey_versions TO app").await.unwrap();
        let mut config: Config = server.url().parse().unwrap();
        config.user("app");
        let pool = Pool::builder(Manager::new(config, NoTls)).max_size(1).build().unwrap();
        let store = store_over(&pool);
        let claims = self::claims(&store).await;
        claims.next.set(1000);
        claims.one().await.unwrap();
        admin.batch_execute("ALTER ROLE app NOLOGIN").await.unwrap();
        admin
            .batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
            .await
            .unwrap();
        until("it may not log in", async || {
            let refused = claims.one().await.unwrap_err();
            matches!(&refused, Error::Connect { code: Some(code), .. } if code.code() == "28000")
                && refused.kind() == StoreErrorKind::Rejected
        })
        .await;
        admin.batch_execute("ALTER ROLE app LOGIN").await.unwrap();
        claims.one().await.unwrap();
    });
}
