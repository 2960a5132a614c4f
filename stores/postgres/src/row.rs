//! Rows as entries.

use std::time::Duration;

use oncekey::Key;
use oncekey::protocol::{Entry, Record, Version};
use tokio_postgres::Row;

use crate::Error;
use crate::times::Stamp;

/// The first five columns, `version, live_until, judged_at, body, row_id`, as an entry.
pub(crate) fn entry(row: &Row, key: &Key) -> Result<Entry, Error> {
    let (version, live_until, judged_at): (i64, Stamp, Stamp) = (get(row, 0)?, get(row, 1)?, get(row, 2)?);
    let left: Duration = live_until.left_at(judged_at);
    // One copy, from the driver's buffer into the shared one.
    let body: &[u8] = get(row, 3)?;
    let record = match Record::decode(body) {
        Ok(record) => record,
        Err(source) => return Err(Error::Record { scope: key.scope_label(), row_id: get(row, 4)?, source }),
    };
    Ok(Entry { record, version: self::version(version), left })
}

/// The key of a row, in this column.
pub(crate) fn key(row: &Row, index: usize) -> Result<Key, Error> {
    match Key::from_bytes(get(row, index)?) {
        Ok(key) => Ok(key),
        Err(source) => Err(Error::Key { row_id: get(row, 4)?, source }),
    }
}

pub(crate) fn version(number: i64) -> Version {
    // They come from a sequence that begins at 1; a number that somebody put there by hand matches nothing.
    Version::new(u64::try_from(number).unwrap_or(0))
}

pub(crate) fn get<'r, T: tokio_postgres::types::FromSql<'r>>(row: &'r Row, index: usize) -> Result<T, Error> {
    row.try_get(index).map_err(|source| Error::Unexpected { source: std::sync::Arc::new(source) })
}
