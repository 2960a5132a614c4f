//! A primary and its standby: the primary is killed, the standby is promoted, and the services go on without a restart.

mod asynchronous;
mod load;
mod synchronous;

use std::convert::Infallible;
use std::time::Duration;

use deadpool_postgres::Pool;
use oncekey::{Answer, Attempt, Deduplicator, DeduplicatorBuilder, RunError};
use oncekey_postgres::{PostgresStore, Schema, migrate};
use oncekey_store_testing::server::Postgres;

use crate::support::{block_on, connect, pool_to};

const STANDBY: &str = "standby_1";

/// How long a call goes on against a store that fails: short, so that calls are refused well within a lease.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);

type Service = Deduplicator<PostgresStore<Pool>>;

/// A primary with the tables, and a standby that follows it.
struct Pair {
    primary: Postgres,
    standby: Postgres,
}

impl Pair {
    /// Acknowledged is what the primary has.
    fn asynchronous() -> Self {
        let primary = Postgres::start();
        block_on(async {
            migrate(&mut connect(primary.url()).await, &Schema::of_search_path()).await.unwrap();
        });
        let standby = primary.start_standby(STANDBY);
        standby.catch_up_with(&primary);
        Self { primary, standby }
    }

    /// Acknowledged is what both have.
    fn synchronous() -> Self {
        let pair = Self::asynchronous();
        pair.primary.wait_for_standby(STANDBY);
        pair
    }

    /// As a service is configured: both hosts, and whichever takes writes.
    fn url(&self) -> String {
        let (one, other) = (self.primary.addr(), self.standby.addr());
        format!("postgres://oncekey@{one},{other}/postgres?target_session_attrs=read-write&connect_timeout=2")
    }

    /// A service with a pool of its own, to both.
    fn service(&self, lease: Duration, store_timeout: Duration) -> Service {
        builder(&self.url(), lease, store_timeout).build().unwrap()
    }

    /// A moment later, the primary is gone with all its processes.
    fn kill_primary(&self) {
        tokio::task::block_in_place(|| self.primary.kill());
    }

    fn promote_standby(&self) {
        tokio::task::block_in_place(|| self.standby.promote());
    }
}

fn builder(url: &str, lease: Duration, store_timeout: Duration) -> DeduplicatorBuilder<PostgresStore<Pool>> {
    let builder = Deduplicator::builder(PostgresStore::new(pool_to(url, 4))).tokio();
    let builder = builder.poll_every(Duration::from_millis(10), Duration::from_millis(100));
    builder.lease(lease).store_timeout(store_timeout).call_timeout(CALL_TIMEOUT.max(store_timeout))
}

/// Runs an operation of this key, whose outcome says which attempt of which generation it was.
async fn run(service: &Service, id: &str) -> Result<Answer<String>, RunError<Infallible>> {
    let operation = |attempt: Attempt| async move {
        Ok(format!("{id} by attempt {} of {}", attempt.number(), attempt.operation_id()))
    };
    service.request(load::key(id)).json().run(operation).await
}
