//! What both sides work on.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use oncekey::protocol::{ClaimCommand, Command, Decision, Holder, Lifetimes, decide};
use oncekey::protocol::{Entry, Expected, Owner, Record, UnixMillis, Version};
use oncekey::store::{BatchPut, Exchange, Put};
use oncekey::{FencingToken, Key, OperationId, Outcome, Policy, Store as _};
use oncekey_postgres::{Error, PostgresStore, Schema, migrate};
use oncekey_store_testing::bench::Round;
use oncekey_store_testing::server::Postgres;
use tokio_postgres::NoTls;

pub(crate) const DAY: Duration = Duration::from_secs(86_400);
pub(crate) const BATCH: usize = 500;
/// How many keys replays go around in.
const REPLAYED: usize = 2_000;

pub(crate) struct Work {
    pub(crate) pool: Pool,
    pub(crate) store: PostgresStore<Pool>,
    pub(crate) named: bool,
    pub(crate) in_progress: Record,
    /// With an outcome of 200 bytes.
    pub(crate) completed: Record,
    replayed: Vec<Key>,
}

pub(crate) fn key(round: usize, number: usize) -> Key {
    Key::new("payments.charge", format!("{round:06}-{number:06}-7f3a91c2")).unwrap()
}

pub(crate) fn done(answer: Result<Exchange, Error>) -> Version {
    match answer {
        Ok(Exchange::Done(version)) => version,
        other => panic!("not done: {other:?}"),
    }
}

pub(crate) fn pool(url: &str, size: usize) -> Pool {
    let config: tokio_postgres::Config = url.parse().unwrap();
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    Pool::builder(Manager::from_config(config, NoTls, recycling)).max_size(size).build().unwrap()
}

/// A record in progress, and the same completed, as the engine makes them.
pub(crate) fn records() -> (Record, Record) {
    let lifetimes = Lifetimes { lease: DAY, retention: DAY, tail: Duration::ZERO };
    let owner = Owner::from_bytes([7; 16]);
    let claim = ClaimCommand {
        owner,
        operation_id: OperationId::from_bytes([9; 16]),
        fingerprint: None,
        policy: Policy::Reclaim,
        attempts_max: None,
        now: UnixMillis(1_795_478_400_000),
    };
    let Decision::Write(granted) = decide(None, &Command::Claim(&claim), &lifetimes) else {
        panic!("vacant")
    };
    let entry = Entry { record: granted.record.clone(), version: Version::new(1), left: DAY };
    let holder = Holder { owner, token: FencingToken::new(1), attempt: 1 };
    let outcome = Outcome::success("x".repeat(200));
    let command = Command::Complete(holder, &outcome, UnixMillis(1_795_478_400_100));
    let Decision::Write(completed) = decide(Some(&entry), &command, &lifetimes) else { panic!("held") };
    (granted.record, completed.record)
}

impl Work {
    pub(crate) async fn new(server: &Postgres, named: bool) -> Self {
        let schema = Schema::named(if named { "named" } else { "unnamed" }).unwrap();
        let pool = pool(server.url(), 16);
        let _ran = migrate(&mut pool.get().await.unwrap(), &schema).await.unwrap();
        // 64 clients wait for 16 connections, as the raw side does, and a batch takes its time.
        let store = PostgresStore::builder(pool.clone()).schema(schema).named_statements(named);
        let store = store.connection_wait(Duration::from_secs(60)).build();
        let (in_progress, completed) = records();
        let replayed: Vec<Key> = (0..REPLAYED)
            .map(|n| Key::new("payments.charge", format!("replayed-{n:06}-7f3a91c2")).unwrap())
            .collect();
        let work = Self { pool, store, named, in_progress, completed, replayed };
        let versions = work.put(&work.replayed, &work.completed, DAY).await;
        assert_eq!(versions.len(), REPLAYED);
        work
    }

    pub(crate) fn replayed(&self, number: usize) -> &Key {
        &self.replayed[number % REPLAYED]
    }

    async fn put(&self, keys: &[Key], record: &Record, live: Duration) -> Vec<Version> {
        let put = Put::new(record, live, DAY);
        let mut versions = Vec::with_capacity(keys.len());
        for chunk in keys.chunks(500) {
            let items: Vec<_> = chunk.iter().map(|key| BatchPut::new(key, Expected::Vacant, put)).collect();
            versions.extend(self.store.compare_exchange_many(&items).await.into_iter().map(done));
        }
        versions
    }

    /// A claim for each operation of a round.
    pub(crate) async fn claimed(&self, round: Round, live: Duration) -> Arc<Vec<Version>> {
        let keys: Vec<_> = (0..round.operations()).map(|number| key(round.number, number)).collect();
        Arc::new(self.put(&keys, &self.in_progress, live).await)
    }

    /// A batch of claims for each operation of a round.
    pub(crate) async fn batches(&self, round: Round) -> Arc<Vec<Vec<(Key, Version)>>> {
        let mut batches = Vec::new();
        for batch in 0..round.operations() {
            let keys: Vec<_> = (0..BATCH).map(|n| key(round.number, batch * BATCH + n)).collect();
            let versions = self.put(&keys, &self.in_progress, DAY).await;
            batches.push(keys.into_iter().zip(versions).collect());
        }
        Arc::new(batches)
    }
}
