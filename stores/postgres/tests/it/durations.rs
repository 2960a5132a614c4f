//! Each option that is a duration, at its extremes.

use std::time::Duration;

use deadpool_postgres::Pool;
use oncekey::protocol::Expected;
use oncekey::store::{Exchange, Put};
use oncekey::{Deduplicator, Store as _};
use oncekey_postgres::{Builder, Inbox, InboxAnswer, Wait};

use crate::statements::{claim, some_record};
use crate::support::{Tables, block_on, connect, database, granted, key, pool_to};

const EXTREMES: [Duration; 3] = [Duration::ZERO, Duration::from_nanos(1), Duration::MAX];
const DAY: Duration = Duration::from_secs(86_400);

/// A key is claimed, renewed, found and purged around, whatever the option says.
#[test]
fn each_duration_of_a_store_works_at_its_extremes() {
    type Set = fn(Builder<Pool>, Duration) -> Builder<Pool>;
    let cases: [(&str, Set); 3] = [
        ("lock_wait", |builder, duration| builder.lock_wait(duration)),
        ("connection_wait", |builder, duration| builder.connection_wait(duration)),
        ("purge_grace", |builder, duration| builder.purge_grace(duration)),
    ];
    block_on(async {
        let tables = Tables::new().await;
        let record = some_record().await;
        for (option, set) in cases {
            for duration in EXTREMES {
                // Its one connection is made, and free: without waiting there is none to be made.
                let pool = pool_to(database().url(), 1);
                drop(pool.get().await.unwrap());
                let store = set(tables.builder(pool), duration).build();
                let key = key(&format!("{option} {duration:?}"));
                let version = claim(&store, &key, &record).await;
                let again = store.compare_exchange(&key, Expected::At(version), Put::new(&record, DAY, DAY));
                assert!(matches!(again.await.unwrap(), Exchange::Done(_)), "{option} of {duration:?}");
                assert_eq!(store.purge(100).await.unwrap().removed, 0);
                assert!(store.load(&key).await.unwrap().is_some(), "{option} of {duration:?}");
            }
        }
    });
}

#[test]
fn each_duration_of_an_inbox_works_at_its_extremes() {
    type Set = fn(Inbox, Duration) -> Inbox;
    let cases: [(&str, Set); 3] = [
        ("retention", |inbox, duration| inbox.retention(duration).tail(DAY)),
        ("tail", |inbox, duration| inbox.tail(duration)),
        ("wait", |inbox, duration| inbox.wait(Wait::AtMost(duration))),
    ];
    block_on(async {
        let tables = Tables::new().await;
        let mut client = connect(database().url()).await;
        for (option, set) in cases {
            for duration in EXTREMES {
                let inbox = set(Inbox::new(tables.schema.clone()), duration);
                let key = key(&format!("{option} {duration:?}"));
                for done_before in [false, true] {
                    let transaction = client.transaction().await.unwrap();
                    match inbox.claim(&transaction, &key, None).await.unwrap() {
                        InboxAnswer::Granted(ticket) if !done_before => {
                            ticket.complete(&transaction, "done").await.unwrap();
                        }
                        InboxAnswer::Replay(_) | InboxAnswer::Done if done_before => {}
                        other => panic!("{option} of {duration:?}: {other:?}"),
                    }
                    transaction.commit().await.unwrap();
                }
            }
        }
        // The engine reads what the inbox left.
        let dedup = Deduplicator::new(tables.store());
        drop(granted(&dedup, &key("of the engine")).await);
    });
}
