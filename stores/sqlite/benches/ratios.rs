//! The store beside raw rusqlite with the same statements, on the same disk, by turns.
//!
//! ```text
//! cargo bench -p oncekey-sqlite --bench ratios                       # minutes
//! cargo bench -p oncekey-sqlite --bench ratios -- --quick            # a smoke test
//! cargo bench -p oncekey-sqlite --bench ratios -- --filter replay
//! # Latencies beside a purge; some GB of disk. It ends after so many seconds, if given.
//! cargo bench -p oncekey-sqlite --bench ratios -- --purge 10000000 --seconds 300
//! ```
//!
//! The files are in the system's temporary directory (`TMPDIR`), which should be on a real disk. All commits are flushed.
#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

#[path = "ratios/purge.rs"]
mod purge;
#[path = "ratios/raw.rs"]
mod raw;
#[path = "ratios/records.rs"]
mod records;

use std::sync::Arc;

use futures::future::join_all;
use oncekey::Key;
use oncekey::protocol::{Expected, Record, Version};
use oncekey::store::{BatchPut, Exchange, Put, Store as _};
use oncekey_sqlite::{Reads, SqliteStore};
use oncekey_store_testing::bench::{Bench, Place, Round, operation};
use raw::Raw;
use records::{HOUR, completed, in_progress};
use std::time::Duration;

const CLIENTS: [usize; 3] = [1, 16, 64];
const BATCH: usize = 500;

fn key(place: Place) -> Key {
    Key::new("bench", format!("{:04}-{:08}", place.round, place.number)).expect("it is short")
}

/// The keys that a round will use, in the order of its numbers.
fn keys(round: Round) -> Vec<Key> {
    let id = |number| format!("{:04}-{number:08}", round.number);
    (0..round.operations()).map(|number| Key::new("bench", id(number)).expect("it is short")).collect()
}

async fn exchange(store: &SqliteStore, key: &Key, expected: Expected, record: &Record) -> Exchange {
    store.compare_exchange(key, expected, Put::new(record, HOUR, HOUR)).await.expect("the store answers")
}

async fn claim(store: &SqliteStore, key: &Key, record: &Record) {
    let answer = exchange(store, key, Expected::Vacant, record).await;
    assert!(matches!(answer, Exchange::Done(_)), "the key is new: {answer:?}");
}

/// Has all of these keys written, and answers their versions.
async fn fill(store: &SqliteStore, keys: &[Key], record: &Record, live: Duration) -> Vec<u64> {
    let mut versions = Vec::with_capacity(keys.len());
    for some in keys.chunks(1_000) {
        let put = Put::new(record, live, HOUR);
        let batch: Vec<_> = some.iter().map(|key| BatchPut::new(key, Expected::Vacant, put)).collect();
        for answer in store.compare_exchange_many(&batch).await {
            match answer {
                Ok(Exchange::Done(version)) => versions.push(version.get()),
                other => panic!("the key is new: {other:?}"),
            }
        }
    }
    versions
}

/// Both sides: two files with the same schema, and for each a store.
struct Sides {
    store: SqliteStore,
    on_caller: SqliteStore,
    raw: Raw,
    /// Fills the raw side's file.
    beside_raw: SqliteStore,
}

impl Sides {
    fn fresh(&self, bench: &mut Bench) {
        let record = Arc::new(in_progress());
        for clients in CLIENTS {
            bench.compare(
                "fresh claim; raw: one by one",
                clients,
                operations(clients),
                |_| async {
                    let (raw, record) = (self.raw.clone(), Arc::clone(&record));
                    operation(move |place| {
                        let (raw, record) = (raw.clone(), Record::clone(&record));
                        async move { raw.claim(vec![key(place)], record).await }
                    })
                },
                |_| async {
                    let (store, record) = (self.store.clone(), Arc::clone(&record));
                    operation(move |place| {
                        let (store, record) = (store.clone(), Arc::clone(&record));
                        async move { claim(&store, &key(place), &record).await }
                    })
                },
            );
        }
    }

    /// What the group commit costs: the raw side knows beforehand what it will write, and is one client.
    fn grouped(&self, bench: &mut Bench) {
        let record = Arc::new(in_progress());
        let numbered = |place: Place, number| {
            Key::new("bench", format!("{:04}-{:08}-{number}", place.round, place.number))
                .expect("it is short")
        };
        bench.compare(
            "64 claims at once; raw: 64 in one transaction",
            1,
            150,
            |_| async {
                let (raw, record) = (self.raw.clone(), Arc::clone(&record));
                operation(move |place| {
                    let (raw, record) = (raw.clone(), Record::clone(&record));
                    async move { raw.claim((0..64).map(|number| numbered(place, number)).collect(), record).await }
                })
            },
            |_| async {
                let (store, record) = (self.store.clone(), Arc::clone(&record));
                operation(move |place| {
                    let (store, record) = (store.clone(), Arc::clone(&record));
                    async move {
                        let one = async |number| claim(&store, &numbered(place, number), &record).await;
                        join_all((0..64).map(one)).await;
                    }
                })
            },
        );
    }

    /// Writes at the version that is there: what completes a claim, and what takes over an expired one.
    fn exchanges(&self, bench: &mut Bench, name: &str, live: Duration, looks_first: bool, to: &Record) {
        let from = &in_progress();
        for clients in CLIENTS {
            bench.compare(
                name,
                clients,
                operations(clients),
                |round| async move {
                    let keys = keys(round);
                    let versions = Arc::new(fill(&self.beside_raw, &keys, from, live).await);
                    let (raw, to) = (self.raw.clone(), to.clone());
                    operation(move |place| {
                        let (raw, to, version) = (raw.clone(), to.clone(), versions[place.number]);
                        async move {
                            if looks_first {
                                raw.read(key(place)).await;
                            }
                            raw.exchange(vec![(key(place), version)], to).await;
                        }
                    })
                },
                |round| async move {
                    let keys = keys(round);
                    let versions = Arc::new(fill(&self.store, &keys, from, live).await);
                    let (store, to) = (self.store.clone(), to.clone());
                    operation(move |place| {
                        let (store, to, version) = (store.clone(), to.clone(), versions[place.number]);
                        async move {
                            let key = key(place);
                            if looks_first {
                                let answer = exchange(&store, &key, Expected::Vacant, &to).await;
                                assert!(
                                    matches!(answer, Exchange::Conflict(Some(entry)) if entry.left.is_zero())
                                );
                            }
                            let answer =
                                exchange(&store, &key, Expected::At(Version::new(version)), &to).await;
                            assert!(matches!(answer, Exchange::Done(_)), "nobody else writes it: {answer:?}");
                        }
                    })
                },
            );
        }
    }

    fn replays(&self, bench: &mut Bench) {
        let record = completed();
        for clients in CLIENTS {
            let ours = async |store: &SqliteStore, round: Round| {
                fill(&self.store, &keys(round), &record, HOUR).await;
                let (store, claim) = (store.clone(), Arc::new(in_progress()));
                operation(move |place| {
                    let (store, claim) = (store.clone(), Arc::clone(&claim));
                    async move {
                        let answer = exchange(&store, &key(place), Expected::Vacant, &claim).await;
                        assert!(matches!(answer, Exchange::Conflict(Some(_))), "it is completed: {answer:?}");
                    }
                })
            };
            bench.compare(
                "replay; raw: SELECT on a blocking thread",
                clients,
                20_000,
                |round| async move {
                    fill(&self.beside_raw, &keys(round), &completed(), HOUR).await;
                    let raw = self.raw.clone();
                    operation(move |place| {
                        let raw = raw.clone();
                        async move { assert!(raw.read(key(place)).await.len() > 100) }
                    })
                },
                |round| ours(&self.store, round),
            );
            bench.compare(
                "replay, Reads::OnCaller; raw: SELECT in place",
                clients,
                20_000,
                |round| async move {
                    fill(&self.beside_raw, &keys(round), &completed(), HOUR).await;
                    let raw = self.raw.clone();
                    operation(move |place| {
                        let raw = raw.clone();
                        async move { assert!(raw.read_here(&key(place)).len() > 100) }
                    })
                },
                |round| ours(&self.on_caller, round),
            );
        }
    }

    fn batches(&self, bench: &mut Bench) {
        let record = Arc::new(in_progress());
        let numbered = |place: Place| -> Vec<Key> {
            let id = |number| format!("{:04}-{:08}-{number}", place.round, place.number);
            (0..BATCH).map(|number| Key::new("bench", id(number)).expect("it is short")).collect()
        };
        for clients in CLIENTS {
            bench.compare(
                "batch of 500 claims; raw: one transaction",
                clients,
                64,
                |_| async {
                    let (raw, record) = (self.raw.clone(), Arc::clone(&record));
                    operation(move |place| {
                        let (raw, record) = (raw.clone(), Record::clone(&record));
                        async move { raw.claim(numbered(place), record).await }
                    })
                },
                |_| async {
                    let (store, record) = (self.store.clone(), Arc::clone(&record));
                    operation(move |place| {
                        let (store, record) = (store.clone(), Arc::clone(&record));
                        async move { fill_batch(&store, &numbered(place), &record).await }
                    })
                },
            );
        }
    }
}

async fn fill_batch(store: &SqliteStore, keys: &[Key], record: &Record) {
    assert_eq!(fill(store, keys, record, HOUR).await.len(), BATCH);
}

/// So many that a round takes about a second on the raw side.
fn operations(clients: usize) -> usize {
    if clients == 1 { 300 } else { 640 }
}

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    let after = |name| {
        let at = arguments.iter().position(|argument| argument == name)?;
        Some(arguments.get(at + 1).unwrap_or_else(|| panic!("{name} has something after it")))
    };
    let number = |text: &String| text.parse().unwrap_or_else(|_| panic!("{text} is not a number"));
    if let Some(rows) = after("--purge") {
        let seconds = after("--seconds").map_or(u64::MAX, number);
        return purge::measure(number(rows), Duration::from_secs(seconds), after("--path").map(Into::into));
    }
    let mut bench = Bench::from_args("SQLite: raw time / our time");
    let directory = tempfile::tempdir().expect("a directory is made");
    let path = |name: &str| directory.path().join(name);
    let open = |name: &str| SqliteStore::open(path(name)).expect("it opens");
    let sides = Sides {
        beside_raw: open("raw.db"),
        store: open("ours.db"),
        on_caller: SqliteStore::builder(path("ours.db")).reads(Reads::OnCaller).open().expect("it opens"),
        raw: Raw::open(&path("raw.db")),
    };
    sides.fresh(&mut bench);
    sides.grouped(&mut bench);
    sides.exchanges(&mut bench, "complete; raw: one by one", HOUR, false, &completed());
    sides.exchanges(&mut bench, "takeover; raw: one by one", Duration::ZERO, true, &in_progress());
    sides.replays(&mut bench);
    sides.batches(&mut bench);
    println!("{}", bench.table());
}
