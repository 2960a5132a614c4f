//! The register's short way: a second door to it.

use std::time::Duration;

use oncekey::Key;
use oncekey::protocol::{Entry, Expected, Version};
use oncekey::store::{AtOnce, Put, Step, StepPut};
use oncekey_conformance::samples;

use super::flaws::Flaw;
use super::register::{Register, Row, Trouble};

impl AtOnce for Register {
    type Error = Trouble;

    fn update(&self, key: &Key, step: &mut (dyn Step + Send)) -> Result<Option<Entry>, Trouble> {
        let mut id = self.id(key);
        if self.is(Flaw::TableOfEachDoor) {
            id.push(0xff);
        }
        let mut table = self.lock();
        let mut now = self.now(&mut table);
        if self.is(Flaw::LookRefusedAtTheBound) {
            self.within_bound(&mut table, Expected::Vacant, now)?;
        }
        let found = self.read(&table, &id, now)?;
        let (was, expected) = (found.clone(), expected(found.as_ref()));
        if self.is(Flaw::StepReservesItsRow) && found.is_none() {
            let body = samples::in_progress(0).as_bytes().to_vec();
            let (version, live) = (table.last_version, Duration::MAX);
            table.rows.insert(id.clone(), Row { body, version, written: now, live, linger: live });
        }
        for _ in 1..self.asks {
            let _unused = step.next(found.clone());
        }
        let Some(StepPut { record, live, linger, .. }) = step.next(found) else {
            if self.is(Flaw::StepReservesItsRow) && expected == Expected::Vacant {
                table.rows.remove(&id);
            }
            return Ok(None);
        };
        let record = record.to_record();
        let put = Put::new(&record, live, linger);
        if self.is(Flaw::UpdateInTwoSteps) {
            drop(table);
            self.data.gap.meet();
            table = self.lock();
            now = self.now(&mut table);
        }
        let bounded =
            if self.is(Flaw::StepOverAnEntryRefusedAtTheBound) { Expected::Vacant } else { expected };
        let room = self.within_bound(&mut table, bounded, now);
        if !self.is(Flaw::RefusedStepIsWritten) {
            room?;
        } else if room.is_err() {
            self.put(&mut table, &id, expected, put, now, None);
            room?;
        }
        let version = Version::new(self.put(&mut table, &id, expected, put, now, None));
        let written = Entry { record, version, left: live };
        Ok(Some(was.filter(|_| self.is(Flaw::UpdateAnswersWhatWas)).unwrap_or(written)))
    }
}

fn expected(found: Option<&Entry>) -> Expected {
    found.map_or(Expected::Vacant, |entry| Expected::At(entry.version))
}
