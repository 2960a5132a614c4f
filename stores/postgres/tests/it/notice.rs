//! LISTEN and NOTIFY.

use std::time::Duration;

use oncekey::protocol::{Expected, Version};
use oncekey::store::{BatchPut, Exchange, Put};
use oncekey::{Answer, Deduplicator, Earlier, Store as _};
use oncekey_postgres::{Error, Inbox, InboxAnswer, Wait, listen};
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, NoTls};

use crate::support::{
    Tables, block_on, connect, database, granted, in_time, key, number, shared_pool, until,
};

/// A waiter of another engine is woken by the completion. By itself it would look again in an hour, which is longer than this
/// test may take.
#[test]
fn a_waiter_elsewhere_is_woken_at_once() {
    let hour = Duration::from_secs(3600);
    block_on(async {
        let tables = Tables::new().await;
        let channel = format!("it's {}", tables.name);
        let engine = || {
            let store = tables.builder(shared_pool().clone()).notify(channel.clone()).unwrap().build();
            Deduplicator::builder(store).tokio().poll_every(hour, hour).lease(hour * 2).build().unwrap()
        };
        let (owner, other) = (engine(), engine());
        let (client, connection) = tokio_postgres::connect(database().url(), NoTls).await.unwrap();
        let listening = tokio::spawn({
            let (other, channel) = (other.clone(), channel.clone());
            async move { listen(client, connection, &channel, &other).await }
        });
        // Until it listens: somebody else's notice, which is passed over.
        let observer = connect(database().url()).await;
        let listens = format!("SELECT count(*) FROM pg_stat_activity WHERE query = 'LISTEN \"{channel}\"'")
            .replace("it's", "it''s");
        until("it listens", async || number(&observer, &listens).await > 0).await;
        observer.execute("SELECT pg_notify($1, 'nonsense')", &[&channel]).await.unwrap();

        let mut claim = granted(&owner, &key("awaited")).await;
        let waiter = tokio::spawn({
            let other = other.clone();
            async move {
                let request = other.request(key("awaited")).json().wait(hour);
                request.run(|_| async { Ok::<_, std::io::Error>(String::new()) }).await.unwrap()
            }
        });
        until("it waits", async || other.waiting() > 0).await;
        // Past the look that each waiter begins with.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!waiter.is_finished());
        claim.complete("\"receipt\"").await.unwrap();
        let answer = in_time(waiter).await.unwrap();
        assert!(
            matches!(&answer, Answer::Earlier(Earlier::Replayed { value, .. }) if value == "receipt"),
            "{answer:?}"
        );

        // A completion in a transaction tells too.
        let mut claim = granted(&owner, &key("in a transaction")).await;
        let waiter = tokio::spawn({
            let other = other.clone();
            async move {
                let request = other.request(key("in a transaction")).json().wait(hour);
                request.run(|_| async { Ok::<_, std::io::Error>(String::new()) }).await.unwrap()
            }
        });
        until("it waits", async || other.waiting() > 0).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let prepared = claim.prepare("\"both\"").await.unwrap();
        let mut client = connect(database().url()).await;
        let transaction = client.transaction().await.unwrap();
        let _version = owner.store().complete_in(&transaction, &prepared).await.unwrap();
        transaction.commit().await.unwrap();
        let answer = in_time(waiter).await.unwrap();
        assert!(
            matches!(&answer, Answer::Earlier(Earlier::Replayed { value, .. }) if value == "both"),
            "{answer:?}"
        );
        claim.committed(&prepared).unwrap();

        // It ends with its connection.
        let end = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'LISTEN \"{}\"'",
            channel.replace('\'', "''")
        );
        observer.batch_execute(&end).await.unwrap();
        let ended = listening.await.unwrap();
        assert!(ended.is_err(), "{ended:?}");
    });
}

/// Whoever listens hears, for each way in which an attempt can end, its key, once it is committed; and nothing of claims
/// and renewals.
#[test]
fn each_end_of_an_attempt_is_told() {
    block_on(async {
        let tables = Tables::new().await;
        let channel = format!("ends of {}", tables.name);
        let store = tables.builder(shared_pool().clone()).notify(channel.clone()).unwrap().build();
        let dedup = Deduplicator::builder(store).tokio().build().unwrap();
        let mut heard = Heard::on(&channel).await;
        let mut client = connect(database().url()).await;

        let (record, done) = {
            let mut claim = granted(&dedup, &key("completed")).await;
            let record = dedup.store().load(&key("completed")).await.unwrap().unwrap().record;
            claim.complete("\"x\"").await.unwrap();
            (record, dedup.store().load(&key("completed")).await.unwrap().unwrap().record)
        };
        heard.exactly(&["completed"]).await;
        granted(&dedup, &key("released")).await.release().await.unwrap();
        heard.exactly(&["released"]).await;

        // A batch of claims, of renewals, and one in which some end.
        let keys: Vec<_> = (0..6).map(|n| key(&format!("batch {n}"))).collect();
        let put = |record| Put::new(record, Duration::from_secs(60), Duration::ZERO);
        let claims: Vec<_> =
            keys.iter().map(|key| BatchPut::new(key, Expected::Vacant, put(&record))).collect();
        let mut versions = versions(dedup.store().compare_exchange_many(&claims).await);
        for ending in [0, 3] {
            let writes: Vec<_> = keys
                .iter()
                .zip(&versions)
                .enumerate()
                .map(|(place, (key, version))| {
                    let record = if place < ending { &done } else { &record };
                    BatchPut::new(key, Expected::At(*version), put(record))
                })
                .collect();
            versions = self::versions(dedup.store().compare_exchange_many(&writes).await);
        }
        heard.exactly(&["batch 0", "batch 1", "batch 2"]).await;

        // An inbox, when its transaction commits and not before.
        let inbox = Inbox::new(tables.schema.clone()).notify(channel.clone()).unwrap().wait(Wait::Always);
        for (id, commits) in [("rolled back", false), ("inbox", true)] {
            let transaction = client.transaction().await.unwrap();
            let InboxAnswer::Granted(ticket) = inbox.claim(&transaction, &key(id), None).await.unwrap()
            else {
                panic!("{id}: not granted")
            };
            ticket.complete(&transaction, "x").await.unwrap();
            heard.exactly(&[]).await;
            if commits {
                transaction.commit().await.unwrap();
            } else {
                transaction.rollback().await.unwrap();
            }
        }
        heard.exactly(&["inbox"]).await;
    });
}

fn versions(answers: Vec<Result<Exchange, Error>>) -> Vec<Version> {
    let version = |answer| match answer {
        Ok(Exchange::Done(version)) => version,
        other => panic!("not done: {other:?}"),
    };
    answers.into_iter().map(version).collect()
}

/// What is told on a channel.
struct Heard {
    client: Client,
    channel: String,
    notices: mpsc::UnboundedReceiver<String>,
}

impl Heard {
    async fn on(channel: &str) -> Self {
        let (client, mut connection) = tokio_postgres::connect(database().url(), NoTls).await.unwrap();
        let (sender, notices) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(message) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notification(notice) = message.unwrap() {
                    drop(sender.send(notice.payload().to_owned()));
                }
            }
        });
        client.batch_execute(&format!("LISTEN \"{channel}\"")).await.unwrap();
        Self { client, channel: channel.to_owned(), notices }
    }

    /// All that was committed up to now, which is these keys, in any order.
    async fn exactly(&mut self, ids: &[&str]) {
        // Notices come in the order of commits: when this one is here, so are those before it.
        self.client.execute("SELECT pg_notify($1, 'mark')", &[&self.channel]).await.unwrap();
        let mut heard = Vec::new();
        loop {
            let notice = in_time(self.notices.recv()).await.unwrap();
            if notice == "mark" {
                break;
            }
            heard.push(notice);
        }
        let hex = |id: &&str| key(id).as_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut expected: Vec<_> = ids.iter().map(hex).collect();
        heard.sort();
        expected.sort();
        assert_eq!(heard, expected, "{ids:?}");
    }
}
