//! Bytes per retained record: how much the resident memory of a process grows, what the allocator adds included. Each
//! side fills its table in a process of its own, so that heaps do not mix.

use std::pin::pin;
use std::process::Command;

use oncekey::codec::Raw;
use oncekey::protocol::Algorithm;
use oncekey::{Answer, Deduplicator, Earlier, Fingerprint, Key, MemoryStore};

use crate::raw::{RawStore, Slot, compose};
use crate::work::{Outcome as _, SCOPE, id, ready};

/// The argument that makes this binary fill a table and print what it took, before the side and the records.
pub(crate) const CHILD: &str = "--fill";

/// What fills a table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Raw,
    Engine,
    EngineWithFingerprint,
}

impl Side {
    const ALL: [(&'static str, Self); 3] =
        [("raw", Self::Raw), ("engine", Self::Engine), ("engine-fingerprint", Self::EngineWithFingerprint)];

    fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, side)| *side == self).expect("all sides have names").0
    }
}

/// Bytes a record; `None` where the system does not tell a process's memory in the way of Linux.
pub(crate) fn bytes_per_record(side: Side, records: u64) -> Option<f64> {
    resident()?;
    let binary = std::env::current_exe().expect("this binary has a path");
    let output = Command::new(binary)
        .args([CHILD, side.name(), &records.to_string()])
        .output()
        .expect("this binary runs");
    assert!(output.status.success(), "filling failed: {}", String::from_utf8_lossy(&output.stderr));
    let grown: f64 = String::from_utf8_lossy(&output.stdout).trim().parse().expect("a child prints a number");
    Some(grown / records as f64)
}

/// What a child answers: by how many bytes it grew.
pub(crate) fn fill(mut arguments: impl Iterator<Item = String>) -> u64 {
    let name = arguments.next().expect("a side is named");
    let side = Side::ALL.into_iter().find(|(known, _)| *known == name).expect("a side that is known").1;
    let records = arguments.next().and_then(|text| text.parse().ok()).expect("a number of records");
    match side {
        Side::Raw => fill_raw(records),
        Side::Engine => fill_engine(records, None),
        Side::EngineWithFingerprint => fill_engine(
            records,
            Some(Fingerprint::from_digest(Algorithm::SHA256, &[7; 32]).expect("32 bytes")),
        ),
    }
}

fn fill_raw(records: u64) -> u64 {
    let store = RawStore::<Vec<u8>>::new();
    let before = resident().expect("the parent asked before");
    for number in 0..records {
        let key = compose(SCOPE, &id(number as usize));
        assert!(store.insert_if_absent(&key).is_none());
        store.update(&key, Vec::of(number));
    }
    let grown = resident().expect("as before").saturating_sub(before);
    for number in 0..records {
        let found = store.look_up(&compose(SCOPE, &id(number as usize)));
        assert!(matches!(found, Some(Slot::Completed(outcome)) if outcome == Vec::of(number)));
    }
    grown
}

fn fill_engine(records: u64, fingerprint: Option<Fingerprint>) -> u64 {
    let dedup = Deduplicator::new(MemoryStore::new());
    let call = |number: u64| -> Answer<Vec<u8>> {
        let mut request =
            dedup.request(Key::new(SCOPE, id(number as usize)).expect("a key in order")).codec(Raw);
        if let Some(fingerprint) = fingerprint {
            request = request.fingerprint(fingerprint);
        }
        let operation = |_attempt| async move { Ok::<_, std::convert::Infallible>(Vec::of(number)) };
        ready(pin!(request.run(operation))).expect("the memory store does not fail")
    };
    let before = resident().expect("the parent asked before");
    for number in 0..records {
        assert!(call(number).ran_now());
    }
    let grown = resident().expect("as before").saturating_sub(before);
    for number in 0..records {
        assert!(
            matches!(call(number), Answer::Earlier(Earlier::Replayed { value, .. }) if value == Vec::of(number))
        );
    }
    grown
}

/// The resident memory of this process in bytes.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
