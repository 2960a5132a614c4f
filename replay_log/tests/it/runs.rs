//! Several runs over the same records and the same ledger: one after the other, side by side, and after a kill.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use crate::replay_log::audit::{self, Column, Tally};
use crate::replay_log::generate::{self, Day};
use crate::replay_log::input::{self, Request};
use crate::replay_log::job::{self, Anywhere};
use crate::replay_log::ledger::{self, Ledger};
use crate::replay_log::progress::Style;
use oncekey::{Key, MemoryStore};

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
    let begun = Instant::now();
    // On a busy machine one may be done before the other has begun.
    while !both_had_their_share() {
        assert!(begun.elapsed() < Duration::from_secs(300), "in no try both charged something");
    }
}

/// Two runs side by side, which charge nothing twice; whether both charged something.
fn both_had_their_share() -> bool {
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
    // Either may end first, before the other's last charges; a third one sees all.
    let last = kept(&requests, &run(&store, &ledger, &requests));
    assert_eq!((last.charged, last.double_charges()), (0, 0), "{last:?}");
    charged.iter().all(|charged| *charged > 0)
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
    // A full disk cuts a line off while the runs go on: the next one, of whichever run, is glued to it.
    let line = whole.split_inclusive(|byte| *byte == b'\n').nth(1).unwrap();
    for cut in (1..=line.len()).chain([0, 1, 2, 10].map(|pieces| pieces * line.len() + 20)) {
        fs::write(&path, &whole).unwrap();
        let (mut one, mut other) = (Ledger::open(&path).unwrap(), Ledger::open(&path).unwrap());
        // So much was written, of one line after another.
        let mut pieces = line[..line.len() - 1].repeat(cut / line.len());
        pieces.extend(&line[..cut % line.len()]);
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(&pieces).unwrap();
        assert_eq!(one.find(reference(1)).unwrap().unwrap().number, 1);
        assert_eq!(one.post(&key("d"), 8, Some(reference(4))).unwrap().number, 4, "{cut} bytes");
        assert_eq!(other.post(&key("e"), 9, None).unwrap().number, 5, "{cut} bytes");
        drop((one, other));
        let charges = Ledger::open(&path).unwrap().into_charges().unwrap();
        let ids: Vec<_> = charges.iter().map(|charge| charge.key.id()).collect();
        assert_eq!(ids, ["a", "b", "c", "d", "e"], "{cut} bytes of a line");
    }
    // A file that begins with neither a line nor the beginning of one is no ledger.
    for stranger in ["{\"number\":\"one\"", "a note ", "{\"number\":1,\"scope\":[]}, ", "\0"] {
        fs::write(&path, [stranger.as_bytes(), &whole].concat()).unwrap();
        let error = Ledger::open(&path).unwrap_err().to_string();
        assert!(error.contains("byte 0: not a line of a ledger"), "{stranger:?}: {error}");
    }
    fs::write(&path, b"{\"number\":1}\n").unwrap();
    let error = Ledger::open(&path).unwrap_err().to_string();
    assert!(error.contains("byte 0: not a line of a ledger"), "{error}");
}

/// Takes so many bytes at a time, after it was interrupted once.
struct Narrow {
    room: usize,
    interrupted: bool,
    taken: Vec<u8>,
}

impl io::Write for Narrow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !std::mem::replace(&mut self.interrupted, true) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let taken = &bytes[..bytes.len().min(self.room)];
        self.taken.extend(taken);
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The rest of a line may not come behind what another run wrote meanwhile.
#[test]
fn a_line_is_written_by_one_write_or_is_an_error() {
    let mut narrow = Narrow { room: 6, interrupted: false, taken: Vec::new() };
    ledger::write_at_once(&mut narrow, b"a line").unwrap();
    let error = ledger::write_at_once(&mut narrow, b"a line too long").unwrap_err();
    assert!(error.to_string().contains("6 of 15 bytes"), "{error}");
    assert_eq!(narrow.taken, b"a linea line");
}
