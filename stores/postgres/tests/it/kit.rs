//! The conformance kit, over each way to connect.

use std::future::Future;
use std::time::Duration;

use deadpool_postgres::Pool;
use oncekey::conformance::{Abilities, Effort, Harness, Subject, Time};
use oncekey_postgres::{OneConnection, PostgresStore};

use crate::support::{Tables, block_on, connect, database, shared_pool};

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

mod pool {
    oncekey::conformance_tests!(super::Pooled { named: false });
}

mod pool_with_named_statements {
    oncekey::conformance_tests!(super::Pooled { named: true });
}

mod one_connection {
    oncekey::conformance_tests!(super::OneClient);
}
