//! The register's writes in two statements, and in batches.

use std::time::Duration;

use oncekey::Key;
use oncekey::protocol::{Entry, Expected, Version};
use oncekey::store::{BatchPut, Exchange, Put};

use super::flaws::Flaw;
use super::register::{Register, Trouble};

impl Register {
    /// Two statements, and a place in between where the call can be dropped.
    pub(crate) async fn exchange_by_two(
        &self,
        key: &Key,
        expected: Expected,
        put: Put<'_>,
    ) -> Result<Exchange, Trouble> {
        let id = self.id(key);
        let old = self.lock().rows.get(&id).map(|row| row.body.clone());
        let answer = self.exchange(key, expected, put)?;
        let Exchange::Done(version) = answer else { return Ok(answer) };
        let whole = {
            let mut table = self.lock();
            let Some(row) = table.rows.get_mut(&id).filter(|row| row.version == version.get()) else {
                return Ok(answer);
            };
            let whole = row.clone();
            if self.is(Flaw::DroppedBeforeTheLifetimes) {
                (row.live, row.linger) = (Duration::ZERO, Duration::MAX);
            } else {
                row.body = old.unwrap_or_default();
            }
            whole
        };
        super::unusual::pending_once().await;
        let mut table = self.lock();
        if let Some(row) = table.rows.get_mut(&id).filter(|row| row.version == version.get()) {
            *row = whole;
        }
        Ok(answer)
    }

    /// Writes, whatever is there by now.
    pub(crate) fn write(&self, key: &Key, expected: Expected, put: Put<'_>) -> Exchange {
        let mut table = self.lock();
        let (id, now) = (self.id(key), self.now(&mut table));
        Exchange::Done(Version::new(self.put(&mut table, &id, expected, put, now, None)))
    }

    /// What each of a batch finds, before any is written.
    fn seen_by(&self, batch: &[BatchPut<'_>]) -> Result<Vec<(bool, Option<Entry>)>, Trouble> {
        let look = |item: &BatchPut<'_>| {
            let found = self.look(item.key)?;
            let fits = match item.expected {
                Expected::Vacant => found.is_none(),
                Expected::At(version) => found.as_ref().is_some_and(|entry| entry.version == version),
            };
            Ok((fits, found))
        };
        batch.iter().map(look).collect()
    }

    pub(crate) fn write_all(&self, batch: &[BatchPut<'_>]) -> Vec<Result<Exchange, Trouble>> {
        let exchange = |item: &BatchPut<'_>| self.exchange(item.key, item.expected, item.put);
        let mut batch: Vec<_> = batch.to_vec();
        match self.flaw {
            Some(Flaw::BatchAnsweredInOrderOfKeys) => batch.sort_by_key(|item| self.id(item.key)),
            Some(Flaw::BatchAllOrNothing | Flaw::BatchInTwoSteps) => {
                let written = self.lock().last_version;
                let seen = match self.seen_by(&batch) {
                    Ok(seen) => seen,
                    Err(trouble) => return vec![Err(trouble)],
                };
                if self.is(Flaw::BatchAllOrNothing) && seen.iter().any(|(fits, _)| !fits) {
                    return seen.into_iter().map(|(_, found)| Ok(Exchange::Conflict(found))).collect();
                }
                if self.is(Flaw::BatchInTwoSteps) {
                    // Until there is another such batch, or something was written.
                    self.data.gap.meet_or(|| self.lock().last_version > written);
                    let write = |(item, (fits, found)): (&BatchPut<'_>, (bool, Option<Entry>))| {
                        if !fits {
                            return Ok(Exchange::Conflict(found));
                        }
                        Ok(self.write(item.key, item.expected, item.put))
                    };
                    return batch.iter().zip(seen).map(write).collect();
                }
            }
            Some(Flaw::BatchAnswersTooFew) => {
                let mut answers: Vec<_> = Vec::new();
                for item in &batch {
                    let answer = exchange(item);
                    let ends = matches!(answer, Ok(Exchange::Conflict(_)));
                    answers.push(answer);
                    if ends {
                        break;
                    }
                }
                return answers;
            }
            _ => {}
        }
        batch.iter().map(exchange).collect()
    }
}
