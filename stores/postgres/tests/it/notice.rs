//! LISTEN and NOTIFY.

use std::time::{Duration, Instant};

use oncekey::{Answer, Deduplicator};
use oncekey_postgres::listen;
use tokio_postgres::NoTls;

use crate::support::{Tables, block_on, connect, database, granted, key, shared_pool};

/// A waiter of another engine, with a poll interval of a minute, is woken by the completion.
#[test]
fn a_waiter_elsewhere_is_woken_at_once() {
    let minute = Duration::from_secs(60);
    block_on(async {
        let tables = Tables::new().await;
        let channel = format!("it's {}", tables.name);
        let engine = || {
            let store = tables.builder(shared_pool().clone()).notify(channel.clone()).unwrap().build();
            Deduplicator::builder(store).tokio().poll_every(minute, minute).lease(minute * 2).build().unwrap()
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
        for _ in 0..1000 {
            if crate::support::number(&observer, &listens).await > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        observer.execute("SELECT pg_notify($1, 'nonsense')", &[&channel]).await.unwrap();

        let mut claim = granted(&owner, &key("awaited")).await;
        let waiter = tokio::spawn({
            let other = other.clone();
            async move {
                let request = other.request(key("awaited")).json().wait(minute);
                request.run(|_| async { Ok::<_, std::io::Error>(String::new()) }).await.unwrap()
            }
        });
        while other.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        // Past the look that each waiter begins with.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!waiter.is_finished());
        let began = Instant::now();
        claim.complete("\"receipt\"").await.unwrap();
        let answer = waiter.await.unwrap();
        assert!(matches!(&answer, Answer::Replayed { value, .. } if value == "receipt"), "{answer:?}");
        assert!(began.elapsed() < minute / 4, "woken long before the poll: {:?}", began.elapsed());

        // A completion in a transaction, and the end of a batch's item, tell too.
        let mut claim = granted(&owner, &key("in a transaction")).await;
        let waiter = tokio::spawn({
            let other = other.clone();
            async move {
                let request = other.request(key("in a transaction")).json().wait(minute);
                request.run(|_| async { Ok::<_, std::io::Error>(String::new()) }).await.unwrap()
            }
        });
        while other.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        let prepared = claim.prepare("\"both\"").await.unwrap();
        let mut client = connect(database().url()).await;
        let transaction = client.transaction().await.unwrap();
        let _version = owner.store().complete_in(&transaction, &prepared).await.unwrap();
        let began = Instant::now();
        transaction.commit().await.unwrap();
        let answer = waiter.await.unwrap();
        assert!(matches!(&answer, Answer::Replayed { value, .. } if value == "both"), "{answer:?}");
        assert!(began.elapsed() < minute / 4);
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
