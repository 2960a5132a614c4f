//! The columns that are lifted out of the record for people: whichever statement wrote a row, they say what its body says.

use std::time::Duration;

use deadpool_postgres::Pool;
use oncekey::protocol::{Conclusion, Expected, Record, State};
use oncekey::store::{BatchPut, Exchange, Put};
use oncekey::{Deduplicator, Key, Policy, Store as _};
use oncekey_postgres::{Inbox, InboxAnswer, PostgresStore};
use tokio_postgres::Client;

use crate::resolve::abandoned;
use crate::support::{Tables, block_on, connect, database, granted, key};

const DAY: Duration = Duration::from_secs(86_400);

struct Desk {
    tables: Tables,
    store: PostgresStore<Pool>,
    client: Client,
}

impl Desk {
    /// Asserts that the columns of a row are those of its record, which it answers.
    async fn record(&self, key: &Key) -> Record {
        let record = self.store.load(key).await.unwrap().expect("it is there").record;
        let sql = format!(
            "SELECT r.state, r.attempt, k.operation_id, r.policy, (extract(epoch FROM r.created_at) * 1000)::bigint, \
             (extract(epoch FROM r.finished_at) * 1000)::bigint, r.scope, r.id \
             FROM {} AS r JOIN \"{}\".oncekey_keys AS k USING (key) WHERE key = $1",
            self.tables.records(),
            self.tables.name
        );
        let row = self.client.query_one(&sql, &[&key.as_bytes()]).await.unwrap();
        let state = match record.state() {
            State::InProgress => "in progress",
            State::Completed(outcome) if outcome.conclusion == Conclusion::Failed => "failed",
            State::Completed(_) => "completed",
            State::Released { .. } => "released",
            State::Forgotten => "forgotten",
        };
        let policy = if record.policy() == Policy::Hold { "hold" } else { "reclaim" };
        let millis = |at: oncekey::protocol::UnixMillis| i64::try_from(at.0).unwrap();
        assert_eq!(row.get::<_, &str>(0), state);
        assert_eq!(row.get::<_, i64>(1), i64::from(record.attempt()));
        assert_eq!(row.get::<_, &str>(2), record.operation_id().to_string());
        assert_eq!(row.get::<_, &str>(3), policy);
        assert_eq!(row.get::<_, i64>(4), millis(record.created_at()));
        assert_eq!(row.get::<_, Option<i64>>(5), record.finished_at().map(millis));
        assert_eq!((row.get::<_, &str>(6), row.get::<_, &str>(7)), ("test", key.id()));
        record
    }
}

#[test]
fn what_is_lifted_is_what_the_body_says() {
    block_on(async {
        let tables = Tables::new().await;
        let mut client = connect(database().url()).await;
        let desk = Desk { store: tables.store(), client: connect(database().url()).await, tables };
        let engine =
            |policy| Deduplicator::builder(desk.tables.store()).tokio().policy(policy).build().unwrap();
        let (hold, reclaim) = (engine(Policy::Hold), engine(Policy::Reclaim));

        // A claim, a release, a claim over it under another policy, a completion, each alone.
        let first = granted(&hold, &key("alone")).await.operation_id();
        assert_eq!(desk.record(&key("alone")).await.policy(), Policy::Hold);
        let mut claim = granted(&hold, &key("released")).await;
        claim.release().await.unwrap();
        desk.record(&key("released")).await;
        let mut claim = granted(&reclaim, &key("released")).await;
        let record = desk.record(&key("released")).await;
        assert_eq!((record.policy(), record.attempt()), (Policy::Reclaim, 2));
        assert_ne!(record.operation_id(), first);
        claim.complete("\"x\"").await.unwrap();
        desk.record(&key("released")).await;
        granted(&hold, &key("failed")).await.fail("\"no\"").await.unwrap();
        desk.record(&key("failed")).await;

        // In batches: claims, and writes over them with other ids, policies and attempts.
        let records = abandoned();
        let keys: Vec<Key> = (0..records.len()).map(|number| key(&format!("batch {number}"))).collect();
        let claims: Vec<_> = keys
            .iter()
            .zip(&records)
            .map(|(key, (_, record))| BatchPut::new(key, Expected::Vacant, Put::new(record, DAY, DAY)))
            .collect();
        let mut versions = Vec::new();
        for answer in desk.store.compare_exchange_many(&claims).await {
            let Ok(Exchange::Done(version)) = answer else { panic!("{answer:?}") };
            versions.push(version);
        }
        for (key, (_, record)) in keys.iter().zip(&records) {
            assert_eq!(desk.record(key).await, *record);
        }
        let writes: Vec<_> = (0..keys.len())
            .map(|number| {
                let record = &records[(number + 1) % records.len()].1;
                let put = Put::new(record, DAY, DAY);
                BatchPut::new(&keys[number], Expected::At(versions[number]), put)
            })
            .collect();
        let done = desk.store.compare_exchange_many(&writes).await;
        assert!(done.iter().all(|done| matches!(done, Ok(Exchange::Done(_)))), "{done:?}");
        for (number, key) in keys.iter().enumerate() {
            assert_eq!(desk.record(key).await, records[(number + 1) % records.len()].1);
        }

        // On a transaction.
        let mut claim = granted(&hold, &key("prepared")).await;
        let prepared = claim.prepare("\"x\"").await.unwrap();
        let transaction = client.transaction().await.unwrap();
        let _version = desk.store.complete_in(&transaction, &prepared).await.unwrap();
        transaction.commit().await.unwrap();
        claim.committed(&prepared).unwrap();
        desk.record(&key("prepared")).await;

        // In an inbox: a claim alone, the claim that takes it over, and its completion.
        let mut operation = None;
        for (attempt, policy) in [(1, Policy::Reclaim), (2, Policy::Hold)] {
            let inbox = Inbox::new(desk.tables.schema.clone()).policy(policy);
            let transaction = client.transaction().await.unwrap();
            let answer = inbox.claim(&transaction, &key("inbox"), None).await.unwrap();
            let InboxAnswer::Granted(ticket) = answer else { panic!("{answer:?}") };
            assert_eq!(ticket.number(), attempt);
            assert_eq!(ticket.operation_id(), *operation.get_or_insert(ticket.operation_id()));
            if attempt == 2 {
                ticket.complete(&transaction, "x").await.unwrap();
            }
            transaction.commit().await.unwrap();
            assert_eq!(desk.record(&key("inbox")).await.policy(), policy);
        }

        // Over a row that is gone.
        let gone = Put::new(&records[0].1, Duration::ZERO, Duration::ZERO);
        let _gone = desk.store.compare_exchange(&key("gone"), Expected::Vacant, gone).await.unwrap();
        let claim = granted(&reclaim, &key("gone")).await;
        let record = desk.record(&key("gone")).await;
        assert_eq!((record.operation_id(), record.policy()), (claim.operation_id(), Policy::Reclaim));
    });
}
