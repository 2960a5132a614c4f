//! How a store is set up.

use std::time::Duration;

use oncekey::store::Durability;
use redis::aio::{ConnectionLike, ConnectionManagerConfig};
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{Client, IntoConnectionInfo};

use crate::connection::Connection;
use crate::server::{self, Server};
use crate::wait::Wait;
use crate::{RedisStore, RedisStoreError};

/// Sets up a [`RedisStore`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it connects"]
pub struct RedisStoreBuilder {
    prefix: Vec<u8>,
    response_timeout: Duration,
    connect_timeout: Duration,
    accept_eviction: bool,
    pub(crate) wait: Option<Wait>,
}

/// How many more times a connection is tried to be made while a call waits for it. Two tries of 2 seconds are less than the
/// 5 that the engine waits for a store, so that its callers are told the reason.
const RECONNECTS: usize = 1;
/// No answer takes less: with a shorter timeout the store could never be used.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);
/// The kernel counts milliseconds in 31 bits.
#[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux", test))]
const USER_TIMEOUT_MAX: Duration = Duration::from_millis(i32::MAX.unsigned_abs() as u64);

impl RedisStore {
    /// A builder with the defaults.
    pub fn builder() -> RedisStoreBuilder {
        RedisStoreBuilder::default()
    }

    /// Connects with the defaults: see [`RedisStoreBuilder::connect`].
    ///
    /// # Errors
    /// [`RedisStoreError`]: the server cannot be reached, or can drop claims, or is too old, or is a replica.
    pub async fn connect(server: impl IntoConnectionInfo) -> Result<Self, RedisStoreError> {
        Self::builder().connect(server).await
    }
}

impl Default for RedisStoreBuilder {
    fn default() -> Self {
        Self {
            prefix: b"oncekey:".to_vec(),
            response_timeout: Duration::from_secs(3),
            connect_timeout: Duration::from_secs(2),
            accept_eviction: false,
            wait: None,
        }
    }
}

impl RedisStoreBuilder {
    /// What the name of each hash begins with; `oncekey:` by default. The key's bytes follow, so take prefixes of which
    /// none begins another for stores that share a database.
    ///
    /// In a cluster, a prefix with a hash tag (`{orders}:`) puts all keys into one slot; without one, keys spread, and
    /// an id that has a part in braces goes where that part says.
    pub fn prefix(mut self, prefix: impl Into<Vec<u8>>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long an answer is waited for on a connection that the store makes; 3 seconds by default. What takes longer is
    /// [`RedisStoreError::TimedOut`], and may have been applied. Keep it below the engine's `store_timeout`.
    ///
    /// Less than 1 ms is refused by the store's `connect` functions; [`Duration::MAX`] waits
    /// forever.
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.response_timeout = timeout;
        self
    }

    /// How long making a connection may take, each time; 2 seconds by default. A call that finds the connection broken waits
    /// for two tries, at most, and a little between them; and then, if there is one, for its answer.
    ///
    /// Keep twice this below the engine's `store_timeout` (5 seconds by default): what that ends is told as a timeout, and
    /// not by its reason.
    ///
    /// Less than 1 ms is refused by the store's `connect` functions; [`Duration::MAX`] waits
    /// forever.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Takes a server whose `maxmemory-policy` can drop claims. **An operation whose claim or outcome was dropped runs
    /// again.**
    pub fn accept_eviction(mut self, accept: bool) -> Self {
        self.accept_eviction = accept;
        self
    }

    /// After each write, waits until so many replicas confirmed it, for at most so long (`WAIT`); with fewer, the answer
    /// is [`RedisStoreError::TooFewReplicas`]. That makes it less likely that a failover forgets a write, and does not
    /// rule it out: the replica that is promoted may be another one. It also holds up all other calls on the same
    /// connection meanwhile. Not in a cluster.
    ///
    /// Counted in whole milliseconds, from one to a year.
    pub fn wait_replicas(mut self, replicas: u32, at_most: Duration) -> Self {
        self.wait = (replicas > 0).then_some(Wait { replicas, at_most });
        self
    }

    /// Connects, by a URL such as `redis://127.0.0.1/` or a `redis::ConnectionInfo`, and checks the server: version 7 or
    /// later, a primary, nothing evicted.
    ///
    /// The connection is one socket for all calls, made again whenever it breaks, or an answer says that it is not the one to
    /// have: see [`Connection`]. `redis://..?protocol=resp3` notices
    /// that at once, rather than by the call after.
    ///
    /// # Errors
    /// [`RedisStoreError`]: the server cannot be reached, or did not pass; a timeout is below 1 ms.
    pub async fn connect(self, server: impl IntoConnectionInfo) -> Result<RedisStore, RedisStoreError> {
        let info = server.into_connection_info().map_err(|error| RedisStoreError::of(error, false))?;
        // A peer that is gone without a word is noticed: idle by the probes, and with a request on the way by the limit.
        let probes = TcpKeepalive::new().with_time(Duration::from_secs(15));
        let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(probes);
        #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
        let tcp = tcp.set_user_timeout(user_timeout(self.response_timeout));
        let client = Client::open(info.set_tcp_settings(tcp));
        self.connect_client(client.map_err(|error| RedisStoreError::of(error, false))?).await
    }

    /// Whether the timeouts can be kept.
    fn check(&self) -> Result<(), RedisStoreError> {
        if self.response_timeout < TIMEOUT_MIN {
            return Err(RedisStoreError::Settings { what: "response_timeout must be at least 1 ms" });
        }
        if self.connect_timeout < TIMEOUT_MIN {
            return Err(RedisStoreError::Settings { what: "connect_timeout must be at least 1 ms" });
        }
        Ok(())
    }

    /// The same with a client of your own: for certificates of your own, say (`redis::Client::build_with_tls`).
    ///
    /// # Errors
    /// As for [`connect`](Self::connect).
    pub async fn connect_client(self, client: Client) -> Result<RedisStore, RedisStoreError> {
        self.check()?;
        let wait = self.wait.map_or(Duration::ZERO, |wait| wait.at_most);
        let config = ConnectionManagerConfig::new()
            .set_response_timeout(Some(self.response_timeout.saturating_add(wait)))
            .set_connection_timeout(Some(self.connect_timeout))
            // A call waits for these: a server that is down shall be reported soon. The engine tries again.
            .set_number_of_retries(RECONNECTS)
            .set_min_delay(Duration::from_millis(50))
            .set_max_delay(Duration::from_millis(200))
            .set_pipeline_buffer_size(1024);
        let connection = Connection::make(client, config).await;
        self.over(connection.map_err(|error| RedisStoreError::of(error, false))?).await
    }

    /// Takes a connection that you made, and checks the server as [`connect`](Self::connect) does. Its timeouts are its
    /// own: the client's default of 500 ms makes lost answers ordinary.
    ///
    /// Let the store have it alone. A command of yours that blocks on the same connection, such as `BLPOP`, holds up every
    /// renewal behind it, and leases are lost.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect).
    pub async fn over<C>(self, connection: C) -> Result<RedisStore<C>, RedisStoreError>
    where
        C: ConnectionLike + Clone + Send + Sync + 'static,
    {
        self.over_asked(connection, None).await
    }

    async fn over_asked<C>(
        self,
        mut connection: C,
        settings: Option<redis::Value>,
    ) -> Result<RedisStore<C>, RedisStoreError>
    where
        C: ConnectionLike + Clone + Send + Sync + 'static,
    {
        let servers = Server::ask(&mut connection, settings).await?;
        servers.iter().try_for_each(|server| server.check(self.accept_eviction))?;
        let is_cluster = servers.iter().any(|server| server.is_cluster);
        if is_cluster && self.wait.is_some() {
            return Err(RedisStoreError::Settings {
                what: "wait_replicas cannot be had in a cluster: WAIT would go to every primary",
            });
        }
        let durability = server::durability(&servers);
        Ok(RedisStore::new(connection, self.prefix, self.wait, is_cluster, durability, servers))
    }

    /// Takes a connection and asks the server nothing: you vouch for what [`connect`](Self::connect) checks, and say
    /// what [`durability`](oncekey::Store::durability) is to declare. Not for a cluster.
    pub fn over_unchecked<C>(self, connection: C, durability: Durability) -> RedisStore<C>
    where
        C: ConnectionLike + Clone + Send + Sync + 'static,
    {
        RedisStore::new(connection, self.prefix, self.wait, false, durability, Vec::new())
    }
}

/// How long what was sent may stay unacknowledged before the connection counts as broken.
#[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux", test))]
fn user_timeout(response_timeout: Duration) -> Duration {
    response_timeout.max(Duration::from_secs(1)).saturating_mul(3).min(USER_TIMEOUT_MAX)
}

#[cfg(feature = "cluster")]
use redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo};

#[cfg(feature = "cluster")]
impl RedisStoreBuilder {
    /// Connects to a cluster, by the URLs of some of its nodes, and checks all primaries as [`connect`](Self::connect)
    /// does.
    ///
    /// The client tries a call again, some five times, on other connections too; so one may take longer than the engine's
    /// `store_timeout`, which then ends it: a timeout, maybe applied, as all errors of a cluster are.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect).
    pub async fn connect_cluster<I: IntoConnectionInfo>(
        self,
        nodes: impl IntoIterator<Item = I>,
    ) -> Result<RedisStore<redis::cluster_async::ClusterConnection>, RedisStoreError> {
        self.check()?;
        let client = redis::cluster::ClusterClientBuilder::new(nodes)
            .response_timeout(self.response_timeout)
            .connection_timeout(self.connect_timeout)
            .retries(5)
            .min_retry_wait(20)
            .max_retry_wait(500)
            .build()
            .map_err(|error| RedisStoreError::of(error, true))?;
        let connection = client.get_async_connection().await;
        let mut connection = connection.map_err(|error| RedisStoreError::of(error, true))?;
        let all = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
        let settings = connection.route_command(server::settings_request(), all).await;
        self.over_asked(connection, settings.ok()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_told_no_more_than_it_counts() {
        assert_eq!(user_timeout(Duration::from_nanos(1)), Duration::from_secs(3));
        assert_eq!(user_timeout(Duration::from_secs(5)), Duration::from_secs(15));
        assert_eq!(user_timeout(Duration::MAX).as_millis(), i32::MAX.unsigned_abs().into());
    }
}
