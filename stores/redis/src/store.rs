//! The store.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt as _;
use oncekey::protocol::{Entry, Expected};
use oncekey::store::{BatchPut, Durability, Exchange, ListInDoubt, Purged, Put};
use oncekey::{Key, Store};
use redis::aio::ConnectionLike;

use crate::about::{about, state};
use crate::call_id::CallIds;
use crate::connection::Connection;
use crate::lifetime::micros;
use crate::link::{Args, Call, Link, Write};
use crate::script::{Reply, Scripts};
use crate::wait::Wait;
use crate::{RedisStoreError, Server};

/// How long a hash outlives its record: for so much longer a clock may step back without a version being given twice.
const OUTLIVES_MS: u64 = 60_000;

/// Most calls of a batch that are under way together, where they cannot go as one pipeline.
const TOGETHER: usize = 128;

/// A store of records in Redis or Valkey. A clone shares the connection.
///
/// See the [crate](crate) for what it promises and what it cannot.
#[derive(Clone)]
pub struct RedisStore<C = Connection> {
    connection: C,
    shared: Arc<Shared>,
}

struct Shared {
    prefix: Vec<u8>,
    wait: Option<Wait>,
    scripts: Scripts,
    /// The calls of a connection that sends them again by itself, as one to a cluster does, have ids.
    calls: Option<CallIds>,
    durability: Durability,
    servers: Vec<Server>,
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> RedisStore<C> {
    pub(crate) fn new(
        connection: C,
        prefix: Vec<u8>,
        wait: Option<Wait>,
        is_cluster: bool,
        durability: Durability,
        servers: Vec<Server>,
    ) -> Self {
        let calls = is_cluster.then(CallIds::new);
        let shared = Shared { prefix, wait, scripts: Scripts::new(), calls, durability, servers };
        Self { connection, shared: Arc::new(shared) }
    }

    /// The name of the hash that holds the record of `key`: the prefix, and [`Key::as_bytes`].
    pub fn redis_key(&self, key: &Key) -> Vec<u8> {
        [&self.shared.prefix, key.as_bytes()].concat()
    }

    /// What the server said of itself when the store was connected, or each primary of a cluster did; empty if it was
    /// not asked.
    pub fn servers(&self) -> &[Server] {
        &self.shared.servers
    }

    pub(crate) fn prefix(&self) -> &[u8] {
        &self.shared.prefix
    }

    pub(crate) fn is_cluster(&self) -> bool {
        self.shared.calls.is_some()
    }

    fn put(&self, key: &Key, expected: Expected, put: Put<'_>) -> Call<'_> {
        let source = match expected {
            Expected::Vacant => &self.shared.scripts.claim,
            Expected::At(_) => &self.shared.scripts.exchange,
        };
        let write = Write {
            expected,
            live: micros(put.live),
            linger: micros(put.linger),
            body: put.record.as_bytes().to_vec(),
            state: state(put.record),
            about: about(put.record),
            call: self.shared.calls.as_ref().map(CallIds::next).unwrap_or_default(),
            outlives_ms: OUTLIVES_MS,
        };
        Call { source, key: self.redis_key(key), args: Args::Exchange(write) }
    }

    /// A look at a hash; for a listing, only at what is in doubt.
    pub(crate) fn look(&self, key: Vec<u8>, only_in_doubt: bool) -> Call<'_> {
        Call { source: &self.shared.scripts.load, key, args: Args::Load { only_in_doubt } }
    }

    async fn exchange(&self, call: Call<'_>) -> Result<Exchange, RedisStoreError> {
        let reply = match self.shared.wait {
            None => self.link().call(&call).await?,
            Some(wait) => {
                let answers = self.link().pipeline(&[call], Some(wait)).await;
                answers.into_iter().next().expect("one answer per call")?
            }
        };
        Ok(exchanged(reply))
    }

    pub(crate) fn link(&self) -> Link<C> {
        Link { connection: self.connection.clone(), resends: self.is_cluster() }
    }
}

fn exchanged(reply: Reply) -> Exchange {
    match reply {
        Reply::Done(version) => Exchange::Done(version),
        Reply::Found(entry) => Exchange::Conflict(entry),
    }
}

#[async_trait]
impl<C: ConnectionLike + Clone + Send + Sync + 'static> Store for RedisStore<C> {
    type Error = RedisStoreError;

    async fn load(&self, key: &Key) -> Result<Option<Entry>, RedisStoreError> {
        match self.link().call(&self.look(self.redis_key(key), false)).await? {
            Reply::Found(entry) => Ok(entry),
            Reply::Done(version) => Err(RedisStoreError::unexpected(&version)),
        }
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Expected,
        put: Put<'_>,
    ) -> Result<Exchange, RedisStoreError> {
        self.exchange(self.put(key, expected, put)).await
    }

    /// One pipeline, which is not a transaction; to a cluster, calls beside each other.
    async fn compare_exchange_many(&self, batch: &[BatchPut<'_>]) -> Vec<Result<Exchange, RedisStoreError>> {
        let calls: Vec<_> = batch.iter().map(|item| self.put(item.key, item.expected, item.put)).collect();
        if self.is_cluster() {
            let calls: Vec<_> = calls.into_iter().map(|call| self.exchange(call)).collect();
            return futures::stream::iter(calls).buffered(TOGETHER).collect().await;
        }
        let answers = self.link().pipeline(&calls, self.shared.wait).await;
        answers.into_iter().map(|answer| answer.map(exchanged)).collect()
    }

    /// Nothing: Redis reclaims by itself.
    async fn purge(&self, _limit: usize) -> Result<Purged, RedisStoreError> {
        Ok(Purged { removed: 0, more: false })
    }

    fn lists(&self) -> Option<&dyn ListInDoubt<Error = Self::Error>> {
        Some(self)
    }

    fn durability(&self) -> Durability {
        self.shared.durability.clone()
    }
}

impl<C> fmt::Debug for RedisStore<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("prefix", &String::from_utf8_lossy(&self.shared.prefix))
            .field("wait", &self.shared.wait)
            .field("servers", &self.shared.servers)
            .finish_non_exhaustive()
    }
}
