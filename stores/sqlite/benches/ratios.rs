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

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use oncekey::Key;
use oncekey::protocol::Expected;
use oncekey::store::{Put, Store as _};
use oncekey_sqlite::{Reads, SqliteStore};
use oncekey_store_testing::bench::{Bench, HOUR, Of, Place, Raw as _, Sides, done, in_progress, operation};
use raw::{Connections, InPlace};

const CLIENTS: [usize; 3] = [1, 16, 64];
const OUTCOME_LEN: usize = 100;

/// What the group commit costs: the raw side knows beforehand what it will write, and is one client.
fn grouped(bench: &mut Bench, store: &Arc<SqliteStore>, raw: &Connections) {
    let record = Arc::new(in_progress());
    let keys = |place: Place| -> Vec<Key> {
        let id = |number| format!("{:04}-{:08}-{number}", place.round, place.number);
        (0..64).map(|number| Key::new("bench", id(number)).expect("it is short")).collect()
    };
    bench.compare(
        "64 claims at once; raw: 64 in one transaction",
        1,
        150,
        |_| async {
            let (raw, record) = (raw.clone(), Arc::clone(&record));
            operation(move |place| {
                let (raw, record) = (raw.clone(), Arc::clone(&record));
                async move { raw.claim(&keys(place), &record).await }
            })
        },
        |_| async {
            let (store, record) = (Arc::clone(store), Arc::clone(&record));
            operation(move |place| {
                let (store, record) = (Arc::clone(&store), Arc::clone(&record));
                async move {
                    let put = Put::new(&record, HOUR, HOUR);
                    let claim =
                        async |key: &Key| done(store.compare_exchange(key, Expected::Vacant, put).await);
                    let keys = keys(place);
                    join_all(keys.iter().map(claim)).await;
                }
            })
        },
    );
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
        return purge::measure(
            number(rows),
            Duration::from_secs(seconds),
            after("--path").map(PathBuf::from),
        );
    }
    let mut bench = Bench::from_args("SQLite: raw time / our time");
    let directory = tempfile::tempdir().expect("a directory is made");
    let path = |name: &str| directory.path().join(name);
    let open = |name: &str| Arc::new(SqliteStore::open(path(name)).expect("it opens"));
    // Two files with the same schema: the raw client has its own, which a store fills.
    let (store, beside_raw) = (open("ours.db"), open("raw.db"));
    let on_caller = SqliteStore::builder(path("ours.db")).reads(Reads::OnCaller).open().expect("it opens");
    let on_caller = Arc::new(on_caller);
    let raw = Connections::open(&path("raw.db"));
    let sides = bench.block_on(Sides::new(Arc::clone(&store), beside_raw, OUTCOME_LEN));
    for clients in CLIENTS {
        let of = |name, operations| Of { name, clients, operations };
        let writes = if clients == 1 { 300 } else { 640 };
        bench.fresh(of("fresh claim; raw: one by one", writes), &sides, &raw);
        bench.complete(of("complete; raw: one by one", writes), &sides, &raw);
        bench.takeover(of("takeover; raw: one by one", writes), &sides, &raw);
        bench.replay(of("replay; raw: SELECT on a blocking thread", 20_000), &sides, &raw, &store);
        let of_in_place = of("replay, Reads::OnCaller; raw: SELECT in place", 20_000);
        bench.replay(of_in_place, &sides, &InPlace(raw.clone()), &on_caller);
        bench.batches_of_claims(of("batch of 500 claims; raw: one transaction", 64), &sides, &raw);
    }
    grouped(&mut bench, &store, &raw);
    println!("{}", bench.table());
}
