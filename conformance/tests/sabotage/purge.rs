//! The register's purge.

use oncekey::protocol::{Record, State};
use oncekey::store::Purged;
use oncekey::time::Moment;

use super::flaws::Flaw;
use super::gap;
use super::register::{MILLI, Register, Row};

impl Register {
    fn is_to_go(&self, row: &Row, now: Moment) -> bool {
        match self.flaw {
            Some(Flaw::PurgesTheCompleted) => {
                let record = Record::decode(&row.body[..]).expect("this store wrote it");
                let finished = matches!(record.state(), State::Completed(_)) && row.age(now, None) >= MILLI;
                finished || row.is_gone(now, None)
            }
            Some(Flaw::PurgesTheExpired) => row.age(now, None) >= row.live,
            _ => row.is_gone(now, self.flaw),
        }
    }

    pub(crate) fn purge_some(&self, limit: usize) -> Purged {
        let limit = match self.flaw {
            Some(Flaw::PurgesOverItsLimit) => limit.saturating_mul(1000),
            Some(Flaw::PurgesAllForNothing) if limit == 0 => usize::MAX,
            _ => limit,
        };
        let mut table = self.lock();
        let now = self.now(&mut table);
        let to_go = table.rows.iter().filter(|(_, row)| self.is_to_go(row, now)).map(|(id, _)| id.clone());
        let mut to_go: Vec<_> = to_go.collect();
        if self.is(Flaw::PurgesByOldEnds) {
            let (due, rest) = std::mem::take(&mut table.ends).into_iter().partition(|(end, _)| *end <= now);
            table.ends = rest;
            to_go = Vec::from_iter(<Vec<_>>::into_iter(due).map(|(_, id)| id));
        }
        let more = to_go.len() > limit && !self.is(Flaw::PurgeSaysTooEarlyThatItIsDone);
        to_go.truncate(limit);
        let collected = to_go.len();
        if matches!(self.flaw, Some(Flaw::PurgeRacesClaims | Flaw::PurgersCountTwice)) && collected > 0 {
            let written = table.last_version;
            drop(table);
            if self.is(Flaw::PurgersCountTwice) {
                self.data.gap.meet();
            } else {
                gap::wait(|| self.lock().last_version > written);
            }
            table = self.lock();
            if self.is(Flaw::PurgersCountTwice) {
                let there = |id: &Vec<u8>| table.rows.get(id).is_some_and(|row| row.is_gone(now, None));
                to_go.retain(there);
            }
        }
        let removed = to_go.iter().filter(|id| table.rows.remove(*id).is_some()).count();
        let removed = if self.is(Flaw::PurgersCountTwice) { collected } else { removed };
        Purged { removed, more }
    }
}
