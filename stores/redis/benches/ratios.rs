//! The store beside the raw client that sends the same scripts with the same arguments, and a bare GET, by turns.
//!
//! `cargo bench -p oncekey-redis`; `-- --quick` for a smoke test. The server is one of its own, which keeps nothing on
//! disk: what a flush costs would hide what the store adds.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::sync::Arc;
use std::time::Duration;

use oncekey::Key;
use oncekey::protocol::{Record, Version};
use oncekey_redis::RedisStore;
use oncekey_store_testing::bench::{Bench, Of, Raw, Sides, completed};
use oncekey_store_testing::server::Redis;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Cmd, Pipeline, Script};

const OUTCOME_LEN: usize = 100;
/// Both sides wait for an answer as long: batches of 64 clients take their time.
const PATIENCE: Duration = Duration::from_secs(60);

/// The raw client, with the scripts of the store.
#[derive(Clone)]
struct Scripts {
    connection: ConnectionManager,
    digests: Arc<[String; 2]>,
    prefix: &'static str,
}

/// The parts of the store's script, in their order.
const EXCHANGE: [&str; 4] = [
    include_str!("../src/script/read.lua"),
    include_str!("../src/script/exchange.lua"),
    include_str!("../src/script/answer.lua"),
    include_str!("../src/script/write.lua"),
];

impl Scripts {
    async fn connect(url: &str) -> Self {
        let config = ConnectionManagerConfig::new().set_response_timeout(Some(PATIENCE));
        let client = redis::Client::open(url).unwrap();
        let mut connection =
            ConnectionManager::new_with_config(client, config.set_pipeline_buffer_size(1024)).await.unwrap();
        let exchange = EXCHANGE.join("\n");
        let texts = [exchange.clone(), format!("#!lua flags=allow-oom\n{exchange}")];
        let mut digests = Vec::new();
        for text in texts {
            digests.push(Script::new(&text).load_async(&mut connection).await.unwrap());
        }
        // The store's default.
        Self { connection, digests: Arc::new(digests.try_into().unwrap()), prefix: "oncekey:" }
    }

    /// The call that the store makes.
    fn put(&self, key: &Key, expected: Option<Version>, record: &Record) -> Cmd {
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(&self.digests[usize::from(expected.is_some())]).arg(1);
        cmd.arg([self.prefix.as_bytes(), key.as_bytes()].concat());
        match expected {
            Some(version) => cmd.arg(version.get()),
            None => cmd.arg(""),
        };
        let (state, finished) = match record.outcome() {
            Some(_) => ("completed", " finished=2026-11-24T00:00:00.100Z succeeded outcome_bytes=100"),
            None => ("in_progress", ""),
        };
        let operation = "08".repeat(16);
        let created = "created=2026-11-24T00:00:00.000Z";
        let about = format!("attempt=1 policy=reclaim operation_id={operation} {created}{finished}");
        cmd.arg("3600000000")
            .arg("3600000000")
            .arg(record.as_bytes())
            .arg(state)
            .arg(about)
            .arg("")
            .arg("60000");
        cmd
    }

    /// Sends one, or several in a pipeline.
    async fn done(&self, cmds: Vec<Cmd>) {
        let (mut connection, count) = (self.connection.clone(), cmds.len());
        if let [cmd] = &cmds[..] {
            let _version: String = cmd.query_async(&mut connection).await.unwrap();
            return;
        }
        let mut pipeline = Pipeline::with_capacity(count);
        for cmd in cmds {
            pipeline.add_command(cmd);
        }
        let done: Vec<String> = pipeline.query_async(&mut connection).await.unwrap();
        assert_eq!(done.len(), count);
    }

    /// A claim that meets what is there: its version and its body.
    async fn meet(&self, key: &Key, record: &Record) -> (u64, Vec<u8>) {
        let found: (u64, u64, Vec<u8>) =
            self.put(key, None, record).query_async(&mut self.connection.clone()).await.unwrap();
        (found.0, found.2)
    }
}

impl Raw for Scripts {
    async fn claim(&self, keys: &[Key], record: &Record) {
        self.done(keys.iter().map(|key| self.put(key, None, record)).collect()).await;
    }

    async fn exchange(&self, keys: &[(Key, Version)], record: &Record) {
        self.done(keys.iter().map(|(key, version)| self.put(key, Some(*version), record)).collect()).await;
    }

    async fn replay(&self, key: &Key) {
        let (_version, body) = self.meet(key, &oncekey_store_testing::bench::in_progress()).await;
        assert!(body.len() > OUTCOME_LEN);
    }

    async fn take_over(&self, key: &Key, version: Version, record: &Record) {
        let (found, _body) = self.meet(key, record).await;
        assert_eq!(found, version.get());
        self.exchange(&[(key.clone(), version)], record).await;
    }
}

/// As [`Scripts`], but for replays, which are a bare GET of the record's bytes.
#[derive(Clone)]
struct BareGet(Scripts);

impl Raw for BareGet {
    async fn claim(&self, keys: &[Key], record: &Record) {
        self.0.claim(keys, record).await;
    }

    async fn exchange(&self, keys: &[(Key, Version)], record: &Record) {
        self.0.exchange(keys, record).await;
    }

    async fn replay(&self, _: &Key) {
        let mut get = redis::cmd("GET");
        let bytes: Vec<u8> = get.arg("bare").query_async(&mut self.0.connection.clone()).await.unwrap();
        assert!(bytes.len() > OUTCOME_LEN);
    }

    async fn take_over(&self, key: &Key, version: Version, record: &Record) {
        self.0.take_over(key, version, record).await;
    }
}

fn main() {
    let server = Redis::start();
    let mut bench = Bench::from_args("Redis");
    let (store, sides, raw) = bench.block_on(async {
        let builder = RedisStore::builder().response_timeout(PATIENCE);
        let store = Arc::new(builder.connect(server.url()).await.unwrap());
        let sides = Sides::new(Arc::clone(&store), Arc::clone(&store), OUTCOME_LEN).await;
        let raw = Scripts::connect(server.url()).await;
        let mut set = redis::cmd("SET");
        set.arg("bare").arg(completed(OUTCOME_LEN).as_bytes());
        set.exec_async(&mut raw.connection.clone()).await.unwrap();
        (store, sides, raw)
    });
    for clients in [1, 16, 64] {
        let count = if clients == 1 { 4_000 } else { 20_000 };
        let of = |name, operations| Of { name, clients, operations };
        bench.fresh(of("fresh", count), &sides, &raw);
        bench.complete(of("complete", count), &sides, &raw);
        bench.replay(of("replay", count), &sides, &raw, &store);
        bench.replay(of("replay beside GET", count), &sides, &BareGet(raw.clone()), &store);
        bench.takeover(of("takeover", count / 2), &sides, &raw);
        bench.batches_of_claims(of("batch of 500 claims", count / 100), &sides, &raw);
    }
    println!("{}", bench.table());
}
