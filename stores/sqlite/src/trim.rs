//! Dropping the bytes of outcomes whose retention is over. A reader looks and shortens, the writer only puts in place.

use oncekey::protocol::Record;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::clock::Nanos;
use crate::error::{SqliteError, SqliteStep};

/// Shorter records are not worth it.
const BODY_MIN: i64 = 192;
/// How many rows one look goes past, and how many bodies it reads, at most: they are written in one transaction.
const LOOKED_AT_MAX: i64 = 2_000;
const SHORTENED_MAX: usize = 64;

/// A row, as it was looked at, and the shorter record for it.
pub(crate) struct Shorter {
    row: i64,
    version: i64,
    shorter: Record,
}

/// The result of a look.
pub(crate) struct Found {
    pub(crate) shorter: Vec<Shorter>,
    /// Where to go on.
    pub(crate) next: Option<u64>,
}

/// The last row of a look.
const STRETCH: &str = "SELECT row FROM main.oncekey_records WHERE row > ?1 ORDER BY row LIMIT 1 OFFSET ?2";
const LARGE: &str = "SELECT row, version, body FROM main.oncekey_records \
     WHERE row > ?1 AND row <= ?2 AND state = 'completed' AND length(body) > ?3 \
     AND live_until_ns <= max(?4, written_ns) AND (gone_at_ns IS NULL OR gone_at_ns > max(?4, written_ns)) \
     ORDER BY row LIMIT ?5";
const SHORTEN: &str = "UPDATE main.oncekey_records SET body = ?3 WHERE row = ?1 AND version = ?2";

/// Looks behind `cursor` for outcomes that may be dropped by `now`. A record that does not decode is passed by: it is told
/// of where it is asked for.
pub(crate) fn look(
    connection: &Connection,
    cursor: Option<u64>,
    limit: usize,
    now: Nanos,
) -> rusqlite::Result<Found> {
    let after = cursor.map_or(0, |cursor| i64::try_from(cursor).unwrap_or(i64::MAX));
    let mut found = Found { shorter: Vec::new(), next: cursor.or(Some(0)) };
    let limit = limit.min(SHORTENED_MAX);
    if limit == 0 {
        return Ok(found);
    }
    let end: Option<i64> = connection
        .prepare_cached(STRETCH)?
        .query_one(params![after, LOOKED_AT_MAX - 1], |row| row.get(0))
        .optional()?;
    let mut statement = connection.prepare_cached(LARGE)?;
    let most = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = statement.query(params![after, end.unwrap_or(i64::MAX), BODY_MIN, now, most])?;
    let (mut seen, mut last) = (0, after);
    while let Some(at) = rows.next()? {
        seen += 1;
        last = at.get(0)?;
        let record = Record::decode(at.get_ref(2)?.as_blob()?).ok();
        if let Some(shorter) = record.and_then(|record| record.without_outcome()) {
            found.shorter.push(Shorter { row: last, version: at.get(1)?, shorter });
        }
    }
    let place = if seen == limit { Some(last) } else { end };
    found.next = place.and_then(|row| u64::try_from(row).ok());
    Ok(found)
}

/// Puts the shorter bodies in place of those that nobody wrote over; how many.
pub(crate) fn shorten(connection: &Connection, shorter: &[Shorter]) -> rusqlite::Result<usize> {
    let mut statement = connection.prepare_cached(SHORTEN)?;
    let each = shorter.iter().map(|Shorter { row, version, shorter }| {
        statement.execute(params![row, version, shorter.as_bytes()])
    });
    each.sum()
}

/// [`look`], with the store's errors.
pub(crate) fn find(
    connection: &Connection,
    cursor: Option<u64>,
    limit: usize,
    now: Nanos,
) -> Result<Found, SqliteError> {
    look(connection, cursor, limit, now).map_err(|error| SqliteError::of(error, SqliteStep::Read))
}
