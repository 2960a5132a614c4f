//! A real cluster of three primaries on this machine: the kit, and what only a cluster does.
#![cfg(feature = "cluster")]
#![allow(clippy::unwrap_used)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::collections::HashMap;
use std::future::Future;
use std::sync::LazyLock;
use std::time::Duration;

use oncekey::Key;
use oncekey::protocol::Expected;
use oncekey::store::{DurabilityClass, Exchange, ListInDoubt as _, Store as _, StoreError as _};
use oncekey_conformance::{Effort, Harness, Subject, Time};
use oncekey_redis::{RedisStore, RedisStoreError};
use oncekey_store_testing::proxy::{Mode, Proxy};
use oncekey_store_testing::server::{Port, Redis, unique_name};
use redis::cluster_async::ClusterConnection;
use support::*;

type ClusterStore = RedisStore<ClusterConnection>;

/// Servers that share the slots, each reached through a proxy.
struct Cluster {
    nodes: Vec<(Redis, Proxy)>,
    /// Where the servers talk to each other.
    _buses: Vec<Port>,
}

const SLOTS: u16 = 16_384;

impl Cluster {
    async fn start() -> Self {
        let (mut nodes, mut buses) = (Vec::new(), Vec::new());
        for index in 0..3 {
            let bus = Port::free();
            let server = Redis::start_with(&[
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &bus.number().to_string(),
                // A node that waits for a processor is not a node that failed.
                "--cluster-node-timeout",
                "120000",
            ]);
            buses.push(bus);
            let proxy = Proxy::start(server.addr());
            let _: () =
                ask(&server, &["CONFIG", "SET", "cluster-announce-port", &proxy.port().to_string()]).await;
            let (first, last) =
                (SLOTS / 3 * index, if index == 2 { SLOTS - 1 } else { SLOTS / 3 * (index + 1) - 1 });
            let _: () =
                ask(&server, &["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]).await;
            let _: () = ask(&server, &["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]).await;
            if let Some((other, _)) = nodes.first() {
                let other: &Redis = other;
                let other_bus: String = config(other, "cluster-port").await;
                let meet = ["CLUSTER", "MEET", "127.0.0.1", &other.port().to_string(), &other_bus];
                let _: () = ask(&server, &meet).await;
            }
            nodes.push((server, proxy));
        }
        for (server, _) in &nodes {
            until("the cluster is whole", || async {
                let info: String = ask(server, &["CLUSTER", "INFO"]).await;
                info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
            })
            .await;
        }
        // Each knows the proxies of all.
        for (server, _) in &nodes {
            until("the proxies are known", || async {
                let slots: String = ask(server, &["CLUSTER", "NODES"]).await;
                nodes.iter().all(|(_, proxy)| slots.contains(&format!(":{}@", proxy.port())))
            })
            .await;
        }
        Self { nodes, _buses: buses }
    }

    async fn store(&self, prefix: impl Into<Vec<u8>>) -> ClusterStore {
        let urls = self.nodes.iter().map(|(server, proxy)| proxy.url(server.url()));
        builder().prefix(prefix).connect_cluster(urls).await.unwrap()
    }

    /// The node that has this key.
    async fn home(&self, store: &ClusterStore, key: &Key) -> usize {
        usize::from(slot(&self.nodes[0].0, store, key).await / (SLOTS / 3)).min(2)
    }
}

async fn config(server: &Redis, name: &str) -> String {
    let mut found: HashMap<String, String> = ask(server, &["CONFIG", "GET", name]).await;
    found.remove(name).unwrap()
}

async fn slot(server: &Redis, store: &ClusterStore, key: &Key) -> u16 {
    let mut cmd = words(&["CLUSTER", "KEYSLOT"]);
    cmd.arg(store.redis_key(key));
    cmd.query_async(&mut connection(server).await).await.unwrap()
}

/// Shared by the kit's cases, which only read it.
static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| block_on(Cluster::start()));

struct OnCluster;

impl Harness for OnCluster {
    type Store = ClusterStore;
    type Guard = ();

    fn fresh(&self) -> Subject<ClusterStore> {
        let cluster = &*CLUSTER;
        Subject::new(
            block_on(cluster.store(prefix())),
            Time::real(Duration::from_millis(100), Duration::ZERO),
        )
    }

    fn block_on<F: Future>(&self, future: F) -> F::Output {
        block_on(future)
    }

    fn effort(&self) -> Effort {
        Effort::modest()
    }
}

mod kit {
    use super::*;
    oncekey_conformance::conformance_tests!(OnCluster);
}

#[test]
fn keys_spread_over_the_nodes_unless_the_prefix_keeps_them_together() {
    let cluster = &*CLUSTER;
    block_on(async {
        let (spread, together) =
            (cluster.store(prefix()).await, cluster.store(format!("{{{}}}", prefix())).await);
        let (mut homes, mut slots) = ([0; 3], std::collections::BTreeSet::new());
        for index in 0..100 {
            let key = key(&format!("{index}"));
            write(&spread, &key, Expected::Vacant, &in_progress(1), (HOUR, HOUR)).await;
            homes[cluster.home(&spread, &key).await] += 1;
            write(&together, &key, Expected::Vacant, &in_progress(1), (HOUR, HOUR)).await;
            slots.insert(slot(&cluster.nodes[0].0, &together, &key).await);
        }
        assert!(homes.iter().all(|&keys| keys > 10), "{homes:?}");
        assert_eq!(slots.len(), 1);
        assert_eq!(spread.servers().len(), 3, "each primary was checked");
        let durability = spread.durability();
        assert_eq!(durability.class, DurabilityClass::Process);
        assert!(durability.about.contains("failover"));
    });
}

/// The client sends a call again whose answer was lost; the script knows it, and the call is not its own rival.
#[test]
fn a_call_that_the_client_sends_again_is_done_once_and_answered_so() {
    block_on(async {
        let cluster = Cluster::start().await;
        let store = cluster.store(prefix()).await;
        for (index, mode) in [Mode::DropAnswers, Mode::Reset].into_iter().cycle().take(12).enumerate() {
            let key = key(&format!("{index}"));
            let first = write(&store, &key, Expected::Vacant, &in_progress(1), (HOUR, HOUR)).await;
            let proxy = &cluster.nodes[cluster.home(&store, &key).await].1;
            let faulted = proxy.faulted();
            proxy.only_next(1, mode);
            let second = write(&store, &key, Expected::At(first), &completed(1, b"x"), (HOUR, HOUR)).await;
            assert_eq!(proxy.faulted(), faulted + 1, "the fault was met");
            assert_eq!(store.load(&key).await.unwrap().unwrap().version, second);
        }
    });
}

/// The rights that the README names for a single server, and for a cluster: enough, also while a slot moves.
const RIGHTS: &str = "on >secret ~* +info +config|get +evalsha +eval +hmget +exists +time +hset +pexpireat +persist \
                      +cluster|slots +ping +asking";

#[test]
fn a_user_of_a_cluster_needs_few_rights() {
    block_on(async {
        let cluster = Cluster::start().await;
        let connect = async |name: &str, without: &[&str]| {
            for (server, _) in &cluster.nodes {
                let rights: Vec<_> = RIGHTS.split_whitespace().chain(without.iter().copied()).collect();
                let _: () = ask(server, &[&["ACL", "SETUSER", name][..], &rights].concat()).await;
            }
            let user = format!("redis://{name}:secret@");
            let urls = cluster
                .nodes
                .iter()
                .map(|(server, proxy)| proxy.url(server.url()).replace("redis://", &user));
            builder().prefix(prefix()).connect_cluster(urls).await
        };
        let store = connect("app", &[]).await.unwrap();
        for index in 0..30 {
            let key = key(&format!("{index}"));
            let version = write(&store, &key, Expected::Vacant, &in_progress(1), (HOUR, HOUR)).await;
            write(&store, &key, Expected::At(version), &completed(1, b"x"), (HOUR, FOR_EVER)).await;
            assert!(store.load(&key).await.unwrap().is_some());
        }
        // A new key of a slot that moves is born at the target, by way of ASKING.
        let moving = key("moving");
        let slot = slot(&cluster.nodes[0].0, &store, &moving).await.to_string();
        let from = cluster.home(&store, &moving).await;
        let (source, target) = (&cluster.nodes[from].0, &cluster.nodes[(from + 1) % 3].0);
        let source_id: String = ask(source, &["CLUSTER", "MYID"]).await;
        let target_id: String = ask(target, &["CLUSTER", "MYID"]).await;
        let _: () = ask(target, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source_id]).await;
        let _: () = ask(source, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target_id]).await;
        write(&store, &moving, Expected::Vacant, &in_progress(1), (HOUR, HOUR)).await;
        for (server, _) in &cluster.nodes {
            let _: () = ask(server, &["ACL", "SETUSER", "app", "-asking"]).await;
        }
        claim(&store, &moving, 2).await.unwrap_err();

        // Without +ping it does without a test of the connections that it has.
        assert!(connect("less", &["-cluster|slots"]).await.is_err(), "it connects without the slots");
    });
}

/// All nodes are asked how they flush; if they differ, nothing is declared.
#[test]
fn durability_is_that_of_all_nodes() {
    block_on(async {
        let cluster = Cluster::start().await;
        for (server, _) in &cluster.nodes {
            let _: () = ask(server, &["CONFIG", "SET", "appendfsync", "always"]).await;
        }
        let mut declared = Vec::new();
        for (server, _) in &cluster.nodes {
            let _: () = ask(server, &["CONFIG", "SET", "appendonly", "yes"]).await;
            declared.push(cluster.store(prefix()).await.durability().class);
        }
        use DurabilityClass::{Machine, Process};
        assert_eq!(declared, [Process, Process, Machine], "the weakest counts");
        let (server, _) = &cluster.nodes[1];
        let _: () = ask(server, &["CONFIG", "SET", "appendfsync", "everysec"]).await;
        assert_eq!(cluster.store(prefix()).await.durability().class, DurabilityClass::Undeclared);
        // A connection of the caller's own cannot ask them all.
        let _: () = ask(server, &["CONFIG", "SET", "appendfsync", "always"]).await;
        let urls = cluster.nodes.iter().map(|(server, proxy)| proxy.url(server.url()));
        let client = redis::cluster::ClusterClient::new(urls).unwrap();
        let own = builder().over(client.get_async_connection().await.unwrap()).await.unwrap();
        assert_eq!(own.durability().class, DurabilityClass::Undeclared);
    });
}

/// What the client may have sent before is never said not to be applied.
#[test]
fn an_error_of_a_cluster_is_maybe_applied() {
    block_on(async {
        let cluster = Cluster::start().await;
        let store = cluster.store(prefix()).await;
        let home = cluster.home(&store, &key("1")).await;
        cluster.nodes[home].0.kill();
        let error = claim(&store, &key("1"), 1).await.unwrap_err();
        assert!(error.maybe_applied(), "{error:?}");
        assert!(error.kind().is_transient(), "{error:?}");
        cluster.nodes[home].0.start_again();
        until("the node is back", || async { claim(&store, &key("1"), 1).await.is_ok() }).await;
    });
}

/// Each node refuses for a while, as one that is demoted, asks for another password or lost its slots, and so on. The client
/// makes its connections itself: it must not stay with a refusal.
#[test]
fn a_cluster_that_refuses_for_a_while_is_used_again_afterwards() {
    block_on(async {
        let cluster = Cluster::start().await;
        let all = async |command: &str| {
            for (server, _) in &cluster.nodes {
                let _: () = ask(server, &command.split(' ').collect::<Vec<_>>()).await;
            }
        };
        let user = "ACL SETUSER app reset on ~* +@all >secret";
        all(user).await;
        let urls = cluster
            .nodes
            .iter()
            .map(|(server, proxy)| proxy.url(server.url()).replace("redis://", "redis://app:secret@"));
        let store = builder().prefix(prefix()).connect_cluster(urls).await.unwrap();
        for (name, spoil, mend) in [
            ("rights", "ACL SETUSER app -hset", user),
            ("all rights", "ACL SETUSER app -@all", user),
            ("password", "ACL SETUSER app resetpass >other", user),
            ("user", "ACL DELUSER app", user),
            ("replicas", "CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
        ] {
            all(spoil).await;
            if name == "password" {
                all("CLIENT KILL USER app").await;
            }
            until(name, || async {
                let refused = claim(&store, &key(&unique_name("refused")), 1).await;
                refused.is_err_and(|error| error.maybe_applied())
            })
            .await;
            all(mend).await;
            until("the cluster is used again", || async {
                claim(&store, &key(&unique_name(name)), 1).await.is_ok()
            })
            .await;
        }
    });
}

/// While a slot moves, its keys are where they are: claims and completions go on before, during and after.
#[test]
fn keys_of_a_slot_that_moves_stay_claimed() {
    block_on(async {
        let cluster = Cluster::start().await;
        let store = cluster.store(format!("{{{}}}", prefix())).await;
        let there = key("there before");
        let version = write(&store, &there, Expected::Vacant, &in_progress(1), (HOUR, HOUR)).await;
        let slot = slot(&cluster.nodes[0].0, &store, &there).await.to_string();
        let from = cluster.home(&store, &there).await;
        let to = (from + 1) % 3;
        let (source, target) = (&cluster.nodes[from].0, &cluster.nodes[to].0);
        let source_id: String = ask(source, &["CLUSTER", "MYID"]).await;
        let target_id: String = ask(target, &["CLUSTER", "MYID"]).await;
        let _: () = ask(target, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source_id]).await;
        let _: () = ask(source, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target_id]).await;
        // New keys of the slot are born at the target, through a redirection.
        let newborn = write(&store, &key("born"), Expected::Vacant, &in_progress(2), (HOUR, HOUR)).await;
        assert!(matches!(claim(&store, &key("born"), 3).await, Ok(Exchange::Conflict(Some(_)))));
        assert!(matches!(claim(&store, &there, 3).await, Ok(Exchange::Conflict(Some(_)))));
        let mut migrate = words(&["MIGRATE", "127.0.0.1", &target.port().to_string()]);
        migrate.arg(store.redis_key(&there)).arg(0).arg(60_000);
        migrate.exec_async(&mut connection(source).await).await.unwrap();
        let next = write(&store, &there, Expected::At(version), &completed(1, b"x"), (HOUR, HOUR)).await;
        for node in [target, source] {
            let _: () = ask(node, &["CLUSTER", "SETSLOT", &slot, "NODE", &target_id]).await;
        }
        assert_eq!(store.load(&there).await.unwrap().unwrap().version, next);
        write(&store, &key("born"), Expected::At(newborn), &completed(2, b"x"), (HOUR, HOUR)).await;
    });
}

#[test]
fn what_a_cluster_cannot_do_is_said() {
    let cluster = &*CLUSTER;
    block_on(async {
        let store = cluster.store(prefix()).await;
        let error = store.list_in_doubt(None, 10).await.unwrap_err();
        assert!(matches!(error, RedisStoreError::Settings { .. }) && !error.maybe_applied(), "{error:?}");
        let urls = cluster.nodes.iter().map(|(server, proxy)| proxy.url(server.url()));
        let waiting = builder().wait_replicas(1, Duration::from_secs(1));
        let error = waiting.connect_cluster(urls).await.unwrap_err();
        assert!(matches!(error, RedisStoreError::Settings { .. }), "{error:?}");
        // One node by itself does not serve the keys of others.
        let (server, proxy) = &cluster.nodes[0];
        let store = builder().connect(proxy.url(server.url())).await.unwrap();
        let mut moved = 0;
        for index in 0..20 {
            match claim(&store, &key(&unique_name("k")), 1).await {
                Ok(_) => {}
                Err(error) => {
                    assert!(
                        matches!(&error, RedisStoreError::NotNow { code, .. } if code == "MOVED"),
                        "{index}: {error:?}"
                    );
                    moved += 1;
                }
            }
        }
        assert!(moved > 0);
    });
}
