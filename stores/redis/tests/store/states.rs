//! A real server put into each state in which it refuses calls: what the store says, whether it keeps its connection, and that
//! it goes on by itself once the server is well again.

use std::time::{Duration, Instant};

use oncekey::protocol::Expected;
use oncekey::store::{Store as _, StoreError as _, StoreErrorKind};
use oncekey_redis::{RedisStore, RedisStoreError};
use oncekey_store_testing::server::{Redis, unique_name};

use crate::other_server::{Address, is_done};
use crate::support::*;

/// What a state costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Connection {
    Kept,
    Replaced,
}

/// What a call says in a state: the word of the server's answer, the kind, and whether it may be applied.
#[derive(Clone, Copy)]
struct Says {
    code: &'static str,
    kind: StoreErrorKind,
    maybe_applied: bool,
    /// The server closes the connection with that, so that the next call may find it broken.
    closes: bool,
}

impl Says {
    /// Refused for now: nothing was done, and the engine tries again.
    fn not_now(code: &'static str) -> Self {
        Self { code, kind: StoreErrorKind::Unavailable, maybe_applied: false, closes: false }
    }

    /// Refused until somebody changes what the user may do. Rights may end in the middle of a script.
    fn refused(code: &'static str) -> Self {
        Self { code, kind: StoreErrorKind::Rejected, maybe_applied: true, closes: false }
    }

    fn is_said_by(&self, error: &RedisStoreError) -> bool {
        match error {
            RedisStoreError::NotNow { code, .. } | RedisStoreError::Refused { code, .. } => code == self.code,
            RedisStoreError::Full { .. } => self.code == "OOM",
            _ => false,
        }
    }
}

/// A server behind an address that counts the connections to it, and a store that is connected.
struct Bench {
    server: Redis,
    address: Address,
    store: RedisStore,
}

/// A store connects no more often than this: see `USED_MIN` in the store. A multiple of it, to see whether it does.
const LONG_ENOUGH: Duration = Duration::from_millis(500);

impl Bench {
    async fn start(further: &[&str]) -> Self {
        Self::with(further, "", |url| url).await
    }

    /// With what the server is told before the store connects, by a changed address.
    async fn with(further: &[&str], told: &str, url: impl FnOnce(String) -> String) -> Self {
        let server = Redis::start_with(further);
        if !told.is_empty() {
            let _: () = ask(&server, &told.split(' ').collect::<Vec<_>>()).await;
        }
        let address = Address::of(&server).await;
        let store = builder().prefix(prefix()).connect(url(address.url.clone())).await.unwrap();
        assert!(is_done(&store, "before").await);
        Self { server, address, store }
    }

    async fn tell(&self, command: &str) {
        let _: () = ask(&self.server, &command.split(' ').collect::<Vec<_>>()).await;
    }

    /// Each call says this, and the connection is kept or replaced, for as long as the server is in this state.
    async fn is_in(&self, says: Says, connection: Connection) {
        // Not a record of the state's own: what was claimed before it began would be there afterwards.
        until(says.code, || async {
            let early = key(&unique_name("early"));
            matches!(claim(&self.store, &early, 1).await, Err(error) if says.is_said_by(&error))
        })
        .await;
        let (before, begun) = (self.address.connections(), Instant::now());
        let is_over = || match connection {
            Connection::Kept => begun.elapsed() > LONG_ENOUGH,
            Connection::Replaced => self.address.connections() > before,
        };
        while !is_over() {
            let error = claim(&self.store, &key("refused"), 1).await.unwrap_err();
            assert!(begun.elapsed() < PATIENCE, "{}: the connection is not replaced", says.code);
            if says.closes && matches!(error, RedisStoreError::Disconnected { .. }) {
                continue;
            }
            assert!(says.is_said_by(&error), "{} is due: {error:?}", says.code);
            assert_eq!((error.kind(), error.maybe_applied()), (says.kind, says.maybe_applied), "{error:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if connection == Connection::Kept {
            assert_eq!(self.address.connections(), before, "{}: the connection is replaced", says.code);
        }
    }

    /// The server is well again: the same store is served, without a restart.
    async fn goes_on(&self) {
        // An attempt to connect that was under way may have failed meanwhile.
        until("the store is served again", || async { claim(&self.store, &key("after"), 1).await.is_ok() })
            .await;
        assert_eq!(self.store.load(&key("refused")).await.unwrap(), None, "what was refused was not applied");
    }
}

/// A password is set while the service runs, and its connections end.
#[test]
fn a_server_that_asks_for_a_password() {
    // By RESP3 the client introduces itself first, and is refused then.
    for protocol in ["", "?protocol=resp3"] {
        block_on(async {
            let bench = Bench::with(&[], "", |url| format!("{url}{protocol}")).await;
            bench.tell("CONFIG SET requirepass secret").await;
            // A connection that was let in stays so: it has to end first.
            let with_password = bench.server.url().replace("redis://", "redis://:secret@");
            let client = redis::Client::open(with_password).unwrap();
            let mut operator = client.get_multiplexed_async_connection().await.unwrap();
            let kill = words(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
            kill.exec_async(&mut operator).await.unwrap();
            // A server takes no request of more than ten parts from a stranger, and a claim has more: it says so in other
            // words.
            let says = Says { closes: true, ..Says::refused("NOAUTH") };
            bench.is_in(says, Connection::Replaced).await;
            until("a look is refused too", || async {
                matches!(bench.store.load(&key("before")).await, Err(error) if says.is_said_by(&error))
            })
            .await;
            words(&["CONFIG", "SET", "requirepass", ""]).exec_async(&mut operator).await.unwrap();
            bench.goes_on().await;
        });
    }
}

/// The user's rights are taken, on a connection that stays.
#[test]
fn a_user_whose_rights_are_taken() {
    block_on(async {
        let user = "ACL SETUSER app reset on >secret ~* +@all";
        let as_user = |url: String| url.replace("redis://", "redis://app:secret@");
        let bench = Bench::with(&[], user, as_user).await;
        // All of them; and one that only the script needs, of which the server tells in other words.
        for taken in ["-@all", "-hset"] {
            bench.tell(&format!("ACL SETUSER app {taken}")).await;
            bench.is_in(Says::refused("NOPERM"), Connection::Replaced).await;
            bench.tell(user).await;
            bench.goes_on().await;
        }
    });
}

/// The server reads its data again, for as long as the test likes: each key takes a while.
#[test]
fn a_server_that_loads_its_data() {
    block_on(async {
        let slowly = ["--enable-debug-command", "yes", "--loading-process-events-interval-bytes", "1024"];
        let bench = Bench::start(&slowly).await;
        let filler = "x".repeat(2000);
        let mut other = connection(&bench.server).await;
        for number in 0..2000 {
            let mut cmd = words(&["SET"]);
            // Other than its neighbours, or it would be compressed to less than the interval.
            cmd.arg(format!("filler {number}")).arg(format!("{}{filler}", unique_name("f")));
            cmd.exec_async(&mut other).await.unwrap();
        }
        bench.tell("CONFIG SET rdbcompression no").await;
        bench.tell("CONFIG SET key-load-delay 100000").await;
        let reload = tokio::spawn(async move { words(&["DEBUG", "RELOAD"]).exec_async(&mut other).await });
        bench.is_in(Says::not_now("LOADING"), Connection::Replaced).await;
        bench.tell("CONFIG SET key-load-delay 0").await;
        in_time(reload).await.unwrap().unwrap();
        bench.goes_on().await;
    });
}

/// Demoted, first with a primary to ask, then without; and promoted again.
#[test]
fn a_replica_and_one_that_has_lost_its_primary() {
    block_on(async {
        let primary = Redis::start();
        let bench = Bench::start(&["--replica-serve-stale-data", "no"]).await;
        bench.tell(&format!("REPLICAOF 127.0.0.1 {}", primary.port())).await;
        until("the replica is in step", || async {
            let info: String = ask(&bench.server, &["INFO", "replication"]).await;
            info.contains("master_link_status:up")
        })
        .await;
        bench.is_in(Says::not_now("READONLY"), Connection::Replaced).await;
        primary.kill();
        bench.is_in(Says::not_now("MASTERDOWN"), Connection::Replaced).await;
        bench.tell("REPLICAOF NO ONE").await;
        bench.goes_on().await;
    });
}

/// A node that has all slots of its cluster, and then none.
#[test]
fn a_cluster_that_is_down() {
    block_on(async {
        let bus = oncekey_store_testing::server::Port::free();
        let bus = bus.number().to_string();
        let enabled = ["--cluster-enabled", "yes", "--cluster-port", &bus];
        let server = Redis::start_with(&enabled);
        let _: () = ask(&server, &["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
        until("the cluster is whole", || async {
            let info: String = ask(&server, &["CLUSTER", "INFO"]).await;
            info.contains("cluster_state:ok")
        })
        .await;
        let address = Address::of(&server).await;
        let store = builder().prefix(prefix()).connect(address.url.clone()).await.unwrap();
        assert!(is_done(&store, "before").await);
        let bench = Bench { server, address, store };
        bench.tell("CLUSTER DELSLOTSRANGE 0 16383").await;
        // Of a cluster, an earlier copy may have been applied.
        let says = Says { maybe_applied: true, ..Says::not_now("CLUSTERDOWN") };
        bench.is_in(says, Connection::Replaced).await;
        bench.tell("CLUSTER ADDSLOTSRANGE 0 16383").await;
        bench.goes_on().await;
    });
}

/// Somebody's script has no end: another connection would find the same.
#[test]
fn a_server_that_is_busy_with_a_script() {
    block_on(async {
        let bench = Bench::start(&["--busy-reply-threshold", "10"]).await;
        let mut other = connection(&bench.server).await;
        let endless =
            tokio::spawn(
                async move { words(&["EVAL", "while true do end", "0"]).exec_async(&mut other).await },
            );
        bench.is_in(Says::not_now("BUSY"), Connection::Kept).await;
        bench.tell("SCRIPT KILL").await;
        endless.await.unwrap().unwrap_err();
        bench.goes_on().await;
    });
}

/// A snapshot that could not be written: whoever has the server's disk must act, and another connection would find the same.
#[test]
fn a_server_that_cannot_write_its_snapshot() {
    block_on(async {
        let bench = Bench::start(&[]).await;
        let _: () = ask(&bench.server, &["CONFIG", "SET", "save", "3600 1"]).await;
        // A directory of that name is where no file can be.
        std::fs::create_dir_all(bench.server.dir().join("dump.rdb/in-the-way")).unwrap();
        bench.tell("BGSAVE").await;
        bench.is_in(Says::not_now("MISCONF"), Connection::Kept).await;
        std::fs::remove_dir_all(bench.server.dir().join("dump.rdb")).unwrap();
        bench.tell("BGSAVE").await;
        bench.goes_on().await;
    });
}

/// Too few replicas are in step, or memory is full: the server is the right one, and says what is wrong with it.
#[test]
fn a_primary_that_may_not_write() {
    block_on(async {
        let bench = Bench::start(&[]).await;
        bench.tell("CONFIG SET min-replicas-to-write 1").await;
        bench.is_in(Says::not_now("NOREPLICAS"), Connection::Kept).await;
        bench.tell("CONFIG SET min-replicas-to-write 0").await;
        bench.goes_on().await;
        bench.tell("CONFIG SET maxmemory 1").await;
        let says = Says { kind: StoreErrorKind::Full, ..Says::not_now("OOM") };
        bench.is_in(says, Connection::Kept).await;
        bench.tell("CONFIG SET maxmemory 0").await;
        bench.goes_on().await;
    });
}

/// What handlers do with connections of their own holds up no renewal of a store that made its connection itself. On one that
/// they share with it, a command that blocks does: the README says so.
#[test]
fn a_handler_that_blocks_its_connection_holds_up_a_store_on_the_same_one_only() {
    block_on(async {
        let server = Redis::start();
        let handlers = connection(&server).await;
        let (apart, shared) =
            (store(&server).await, builder().prefix(prefix()).over(handlers.clone()).await.unwrap());
        let held = write(&apart, &key("held"), Expected::Vacant, &in_progress(1), (HOUR, HOUR)).await;
        let mut blocked = handlers;
        let handler = tokio::spawn(async move {
            words(&["BLPOP", "work", "0"]).query_async::<Vec<String>>(&mut blocked).await
        });
        until("the handler is blocked", || async {
            let info: String = ask(&server, &["INFO", "clients"]).await;
            info.contains("blocked_clients:1")
        })
        .await;
        // A renewal, and a call on the handler's connection.
        write(&apart, &key("held"), Expected::At(held), &in_progress(1), (HOUR, HOUR)).await;
        let look = tokio::spawn(async move { shared.load(&key("held")).await });
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!look.is_finished(), "it waits behind the handler's command");
        let _: i64 = ask(&server, &["RPUSH", "work", "done"]).await;
        assert_eq!(in_time(handler).await.unwrap().unwrap(), ["work", "done"]);
        assert_eq!(in_time(look).await.unwrap().unwrap(), None);
    });
}
