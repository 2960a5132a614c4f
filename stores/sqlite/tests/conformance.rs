//! The store under oncekey's conformance kit.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::Duration;

use oncekey::time::{Clock as _, ManualClock};
use oncekey_conformance::{Abilities, Effort, Harness, Subject, Time};
use oncekey_sqlite::{Reads, SqliteStore, SqliteStoreBuilder};
use tempfile::TempDir;

/// A directory in memory where there is one: most cases are about answers, not about the disk.
fn memory_or_disk() -> TempDir {
    match PathBuf::from("/dev/shm") {
        memory if memory.is_dir() => tempfile::tempdir_in(memory).unwrap(),
        _ => tempfile::tempdir().unwrap(),
    }
}

fn builder(directory: &TempDir) -> SqliteStoreBuilder {
    SqliteStore::builder(directory.path().join("kit.db"))
}

/// A clock moved by hand, which every store on the file goes by.
#[derive(Clone, Copy)]
struct ByHand {
    reads: Reads,
}

impl ByHand {
    fn store(self, directory: &TempDir, clock: &ManualClock, records_max: u64) -> SqliteStore {
        let time = clock.clone();
        let since_epoch = move || Duration::from_nanos(time.now().as_nanos());
        builder(directory).clock(since_epoch).records_max(records_max).reads(self.reads).open().unwrap()
    }

    fn subject(self, records_max: u64) -> Subject<SqliteStore, (TempDir, ManualClock)> {
        let (directory, clock) = (memory_or_disk(), ManualClock::new());
        let store = self.store(&directory, &clock, records_max);
        Subject::guarded(store, Time::manual(clock.clone()), (directory, clock))
    }
}

impl Harness for ByHand {
    type Store = SqliteStore;
    type Guard = (TempDir, ManualClock);

    fn fresh(&self) -> Subject<SqliteStore, Self::Guard> {
        self.subject(u64::MAX)
    }

    fn fresh_bounded(&self, records_max: usize) -> Option<Subject<SqliteStore, Self::Guard>> {
        Some(self.subject(records_max as u64))
    }

    fn reopen(&self, (directory, clock): Self::Guard) -> Option<Subject<SqliteStore, Self::Guard>> {
        let store = self.store(&directory, &clock, u64::MAX);
        Some(Subject::guarded(store, Time::manual(clock.clone()), (directory, clock)))
    }

    fn abilities(&self) -> Abilities {
        Abilities::default().purging()
    }

    fn effort(&self) -> Effort {
        let mut effort = Effort::modest();
        (effort.histories, effort.seeds) = (64, 20);
        effort
    }
}

/// The host's clock, and a disk that is really flushed to.
struct OnDisk;

impl OnDisk {
    fn subject(directory: TempDir, records_max: u64) -> Subject<SqliteStore, TempDir> {
        let store = builder(&directory).records_max(records_max).open().unwrap();
        Subject::guarded(store, Time::real(Duration::from_millis(150), Duration::ZERO), directory)
    }
}

impl Harness for OnDisk {
    type Store = SqliteStore;
    type Guard = TempDir;

    fn fresh(&self) -> Subject<SqliteStore, TempDir> {
        Self::subject(tempfile::tempdir().unwrap(), u64::MAX)
    }

    fn fresh_bounded(&self, records_max: usize) -> Option<Subject<SqliteStore, TempDir>> {
        Some(Self::subject(tempfile::tempdir().unwrap(), records_max as u64))
    }

    fn reopen(&self, directory: TempDir) -> Option<Subject<SqliteStore, TempDir>> {
        Some(Self::subject(directory, u64::MAX))
    }

    fn abilities(&self) -> Abilities {
        Abilities::default().purging()
    }

    fn effort(&self) -> Effort {
        let mut effort = Effort::modest();
        (effort.races, effort.histories) = (8, 8);
        effort
    }
}

mod by_hand {
    oncekey_conformance::conformance_tests!(super::ByHand { reads: super::Reads::OnThreads });
}

mod by_hand_reads_on_caller {
    oncekey_conformance::conformance_tests!(super::ByHand { reads: super::Reads::OnCaller });
}

mod on_disk {
    oncekey_conformance::conformance_tests!(super::OnDisk);
}

/// The cheap part of the tail.
#[test]
fn trimming() {
    use oncekey_conformance::check_trimming;
    check_trimming(&ByHand { reads: Reads::OnThreads }).unwrap();
    check_trimming(&ByHand { reads: Reads::OnCaller }).unwrap();
    check_trimming(&OnDisk).unwrap();
}
