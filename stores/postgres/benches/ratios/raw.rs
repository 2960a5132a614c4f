//! The raw client.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Object;
use oncekey::Key;
use oncekey::protocol::{Record, Version};
use oncekey_store_testing::bench::{Operation, Place, Round, operation};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use crate::work::{DAY, Work, key};

#[derive(Clone, Copy)]
pub(crate) enum Raw {
    SameClaim,
    SameExchange,
    SameReplay,
    SameTakeover,
    SameBatch,
    /// INSERT ON CONFLICT DO NOTHING.
    Insert,
    /// UPDATE of one version.
    Update,
    /// SELECT by key.
    Select,
    InsertElseSelect,
    ReplayInsertElseSelect,
    /// INSERT and SELECT, sent together.
    Pair,
    ReplayPair,
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
            live: micros(DAY),
            gone: micros(DAY * 2),
            body: record.encode(),
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

impl Raw {
    pub(crate) async fn prepare(self, work: Arc<Work>, round: Round) -> Operation {
        let versions = match self {
            Self::SameExchange | Self::Update => work.claimed(round, DAY).await,
            Self::SameTakeover => work.claimed(round, Duration::ZERO).await,
            _ => Arc::default(),
        };
        let batches =
            if matches!(self, Self::SameBatch) { work.batches(round).await } else { Arc::default() };
        let least = Arc::new(least(&work));
        operation(move |place| {
            let (work, versions, batches, least) =
                (Arc::clone(&work), Arc::clone(&versions), Arc::clone(&batches), Arc::clone(&least));
            async move {
                let version = versions.get(place.number).copied().unwrap_or(Version::new(0));
                match self {
                    Self::SameBatch => same_batch(&work, &batches[place.number]).await,
                    _ => self.once(&work, &least, place, version).await,
                }
            }
        })
    }

    async fn once(self, work: &Work, least: &Least, place: Place, version: Version) {
        let session = Session::of(work).await;
        let texts = work.store.statement_texts();
        let key = key(place.round, place.number);
        let replayed = work.replayed(place.number);
        let version = i64::try_from(version.get()).unwrap();
        match self {
            Self::SameClaim => {
                let rows = session.claim(texts.claim, &key, &work.in_progress).await;
                let _version: i64 = rows[0].get(0);
            }
            Self::SameExchange => session.exchange(texts.exchange, &key, version, &work.completed).await,
            Self::SameReplay => {
                let rows = session.claim(texts.claim, replayed, &work.in_progress).await;
                let _read: (i64, Vec<u8>) = (rows[0].get(0), rows[0].get(3));
            }
            Self::SameTakeover => {
                let rows = session.claim(texts.claim, &key, &work.in_progress).await;
                let (found, _body): (i64, Vec<u8>) = (rows[0].get(0), rows[0].get(3));
                drop(session);
                Session::of(work).await.exchange(texts.exchange, &key, found, &work.in_progress).await;
            }
            Self::Insert | Self::InsertElseSelect => {
                let rows = session.claim(&least.insert, &key, &work.in_progress).await;
                assert_eq!(rows.len(), 1);
            }
            Self::Update => session.exchange(&least.update, &key, version, &work.completed).await,
            Self::Select => session.select(&least.select, replayed).await,
            Self::ReplayInsertElseSelect => {
                let rows = session.claim(&least.insert, replayed, &work.in_progress).await;
                assert!(rows.is_empty());
                session.select(&least.select, replayed).await;
            }
            Self::Pair => {
                let claim = session.claim(&least.insert, &key, &work.in_progress);
                let bytes = key.as_bytes();
                let values: [&(dyn ToSql + Sync); 1] = [&bytes];
                let select = session.query(&least.select, &[Type::BYTEA], &values);
                let (rows, _) = futures::future::join(claim, select).await;
                assert_eq!(rows.len(), 1);
            }
            Self::ReplayPair => {
                let claim = session.claim(&least.insert, replayed, &work.in_progress);
                let (rows, ()) = futures::future::join(claim, session.select(&least.select, replayed)).await;
                assert!(rows.is_empty());
            }
            Self::SameBatch => unreachable!("done apart"),
        }
    }
}

async fn same_batch(work: &Work, batch: &[(Key, Version)]) {
    let c = Columns::of(&work.in_progress);
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
