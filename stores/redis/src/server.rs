//! What is asked of the server before it is trusted with claims.

use std::collections::HashMap;

use oncekey::store::{Durability, DurabilityClass};
use redis::aio::ConnectionLike;
use redis::{Cmd, Value};

use crate::RedisStoreError;

/// What a server said of itself when the store was connected.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Server {
    /// The version of Redis that it is, or is compatible with.
    pub version: String,
    /// Its `maxmemory-policy`.
    pub eviction: String,
    /// Whether it takes writes.
    pub is_primary: bool,
    /// Whether it is a node of a cluster.
    pub is_cluster: bool,
    /// How many replicas are connected to it.
    pub replicas: u64,
    /// How it keeps what is written.
    pub persistence: Persistence,
}

/// How a server keeps what is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Persistence {
    /// No append-only file: snapshots at best.
    Snapshots,
    /// An append-only file, written before each answer and flushed when the system likes; or only while it is
    /// rewritten (`no-appendfsync-on-rewrite`).
    AppendNo,
    /// An append-only file, flushed every second.
    AppendEverySecond,
    /// An append-only file, flushed before each answer.
    AppendAlways,
    /// An append-only file; the server does not tell how it is flushed.
    AppendUnknown,
}

impl Server {
    /// Asks, and all primaries of a cluster.
    pub(crate) async fn ask<C: ConnectionLike>(connection: &mut C) -> Result<Vec<Self>, RedisStoreError> {
        let mut info = Cmd::new();
        info.arg("INFO");
        let texts = texts(call(connection, &info).await?)?;
        let mut config = Cmd::new();
        config.arg("CONFIG").arg("GET").arg("*append*fsync*");
        // Hosted servers do not allow it.
        let config = call(connection, &config).await.ok();
        let config = config.and_then(|value| redis::from_redis_value::<HashMap<String, String>>(value).ok());
        texts.iter().map(|text| Self::read(text, config.as_ref())).collect()
    }

    fn read(info: &str, config: Option<&HashMap<String, String>>) -> Result<Self, RedisStoreError> {
        let fields: HashMap<_, _> = info.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
        let field =
            |name: &'static str| fields.get(name).copied().ok_or(RedisStoreError::Unknown { what: name });
        let flush = |name: &str| config.and_then(|config| config.get(name)).map(String::as_str);
        let persistence = match (field("aof_enabled")?, flush("appendfsync")) {
            ("0", _) => Persistence::Snapshots,
            (_, None) => Persistence::AppendUnknown,
            // While the file is rewritten, it may be told not to flush; it is written all the same.
            (_, Some("always")) if flush("no-appendfsync-on-rewrite") == Some("no") => {
                Persistence::AppendAlways
            }
            (_, Some("everysec")) => Persistence::AppendEverySecond,
            (_, Some(_)) => Persistence::AppendNo,
        };
        Ok(Self {
            version: field("redis_version")?.to_owned(),
            eviction: field("maxmemory_policy")?.to_owned(),
            is_primary: field("role")? == "master",
            is_cluster: field("cluster_enabled")? == "1",
            replicas: field("connected_slaves")?.parse().unwrap_or(0),
            persistence,
        })
    }

    /// Refuses a server that cannot keep the contract.
    pub(crate) fn check(&self, accept_eviction: bool) -> Result<(), RedisStoreError> {
        let major = self.version.split('.').next().and_then(|major| major.parse().ok());
        if major.is_none_or(|major: u32| major < 7) {
            return Err(RedisStoreError::TooOld { version: self.version.clone() });
        }
        if !self.is_primary {
            return Err(RedisStoreError::Replica);
        }
        if self.eviction != "noeviction" && !accept_eviction {
            return Err(RedisStoreError::Evicts { policy: self.eviction.clone() });
        }
        Ok(())
    }
}

const CLOCK: &str = "Versions are microseconds of the server's clock, or one more than the version before: they rise as \
                     long as that clock does not step back by more than the linger and a minute.";

/// What is declared of these servers, the weakest of them counting.
pub(crate) fn durability(servers: &[Server]) -> Durability {
    let declared = servers.iter().map(class).min_by_key(|(class, _)| *class);
    let (class, about) = declared.unwrap_or((DurabilityClass::Undeclared, "the server was not asked"));
    let failover = match servers.iter().any(|server| server.replicas > 0 || server.is_cluster) {
        true => {
            " Replication is asynchronous: a failover forgets acknowledged writes that had not reached the replica."
        }
        false => "",
    };
    Durability::new(class, format!("{about}.{failover} {CLOCK}"))
}

fn class(server: &Server) -> (DurabilityClass, &'static str) {
    let may_fail_over = server.replicas > 0 || server.is_cluster;
    match server.persistence {
        Persistence::AppendAlways if may_fail_over => {
            (DurabilityClass::Machine, "appendfsync always, on a server that another may replace")
        }
        Persistence::AppendAlways => {
            (DurabilityClass::Disk, "appendfsync always: each write is flushed before it is acknowledged")
        }
        // While a flush is under way, what is acknowledged waits in the process, for up to two seconds.
        Persistence::AppendEverySecond => (
            DurabilityClass::Process,
            "appendfsync everysec: a power loss loses a second or two, and so does a kill of the server while it flushes",
        ),
        Persistence::AppendNo => (
            DurabilityClass::Machine,
            "appendfsync no: a power loss loses what the system had not written out",
        ),
        Persistence::AppendUnknown => {
            (DurabilityClass::Undeclared, "append-only file, and the server does not tell how it is flushed")
        }
        Persistence::Snapshots => (
            DurabilityClass::Process,
            "no append-only file: a server that ends goes back to its last snapshot, if any",
        ),
    }
}

async fn call<C: ConnectionLike>(connection: &mut C, cmd: &Cmd) -> Result<Value, RedisStoreError> {
    let answered = connection.req_packed_command(cmd).await.and_then(Value::extract_error);
    answered.map_err(|error| RedisStoreError::of(error, false))
}

/// One text, or one of each node.
fn texts(value: Value) -> Result<Vec<String>, RedisStoreError> {
    let values = match value {
        Value::Map(nodes) => nodes.into_iter().map(|(_, text)| text).collect(),
        one => vec![one],
    };
    let text = |value: Value| match redis::from_redis_value(value.clone()) {
        Ok(text) => Ok(text),
        Err(_) => Err(RedisStoreError::unexpected(&value)),
    };
    values.into_iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n# Memory\r\n\
                        maxmemory_policy:noeviction\r\n# Persistence\r\naof_enabled:1\r\n# Replication\r\n\
                        role:master\r\nconnected_slaves:0\r\n# Cluster\r\ncluster_enabled:0\r\n";

    fn read(info: &str) -> Result<Server, RedisStoreError> {
        let config = [("appendfsync", "always"), ("no-appendfsync-on-rewrite", "no")];
        let config = config.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Server::read(info, Some(&HashMap::from(config)))
    }

    #[test]
    fn a_server_is_known_by_what_it_says() {
        let server = read(INFO).unwrap();
        assert_eq!((server.version.as_str(), server.persistence), ("7.0.15", Persistence::AppendAlways));
        server.check(false).unwrap();
        assert_eq!(durability(std::slice::from_ref(&server)).class, DurabilityClass::Disk);
        let replicated = Server { replicas: 1, ..server.clone() };
        let clustered = Server { is_cluster: true, ..server.clone() };
        for weaker in [&replicated, &clustered] {
            let declared = durability(&[server.clone(), weaker.clone()]);
            assert_eq!(declared.class, DurabilityClass::Machine, "the weakest counts");
            assert!(declared.about.contains("failover"), "{declared}");
        }
        let silent = Server::read(INFO, None).unwrap();
        assert_eq!(durability(&[silent]).class, DurabilityClass::Undeclared);
        assert_eq!(durability(&[]).class, DurabilityClass::Undeclared);
    }

    #[test]
    fn a_server_that_is_too_old_or_says_too_little_is_refused() {
        for version in ["6.2.14", "5.0.0", "six"] {
            let server = read(&INFO.replace("7.0.15", version)).unwrap();
            assert!(matches!(server.check(true), Err(RedisStoreError::TooOld { .. })), "{version}");
        }
        for version in ["7.2.4", "8.0.1", "10.0.0"] {
            read(&INFO.replace("7.0.15", version)).unwrap().check(false).unwrap();
        }
        for name in ["redis_version", "maxmemory_policy", "role", "cluster_enabled", "aof_enabled"] {
            let error = read(&INFO.replace(name, "another")).unwrap_err();
            assert!(matches!(error, RedisStoreError::Unknown { what } if what == name), "{error:?}");
        }
    }
}
