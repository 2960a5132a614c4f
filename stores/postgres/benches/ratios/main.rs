//! The store beside the raw client that does the same: `cargo bench -p oncekey-postgres`, with `-- --quick` for a smoke
//! test; `-- --filter WORD`. Both take their connections from one pool of 16, to a server that is started for it, with the
//! settings of production.
//!
//! `same`: the raw side sends the very statements of the store; the ratio is what our code costs. `least`: it sends the
//! least that SQL could do (a bare INSERT, UPDATE or SELECT); the ratio is what the contract costs.
//!
//! `-- --purge 10000000` measures claims before, during and after a purge of a table of so many rows instead.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod purge;
mod raw;
mod work;

use oncekey_store_testing::bench::{BATCH, Bench, Of};
use oncekey_store_testing::server::Postgres;

use raw::{Form, Statements};
use work::Work;

const CLIENTS: [usize; 3] = [1, 16, 64];

fn main() {
    let server = Postgres::start();
    if let Some(rows) = purge::rows_asked_for() {
        return purge::measure(&server, rows);
    }
    let mut bench = Bench::from_args("PostgreSQL store beside tokio-postgres");
    for named in [false, true] {
        let work = bench.block_on(Work::new(&server, named));
        let label = if named { "named" } else { "unnamed" };
        for clients in CLIENTS {
            let operations = if clients == 1 { 400 } else { 2000 };
            single(&mut bench, &work, label, clients, operations);
        }
        for clients in CLIENTS {
            let name = format!("batch of {BATCH}, same, {label}");
            // One each at least: of 64 clients, 32,000 keys a round.
            let of = Of { name: &name, clients, operations: clients.max(32) };
            bench.batches_of_renewals(of, &work.sides, &Statements::of(&work, Form::Same));
        }
    }
    println!("{}", bench.table());
}

fn single(bench: &mut Bench, work: &Work, label: &str, clients: usize, operations: usize) {
    let sides = &work.sides;
    let forms = [
        ("same", Form::Same),
        ("least", Form::Least),
        ("insert, else select", Form::InsertElseSelect),
        ("pipelined pair", Form::Pair),
    ];
    let name = |what: &str, against: &str| format!("{what}, {against}, {label}");
    for (against, form) in forms {
        let name = name("fresh", against);
        bench.fresh(Of { name: &name, clients, operations }, sides, &Statements::of(work, form));
    }
    for (against, form) in &forms[..2] {
        let name = name("complete", against);
        bench.complete(Of { name: &name, clients, operations }, sides, &Statements::of(work, *form));
    }
    for (against, form) in forms {
        let name = name("replay", against);
        let of = Of { name: &name, clients, operations: operations * 4 };
        bench.replay(of, sides, &Statements::of(work, form), &work.store);
    }
    let name = name("takeover", "same");
    bench.takeover(Of { name: &name, clients, operations }, sides, &Statements::of(work, Form::Same));
}
