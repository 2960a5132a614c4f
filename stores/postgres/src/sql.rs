//! The statements, for whoever runs one on a transaction of another driver.
//!
//! A transaction of sqlx, diesel or anything else can complete a claim: [`Complete`] has the parameters in order, and
//! [`PostgresStore::completion_sql`](crate::PostgresStore::completion_sql) the text. It must touch exactly one row; if
//! it touches none, roll back: the claim is not what was prepared, and the effect must not commit.
//!
//! ```no_run
//! # mod sqlx {
//! #     use sqlx_postgres::{PgArguments, Postgres};
//! #     pub fn query(sql: &str) -> sqlx_core::query::Query<'_, Postgres, PgArguments> { sqlx_core::query::query(sql) }
//! # }
//! # use oncekey_postgres::{Connections, PostgresStore};
//! # async fn demo<C: Connections>(
//! #     store: &PostgresStore<C>, claim: &mut oncekey::Claim<PostgresStore<C>>, connection: &mut sqlx_postgres::PgConnection,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! # use sqlx_core::connection::Connection as _;
//! let prepared = claim.prepare("receipt").await?;
//! let row = oncekey_postgres::sql::Complete::of(&prepared);
//! let mut transaction = connection.begin().await?;
//! // .. the effect, and then:
//! let done = sqlx::query(store.completion_sql())
//!     .bind(&row.key).bind(row.expected).bind(row.live_us).bind(row.gone_us).bind(&row.body).bind(&row.people)
//!     .execute(&mut *transaction).await?;
//! if done.rows_affected() == 1 { transaction.commit().await? } else { transaction.rollback().await? }
//! # Ok(()) }
//! ```

use oncekey::protocol::{Conclusion, Record, State};
use oncekey::{Key, Policy, Prepared};
use tokio_postgres::types::{ToSql, Type};

use crate::schema::{Name, Schema, literal};
use crate::times::{micros, millis};

/// The parameters of the statement that completes a claim inside a transaction, `$1` to `$6` in the order of the fields.
///
/// Code that binds these six stays right with each compatible version: their number, order and types stay, and what a later
/// one has to say besides is in `people`.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Complete {
    /// `$1 bytea`: the key.
    pub key: Vec<u8>,
    /// `$2 bigint`: the version that must be there.
    pub expected: i64,
    /// `$3 bigint`: how long it lives, in microseconds; null: for ever.
    pub live_us: Option<i64>,
    /// `$4 bigint`: when it is gone, in microseconds from now; null: never.
    pub gone_us: Option<i64>,
    /// `$5 bytea`: the encoded record.
    pub body: Vec<u8>,
    /// `$6 text`: the columns for people, as JSON. What is in it may change with each version.
    pub people: String,
}

impl Complete {
    /// The parameters that complete what was prepared.
    pub fn of(prepared: &Prepared) -> Self {
        let columns = Columns::of(&prepared.record, prepared.live, prepared.linger);
        Self {
            key: prepared.key.as_bytes().to_vec(),
            expected: version_number(prepared.expected.get()),
            live_us: columns.live_us,
            gone_us: columns.gone_us,
            people: columns.people(),
            body: columns.body,
        }
    }
}

/// What a write puts into a row, whatever it expects there.
pub(crate) struct Columns {
    pub(crate) live_us: Option<i64>,
    pub(crate) gone_us: Option<i64>,
    pub(crate) body: Vec<u8>,
    pub(crate) state: &'static str,
    pub(crate) attempt: i64,
    pub(crate) created_ms: i64,
    pub(crate) finished_ms: Option<i64>,
    pub(crate) operation_id: Vec<u8>,
    pub(crate) policy: &'static str,
}

impl Columns {
    pub(crate) fn of(record: &Record, live: std::time::Duration, linger: std::time::Duration) -> Self {
        Self {
            live_us: micros(live),
            gone_us: micros(live.saturating_add(linger)),
            body: record.as_bytes().to_vec(),
            state: state_of(record),
            attempt: i64::from(record.attempt()),
            created_ms: millis(record.created_at()),
            finished_ms: record.finished_at().map(millis),
            operation_id: record.operation_id().to_bytes().to_vec(),
            policy: match record.policy() {
                Policy::Reclaim => "reclaim",
                Policy::Hold => "hold",
            },
        }
    }

    /// The parameters of a write over a row, `$1` and `$2` being the key and the version.
    pub(crate) fn over<'a>(&'a self, key: &'a &[u8], expected: &'a i64) -> [&'a (dyn ToSql + Sync); 11] {
        let Self { live_us, gone_us, body, state, attempt, created_ms, finished_ms, operation_id, policy } =
            self;
        [key, expected, live_us, gone_us, body, state, attempt, created_ms, finished_ms, operation_id, policy]
    }

    /// The parameters of a claim of a vacant key.
    pub(crate) fn fresh<'a>(
        &'a self,
        key: &'a &[u8],
        scope: &'a String,
        id: &'a String,
    ) -> [&'a (dyn ToSql + Sync); 12] {
        let Self { live_us, gone_us, body, state, attempt, created_ms, finished_ms, operation_id, policy } =
            self;
        [
            key,
            live_us,
            gone_us,
            body,
            state,
            attempt,
            created_ms,
            finished_ms,
            operation_id,
            policy,
            scope,
            id,
        ]
    }

    /// The columns for people as JSON: words of ours, numbers and hexadecimal digits, so that nothing is to be escaped.
    fn people(&self) -> String {
        let finished_ms = self.finished_ms.map_or_else(|| "null".to_owned(), |ms| ms.to_string());
        let operation_id: String = self.operation_id.iter().map(|byte| format!("{byte:02x}")).collect();
        let Self { state, attempt, created_ms, policy, .. } = self;
        format!(
            r#"{{"state":"{state}","attempt":{attempt},"created_ms":{created_ms},"finished_ms":{finished_ms},"operation_id":"{operation_id}","policy":"{policy}"}}"#
        )
    }
}

/// A version as a `bigint`. One that no row can have becomes one that no row has.
pub(crate) fn version_number(version: u64) -> i64 {
    i64::try_from(version).unwrap_or(-1)
}

pub(crate) const IN_PROGRESS: &str = "in progress";

fn state_of(record: &Record) -> &'static str {
    match record.state() {
        State::InProgress => IN_PROGRESS,
        State::Completed(outcome) => match outcome.conclusion {
            Conclusion::Succeeded => "completed",
            Conclusion::Failed => "failed",
        },
        State::Released { .. } => "released",
        State::Forgotten => "forgotten",
    }
}

/// The components of a key's scope, for people: text cannot hold NUL, and a `/` within one is not one between two.
pub(crate) fn scope_text(key: &Key) -> String {
    let components: Vec<String> = key.scope().map(|part| escaped(part).replace('/', "\\/")).collect();
    components.join("/")
}

/// A key's id, for people.
pub(crate) fn id_text(key: &Key) -> String {
    escaped(key.id())
}

fn escaped(part: &str) -> String {
    part.replace('\\', "\\\\").replace('\0', "\\0")
}

/// One statement with the types of its parameters, so that it can be sent without being prepared first.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    pub(crate) text: String,
    pub(crate) types: Vec<Type>,
}

/// How long a claim waits that hardly waits for a lock.
const PASSING_MS: u128 = 25;

/// All statements of a store.
#[derive(Debug)]
pub(crate) struct Statements {
    pub(crate) load: Statement,
    pub(crate) load_in: Statement,
    pub(crate) load_many: Statement,
    pub(crate) claim: Statement,
    /// The same, hardly waiting for a lock.
    pub(crate) claim_in_passing: Statement,
    pub(crate) claim_many: Statement,
    pub(crate) reclaim: Statement,
    pub(crate) exchange: Statement,
    pub(crate) exchange_many: Statement,
    pub(crate) reclaim_many: Statement,
    /// In somebody's transaction, with the parameters of [`Complete`].
    pub(crate) complete: Statement,
    /// The same with a parameter for each column.
    pub(crate) take: Statement,
    pub(crate) conclude: Statement,
    pub(crate) purge: Statement,
    pub(crate) in_doubt: Statement,
    pub(crate) large: Statement,
    pub(crate) shorten: Statement,
}

/// What the store sends, for the benches beside the raw client.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Texts<'s> {
    pub claim: &'s str,
    pub exchange: &'s str,
    pub exchange_many: &'s str,
}

/// What an entry is answered with: the row, judged by a moment that is no later than the snapshot that found it. So there
/// was an instant at which it was both current and as judged. A clock that stepped back counts as standing still.
const ENTRY: &str = "version, live_until, greatest({clock}, updated_at) AS judged_at, body, row_id";

/// The columns of a write in progress `w`, from its moment `w.n`.
const STAMPS: &str = "coalesce(w.n + {live} * interval '1 microsecond', 'infinity'), \
                      coalesce(w.n + {gone} * interval '1 microsecond', 'infinity'), w.n";
/// What is lifted out of the body for people; its times come in milliseconds.
const PEOPLE: &str = "{state}, {attempt}, timestamptz 'epoch' + {created} * interval '1 millisecond', \
                      timestamptz 'epoch' + {finished} * interval '1 millisecond', {operation_id}, {policy}";

/// Columns of a row that a write over it changes. `scope`, `id` and `row_id` stay.
const CHANGED: &str = "version, live_until, gone_at, updated_at, body, state, attempt, created_at, finished_at, operation_id, policy";

/// The places of a write's fields in a statement, in the order of its parameters, with their types.
const FIELDS: [(&str, Type); 9] = [
    ("live", Type::INT8),
    ("gone", Type::INT8),
    ("body", Type::BYTEA),
    ("state", Type::TEXT),
    ("attempt", Type::INT8),
    ("created", Type::INT8),
    ("finished", Type::INT8),
    ("operation_id", Type::BYTEA),
    ("policy", Type::TEXT),
];

/// A statement's text with its fields as parameters, the first of them `$first`.
fn numbered(text: &str, first: usize) -> String {
    let mut text = text.to_owned();
    for (index, (name, _)) in FIELDS.iter().enumerate() {
        text = text.replace(&format!("{{{name}}}"), &format!("${}", first + index));
    }
    text
}

/// A statement's text with its fields as columns of the items `i`.
fn itemized(text: &str) -> String {
    let mut text = text.to_owned();
    for (name, _) in FIELDS {
        text = text.replace(&format!("{{{name}}}"), &format!("i.{name}"));
    }
    text
}

/// A statement's text with its fields as [`Complete`] packs them.
fn packed(text: &str) -> String {
    let mut text = text.to_owned();
    for (name, value) in [
        ("live", "$3"),
        ("gone", "$4"),
        ("body", "$5"),
        ("created", "p.created_ms"),
        ("finished", "p.finished_ms"),
        ("operation_id", "decode(p.operation_id, 'hex')"),
        ("state", "p.state"),
        ("attempt", "p.attempt"),
        ("policy", "p.policy"),
    ] {
        text = text.replace(&format!("{{{name}}}"), value);
    }
    text
}

fn types(before: &[Type], after: &[Type]) -> Vec<Type> {
    let fields = FIELDS.into_iter().map(|(_, kind)| kind);
    before.iter().cloned().chain(fields).chain(after.iter().cloned()).collect()
}

fn list_of(kind: &Type) -> Type {
    match *kind {
        Type::INT8 => Type::INT8_ARRAY,
        Type::BYTEA => Type::BYTEA_ARRAY,
        _ => Type::TEXT_ARRAY,
    }
}

fn lists(types: &[Type]) -> Vec<Type> {
    types.iter().map(list_of).collect()
}

impl Statements {
    /// For the bench, which plans them.
    pub(crate) fn texts(&self) -> Texts<'_> {
        let Self { claim, exchange, exchange_many, .. } = self;
        Texts { claim: &claim.text, exchange: &exchange.text, exchange_many: &exchange_many.text }
    }

    /// `lock_wait_ms`: how long a claim waits for somebody's transaction that holds its key.
    pub(crate) fn new(schema: &Schema, channel: Option<&Name>, lock_wait_ms: u128) -> Self {
        let prefix = schema.prefix();
        let sequence = literal(&format!("{prefix}oncekey_versions"));
        // An answer that somebody may wait for: the end of an attempt. Renewals and claims are not told.
        let notice = channel.map_or_else(String::new, |channel| {
            format!(
                ", CASE WHEN r.state <> '{IN_PROGRESS}' OR {{live}} = 0 \
                 THEN pg_notify({}, encode(r.key, 'hex'))::text END",
                literal(channel.as_str())
            )
        });
        let fill = |text: &str| {
            text.replace("{entry}", ENTRY)
                .replace("{stamps}", STAMPS)
                .replace("{people}", PEOPLE)
                .replace("{changed}", CHANGED)
                .replace("{t}", &format!("{prefix}oncekey_records"))
                .replace("{next}", &format!("nextval({sequence}::regclass)"))
                .replace("{lock_wait}", &lock_wait_ms.to_string())
                .replace("{state_in_progress}", IN_PROGRESS)
                .replace("{notice}", &notice)
        };
        let over = types(&[Type::BYTEA, Type::INT8], &[]);
        let fresh = types(&[Type::BYTEA], &[Type::TEXT, Type::TEXT]);
        let exchange = |found: &str, still: &str| Statement {
            text: numbered(&fill(&EXCHANGE.replace("{found}", found).replace("{over}", still)), 3),
            types: over.clone(),
        };
        let exchange_many = |found: &str, gone_at_is: &str| Statement {
            text: itemized(&fill(
                &EXCHANGE_MANY.replace("{found}", found).replace("{gone_at_is}", gone_at_is),
            )),
            types: lists(&over),
        };
        Self {
            load: Statement { text: fill(LOAD).replace("{clock}", "now()"), types: vec![Type::BYTEA] },
            // In somebody's transaction, whose now() stands still.
            load_in: Statement {
                text: fill(LOAD).replace("{clock}", "now()").replace("now()", "statement_timestamp()"),
                types: vec![Type::BYTEA],
            },
            load_many: Statement {
                text: fill(LOAD_MANY).replace("{clock}", "now()"),
                types: vec![Type::BYTEA_ARRAY],
            },
            claim: Statement {
                text: numbered(&fill(CLAIM).replace("{clock}", "statement_timestamp()"), 2),
                types: fresh.clone(),
            },
            claim_in_passing: Statement {
                text: numbered(
                    &fill(&CLAIM.replace("{lock_wait}", &lock_wait_ms.clamp(1, PASSING_MS).to_string()))
                        .replace("{clock}", "statement_timestamp()"),
                    2,
                ),
                types: fresh.clone(),
            },
            claim_many: Statement { text: itemized(&fill(CLAIM_MANY)), types: lists(&fresh) },
            reclaim: exchange(OF_ANY_GONE, "w.gone_at <= w.n"),
            exchange: exchange(OF_VERSION, "w.gone_at > w.n"),
            exchange_many: exchange_many("r.version = i.expected", ">"),
            reclaim_many: exchange_many("r.version >= i.expected AND r.gone_at <= clock_timestamp()", "<="),
            complete: Statement {
                text: packed(&fill(&COMPLETE.replace("{unpacked}", UNPACKED))),
                types: vec![Type::BYTEA, Type::INT8, Type::INT8, Type::INT8, Type::BYTEA, Type::TEXT],
            },
            take: Statement {
                text: numbered(&fill(&COMPLETE.replace("{unpacked}", "")), 3),
                types: over.clone(),
            },
            // Over a row of the same transaction, which nobody else can have claimed, however long it took.
            conclude: Statement {
                text: numbered(&fill(&COMPLETE.replace("{unpacked}", "").replace(READABLE, "")), 3),
                types: over,
            },
            purge: Statement { text: fill(PURGE), types: vec![Type::INT8; 4] },
            in_doubt: Statement {
                text: fill(IN_DOUBT).replace("{clock}", "now()"),
                types: vec![Type::INT8; 3],
            },
            large: Statement { text: fill(LARGE), types: vec![Type::INT8; 4] },
            shorten: Statement {
                text: fill(SHORTEN),
                types: vec![Type::INT8_ARRAY, Type::INT8_ARRAY, Type::BYTEA_ARRAY],
            },
        }
    }
}

/// In a transaction of its own `now()` is the arrival of the request, before the snapshot.
const LOAD: &str = "SELECT {entry} FROM {t} WHERE key = $1 AND gone_at > greatest(now(), updated_at)";

const LOAD_MANY: &str =
    "SELECT {entry}, key FROM {t} WHERE key = ANY ($1) AND gone_at > greatest(now(), updated_at)";

/// A claim of a vacant key, or what is there. No row: somebody committed one between our snapshot and our insert; run it
/// again. A row that is gone and not purged is answered as such, and taken by `reclaim`.
///
/// On a key that has a row it only reads: no transaction id, no lock on the row, nothing in the log.
///
/// `statement_timestamp()` is when its execution was asked for, before its snapshot.
const CLAIM: &str = "\
WITH cur AS MATERIALIZED (
    SELECT {entry}, gone_at <= greatest({clock}, updated_at) AS gone FROM {t} WHERE key = $1
), ins AS (
    INSERT INTO {t} (key, scope, id, {changed})
    SELECT $1, $11, $12, {next}, {stamps}, {body}, {people}
    FROM (SELECT {clock} AS n) AS w
    WHERE NOT EXISTS (SELECT FROM cur) AND set_config('lock_timeout', '{lock_wait}', true) IS NOT NULL
    ON CONFLICT (key) DO NOTHING
    RETURNING version
)
SELECT version, NULL::timestamptz, NULL::timestamptz, NULL::bytea, NULL::bigint, NULL::boolean FROM ins
UNION ALL SELECT version, live_until, judged_at, body, row_id, gone FROM cur";

const CLAIM_MANY: &str = "\
WITH w AS MATERIALIZED (
    SELECT statement_timestamp() AS n WHERE set_config('lock_timeout', '{lock_wait}', true) IS NOT NULL
)
INSERT INTO {t} (key, scope, id, {changed})
SELECT i.key, i.scope, i.id, {next}, {stamps}, {body}, {people}
FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
     AS i (key, live, gone, body, state, attempt, created, finished, operation_id, policy, scope, id), w
WHERE NOT EXISTS (SELECT FROM {t} AS r WHERE r.key = i.key)
ORDER BY i.key
ON CONFLICT (key) DO NOTHING
RETURNING version, key";

/// A write over one version. The row is locked first, and judged by a moment after that: nobody can have written or read
/// it otherwise since. A row that somebody else has locked counts as not there, and is looked at again.
const EXCHANGE: &str = "\
WITH cur AS MATERIALIZED (
    SELECT key, version, gone_at, updated_at FROM {t} WHERE key = $1 AND {found}
), w AS MATERIALIZED (
    SELECT key, gone_at, greatest(version + 1, {next}) AS version, greatest(clock_timestamp(), updated_at) AS n FROM cur
)
UPDATE {t} AS r SET ({changed}) = ROW (w.version, {stamps}, {body}, {people})
FROM w WHERE r.key = w.key AND {over}
RETURNING r.version{notice}";

const OF_VERSION: &str = "version = $2 FOR UPDATE SKIP LOCKED";

/// Over a row that is gone: whichever claim of it comes next, so that of many at once each has its turn. It is looked at
/// again after a wait, by the clock of then.
const OF_ANY_GONE: &str = "version >= $2 AND gone_at <= clock_timestamp() \
    AND set_config('lock_timeout', '{lock_wait}', true) IS NOT NULL FOR UPDATE";

/// Several at once, over what they expect or over what is gone. A row that is locked is not waited for: it is looked at
/// again by another statement.
const EXCHANGE_MANY: &str = "\
WITH i AS MATERIALIZED (
    SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        AS i (key, expected, live, gone, body, state, attempt, created, finished, operation_id, policy)
), cur AS MATERIALIZED (
    SELECT r.key, r.version, r.gone_at, r.updated_at FROM {t} AS r JOIN i ON r.key = i.key AND {found}
    ORDER BY r.key FOR UPDATE OF r SKIP LOCKED
), t AS MATERIALIZED (
    SELECT clock_timestamp() AS n FROM (SELECT count(*) FROM cur) AS locked
), w AS MATERIALIZED (
    SELECT cur.key, greatest(cur.version + 1, {next}) AS version, greatest(t.n, cur.updated_at) AS n
    FROM t, cur WHERE cur.gone_at {gone_at_is} greatest(t.n, cur.updated_at)
)
UPDATE {t} AS r SET ({changed}) = ROW (w.version, {stamps}, {body}, {people})
FROM w JOIN i ON i.key = w.key WHERE r.key = w.key
RETURNING r.version, r.key{notice}";

/// In somebody's transaction, where a row that is locked is waited for.
const COMPLETE: &str = "\
UPDATE {t} AS r SET ({changed}) = (
    SELECT greatest(r.version + 1, {next}), {stamps}, {body}, {people}
    FROM (SELECT greatest(statement_timestamp(), r.updated_at) AS n) AS w{unpacked})
WHERE r.key = $1 AND r.version = $2 AND r.gone_at > greatest(statement_timestamp(), r.updated_at)
RETURNING r.version{notice}";
const UNPACKED: &str = ", json_to_record($6::text::json) AS p \
    (state text, attempt bigint, created_ms bigint, finished_ms bigint, operation_id text, policy text)";
const READABLE: &str = " AND r.gone_at > greatest(statement_timestamp(), r.updated_at)";

/// Looks at `$2` rows after `$1` and deletes up to `$3` that have been gone for `$4` microseconds: how many it looked at,
/// the last of them, how many it deleted, the last that it tried to, and how many were gone.
///
/// A row that is locked is skipped, and one that was claimed since stays: the second look at `gone_at` is under its lock.
const PURGE: &str = "\
WITH seen AS MATERIALIZED (
    SELECT row_id, gone_at <= statement_timestamp() - $4 * interval '1 microsecond' AS gone
    FROM {t} WHERE row_id > $1 ORDER BY row_id LIMIT $2
), taken AS MATERIALIZED (
    SELECT row_id FROM seen WHERE gone ORDER BY row_id LIMIT $3
), victim AS MATERIALIZED (
    SELECT r.key FROM {t} AS r JOIN taken USING (row_id)
    WHERE r.gone_at <= statement_timestamp() - $4 * interval '1 microsecond'
    ORDER BY r.row_id FOR UPDATE OF r SKIP LOCKED
), deleted AS (
    DELETE FROM {t} AS r USING victim WHERE r.key = victim.key RETURNING r.row_id
)
SELECT (SELECT count(*) FROM seen), (SELECT max(row_id) FROM seen), (SELECT count(*) FROM deleted),
       (SELECT max(row_id) FROM taken), (SELECT count(*) FROM seen WHERE gone)";

/// Looks at `$3` rows after `$1`, and answers up to `$2` of them that are in doubt; in each row, and at least in one, also
/// how many it looked at, and the last of them.
const IN_DOUBT: &str = "\
WITH seen AS MATERIALIZED (
    SELECT row_id, state = '{state_in_progress}' AND live_until <= greatest(now(), updated_at)
           AND gone_at > greatest(now(), updated_at) AS in_doubt
    FROM {t} WHERE row_id > $1 ORDER BY row_id LIMIT $3
), ends AS MATERIALIZED (
    SELECT count(*) AS seen, max(row_id) AS last FROM seen
), found AS MATERIALIZED (
    SELECT {entry}, key FROM {t}
    JOIN (SELECT row_id FROM seen WHERE in_doubt ORDER BY row_id LIMIT $2) AS listed USING (row_id)
)
SELECT version, live_until, judged_at, body, row_id, key, seen, last
FROM ends LEFT JOIN found ON true ORDER BY row_id";

/// Looks at `$3` rows after `$1`, and answers up to `$2` whose outcome is past its retention and whose body has more than
/// `$4` bytes; in each row, and at least in one, also how many it looked at, and the last of them.
const LARGE: &str = "\
WITH seen AS MATERIALIZED (
    SELECT row_id, finished_at IS NOT NULL AND octet_length(body) > $4 AND live_until <= greatest(now(), updated_at)
           AND gone_at > greatest(now(), updated_at) AS large
    FROM {t} WHERE row_id > $1 ORDER BY row_id LIMIT $3
), ends AS MATERIALIZED (
    SELECT count(*) AS seen, max(row_id) AS last FROM seen
), found AS MATERIALIZED (
    SELECT row_id, version, body FROM {t}
    JOIN (SELECT row_id FROM seen WHERE large ORDER BY row_id LIMIT $2) AS listed USING (row_id)
)
SELECT row_id, version, body, seen, last FROM ends LEFT JOIN found ON true ORDER BY row_id";

/// Puts bodies in place of those that are still at their versions, and that nobody has locked.
const SHORTEN: &str = "\
WITH i AS (
    SELECT * FROM unnest($1, $2, $3) AS i (row_id, version, body)
), unlocked AS MATERIALIZED (
    SELECT r.row_id FROM {t} AS r JOIN i ON i.row_id = r.row_id WHERE r.version = i.version
    ORDER BY r.row_id FOR UPDATE OF r SKIP LOCKED
)
UPDATE {t} AS r SET body = i.body FROM i JOIN unlocked USING (row_id)
WHERE r.row_id = i.row_id AND r.version = i.version
RETURNING r.row_id";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_readable_and_unambiguous() {
        let key = Key::scoped(["a/b", "c\\d", "e\0f"], "1/2\\3\0").unwrap();
        assert_eq!(scope_text(&key), "a\\/b/c\\\\d/e\\0f");
        assert_eq!(id_text(&key), "1/2\\\\3\\0");
        let other = Key::scoped(["a", "b"], "1").unwrap();
        assert_ne!(scope_text(&other), scope_text(&Key::new("a/b", "1").unwrap()));
    }

    #[test]
    fn a_version_that_no_row_can_have_matches_none() {
        assert_eq!(version_number(7), 7);
        assert_eq!(version_number(u64::MAX), -1);
    }

    #[test]
    fn only_a_conclusion_of_ones_own_is_taken_whenever_it_comes() {
        let s = Statements::new(&Schema::of_search_path(), None, 500);
        assert!(s.complete.text.contains(READABLE) && !s.conclude.text.contains(READABLE));
    }

    #[test]
    fn no_place_is_left_open_in_a_statement() {
        let channel = Name::new("it's").unwrap();
        for channel in [None, Some(&channel)] {
            let s = Statements::new(&Schema::named("app").unwrap(), channel, 500);
            for statement in [
                &s.load,
                &s.load_in,
                &s.load_many,
                &s.claim,
                &s.claim_in_passing,
                &s.claim_many,
                &s.reclaim,
                &s.exchange,
                &s.exchange_many,
                &s.reclaim_many,
                &s.complete,
                &s.take,
                &s.conclude,
                &s.purge,
                &s.in_doubt,
                &s.large,
                &s.shorten,
            ] {
                assert!(!statement.text.contains('{') && !statement.text.contains('}'), "{}", statement.text);
                let last = format!("${}", statement.types.len());
                assert!(statement.text.contains(&last), "{last} in {}", statement.text);
                let beyond = format!("${}", statement.types.len() + 1);
                assert!(!statement.text.contains(&beyond), "{beyond} in {}", statement.text);
                assert!(statement.text.contains("\"app\".oncekey_records"));
            }
        }
    }
}
