//! Puts the memory store through the conformance kit, and prints the certificate.
//!
//! ```text
//! cargo run --release -p oncekey-conformance --example certificate
//! ```

use std::process::ExitCode;

use oncekey::MemoryStore;
use oncekey::time::ManualClock;
use oncekey_conformance::{Abilities, Harness, Subject, Time, certify};

struct Memory;

impl Memory {
    fn subject(records_max: usize) -> Subject<MemoryStore> {
        let clock = ManualClock::new();
        let store = MemoryStore::builder().clock(clock.clone()).records_max(records_max).build();
        Subject::new(store, Time::manual(clock))
    }
}

impl Harness for Memory {
    type Store = MemoryStore;
    type Guard = ();

    fn fresh(&self) -> Subject<MemoryStore> {
        Self::subject(1_000_000)
    }

    fn fresh_bounded(&self, records_max: usize) -> Option<Subject<MemoryStore>> {
        Some(Self::subject(records_max))
    }

    fn abilities(&self) -> Abilities {
        Abilities::default().purging()
    }
}

fn main() -> ExitCode {
    let certificate = certify(&Memory);
    println!("{certificate}");
    if certificate.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
