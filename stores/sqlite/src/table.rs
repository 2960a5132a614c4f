//! All that is said to SQLite about records. Called within whatever transaction the caller has.

use std::time::Duration;

use oncekey::protocol::{Entry, Expected, Record, State, Version};
use oncekey::store::{Exchange, InDoubtPage, Put};
use oncekey::{Key, Policy};
use rusqlite::{Connection, OptionalExtension as _, Row, named_params, params};

use crate::clock::{Nanos, Times};
use crate::error::{SqliteError, SqliteStep};

/// A write that another thread carries out.
#[derive(Debug)]
pub(crate) struct OwnedPut {
    record: Record,
    live: Duration,
    linger: Duration,
}

impl OwnedPut {
    pub(crate) fn new(put: Put<'_>) -> Self {
        Self { record: put.record.clone(), live: put.live, linger: put.linger }
    }

    pub(crate) fn len(&self) -> usize {
        self.record.as_bytes().len()
    }
}

/// The one row of `oncekey_meta`, held while a transaction runs and written back before its end.
#[derive(Debug)]
pub(crate) struct Meta {
    last_version: u64,
    records: u64,
    changed: bool,
}

impl Meta {
    pub(crate) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        connection
            .prepare_cached("SELECT last_version, records FROM main.oncekey_meta WHERE one = 1")?
            .query_one([], |row| {
                Ok(Self { last_version: counted(row, 0)?, records: counted(row, 1)?, changed: false })
            })
    }

    /// Puts it back, if anything was written.
    pub(crate) fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
        if !self.changed {
            return Ok(());
        }
        let changed = connection
            .prepare_cached("UPDATE main.oncekey_meta SET last_version = ?1, records = ?2 WHERE one = 1")?
            .execute(params![count(self.last_version), count(self.records)])?;
        if changed == 1 { Ok(()) } else { Err(rusqlite::Error::QueryReturnedNoRows) }
    }
}

/// A row, without its body.
struct Head {
    row: i64,
    version: Version,
    times: Times,
}

impl Head {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        let times = Times { written: row.get(2)?, live_until: row.get(3)?, gone_at: row.get(4)? };
        Ok(Self { row: row.get(0)?, version: Version::new(counted(row, 1)?), times })
    }

    /// With the body in the sixth column.
    fn entry(
        &self,
        row: &Row<'_>,
        now: Nanos,
    ) -> rusqlite::Result<Result<Entry, oncekey::protocol::DecodeError>> {
        let (version, left) = (self.version, self.times.left(now));
        Ok(Record::decode(row.get_ref(5)?.as_blob()?).map(|record| Entry { record, version, left }))
    }
}

const HEAD: &str =
    "SELECT row, version, written_ns, live_until_ns, gone_at_ns FROM main.oncekey_records WHERE key = ?1";
const WHOLE: &str = "SELECT row, version, written_ns, live_until_ns, gone_at_ns, body FROM main.oncekey_records WHERE key = ?1";
const INSERT: &str = "INSERT INTO main.oncekey_records (key, version, written_ns, live_until_ns, gone_at_ns, state, \
     policy, attempt, operation_id, created_ms, scope, id, body) VALUES (:key, :version, :written, :live_until, \
     :gone_at, :state, :policy, :attempt, :operation_id, :created, :scope, :id, :body)";
/// Scope and id are the key's, and stay.
const UPDATE: &str = "UPDATE main.oncekey_records SET version = :version, written_ns = :written, \
     live_until_ns = :live_until, gone_at_ns = :gone_at, state = :state, policy = :policy, attempt = :attempt, \
     operation_id = :operation_id, created_ms = :created, body = :body WHERE row = :row";
/// The rows that are gone by `?1`. A row written after `?1` is not.
const PURGE: &str = "DELETE FROM main.oncekey_records WHERE row IN \
     (SELECT row FROM main.oncekey_records WHERE gone_at_ns <= ?1 ORDER BY gone_at_ns LIMIT ?2)";
const GONE: &str = "SELECT EXISTS (SELECT 1 FROM main.oncekey_records WHERE gone_at_ns <= ?1)";
const IN_DOUBT: &str = "SELECT row, version, written_ns, live_until_ns, gone_at_ns, body, key FROM main.oncekey_records \
     WHERE state = 'in_progress' AND row > ?1 AND live_until_ns <= max(?2, written_ns) \
     AND (gone_at_ns IS NULL OR gone_at_ns > max(?2, written_ns)) ORDER BY row LIMIT ?3";

/// The readable entry under `key`. Look at the clock *before* calling this: else a row that was renewed in between would
/// be judged by the time after its end.
pub(crate) fn load(connection: &Connection, key: &Key, now: Nanos) -> Result<Option<Entry>, SqliteError> {
    let read = |error| SqliteError::of(error, SqliteStep::Read);
    let mut statement = connection.prepare_cached(WHOLE).map_err(read)?;
    let found = statement.query_one([key.as_bytes()], |row| {
        let head = Head::of(row)?;
        if !head.times.is_readable(now) {
            return Ok(None);
        }
        head.entry(row, now).map(|entry| Some((head.row, entry)))
    });
    match found.optional().map_err(read)?.flatten() {
        Some((_, Ok(entry))) => Ok(Some(entry)),
        Some((row, Err(source))) => Err(SqliteError::Record { scope: key.scope_label(), row, source }),
        None => Ok(None),
    }
}

/// One compare-and-exchange, in a transaction that holds the write lock since before `now`.
pub(crate) fn exchange(
    connection: &Connection,
    meta: &mut Meta,
    (key, expected, put): (&Key, Expected, &OwnedPut),
    now: Nanos,
    records_max: u64,
) -> Result<Exchange, SqliteError> {
    let write = |error| SqliteError::of(error, SqliteStep::Write);
    let head = connection
        .prepare_cached(HEAD)
        .and_then(|mut statement| statement.query_one([key.as_bytes()], Head::of).optional())
        .map_err(write)?;
    let readable = head.as_ref().filter(|head| head.times.is_readable(now));
    match (expected, readable) {
        (Expected::Vacant, None) => {}
        (Expected::At(version), Some(head)) if head.version == version => {}
        (Expected::At(_), None) => return Ok(Exchange::Conflict(None)),
        (_, Some(_)) => return load(connection, key, now).map(Exchange::Conflict),
    }
    if head.is_none() && meta.records >= records_max {
        // Rows that nobody can read any more make room for a new key.
        purge(connection, meta, now, 64).map_err(write)?;
        if meta.records >= records_max {
            return Err(SqliteError::RecordsFull { records: meta.records, bound: records_max });
        }
    }
    put_row(connection, meta, key, head.map(|head| head.row), put, now)
        .map(Exchange::Done)
        .map_err(|error| write(error).of_record(put.len()))
}

/// Writes a row at the next version: the one given, or a new one.
fn put_row(
    connection: &Connection,
    meta: &mut Meta,
    key: &Key,
    row: Option<i64>,
    put: &OwnedPut,
    now: Nanos,
) -> rusqlite::Result<Version> {
    let version = meta.last_version + 1;
    let times = Times::new(now, put.live, put.linger);
    let record = &put.record;
    let (state, policy) = (state_name(record.state()), policy_name(record.policy()));
    let (operation_id, created) = (record.operation_id().to_bytes(), count(record.created_at().0));
    match row {
        Some(row) => connection.prepare_cached(UPDATE)?.execute(named_params! {
            ":version": count(version), ":written": times.written, ":live_until": times.live_until,
            ":gone_at": times.gone_at, ":state": state, ":policy": policy, ":attempt": record.attempt(),
            ":operation_id": operation_id, ":created": created, ":body": record.as_bytes(), ":row": row,
        })?,
        None => connection.prepare_cached(INSERT)?.execute(named_params! {
            ":key": key.as_bytes(), ":version": count(version), ":written": times.written,
            ":live_until": times.live_until, ":gone_at": times.gone_at, ":state": state, ":policy": policy,
            ":attempt": record.attempt(), ":operation_id": operation_id, ":created": created,
            ":scope": key.scope_label(), ":id": key.id(), ":body": record.as_bytes(),
        })?,
    };
    meta.last_version = version;
    meta.records += u64::from(row.is_none());
    meta.changed = true;
    Ok(Version::new(version))
}

/// Removes up to `limit` rows that are gone; how many it removed.
pub(crate) fn purge(
    connection: &Connection,
    meta: &mut Meta,
    now: Nanos,
    limit: usize,
) -> rusqlite::Result<usize> {
    let removed = connection.prepare_cached(PURGE)?.execute(params![now, count(limit as u64)])?;
    meta.records = meta.records.saturating_sub(removed as u64);
    meta.changed |= removed > 0;
    Ok(removed)
}

pub(crate) fn anything_gone(connection: &Connection, now: Nanos) -> rusqlite::Result<bool> {
    connection.prepare_cached(GONE)?.query_one([now], |row| row.get(0))
}

/// A record that cannot be read ends the page before it. It is the error of the page that begins with it.
pub(crate) fn list_in_doubt(
    connection: &Connection,
    cursor: Option<u64>,
    limit: usize,
    now: Nanos,
) -> Result<InDoubtPage, SqliteError> {
    let read = |error| SqliteError::of(error, SqliteStep::Read);
    let after = cursor.map_or(0, count);
    let limit = limit.max(1);
    let mut statement = connection.prepare_cached(IN_DOUBT).map_err(read)?;
    let mut rows = statement.query(params![after, now, count(limit as u64)]).map_err(read)?;
    let mut page = InDoubtPage::new(Vec::new(), None);
    let mut last = None;
    while let Some(row) = rows.next().map_err(read)? {
        let head = Head::of(row).map_err(read)?;
        let bytes = row.get_ref(6).and_then(|value| Ok(value.as_blob()?)).map_err(read)?;
        let entry = head.entry(row, now).map_err(read)?;
        let row = head.row;
        let told =
            Key::from_bytes(bytes).map_err(|_| SqliteError::KeyDamaged { row }).and_then(|key| match entry {
                Ok(entry) => Ok((key, entry)),
                Err(source) => Err(SqliteError::Record { scope: key.scope_label(), row, source }),
            });
        match told {
            Ok(entry) => page.entries.push(entry),
            Err(error) if page.entries.is_empty() => return Err(error),
            Err(_) => {
                page.next = last;
                return Ok(page);
            }
        }
        last = u64::try_from(row).ok();
    }
    if page.entries.len() == limit {
        page.next = last;
    }
    Ok(page)
}

/// SQLite has no unsigned integers; what is counted here stays far below the end of the signed ones.
fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn counted(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
}

fn state_name(state: State<'_>) -> &'static str {
    match state {
        State::InProgress => "in_progress",
        State::Completed(_) => "completed",
        State::Released { .. } => "released",
        State::Forgotten => "forgotten",
    }
}

fn policy_name(policy: Policy) -> &'static str {
    match policy {
        Policy::Reclaim => "reclaim",
        Policy::Hold => "hold",
    }
}
