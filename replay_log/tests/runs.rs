//! Several runs over the same records and the same ledger: one after the other, side by side, and after a kill.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::thread;

use oncekey::{Key, MemoryStore};
use replay_log::audit::{self, Column, Tally};
use replay_log::generate::{self, Day};
use replay_log::input::{self, Request};
use replay_log::job::{self, Anywhere};
use replay_log::ledger::Ledger;
use replay_log::progress::Style;

#[allow(dead_code)] // its `main` is for cargo to call
#[path = "../src/main.rs"]
mod replay_log;

fn day(requests: u32) -> Vec<Request> {
    input::read(&mut &generate::log(Day { requests, seed: 5 })[..]).unwrap().requests
}

fn run(store: &Arc<MemoryStore>, ledger: &Path, requests: &[Request]) -> Column {
    let ledger = Ledger::open(ledger).unwrap();
    job::replay(Arc::clone(store), &Anywhere, ledger, requests, 8, Style::Silent).unwrap()
}

fn kept(requests: &[Request], column: &Column) -> Tally {
    assert_eq!(audit::violations(requests, column), Vec::<String>::new());
    audit::tally(requests, column)
}

#[test]
fn a_second_run_over_the_same_records_charges_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (store, ledger) = (Arc::new(MemoryStore::new()), folder.path().join("ledger"));
    let requests = day(2_000);
    let first = kept(&requests, &run(&store, &ledger, &requests));
    let second = kept(&requests, &run(&store, &ledger, &requests));
    assert!(first.charges > 1_000 && first.elsewhere == 0, "{first:?}");
    assert_eq!((second.charged, second.charges), (0, first.charges), "{second:?}");
    assert_eq!((second.elsewhere, second.double_charges()), (first.charges, 0));
    assert!(second.replayed_receipts > second.requests / 2, "{second:?}");
}

#[test]
fn records_without_their_ledger_and_a_ledger_without_its_records_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (folder.path().join("one"), folder.path().join("other"));
    let requests = day(300);
    let store = Arc::new(MemoryStore::new());
    kept(&requests, &run(&store, &one, &requests));
    let lost = audit::violations(&requests, &run(&store, &other, &requests));
    assert!(lost.iter().any(|what| what.contains("not the one on the ledger")), "{lost:?}");
    let forgotten = audit::violations(&requests, &run(&Arc::default(), &one, &requests));
    assert!(forgotten.iter().any(|what| what.contains("charged 2 times")), "{forgotten:?}");
}

#[test]
fn two_runs_side_by_side_charge_nothing_twice() {
    let folder = tempfile::tempdir().unwrap();
    let (store, ledger) = (Arc::new(MemoryStore::new()), folder.path().join("ledger"));
    let requests = day(2_000);
    let both_there = Barrier::new(2);
    let columns = thread::scope(|scope| {
        let run = || {
            both_there.wait();
            run(&store, &ledger, &requests)
        };
        let runs = [(); 2].map(|()| scope.spawn(run));
        runs.map(|run| run.join().unwrap())
    });
    let charged = columns.iter().map(|column| audit::tally(&requests, column).charged).collect::<Vec<_>>();
    assert!(charged.iter().all(|charged| *charged > 0), "both had their share: {charged:?}");
    // Either may end first, before the other's last charges; a third one sees all.
    let last = kept(&requests, &run(&store, &ledger, &requests));
    assert_eq!((last.charged, last.double_charges()), (0, 0), "{last:?}");
}

#[test]
fn a_ledger_says_what_other_runs_charged_and_takes_a_line_that_was_cut_off_for_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let key = |id: &str| Key::scoped(["payments.charge", "tenant\nwith \"quotes\""], id).unwrap();
    let reference = |byte| oncekey::OperationId::from_bytes([byte; 16]);
    let mut first = Ledger::open(&path).unwrap();
    let receipt = first.post(&key("a"), 5, Some(reference(1))).unwrap();
    let mut beside = Ledger::open(&path).unwrap();
    assert_eq!(first.post(&key("b"), 6, None).unwrap().number, 2);
    assert_eq!(beside.find(reference(1)).unwrap(), Some(receipt));
    assert_eq!(beside.post(&key("c"), 7, Some(reference(3))).unwrap().number, 3);
    assert_eq!(first.find(reference(3)).unwrap().unwrap().number, 3, "what came meanwhile is seen");
    assert_eq!(first.find(reference(2)).unwrap(), None);
    drop((first, beside));

    let whole = fs::read(&path).unwrap();
    for cut in 1..40 {
        fs::write(&path, &whole[..whole.len() - cut]).unwrap();
        let mut ledger = Ledger::open(&path).unwrap();
        ledger.post(&key("d"), 8, None).unwrap();
        drop(ledger);
        let charges = Ledger::open(&path).unwrap().into_charges().unwrap();
        let ids: Vec<_> = charges.iter().map(|charge| charge.key.id()).collect();
        assert_eq!(ids, ["a", "b", "d"], "{cut} bytes cut off");
        assert!(charges.iter().all(|charge| charge.elsewhere));
    }
    fs::write(&path, b"{\"number\":1}\n").unwrap();
    let error = Ledger::open(&path).unwrap_err().to_string();
    assert!(error.contains("byte 0: not a line of a ledger"), "{error}");
}
