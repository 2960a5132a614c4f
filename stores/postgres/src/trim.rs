//! Dropping the bytes of outcomes whose retention is over.

use async_trait::async_trait;
use oncekey::protocol::Record;
use oncekey::store::{TrimOutcomes, Trimmed};

use crate::connections::Connections;
use crate::lent::Who;
use crate::{Error, PostgresStore, row};

/// Shorter records are not worth it.
const BODY_MIN: i64 = 192;
/// How many rows a call looks at, and how many of them it shortens, at most.
const SEEN_MAX: i64 = 5_000;
const SHORTENED_MAX: usize = 200;

#[async_trait]
impl<C: Connections> TrimOutcomes for PostgresStore<C> {
    /// A call looks at 5,000 rows at most, in the order of `row_id`, and shortens up to 200 of them in one statement. A row
    /// that is locked, or that cannot be read, is passed by.
    ///
    /// # Cancel safety
    /// If dropped, those that it looked at may be trimmed.
    async fn trim_outcomes(&self, cursor: Option<u64>, limit: usize) -> Result<Trimmed, Error> {
        let limit = limit.min(SHORTENED_MAX);
        if limit == 0 {
            return Ok(Trimmed { trimmed: 0, next: cursor.or(Some(0)) });
        }
        let after = cursor.map_or(0, |cursor| i64::try_from(cursor).unwrap_or(i64::MAX));
        let wanted = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self
            .run_planned(Who::Anybody, &self.statements.large, &[&after, &wanted, &SEEN_MAX, &BODY_MIN])
            .await?;
        let (mut row_ids, mut versions, mut bodies) = (Vec::new(), Vec::new(), Vec::new());
        let (mut listed, mut last_listed) = (0, None);
        for found in &rows {
            let Some(row_id) = row::get::<Option<i64>>(found, 0)? else { continue };
            listed += 1;
            last_listed = Some(row_id);
            let body: &[u8] = row::get(found, 2)?;
            let record = Record::decode(body).ok();
            if let Some(shorter) = record.and_then(|record| record.without_outcome()) {
                row_ids.push(row_id);
                versions.push(row::get::<i64>(found, 1)?);
                bodies.push(shorter.as_bytes().to_vec());
            }
        }
        let next = match rows.first() {
            Some(_) if listed == limit => last_listed,
            Some(first) if row::get::<i64>(first, 3)? == SEEN_MAX => row::get(first, 4)?,
            _ => None,
        };
        let trimmed = if row_ids.is_empty() {
            0
        } else {
            self.run_planned(Who::Anybody, &self.statements.shorten, &[&row_ids, &versions, &bodies])
                .await?
                .len()
        };
        Ok(Trimmed { trimmed, next: next.and_then(|row_id| u64::try_from(row_id).ok()) })
    }
}
