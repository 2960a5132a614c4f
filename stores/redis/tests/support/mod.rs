//! What the tests share: one runtime, and stores on it.

use std::future::Future;
use std::sync::LazyLock;

use oncekey_redis::RedisStore;
use oncekey_store_testing::server::{Redis, unique_name};
use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime can be built")
});

/// Runs a future on the runtime that all connections live on.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    RUNTIME.block_on(future)
}

/// A prefix that no other store has.
pub(crate) fn prefix() -> String {
    format!("{}:", unique_name("t"))
}

/// A store on this server, with keys of its own.
pub(crate) fn store(server: &Redis) -> RedisStore {
    block_on(RedisStore::builder().prefix(prefix()).connect(server.url())).expect("the server serves")
}
