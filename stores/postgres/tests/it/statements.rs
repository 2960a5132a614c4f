//! How often the server is asked, and what a question costs it.

use std::time::Duration;

use oncekey::protocol::{Entry, Expected, Record, Version};
use oncekey::store::{BatchPut, Exchange, Put};
use oncekey::{Answer, Deduplicator, Earlier, Key, Store};
use oncekey_postgres::{Connections, PostgresStore, Schema, migrate};
use oncekey_store_testing::proxy::Proxy;
use oncekey_store_testing::server::Postgres;

use crate::support::{
    PATIENCE, block_on, connect, end_lease, granted, key, number, pool_to, store_over, until,
};

const DAY: Duration = Duration::from_secs(86_400);

/// A record in progress, as an engine makes it.
pub(crate) async fn some_record() -> Record {
    let dedup = Deduplicator::new(oncekey::MemoryStore::new());
    let _claim = granted(&dedup, &key("record")).await;
    let loaded = dedup.store().load(&key("record")).await.unwrap();
    loaded.unwrap().record
}

pub(crate) async fn claim<C: Connections>(store: &PostgresStore<C>, key: &Key, record: &Record) -> Version {
    match store.compare_exchange(key, Expected::Vacant, Put::new(record, DAY, DAY)).await.unwrap() {
        Exchange::Done(version) => version,
        other => panic!("not done: {other:?}"),
    }
}

/// Each call is one round trip: counted between the client and the server, and by the server's own log of what it ran.
#[test]
fn each_call_is_one_statement() {
    let server = Postgres::start_with(&[("log_statement", "all")]);
    block_on(async {
        let database = server.database();
        let proxy = Proxy::start(server.addr());
        migrate(&mut connect(database.url()).await, &Schema::of_search_path()).await.unwrap();
        for named in [false, true] {
            let store = PostgresStore::builder(pool_to(&proxy.url(database.url()), 1))
                .connection_wait(PATIENCE)
                .named_statements(named)
                .build();
            let record = some_record().await;
            let statements = || server.log().matches("LOG:  execute ").count();
            let mut counts = Vec::new();
            // With named statements the first of each kind also prepares it.
            for round in 0..2 {
                counts.clear();
                let id = |what: &str| key(&format!("{what} {named} {round}"));
                let mut before = (proxy.round_trips(), statements());
                let mut count = |what: &'static str| {
                    let now = (proxy.round_trips(), statements());
                    counts.push((what, now.0 - before.0, now.1 - before.1));
                    before = now;
                };
                let put = Put::new(&record, DAY, DAY);
                if round == 0 && !named {
                    let _connected = store.load(&id("connects")).await.unwrap();
                    count("connect");
                }
                let version = claim(&store, &id("a"), &record).await;
                count("fresh claim");
                let replay = store.compare_exchange(&id("a"), Expected::Vacant, put).await.unwrap();
                assert!(matches!(replay, Exchange::Conflict(Some(_))), "{replay:?}");
                count("replay");
                let renewed = store.compare_exchange(&id("a"), Expected::At(version), put).await.unwrap();
                let Exchange::Done(version) = renewed else { panic!("{renewed:?}") };
                count("renewal");
                let _entry = store.load(&id("a")).await.unwrap().unwrap();
                count("load");
                let stale = Expected::At(Version::new(1));
                let conflict = store.compare_exchange(&id("a"), stale, put).await.unwrap();
                assert!(matches!(conflict, Exchange::Conflict(Some(_))), "{conflict:?}");
                count("conflict");
                let keys: Vec<Key> = (0..64).map(|n| id(&format!("batch {n}"))).collect();
                let batch: Vec<_> =
                    keys.iter().map(|key| BatchPut::new(key, Expected::Vacant, put)).collect();
                let done = store.compare_exchange_many(&batch).await;
                count("batch of claims");
                let versions: Vec<_> = done
                    .into_iter()
                    .map(|done| match done.unwrap() {
                        Exchange::Done(version) => version,
                        other => panic!("{other:?}"),
                    })
                    .collect();
                let batch: Vec<_> = keys
                    .iter()
                    .zip(&versions)
                    .map(|(key, version)| BatchPut::new(key, Expected::At(*version), put))
                    .collect();
                let done = store.compare_exchange_many(&batch).await;
                assert!(done.iter().all(|done| matches!(done, Ok(Exchange::Done(_)))));
                count("batch of renewals");
                let conflicts = store.compare_exchange_many(&batch).await;
                assert!(conflicts.iter().all(|done| matches!(done, Ok(Exchange::Conflict(Some(_))))));
                count("batch of conflicts");
                // Half of them gone: by being expired and not readable any more.
                let gone = Put::new(&record, Duration::ZERO, Duration::ZERO);
                let (ended, fresh): (Vec<Key>, Vec<Key>) =
                    (0..32).map(|n| (id(&format!("gone {n}")), id(&format!("fresh {n}")))).unzip();
                let batch: Vec<_> =
                    ended.iter().map(|key| BatchPut::new(key, Expected::Vacant, gone)).collect();
                let ended_at = store.compare_exchange_many(&batch).await;
                count("batch that is gone at once");
                let batch: Vec<_> =
                    ended.iter().chain(&fresh).map(|key| BatchPut::new(key, Expected::Vacant, put)).collect();
                let claimed = store.compare_exchange_many(&batch).await;
                count("batch of claims, half of them of what is gone");
                for (place, claimed) in claimed.iter().enumerate() {
                    let Ok(Exchange::Done(version)) = claimed else { panic!("{place}: {claimed:?}") };
                    if let Some(Ok(Exchange::Done(before))) = ended_at.get(place) {
                        assert!(version > before, "{place}: versions rise");
                    }
                }
                let both: Vec<_> = [(&keys[0], Expected::Vacant), (&ended[0], Expected::At(version))]
                    .into_iter()
                    .map(|(key, expected)| BatchPut::new(key, expected, put))
                    .collect();
                let conflicts = store.compare_exchange_many(&both).await;
                assert!(conflicts.iter().all(|done| matches!(done, Ok(Exchange::Conflict(Some(_))))));
                count("both kinds");
            }
            for (what, round_trips, statements) in counts {
                let expected = match what {
                    "conflict" | "batch of conflicts" => 2,
                    "batch of claims, half of them of what is gone" | "both kinds" => 3,
                    _ => 1,
                };
                assert_eq!(statements, expected, "{what}, named: {named}: by the server's log");
                assert_eq!(round_trips, expected, "{what}, named: {named}: on the wire");
            }
        }
        // Batches are planned each time, as the table is then; single calls are prepared once.
        let log = server.log();
        let prepared: Vec<_> =
            log.lines().filter(|line| line.contains("execute ") && !line.contains("<unnamed>")).collect();
        assert!(prepared.iter().any(|line| line.contains("WITH cur AS")), "{prepared:?}");
        for batch in ["WITH i AS", "WITH w AS", "ANY ($1)"] {
            assert!(log.contains(batch), "{batch}");
            assert!(!prepared.iter().any(|line| line.contains(batch)), "{batch} is prepared: {prepared:?}");
        }
    });
}

/// The engine's own figures: a fresh run is two round trips, a replay one, a takeover's claim two.
#[test]
fn the_engine_asks_no_more_than_it_must() {
    let server = Postgres::start();
    block_on(async {
        let database = server.database();
        let proxy = Proxy::start(server.addr());
        migrate(&mut connect(database.url()).await, &Schema::of_search_path()).await.unwrap();
        let store = store_over(pool_to(&proxy.url(database.url()), 1));
        let dedup = Deduplicator::builder(store).tokio().build().unwrap();
        let _connected = dedup.inspect(&key("connects")).await.unwrap();
        let before = proxy.round_trips();
        let run = || dedup.request(key("a")).json().run(|_| async { Ok::<_, std::io::Error>(1) });
        assert!(matches!(run().await.unwrap(), Answer::Executed { .. }));
        assert_eq!(proxy.round_trips() - before, 2, "claim and completion");
        assert!(matches!(run().await.unwrap(), Answer::Earlier(Earlier::Replayed { .. })));
        assert_eq!(proxy.round_trips() - before, 3, "replay");
        drop(granted(&dedup, &key("b")).await);
        assert_eq!(proxy.round_trips() - before, 4, "fresh claim");
        end_lease(&connect(database.url()).await, "oncekey_records", &key("b")).await;
        assert_eq!(granted(&dedup, &key("b")).await.number(), 2);
        assert_eq!(proxy.round_trips() - before, 6, "takeover");
    });
}

/// A replay draws no transaction id and writes no log: on a server that does nothing else.
#[test]
fn a_replay_writes_nothing() {
    let server = Postgres::start_with(&[("autovacuum", "off")]);
    block_on(async {
        let database = server.database();
        let mut observer = connect(database.url()).await;
        migrate(&mut observer, &Schema::of_search_path()).await.unwrap();
        let store = store_over(pool_to(database.url(), 1));
        let record = some_record().await;
        let _version = claim(&store, &key("a"), &record).await;
        let put = Put::new(&record, DAY, DAY);
        let next_id = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text";
        let log = "SELECT pg_current_wal_insert_lsn() - '0/0'";
        let replays = || async {
            let (id, at) = (number(&observer, next_id).await, number(&observer, log).await);
            for _ in 0..200 {
                let replay = store.compare_exchange(&key("a"), Expected::Vacant, put).await.unwrap();
                assert!(matches!(replay, Exchange::Conflict(Some(Entry { .. }))), "{replay:?}");
            }
            (number(&observer, next_id).await - id, number(&observer, log).await - at)
        };
        // The first reads set hint bits, and a checkpoint may come by.
        let _warm = replays().await;
        // The server itself writes to its log now and then: three rounds of twenty have to be without that.
        let mut written = Vec::new();
        while written.iter().filter(|bytes| **bytes == 0).count() < 3 {
            assert!(written.len() < 20, "bytes of log, by round: {written:?}");
            let (ids, bytes) = replays().await;
            assert_eq!(ids, 0, "transaction ids");
            written.push(bytes);
        }
    });
}

/// Renewals and completions stay on their page and touch no index. In a database of its own: transactions of other tests would
/// keep old rows from being removed.
#[test]
fn completions_are_hot() {
    let database = Postgres::shared().database();
    block_on(async {
        migrate(&mut connect(database.url()).await, &Schema::of_search_path()).await.unwrap();
        let store = store_over(pool_to(database.url(), 4));
        let dedup = Deduplicator::builder(store).tokio().build().unwrap();
        for number in 0..500 {
            let request = dedup.request(key(&format!("hot {number}"))).json();
            let ran = request.run(|_| async { Ok::<_, std::io::Error>("a receipt".repeat(10)) }).await;
            assert!(ran.unwrap().ran_now());
        }
        let client = connect(database.url()).await;
        let counted = |column: &str| {
            format!("SELECT {column} FROM pg_stat_user_tables WHERE relid = 'oncekey_records'::regclass")
        };
        // Sessions send their counts at most once a second, and when they are idle.
        until("all completions are counted", async || {
            let _nudge = dedup.inspect(&key("hot 0")).await.unwrap();
            number(&client, &counted("n_tup_upd")).await >= 500
        })
        .await;
        let all = number(&client, &counted("n_tup_upd")).await;
        let hot = number(&client, &counted("n_tup_hot_upd")).await;
        assert_eq!(all, 500, "one update per completion");
        println!("{hot} of {all} completions were HOT");
        assert!(hot >= 475, "{hot} of {all} were HOT");
    });
}
