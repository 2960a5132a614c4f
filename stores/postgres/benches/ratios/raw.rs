//! The raw client.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Object;
use oncekey::Key;
use oncekey::protocol::{Record, Version};
use oncekey_store_testing::bench::{HOUR, Raw, in_progress};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use crate::work::Work;

/// Which statements the raw client sends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Those of the store.
    Same,
    /// A bare INSERT ON CONFLICT DO NOTHING, an UPDATE of one version, a SELECT by key.
    Least,
    /// For a claim an INSERT, and a SELECT where there is something.
    InsertElseSelect,
    /// For a claim an INSERT and a SELECT, sent together.
    Pair,
}

/// The raw client.
#[derive(Clone)]
pub(crate) struct Statements {
    work: Work,
    form: Form,
    least: Arc<Least>,
}

const COLUMNS: &str = "(key, version, live_until, gone_at, updated_at, body, state, attempt, created_at, finished_at, operation_id, policy, scope, id)";

/// Texts without the contract's care: for `least`.
struct Least {
    insert: String,
    select: String,
    update: String,
}

fn least(work: &Work) -> Least {
    let prefix = if work.named { "named" } else { "unnamed" };
    let stamps = |live: &str, gone: &str| {
        format!("now() + {live} * interval '1 microsecond', now() + {gone} * interval '1 microsecond', now()")
    };
    let people = |created: &str, finished: &str| {
        format!(
            "timestamptz 'epoch' + {created} * interval '1 millisecond', timestamptz 'epoch' + {finished} * interval '1 millisecond'"
        )
    };
    Least {
        insert: format!(
            "INSERT INTO {prefix}.oncekey_records {COLUMNS} VALUES ($1, nextval('{prefix}.oncekey_versions'), {}, $4, $5, $6, {}, $9, $10, $11, $12) \
             ON CONFLICT (key) DO NOTHING RETURNING version",
            stamps("$2", "$3"),
            people("$7", "$8")
        ),
        select: format!(
            "SELECT version, live_until, gone_at, body FROM {prefix}.oncekey_records WHERE key = $1"
        ),
        update: format!(
            "UPDATE {prefix}.oncekey_records SET (version, live_until, gone_at, updated_at, body, state, attempt, created_at, finished_at, operation_id, policy) = \
             (nextval('{prefix}.oncekey_versions'), {}, $5, $6, $7, {}, $10, $11) WHERE key = $1 AND version = $2 RETURNING version",
            stamps("$3", "$4"),
            people("$8", "$9")
        ),
    }
}

/// The columns of a row, in the order of the statements.
struct Columns {
    live: Option<i64>,
    gone: Option<i64>,
    body: Vec<u8>,
    state: &'static str,
    attempt: i64,
    created: i64,
    finished: Option<i64>,
    operation_id: Vec<u8>,
    policy: &'static str,
}

fn micros(duration: Duration) -> Option<i64> {
    i64::try_from(duration.as_micros()).ok()
}

impl Columns {
    fn of(record: &Record) -> Self {
        Self {
            live: micros(HOUR),
            gone: micros(HOUR * 2),
            body: record.as_bytes().to_vec(),
            state: if record.outcome().is_some() { "completed" } else { "in progress" },
            attempt: 1,
            created: 1_795_478_400_000,
            finished: record.finished_at().map(|_| 1_795_478_400_100),
            operation_id: record.operation_id().to_bytes().to_vec(),
            policy: "reclaim",
        }
    }
}

/// One statement on a connection of the pool.
struct Session {
    connection: Object,
    named: bool,
}

impl Session {
    async fn of(work: &Work) -> Self {
        Self { connection: work.pool.get().await.unwrap(), named: work.named }
    }

    async fn query(&self, text: &str, types: &[Type], values: &[&(dyn ToSql + Sync)]) -> Vec<Row> {
        if self.named {
            let statement = self.connection.prepare_typed_cached(text, types).await.unwrap();
            return self.connection.query(&statement, values).await.unwrap();
        }
        let typed: Vec<_> = values.iter().copied().zip(types.iter().cloned()).collect();
        self.connection.query_typed(text, &typed).await.unwrap()
    }

    async fn claim(&self, text: &str, key: &Key, record: &Record) -> Vec<Row> {
        let c = Columns::of(record);
        let (scope, id) = (key.scope_label(), key.id());
        self.query(
            text,
            &[
                Type::BYTEA,
                Type::INT8,
                Type::INT8,
                Type::BYTEA,
                Type::TEXT,
                Type::INT8,
                Type::INT8,
                Type::INT8,
                Type::BYTEA,
                Type::TEXT,
                Type::TEXT,
                Type::TEXT,
            ],
            &[
                &key.as_bytes(),
                &c.live,
                &c.gone,
                &c.body,
                &c.state,
                &c.attempt,
                &c.created,
                &c.finished,
                &c.operation_id,
                &c.policy,
                &scope,
                &id,
            ],
        )
        .await
    }

    async fn exchange(&self, text: &str, key: &Key, expected: i64, record: &Record) {
        let c = Columns::of(record);
        let rows = self
            .query(
                text,
                &[
                    Type::BYTEA,
                    Type::INT8,
                    Type::INT8,
                    Type::INT8,
                    Type::BYTEA,
                    Type::TEXT,
                    Type::INT8,
                    Type::INT8,
                    Type::INT8,
                    Type::BYTEA,
                    Type::TEXT,
                ],
                &[
                    &key.as_bytes(),
                    &expected,
                    &c.live,
                    &c.gone,
                    &c.body,
                    &c.state,
                    &c.attempt,
                    &c.created,
                    &c.finished,
                    &c.operation_id,
                    &c.policy,
                ],
            )
            .await;
        assert_eq!(rows.len(), 1);
        let _version: i64 = rows[0].get(0);
    }

    async fn select(&self, text: &str, key: &Key) {
        let rows = self.query(text, &[Type::BYTEA], &[&key.as_bytes()]).await;
        let _read: (i64, Vec<u8>) = (rows[0].get(0), rows[0].get(3));
    }
}

impl Statements {
    pub(crate) fn of(work: &Work, form: Form) -> Self {
        Self { least: Arc::new(least(work)), work: work.clone(), form }
    }

    async fn insert(&self, session: &Session, key: &Key, record: &Record, is_new: bool) {
        let rows = session.claim(&self.least.insert, key, record).await;
        assert_eq!(rows.len(), usize::from(is_new));
    }

    /// The claim of the store, which meets what is there: its version.
    async fn meet(&self, session: &Session, key: &Key, record: &Record) -> i64 {
        let rows = session.claim(self.work.store.statement_texts().claim, key, record).await;
        let (version, _body): (i64, Vec<u8>) = (rows[0].get(0), rows[0].get(3));
        version
    }
}

impl Raw for Statements {
    async fn claim(&self, keys: &[Key], record: &Record) {
        let [key] = keys else { panic!("no section has batches of claims") };
        let session = Session::of(&self.work).await;
        match self.form {
            Form::Same => {
                let rows = session.claim(self.work.store.statement_texts().claim, key, record).await;
                let _version: i64 = rows[0].get(0);
            }
            Form::Least | Form::InsertElseSelect => self.insert(&session, key, record, true).await,
            Form::Pair => {
                let bytes = key.as_bytes();
                let values: [&(dyn ToSql + Sync); 1] = [&bytes];
                let select = session.query(&self.least.select, &[Type::BYTEA], &values);
                futures::future::join(self.insert(&session, key, record, true), select).await;
            }
        }
    }

    async fn exchange(&self, keys: &[(Key, Version)], record: &Record) {
        let [(key, version)] = keys else { return same_batch(&self.work, keys, record).await };
        let text = match self.form {
            Form::Same => self.work.store.statement_texts().exchange,
            _ => &self.least.update,
        };
        let expected = i64::try_from(version.get()).unwrap();
        Session::of(&self.work).await.exchange(text, key, expected, record).await;
    }

    async fn replay(&self, key: &Key) {
        let session = Session::of(&self.work).await;
        let record = &in_progress();
        match self.form {
            Form::Same => {
                let _version = self.meet(&session, key, record).await;
            }
            Form::Least => session.select(&self.least.select, key).await,
            Form::InsertElseSelect => {
                self.insert(&session, key, record, false).await;
                session.select(&self.least.select, key).await;
            }
            Form::Pair => {
                let select = session.select(&self.least.select, key);
                futures::future::join(self.insert(&session, key, record, false), select).await;
            }
        }
    }

    async fn take_over(&self, key: &Key, version: Version, record: &Record) {
        let found = self.meet(&Session::of(&self.work).await, key, record).await;
        assert_eq!(u64::try_from(found), Ok(version.get()));
        self.exchange(&[(key.clone(), version)], record).await;
    }
}

async fn same_batch(work: &Work, batch: &[(Key, Version)], record: &Record) {
    let c = Columns::of(record);
    let count = batch.len();
    let mut items: Vec<_> =
        batch.iter().map(|(key, version)| (key.as_bytes(), i64::try_from(version.get()).unwrap())).collect();
    items.sort_unstable();
    let (keys, expected): (Vec<&[u8]>, Vec<i64>) = items.into_iter().unzip();
    let (live, gone, finished) = (vec![c.live; count], vec![c.gone; count], vec![c.finished; count]);
    let (body, state) = (vec![&c.body; count], vec![c.state; count]);
    let (attempt, created) = (vec![c.attempt; count], vec![c.created; count]);
    let (operation_id, policy) = (vec![&c.operation_id; count], vec![c.policy; count]);
    // As the store does, which has batches planned each time.
    let session = Session { named: false, ..Session::of(work).await };
    let rows = session
        .query(
            work.store.statement_texts().exchange_many,
            &[
                Type::BYTEA_ARRAY,
                Type::INT8_ARRAY,
                Type::INT8_ARRAY,
                Type::INT8_ARRAY,
                Type::BYTEA_ARRAY,
                Type::TEXT_ARRAY,
                Type::INT8_ARRAY,
                Type::INT8_ARRAY,
                Type::INT8_ARRAY,
                Type::BYTEA_ARRAY,
                Type::TEXT_ARRAY,
            ],
            &[
                &keys,
                &expected,
                &live,
                &gone,
                &body,
                &state,
                &attempt,
                &created,
                &finished,
                &operation_id,
                &policy,
            ],
        )
        .await;
    assert_eq!(rows.len(), count);
}
