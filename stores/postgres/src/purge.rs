//! Deleting what nobody can read, and listing what is in doubt.

use oncekey::store::{InDoubtPage, Purged};

use crate::connections::Connections;
use crate::lent::Who;
use crate::times::{LIFETIME_MAX_US, micros};
use crate::{Error, PostgresStore, row};

/// How many rows one statement looks at for each that it may delete, and at least.
const SEEN_PER_DELETED: i64 = 4;
const SEEN_MIN: i64 = 1_000;
/// How many rows one statement looks at, and one call, at most.
const SEEN_MAX: i64 = 10_000;
const SEEN_PER_CALL: i64 = 50_000;

impl<C: Connections> PostgresStore<C> {
    /// Goes through the table in the order of `row_id`, on from where the last purge stopped, and around: what is live at
    /// its beginning is not looked at again by each call. Purgers of one store wait for each other, those of two skip each
    /// other's rows.
    pub(crate) async fn purge_some(&self, limit: usize) -> Result<Purged, Error> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let grace_us = micros(self.options.purge_grace).unwrap_or(LIFETIME_MAX_US);
        let mut round = self.round.lock().await;
        let (mut removed, mut seen_in_all) = (0, 0);
        while removed < limit && seen_in_all < SEEN_PER_CALL {
            let wanted = limit - removed;
            let look = wanted.saturating_mul(SEEN_PER_DELETED).clamp(SEEN_MIN, SEEN_MAX);
            let rows = self
                .run_planned(
                    Who::Anybody,
                    &self.statements.purge,
                    &[&round.cursor, &look, &wanted, &grace_us],
                )
                .await?;
            let Some(counts) = rows.first() else { break };
            let seen: i64 = row::get(counts, 0)?;
            let deleted: i64 = row::get(counts, 2)?;
            let gone: i64 = row::get(counts, 4)?;
            removed += deleted;
            seen_in_all += seen;
            // With more of them gone than were wanted, it goes on behind the last that was tried.
            let last: Option<i64> = row::get(counts, if gone > wanted { 3 } else { 1 })?;
            let at_end = seen < look && gone <= wanted;
            if round.is_over(last.filter(|_| !at_end)) {
                return Ok(purged(removed, false));
            }
        }
        Ok(purged(removed, limit > 0))
    }

    /// Some of what is in doubt, as [`list_in_doubt`](oncekey::store::ListInDoubt::list_in_doubt) answers it, and besides
    /// the rows that cannot be read, which that leaves out.
    ///
    /// It goes through the table in the order of rows, at most 50,000 of them a call: a page may have few entries, or none,
    /// and yet a place to go on from.
    ///
    /// # Errors
    /// [`Error`]: what the database said.
    ///
    /// # Cancel safety
    /// Reads only.
    pub async fn in_doubt(&self, cursor: Option<u64>, limit: usize) -> Result<InDoubt, Error> {
        let mut after = cursor.map_or(0, |cursor| i64::try_from(cursor).unwrap_or(i64::MAX));
        let (mut entries, mut damaged) = (Vec::new(), Vec::new());
        let (mut listed, mut seen_in_all) = (0, 0);
        let mut next = None;
        while listed < limit && seen_in_all < SEEN_PER_CALL {
            let wanted = i64::try_from(limit - listed).unwrap_or(i64::MAX);
            let look = wanted.saturating_mul(SEEN_PER_DELETED).clamp(SEEN_MIN, SEEN_MAX);
            let rows =
                self.run_planned(Who::Anybody, &self.statements.in_doubt, &[&after, &wanted, &look]).await?;
            let Some(first) = rows.first() else { break };
            let (seen, last): (i64, Option<i64>) = (row::get(first, 6)?, row::get(first, 7)?);
            let mut last_listed = None;
            for found in &rows {
                let Some(row_id) = row::get::<Option<i64>>(found, 4)? else { continue };
                match row::key(found, 5).and_then(|key| Ok((row::entry(found, &key)?, key))) {
                    Ok((entry, key)) => entries.push((key, entry)),
                    Err(error @ (Error::Record { .. } | Error::Key { .. })) => damaged.push(error),
                    Err(error) => return Err(error),
                }
                listed += 1;
                last_listed = Some(row_id);
            }
            seen_in_all += seen;
            // With as many as were wanted there may be more between them and the last that was looked at.
            let to = if listed == limit { last_listed } else { last.filter(|_| seen == look) };
            next = to.and_then(|to| u64::try_from(to).ok());
            let Some(to) = to else { break };
            after = to;
        }
        Ok(InDoubt { page: InDoubtPage::new(entries, next), damaged })
    }
}

/// What [`PostgresStore::in_doubt`] found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct InDoubt {
    /// Keys with their entries, and the place to go on from.
    pub page: InDoubtPage,
    /// A row each that cannot be read, as [`Error::Record`] or [`Error::Key`]: look at it with psql.
    pub damaged: Vec<Error>,
}

fn purged(removed: i64, more: bool) -> Purged {
    Purged { removed: usize::try_from(removed).unwrap_or(0), more }
}
