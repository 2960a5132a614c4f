//! The store beside the raw client that does the same: `cargo bench -p oncekey-postgres`, with `-- --quick` for a smoke
//! test; `-- --filter WORD`. Both take their connections from one pool of 16, to a server that is started for it, with the
//! settings of production.
//!
//! `same`: the raw side sends the very statements of the store; the ratio is what our code costs. `least`: it sends the
//! least that SQL could do (a bare INSERT, UPDATE or SELECT); the ratio is what the contract costs.
//!
//! `-- --purge 10000000` measures claims before, during and after a purge of a table of so many rows instead.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]
#![allow(clippy::unused_async, reason = "some sides have nothing to prepare")]

mod purge;
mod raw;
mod work;

use std::sync::Arc;

use oncekey::Store as _;
use oncekey::protocol::Expected;
use oncekey::store::{BatchPut, Exchange, Put};
use oncekey_store_testing::bench::{Bench, Operation, Round, operation};
use oncekey_store_testing::server::Postgres;

use raw::Raw;
use work::{BATCH, DAY, Work, done, key};

const CLIENTS: [usize; 3] = [1, 16, 64];

fn main() {
    let server = Postgres::start();
    if let Some(rows) = purge::rows_asked_for() {
        return purge::measure(&server, rows);
    }
    let mut bench = Bench::from_args("PostgreSQL store beside tokio-postgres");
    for named in [false, true] {
        let work = Arc::new(bench.block_on(Work::new(&server, named)));
        let label = if named { "named" } else { "unnamed" };
        for clients in CLIENTS {
            let operations = if clients == 1 { 400 } else { 2000 };
            single(&mut bench, &work, label, clients, operations);
        }
        for clients in CLIENTS {
            batches(&mut bench, &work, label, clients);
        }
    }
    println!("{}", bench.table());
}

fn single(bench: &mut Bench, work: &Arc<Work>, label: &str, clients: usize, operations: usize) {
    let raw = |form: Raw| move |round: Round| form.prepare(Arc::clone(work), round);
    let name = |what: &str, against: &str| format!("{what}, {against}, {label}");
    for (against, form) in [
        ("same", Raw::SameClaim),
        ("least", Raw::Insert),
        ("insert, else select", Raw::InsertElseSelect),
        ("pipelined pair", Raw::Pair),
    ] {
        bench.compare(&name("fresh", against), clients, operations, raw(form), |round| fresh(work, round));
    }
    for (against, form) in [("same", Raw::SameExchange), ("least", Raw::Update)] {
        bench.compare(&name("complete", against), clients, operations, raw(form), |round| {
            complete(work, round)
        });
    }
    for (against, form) in [
        ("same", Raw::SameReplay),
        ("least", Raw::Select),
        ("insert, else select", Raw::ReplayInsertElseSelect),
        ("pipelined pair", Raw::ReplayPair),
    ] {
        bench.compare(&name("replay", against), clients, operations * 4, raw(form), |round| {
            replay(work, round)
        });
    }
    bench.compare(&name("takeover", "same"), clients, operations, raw(Raw::SameTakeover), |round| {
        takeover(work, round)
    });
}

fn batches(bench: &mut Bench, work: &Arc<Work>, label: &str, clients: usize) {
    let raw = |round| Raw::SameBatch.prepare(Arc::clone(work), round);
    let name = format!("batch of {BATCH}, same, {label}");
    // One each at least: of 64 clients, 32,000 keys a round.
    bench.compare(&name, clients, clients.max(32), raw, |round| batch(work, round));
}

async fn fresh(work: &Arc<Work>, _: Round) -> Operation {
    let work = Arc::clone(work);
    operation(move |place| {
        let work = Arc::clone(&work);
        async move {
            let put = Put::new(&work.in_progress, DAY, DAY);
            let key = key(place.round, place.number);
            let _version = done(work.store.compare_exchange(&key, Expected::Vacant, put).await);
        }
    })
}

async fn complete(work: &Arc<Work>, round: Round) -> Operation {
    let (work, versions) = (Arc::clone(work), work.claimed(round, DAY).await);
    operation(move |place| {
        let (work, version) = (Arc::clone(&work), versions[place.number]);
        async move {
            let put = Put::new(&work.completed, DAY, DAY);
            let key = key(place.round, place.number);
            let _version = done(work.store.compare_exchange(&key, Expected::At(version), put).await);
        }
    })
}

async fn replay(work: &Arc<Work>, _: Round) -> Operation {
    let work = Arc::clone(work);
    operation(move |place| {
        let work = Arc::clone(&work);
        async move {
            let put = Put::new(&work.in_progress, DAY, DAY);
            let answer =
                work.store.compare_exchange(work.replayed(place.number), Expected::Vacant, put).await;
            assert!(matches!(answer, Ok(Exchange::Conflict(Some(_)))));
        }
    })
}

async fn takeover(work: &Arc<Work>, round: Round) -> Operation {
    let (work, _versions) = (Arc::clone(work), work.claimed(round, std::time::Duration::ZERO).await);
    operation(move |place| {
        let work = Arc::clone(&work);
        async move {
            let put = Put::new(&work.in_progress, DAY, DAY);
            let key = key(place.round, place.number);
            let answer = work.store.compare_exchange(&key, Expected::Vacant, put).await;
            let Ok(Exchange::Conflict(Some(entry))) = answer else { panic!("{answer:?}") };
            assert!(entry.left.is_zero());
            let _version = done(work.store.compare_exchange(&key, Expected::At(entry.version), put).await);
        }
    })
}

async fn batch(work: &Arc<Work>, round: Round) -> Operation {
    let (work, batches) = (Arc::clone(work), work.batches(round).await);
    operation(move |place| {
        let (work, batches) = (Arc::clone(&work), Arc::clone(&batches));
        async move {
            let put = Put::new(&work.in_progress, DAY, DAY);
            let items: Vec<_> = batches[place.number]
                .iter()
                .map(|(key, version)| BatchPut::new(key, Expected::At(*version), put))
                .collect();
            let answers = work.store.compare_exchange_many(&items).await;
            for answer in answers {
                let _version = done(answer);
            }
        }
    })
}
