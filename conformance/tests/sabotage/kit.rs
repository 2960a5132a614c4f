//! The register as a store author would hand it to the kit.

use std::sync::Arc;

use oncekey::time::{Clock as _, ManualClock};
use oncekey_conformance::{Abilities, Effort, Harness, Subject, Time};

use super::flaws::Flaw;
use super::register::{Data, Register};

/// The register, with a flaw or without.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kit {
    pub(crate) flaw: Option<Flaw>,
    pub(crate) effort: Effort,
}

impl Kit {
    pub(crate) fn new(flaw: Option<Flaw>) -> Self {
        Self { flaw, effort: Effort::default() }
    }

    fn subject(self, bound: Option<usize>) -> Subject<Register, Arc<Data>> {
        let data = Data::new(Time::manual(ManualClock::new()), 0);
        subject(data, self.flaw, bound)
    }
}

impl Harness for Kit {
    type Store = Register;
    type Guard = Arc<Data>;

    fn fresh(&self) -> Subject<Register, Arc<Data>> {
        self.subject(None)
    }

    fn fresh_bounded(&self, records_max: usize) -> Option<Subject<Register, Arc<Data>>> {
        Some(self.subject(Some(records_max)))
    }

    fn reopen(&self, guard: Arc<Data>) -> Option<Subject<Register, Arc<Data>>> {
        Some(open(guard, self.flaw))
    }

    fn abilities(&self) -> Abilities {
        Abilities::default().purging()
    }

    fn effort(&self) -> Effort {
        self.effort
    }
}

fn subject(data: Arc<Data>, flaw: Option<Flaw>, bound: Option<usize>) -> Subject<Register, Arc<Data>> {
    Subject::guarded(Register::new(Arc::clone(&data), flaw, bound), data.time.clone(), data)
}

/// What a restart of the process finds.
pub(crate) fn open(data: Arc<Data>, flaw: Option<Flaw>) -> Subject<Register, Arc<Data>> {
    let now = data.time.now();
    let mut table = data.lock();
    let greatest = table.rows.values().map(|row| row.version).max();
    match flaw {
        Some(Flaw::LastWriteLostOnReopen) => table.rows.retain(|_, row| Some(row.version) != greatest),
        Some(Flaw::VersionsRestartOnReopen) => table.last_version = greatest.unwrap_or(0),
        Some(Flaw::LeasesRestartOnReopen) => table.rows.values_mut().for_each(|row| row.written = now),
        Some(Flaw::DeclaredMoreThanItIs) => table.rows.clear(),
        _ => {}
    }
    drop(table);
    subject(data, flaw, None)
}
