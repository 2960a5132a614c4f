//! What cases need of a store's short way: looks and exchanges by a step, checked as they are made.

use super::clause::{Clause, Violation};
use super::harness::Harness;
use super::lab::{Bench, Checked, Seen, Stop, Tally, demand};
use oncekey::protocol::{Entry, Expected, Key};
use oncekey::store::{AtOnce, Exchange, Put, Step, StepPut, Store, StoreError};

/// The short way of a store, and how it fails.
pub(super) type Door<'s, S> = &'s dyn AtOnce<Error = <S as Store>::Error>;

/// A compare and exchange, as a step. What counts is what it was asked last.
struct Swap<'p> {
    expected: Expected,
    put: Put<'p>,
    asked: Option<Asked>,
}

/// What a step was asked, and whether it answered with a write.
struct Asked {
    found: Option<Entry>,
    wrote: bool,
}

impl Step for Swap<'_> {
    fn next(&mut self, found: Option<Entry>) -> Option<StepPut<'_>> {
        let wrote = match (self.expected, &found) {
            (Expected::Vacant, None) => true,
            (Expected::At(version), Some(found)) => found.version == version,
            _ => false,
        };
        self.asked = Some(Asked { found, wrote });
        let Put { record, live, linger, .. } = self.put;
        wrote.then(|| StepPut::new(record.clone().into(), live, linger))
    }
}

/// A step that writes nothing.
#[derive(Default)]
struct Look(Option<Option<Entry>>);

impl Step for Look {
    fn next(&mut self, found: Option<Entry>) -> Option<StepPut<'_>> {
        self.0 = Some(found);
        None
    }
}

/// What a step that only looks is shown.
pub(super) fn look<E: StoreError>(
    door: &dyn AtOnce<Error = E>,
    key: &Key,
) -> Result<Result<Option<Entry>, E>, Violation> {
    let mut look = Look::default();
    let written = match door.update(key, &mut look) {
        Ok(written) => written,
        Err(error) => return Ok(Err(error)),
    };
    match (look.0, written) {
        (Some(found), None) => Ok(Ok(found)),
        (None, _) => Err(Violation::new(Clause::S1, "an update succeeded, and its step was not asked")),
        (Some(_), Some(written)) => {
            let what = format!("a step wrote nothing, and the update answers that it wrote {written:?}");
            Err(Violation::new(Clause::S1, what))
        }
    }
}

impl<H: Harness> Bench<'_, H> {
    /// The short way, if the store offers it.
    pub(super) fn short_way(&self) -> Checked<Door<'_, H::Store>> {
        self.store.at_once().ok_or(Stop::NotShown("the store has no short way"))
    }

    /// A load by the short way.
    pub(super) fn load_at_once(&self, key: &Key) -> Checked<Option<Entry>> {
        Tally::count(&self.lab.tally.calls, 1);
        look(self.short_way()?, key)?.map_err(|error| self.lab.failed("a step that only looks", &error))
    }

    /// A compare and exchange by the short way. What the update answers is what was written, or nothing.
    pub(super) fn exchange_at_once(
        &self,
        key: &Key,
        expected: Expected,
        put: Put<'_>,
    ) -> Checked<Result<Exchange, <H::Store as Store>::Error>> {
        Tally::count(&self.lab.tally.calls, 1);
        let mut swap = Swap { expected, put, asked: None };
        let door = self.short_way()?;
        let (answer, at) = self.timed(|| door.update(key, &mut swap));
        let written = match answer {
            Ok(written) => written,
            Err(error) => return Ok(Err(error)),
        };
        let Some(Asked { found, wrote }) = swap.asked else {
            return Err(Violation::new(Clause::S1, "an update succeeded, and its step was not asked").into());
        };
        demand(written.is_some() == wrote, Clause::S1, || {
            let asked = if wrote { "a write" } else { "nothing" };
            format!("the step's last answer was {asked}, and the update answers that it wrote {written:?}")
        })?;
        let Some(entry) = written else { return Ok(Ok(Exchange::Conflict(found))) };
        let version = entry.version;
        self.same_entry(Clause::S6, &entry, put.record, version)?;
        self.on_time(Clause::S7, &Seen { entry, at }, put.live, at)?;
        Ok(Ok(Exchange::Done(version)))
    }
}
