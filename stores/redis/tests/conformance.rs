//! The kit over a real server: by the connection that the store makes, to a server that flushes each write and to one
//! that keeps nothing, and by a connection of the caller's own.
//!
//! The kit takes the store to round no times: it counts in microseconds, rounded up, and each call takes many of them.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
mod support;

use std::future::Future;
use std::sync::LazyLock;
use std::time::Duration;

use oncekey_conformance::{Effort, Harness, Subject, Time};
use oncekey_redis::RedisStore;
use oncekey_store_testing::server::Redis;
use redis::aio::MultiplexedConnection;
use support::block_on;

/// Long against a round trip on a machine that does much else.
const STEP: Duration = Duration::from_millis(100);

fn time() -> Time {
    Time::real(STEP, Duration::ZERO)
}

fn effort() -> Effort {
    let mut effort = Effort::default();
    (effort.races, effort.histories, effort.seeds) = (40, 64, 8);
    effort
}

/// The store as most have it.
struct Managed(&'static Redis);

impl Harness for Managed {
    type Store = RedisStore;
    /// The prefix, for whoever opens the store again.
    type Guard = String;

    fn fresh(&self) -> Subject<RedisStore, String> {
        let prefix = support::prefix();
        Subject::guarded(open(self.0, &prefix), time(), prefix)
    }

    fn reopen(&self, prefix: String) -> Option<Subject<RedisStore, String>> {
        Some(Subject::guarded(open(self.0, &prefix), time(), prefix))
    }

    fn block_on<F: Future>(&self, future: F) -> F::Output {
        block_on(future)
    }

    fn effort(&self) -> Effort {
        effort()
    }
}

fn open(server: &Redis, prefix: &str) -> RedisStore {
    block_on(support::builder().prefix(prefix).connect(server.url())).unwrap()
}

/// A connection of the caller's own.
struct Multiplexed;

impl Multiplexed {
    fn open(&self, prefix: String) -> Subject<RedisStore<MultiplexedConnection>, String> {
        let store = async {
            let connection = support::connection(Redis::shared()).await;
            support::builder().prefix(prefix.clone()).over(connection).await.unwrap()
        };
        Subject::guarded(block_on(store), time(), prefix)
    }
}

impl Harness for Multiplexed {
    type Store = RedisStore<MultiplexedConnection>;
    type Guard = String;

    fn fresh(&self) -> Subject<Self::Store, String> {
        self.open(support::prefix())
    }

    fn reopen(&self, prefix: String) -> Option<Subject<Self::Store, String>> {
        Some(self.open(prefix))
    }

    fn block_on<F: Future>(&self, future: F) -> F::Output {
        block_on(future)
    }

    fn effort(&self) -> Effort {
        effort()
    }
}

static IN_MEMORY: LazyLock<Redis> = LazyLock::new(Redis::start);

mod managed {
    use super::*;
    oncekey_conformance::conformance_tests!(Managed(Redis::shared()));
}

mod multiplexed {
    use super::*;
    oncekey_conformance::conformance_tests!(Multiplexed);
}

mod in_memory {
    use super::*;
    oncekey_conformance::conformance_tests!(Managed(&IN_MEMORY));
}
