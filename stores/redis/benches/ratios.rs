//! The store beside the raw client that sends the same scripts with the same arguments, and a bare GET, by turns.
//!
//! `cargo bench -p oncekey-redis`; `-- --quick` for a smoke test. The server is one of its own, which keeps nothing on
//! disk: what a flush costs would hide what the store adds.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::sync::Arc;
use std::time::Duration;

use oncekey::Key;
use oncekey::protocol::{Expected, Record, Version};
use oncekey::store::{BatchPut, Exchange, Put, Store as _};
use oncekey_redis::RedisStore;
use oncekey_store_testing::bench::{Bench, Place, Round, operation};
use oncekey_store_testing::server::Redis;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Cmd, Pipeline, Script};

const HOUR: Duration = Duration::from_secs(3600);
const BATCH: usize = 500;

/// The raw client, with the scripts of the store.
#[derive(Clone)]
struct Raw {
    connection: ConnectionManager,
    scripts: Arc<[String; 2]>,
}

const READ: &str = include_str!("../src/script/read.lua");
const EXCHANGE: &str = include_str!("../src/script/exchange.lua");

impl Raw {
    async fn connect(url: &str) -> Self {
        let config = ConnectionManagerConfig::new().set_response_timeout(Some(Duration::from_secs(3)));
        let client = redis::Client::open(url).unwrap();
        let mut connection =
            ConnectionManager::new_with_config(client, config.set_pipeline_buffer_size(1024)).await.unwrap();
        let texts = [format!("{READ}\n{EXCHANGE}"), format!("#!lua flags=allow-oom\n{READ}\n{EXCHANGE}")];
        let mut digests = Vec::new();
        for text in texts {
            digests.push(Script::new(&text).load_async(&mut connection).await.unwrap());
        }
        Self { connection, scripts: Arc::new(digests.try_into().unwrap()) }
    }

    /// The call that the store makes.
    fn put(&self, key: &str, expected: &str, record: &Sample, live_us: &str) -> Cmd {
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(&self.scripts[usize::from(!expected.is_empty())]).arg(1).arg(key).arg(expected).arg(live_us);
        cmd.arg("3600000000").arg(&record.body).arg(record.state).arg(&record.about).arg("").arg("60000");
        cmd
    }

    async fn done(&mut self, cmd: &Cmd) -> String {
        cmd.query_async(&mut self.connection).await.unwrap()
    }
}

/// A record, and what the store makes of it.
#[derive(Clone)]
struct Sample {
    record: Record,
    body: Vec<u8>,
    state: &'static str,
    about: String,
}

impl Sample {
    fn new(flags: u8, state: &'static str, rest: &[u8]) -> Self {
        let body = [&[1, flags][..], &[0xab; 16], &[1, 0, 7], rest].concat();
        let about = format!(
            "attempt=1 policy=reclaim operation_id={} created=1970-01-01T00:00:00.007Z{}",
            "ab".repeat(16),
            if rest.is_empty() {
                ""
            } else {
                " finished=1970-01-01T00:00:00.009Z succeeded outcome_bytes=100"
            }
        );
        Self { record: Record::decode(&body.clone().into()).unwrap(), body, state, about }
    }

    fn in_progress() -> Self {
        Self::new(0x80, "in_progress", &[])
    }

    fn completed() -> Self {
        Self::new(0x81, "completed", &[&[9, 0, 100][..], &[b'x'; 100]].concat())
    }
}

fn name(place: Place) -> String {
    format!("{}-{}", place.round, place.number)
}

fn key(name: &str) -> Key {
    Key::new("bench", name).unwrap()
}

async fn exchange(
    store: &RedisStore,
    name: &str,
    expected: Expected,
    record: &Record,
    live: Duration,
) -> Exchange {
    store.compare_exchange(&key(name), expected, Put::new(record, live, HOUR)).await.unwrap()
}

fn version(exchange: Exchange) -> Version {
    match exchange {
        Exchange::Done(version) => version,
        other => panic!("{other:?}"),
    }
}

/// Claims all keys of a round; answers the versions.
async fn claimed(store: &RedisStore, round: Round, sample: &Sample, live: Duration) -> Arc<Vec<Version>> {
    let keys: Vec<_> =
        (0..round.operations()).map(|number| key(&format!("{}-{number}", round.number))).collect();
    let put = Put::new(&sample.record, live, HOUR);
    let mut versions = Vec::new();
    for keys in keys.chunks(BATCH) {
        let batch: Vec<_> = keys.iter().map(|key| BatchPut::new(key, Expected::Vacant, put)).collect();
        let answers = store.compare_exchange_many(&batch).await;
        versions.extend(answers.into_iter().map(|answer| version(answer.unwrap())));
    }
    Arc::new(versions)
}

struct Sides {
    raw: Raw,
    store: RedisStore,
}

impl Sides {
    fn redis_key(&self, place: Place) -> String {
        String::from_utf8(self.store.redis_key(&key(&name(place)))).unwrap()
    }
}

fn main() {
    let server = Redis::start();
    let mut bench = Bench::from_args("Redis");
    let sides = bench.block_on(async {
        let store = RedisStore::connect(server.url()).await.unwrap();
        Arc::new(Sides { raw: Raw::connect(server.url()).await, store })
    });
    for clients in [1, 16, 64] {
        let count = if clients == 1 { 4_000 } else { 20_000 };
        fresh(&mut bench, &sides, clients, count);
        complete(&mut bench, &sides, clients, count);
        replay(&mut bench, &sides, clients, count);
        takeover(&mut bench, &sides, clients, count / 2);
        batch(&mut bench, &sides, clients, count / 100);
    }
    println!("{}", bench.table());
}

fn fresh(bench: &mut Bench, sides: &Arc<Sides>, clients: usize, count: usize) {
    let sample = Sample::in_progress();
    bench.compare(
        "fresh",
        clients,
        count,
        |_| {
            let (sides, sample) = (Arc::clone(sides), sample.clone());
            async move {
                operation(move |place| {
                    let (sides, sample) = (Arc::clone(&sides), sample.clone());
                    async move {
                        let mut raw = sides.raw.clone();
                        let cmd = raw.put(&sides.redis_key(place), "", &sample, "3600000000");
                        raw.done(&cmd).await;
                    }
                })
            }
        },
        |_| {
            let (sides, sample) = (Arc::clone(sides), sample.clone());
            async move {
                operation(move |place| {
                    let (sides, sample) = (Arc::clone(&sides), sample.clone());
                    async move {
                        version(
                            exchange(&sides.store, &name(place), Expected::Vacant, &sample.record, HOUR)
                                .await,
                        );
                    }
                })
            }
        },
    );
}

fn complete(bench: &mut Bench, sides: &Arc<Sides>, clients: usize, count: usize) {
    let sample = Sample::completed();
    bench.compare(
        "complete",
        clients,
        count,
        |round| {
            let (sides, sample) = (Arc::clone(sides), sample.clone());
            async move {
                let versions = claimed(&sides.store, round, &Sample::in_progress(), HOUR).await;
                operation(move |place| {
                    let (sides, sample, version) =
                        (Arc::clone(&sides), sample.clone(), versions[place.number]);
                    async move {
                        let mut raw = sides.raw.clone();
                        let at = version.to_string();
                        let cmd = raw.put(&sides.redis_key(place), &at, &sample, "3600000000");
                        raw.done(&cmd).await;
                    }
                })
            }
        },
        |round| {
            let (sides, sample) = (Arc::clone(sides), sample.clone());
            async move {
                let versions = claimed(&sides.store, round, &Sample::in_progress(), HOUR).await;
                operation(move |place| {
                    let (sides, sample, at) = (Arc::clone(&sides), sample.clone(), versions[place.number]);
                    async move {
                        let at = Expected::At(at);
                        version(exchange(&sides.store, &name(place), at, &sample.record, HOUR).await);
                    }
                })
            }
        },
    );
}

/// Over one completed record: beside the same script, and beside a bare GET of its bytes.
fn replay(bench: &mut Bench, sides: &Arc<Sides>, clients: usize, count: usize) {
    let completed = Sample::completed();
    let hash = bench.block_on(async {
        let mut raw = sides.raw.clone();
        let (here, put) = (key("replayed"), Put::new(&completed.record, HOUR, HOUR));
        sides.store.compare_exchange(&here, Expected::Vacant, put).await.unwrap();
        let mut set = redis::cmd("SET");
        set.arg("bare").arg(&completed.body).exec_async(&mut raw.connection).await.unwrap();
        String::from_utf8(sides.store.redis_key(&key("replayed"))).unwrap()
    });
    let ours = || {
        let sides = Arc::clone(sides);
        async move {
            let record = Sample::in_progress().record;
            operation(move |_| {
                let (sides, record) = (Arc::clone(&sides), record.clone());
                async move {
                    let answer = exchange(&sides.store, "replayed", Expected::Vacant, &record, HOUR).await;
                    assert!(matches!(answer, Exchange::Conflict(Some(_))));
                }
            })
        }
    };
    bench.compare(
        "replay",
        clients,
        count,
        |_| {
            let (sides, hash, sample) = (Arc::clone(sides), hash.clone(), Sample::in_progress());
            async move {
                operation(move |_| {
                    let mut raw = sides.raw.clone();
                    let cmd = raw.put(&hash, "", &sample, "3600000000");
                    async move {
                        let parts: (u64, u64, Vec<u8>) = cmd.query_async(&mut raw.connection).await.unwrap();
                        assert!(parts.2.len() > 100);
                    }
                })
            }
        },
        |_| ours(),
    );
    bench.compare(
        "replay beside GET",
        clients,
        count,
        |_| {
            let sides = Arc::clone(sides);
            async move {
                operation(move |_| {
                    let mut raw = sides.raw.clone();
                    async move {
                        let mut get = redis::cmd("GET");
                        let bytes: Vec<u8> = get.arg("bare").query_async(&mut raw.connection).await.unwrap();
                        assert!(bytes.len() > 100);
                    }
                })
            }
        },
        |_| ours(),
    );
}

/// Of a claim whose lease is over: a claim that meets it, and the exchange.
fn takeover(bench: &mut Bench, sides: &Arc<Sides>, clients: usize, count: usize) {
    let sample = Sample::in_progress();
    bench.compare(
        "takeover",
        clients,
        count,
        |round| {
            let (sides, sample) = (Arc::clone(sides), sample.clone());
            async move {
                claimed(&sides.store, round, &sample, Duration::ZERO).await;
                operation(move |place| {
                    let (sides, sample) = (Arc::clone(&sides), sample.clone());
                    async move {
                        let mut raw = sides.raw.clone();
                        let hash = sides.redis_key(place);
                        let meets = raw.put(&hash, "", &sample, "3600000000");
                        let parts: (String, u64, Vec<u8>) =
                            meets.query_async(&mut raw.connection).await.unwrap();
                        let takes = raw.put(&hash, &parts.0, &sample, "3600000000");
                        raw.done(&takes).await;
                    }
                })
            }
        },
        |round| {
            let (sides, sample) = (Arc::clone(sides), sample.clone());
            async move {
                claimed(&sides.store, round, &sample, Duration::ZERO).await;
                operation(move |place| {
                    let (sides, sample) = (Arc::clone(&sides), sample.clone());
                    async move {
                        let name = name(place);
                        let met = exchange(&sides.store, &name, Expected::Vacant, &sample.record, HOUR).await;
                        let Exchange::Conflict(Some(entry)) = met else { panic!("{met:?}") };
                        let at = Expected::At(entry.version);
                        version(exchange(&sides.store, &name, at, &sample.record, HOUR).await);
                    }
                })
            }
        },
    );
}

/// 500 claims in one call, of each client its own.
fn batch(bench: &mut Bench, sides: &Arc<Sides>, clients: usize, count: usize) {
    let sample = Sample::in_progress();
    let names = |place: Place| (0..BATCH).map(move |item| format!("{}-{}-{item}", place.round, place.number));
    bench.compare(
        "batch of 500 claims",
        clients,
        count,
        |_| {
            let (sides, sample) = (Arc::clone(sides), sample.clone());
            async move {
                operation(move |place| {
                    let (sides, sample) = (Arc::clone(&sides), sample.clone());
                    async move {
                        let mut raw = sides.raw.clone();
                        let mut pipeline = Pipeline::with_capacity(BATCH);
                        for name in names(place) {
                            let hash = String::from_utf8(sides.store.redis_key(&key(&name))).unwrap();
                            pipeline.add_command(raw.put(&hash, "", &sample, "3600000000"));
                        }
                        let done: Vec<String> = pipeline.query_async(&mut raw.connection).await.unwrap();
                        assert_eq!(done.len(), BATCH);
                    }
                })
            }
        },
        |_| {
            let (sides, sample) = (Arc::clone(sides), sample.clone());
            async move {
                operation(move |place| {
                    let (sides, sample) = (Arc::clone(&sides), sample.clone());
                    async move {
                        let keys: Vec<_> = names(place).map(|name| key(&name)).collect();
                        let put = Put::new(&sample.record, HOUR, HOUR);
                        let batch: Vec<_> =
                            keys.iter().map(|key| BatchPut::new(key, Expected::Vacant, put)).collect();
                        for answer in sides.store.compare_exchange_many(&batch).await {
                            version(answer.unwrap());
                        }
                    }
                })
            }
        },
    );
}
