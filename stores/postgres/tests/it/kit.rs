//! The conformance kit, over each way to connect.

use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

use deadpool_postgres::Pool;
use oncekey_conformance::{Abilities, Effort, Harness, Subject, Time};
use oncekey_postgres::{OneConnection, PostgresStore, Schema, migrate};
use oncekey_store_testing::server::{Database, Pgbouncer, Postgres, unique_name};

use crate::support::{LOCK_WAIT, PATIENCE, Tables, block_on, connect, database, pool_to, shared_pool};

fn time() -> Time {
    Time::real(Duration::from_millis(100), Duration::from_micros(1))
}

struct Pooled {
    named: bool,
}

impl Pooled {
    fn over(&self, tables: Tables) -> Subject<PostgresStore<Pool>, Tables> {
        let store = tables.builder(shared_pool().clone()).named_statements(self.named).build();
        Subject::guarded(store, time(), tables)
    }
}

impl Harness for Pooled {
    type Store = PostgresStore<Pool>;
    type Guard = Tables;

    fn fresh(&self) -> Subject<Self::Store, Tables> {
        self.over(block_on(Tables::new()))
    }

    fn block_on<F: Future>(&self, future: F) -> F::Output {
        block_on(future)
    }

    fn reopen(&self, guard: Tables) -> Option<Subject<Self::Store, Tables>> {
        Some(self.over(guard))
    }

    fn abilities(&self) -> Abilities {
        Abilities::default().purging()
    }

    fn effort(&self) -> Effort {
        Effort::modest()
    }
}

struct OneClient;

impl OneClient {
    fn over(tables: Tables) -> Subject<PostgresStore<OneConnection>, Tables> {
        let client = block_on(connect(database().url()));
        let store = tables.builder(OneConnection::new(client)).named_statements(true).build();
        Subject::guarded(store, time(), tables)
    }
}

impl Harness for OneClient {
    type Store = PostgresStore<OneConnection>;
    type Guard = Tables;

    fn fresh(&self) -> Subject<Self::Store, Tables> {
        Self::over(block_on(Tables::new()))
    }

    fn block_on<F: Future>(&self, future: F) -> F::Output {
        block_on(future)
    }

    fn reopen(&self, guard: Tables) -> Option<Subject<Self::Store, Tables>> {
        Some(Self::over(guard))
    }

    fn abilities(&self) -> Abilities {
        Abilities::default().purging()
    }

    fn effort(&self) -> Effort {
        Effort::modest()
    }
}

/// The cheap part of the tail.
#[test]
fn trimming() {
    oncekey_conformance::check_trimming(&Pooled { named: false }).unwrap();
    oncekey_conformance::check_trimming(&OneClient).unwrap();
}

mod pool {
    oncekey_conformance::conformance_tests!(super::Pooled { named: false });
}

mod pool_with_named_statements {
    oncekey_conformance::conformance_tests!(super::Pooled { named: true });
}

mod one_connection {
    oncekey_conformance::conformance_tests!(super::OneClient);
}

/// Through pgbouncer in transaction mode: each statement may go over another connection.
struct Bounced;

impl Bounced {
    /// The server, the database behind pgbouncer, and the pool of connections to it.
    fn pool() -> &'static (Pool, Pool) {
        static POOLS: OnceLock<(Pool, Pool)> = OnceLock::new();
        POOLS.get_or_init(|| {
            // They end with the process.
            let server: &'static Postgres = Box::leak(Box::new(Postgres::start()));
            let database: &'static Database = Box::leak(Box::new(server.database()));
            let bouncer: &'static Pgbouncer = Box::leak(Box::new(Pgbouncer::start(server, 8)));
            (pool_to(&bouncer.url(database), 16), pool_to(database.url(), 4))
        })
    }
}

impl Harness for Bounced {
    type Store = PostgresStore<Pool>;
    type Guard = Schema;

    fn fresh(&self) -> Subject<Self::Store, Schema> {
        let (bounced, direct) = Self::pool();
        let schema = Schema::named(unique_name("s")).unwrap();
        block_on(async {
            let mut client = direct.get().await.unwrap();
            migrate(&mut client, &schema).await.unwrap();
        });
        let store = PostgresStore::builder(bounced.clone()).schema(schema.clone()).connection_wait(PATIENCE);
        Subject::guarded(store.purge_grace(Duration::ZERO).lock_wait(LOCK_WAIT).build(), time(), schema)
    }

    fn block_on<F: Future>(&self, future: F) -> F::Output {
        block_on(future)
    }

    fn reopen(&self, guard: Schema) -> Option<Subject<Self::Store, Schema>> {
        let store =
            PostgresStore::builder(Self::pool().0.clone()).schema(guard.clone()).connection_wait(PATIENCE);
        Some(Subject::guarded(store.purge_grace(Duration::ZERO).lock_wait(LOCK_WAIT).build(), time(), guard))
    }

    fn abilities(&self) -> Abilities {
        Abilities::default().purging()
    }

    fn effort(&self) -> Effort {
        let mut effort = Effort::modest();
        (effort.races, effort.histories, effort.seeds) = (10, 10, 1);
        effort
    }
}

mod pgbouncer_in_transaction_mode {
    oncekey_conformance::conformance_tests!(super::Bounced);
}
