//! Completion in the caller's transaction: the effect and the outcome commit together, or not at all.

use std::time::Duration;

use deadpool_postgres::Pool;
use oncekey::{Answer, ClaimError, Deduplicator, Earlier, Settled};
use oncekey_postgres::{Error, PostgresStore};
use oncekey_store_testing::proxy::{Mode, Proxy};
use oncekey_store_testing::server::Postgres;
use tokio_postgres::Client;

use crate::support::{Tables, block_on, connect, database, granted, in_time, key, number};

/// An engine over tables of its own, and a client of the application with a table of effects.
struct App {
    tables: Tables,
    dedup: Deduplicator<PostgresStore<Pool>>,
    client: Client,
}

impl App {
    async fn new() -> Self {
        Self::over(connect(database().url()).await).await
    }

    async fn over(client: Client) -> Self {
        let tables = Tables::new().await;
        let dedup = Deduplicator::builder(tables.store()).tokio().build().unwrap();
        let effects = format!("CREATE TABLE \"{}\".effects (id text)", tables.name);
        connect(database().url()).await.batch_execute(&effects).await.unwrap();
        Self { tables, dedup, client }
    }

    fn effect(&self) -> String {
        format!("INSERT INTO \"{}\".effects VALUES ('charged')", self.tables.name)
    }

    async fn effects(&self) -> i64 {
        let observer = connect(database().url()).await;
        number(&observer, &format!("SELECT count(*) FROM \"{}\".effects", self.tables.name)).await
    }

    /// What a later call gets: it must not run.
    async fn replay(&self, id: &str) -> Option<String> {
        let request = self.dedup.request(key(id)).json();
        match request.run(|_| async { Ok::<_, std::io::Error>("ran again".to_owned()) }).await.unwrap() {
            Answer::Earlier(Earlier::Replayed { value, .. }) => Some(value),
            Answer::Earlier(Earlier::InProgress { .. }) => None,
            other => panic!("neither replayed nor in progress: {other:?}"),
        }
    }
}

#[test]
fn effect_and_outcome_commit_together() {
    block_on(async {
        let mut app = App::new().await;
        let mut claim = granted(&app.dedup, &key("together")).await;
        let prepared = claim.prepare("\"receipt\"").await.unwrap();
        let effect = app.effect();
        let transaction = app.client.transaction().await.unwrap();
        transaction.batch_execute(&effect).await.unwrap();
        let version = app.dedup.store().complete_in(&transaction, &prepared).await.unwrap();
        assert!(version > prepared.expected);
        transaction.commit().await.unwrap();
        claim.committed(&prepared).unwrap();
        assert_eq!(app.effects().await, 1);
        assert_eq!(app.replay("together").await.as_deref(), Some("receipt"));
    });
}

#[test]
fn a_rollback_takes_both_and_the_claim_goes_on() {
    block_on(async {
        let mut app = App::new().await;
        let mut claim = granted(&app.dedup, &key("rolled back")).await;
        let prepared = claim.prepare("\"receipt\"").await.unwrap();
        let effect = app.effect();
        let transaction = app.client.transaction().await.unwrap();
        transaction.batch_execute(&effect).await.unwrap();
        let _version = app.dedup.store().complete_in(&transaction, &prepared).await.unwrap();
        transaction.rollback().await.unwrap();
        claim.rolled_back();
        assert_eq!(app.effects().await, 0);
        assert_eq!(app.replay("rolled back").await, None, "it is still in progress");

        // And again, to the end.
        let prepared = claim.prepare("\"second\"").await.unwrap();
        let transaction = app.client.transaction().await.unwrap();
        transaction.batch_execute(&effect).await.unwrap();
        let _version = app.dedup.store().complete_in(&transaction, &prepared).await.unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(claim.settle(&prepared).await.unwrap(), Settled::Committed);
        assert_eq!(app.effects().await, 1);
        assert_eq!(app.replay("rolled back").await.as_deref(), Some("second"));
    });
}

#[test]
fn the_transaction_of_an_attempt_that_was_taken_over_fails() {
    block_on(async {
        let mut app = App::new().await;
        let mut slow = granted(&app.dedup, &key("taken over")).await;
        let prepared = slow.prepare("\"late\"").await.unwrap();
        app.tables.end_lease(&key("taken over")).await;
        let mut taker = granted(&app.dedup, &key("taken over")).await;
        assert_eq!(taker.number(), 2);

        let effect = app.effect();
        let transaction = app.client.transaction().await.unwrap();
        transaction.batch_execute(&effect).await.unwrap();
        let refused = app.dedup.store().complete_in(&transaction, &prepared).await.unwrap_err();
        assert!(matches!(refused, Error::NotCurrent { .. }), "{refused:?}");
        assert!(refused.to_string().contains("roll the transaction back"), "{refused}");
        transaction.rollback().await.unwrap();
        let settled = slow.settle(&prepared).await;
        assert!(matches!(settled, Err(ClaimError::Superseded { .. })), "{settled:?}");

        taker.complete("\"taken\"").await.unwrap();
        assert_eq!(app.effects().await, 0);
        assert_eq!(app.replay("taken over").await.as_deref(), Some("taken"));
    });
}

/// The reply to COMMIT is lost: the transaction may or may not have committed, and `settle` finds out which.
#[test]
fn an_unknown_commit_is_settled() {
    let server = Postgres::start();
    block_on(async {
        let database = server.database();
        let proxy = Proxy::start(server.addr());
        for (mode, committed) in [(Mode::DropAnswers, true), (Mode::Reset, false)] {
            let mut direct = connect(database.url()).await;
            oncekey_postgres::migrate(&mut direct, &Default::default()).await.unwrap();
            direct.batch_execute("CREATE TABLE IF NOT EXISTS effects (id text)").await.unwrap();
            let store = crate::support::store_over(crate::support::pool_to(database.url(), 4));
            let dedup = Deduplicator::builder(store).tokio().build().unwrap();

            let id = format!("unknown {committed}");
            let mut claim = granted(&dedup, &key(&id)).await;
            let prepared = claim.prepare("\"receipt\"").await.unwrap();
            let mut client = connect(&proxy.url(database.url())).await;
            let transaction = client.transaction().await.unwrap();
            transaction.execute("INSERT INTO effects VALUES ($1)", &[&id]).await.unwrap();
            let _version = dedup.store().complete_in(&transaction, &prepared).await.unwrap();
            proxy.only_next(1, mode);
            let lost = transaction.commit().await.unwrap_err();
            assert!(lost.as_db_error().is_none(), "the connection broke: {lost:?}");

            let settled = claim.settle(&prepared).await.unwrap();
            let expected = if committed { Settled::Committed } else { Settled::NotCommitted };
            assert_eq!(settled, expected, "{mode:?}");
            let effects = format!("SELECT count(*) FROM effects WHERE id = '{id}'");
            assert_eq!(number(&direct, &effects).await, i64::from(committed), "{mode:?}");
            if !committed {
                // The claim is as before, and can be completed.
                claim.complete("\"otherwise\"").await.unwrap();
            }
        }
        assert_eq!(proxy.faulted(), 2);
    });
}

/// `settle` before the transaction has ended: it cannot commit any more.
#[test]
fn what_was_settled_as_not_committed_cannot_commit_later() {
    block_on(async {
        let mut app = App::new().await;
        let mut claim = granted(&app.dedup, &key("late commit")).await;
        let prepared = claim.prepare("\"late\"").await.unwrap();
        let effect = app.effect();
        let transaction = app.client.transaction().await.unwrap();
        transaction.batch_execute(&effect).await.unwrap();
        // Its completion has not been sent yet.
        assert_eq!(claim.settle(&prepared).await.unwrap(), Settled::NotCommitted);
        let refused = app.dedup.store().complete_in(&transaction, &prepared).await.unwrap_err();
        assert!(matches!(refused, Error::NotCurrent { .. }), "{refused:?}");
        transaction.rollback().await.unwrap();
        assert_eq!(app.effects().await, 0);
    });
}

/// A client stalls between its completion and its COMMIT. Nobody can say what comes of it before the server has ended that
/// transaction, by `idle_in_transaction_session_timeout`.
#[test]
fn a_transaction_that_stalls_is_settled_when_the_server_has_ended_it() {
    block_on(async {
        let mut app = App::new().await;
        let store = app.tables.builder(crate::support::shared_pool().clone());
        let dedup = Deduplicator::builder(store.lock_wait(Duration::from_millis(200)).build())
            .tokio()
            .completion_timeout(Duration::from_secs(1))
            .build()
            .unwrap();
        let mut claim = granted(&dedup, &key("stalls")).await;
        let prepared = claim.prepare("\"late\"").await.unwrap();
        let effect = app.effect();
        let transaction = app.client.transaction().await.unwrap();
        transaction.batch_execute(&effect).await.unwrap();
        let _version = dedup.store().complete_in(&transaction, &prepared).await.unwrap();
        let unsettled = claim.settle(&prepared).await.unwrap_err();
        assert!(matches!(unsettled, ClaimError::Store { .. }), "{unsettled:?}");
        assert!(format!("{unsettled:?}").contains("Locked"), "{unsettled:?}");

        transaction.batch_execute("SET idle_in_transaction_session_timeout = '100ms'").await.unwrap();
        // From here on it says nothing.
        let settled = in_time(async {
            loop {
                if let Ok(settled) = claim.settle(&prepared).await {
                    return settled;
                }
            }
        });
        assert_eq!(settled.await, Settled::NotCommitted);
        let late = transaction.commit().await;
        assert!(late.is_err(), "{late:?}");
        assert_eq!(app.effects().await, 0, "both are rolled back");
        claim.complete("\"otherwise\"").await.unwrap();
        assert_eq!(app.replay("stalls").await.as_deref(), Some("otherwise"));
    });
}

#[test]
fn a_pooled_transaction_will_do_and_so_will_a_client_with_begin() {
    block_on(async {
        let app = App::new().await;
        let mut pooled = crate::support::shared_pool().get().await.unwrap();
        let mut claim = granted(&app.dedup, &key("pooled")).await;
        let prepared = claim.prepare("\"a\"").await.unwrap();
        let transaction = pooled.transaction().await.unwrap();
        let _version = app.dedup.store().complete_in(&*transaction, &prepared).await.unwrap();
        transaction.commit().await.unwrap();
        claim.committed(&prepared).unwrap();

        let mut claim = granted(&app.dedup, &key("by hand")).await;
        let prepared = claim.prepare("\"b\"").await.unwrap();
        app.client.batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE").await.unwrap();
        let _version = app.dedup.store().complete_in(&app.client, &prepared).await.unwrap();
        app.client.batch_execute("COMMIT").await.unwrap();
        claim.committed(&prepared).unwrap();
        assert_eq!(app.replay("pooled").await.as_deref(), Some("a"));
        assert_eq!(app.replay("by hand").await.as_deref(), Some("b"));
    });
}

/// One transaction that completes a claim twice is told at the second time.
#[test]
fn what_is_completed_twice_in_one_transaction_is_refused() {
    block_on(async {
        let mut app = App::new().await;
        let mut claim = granted(&app.dedup, &key("twice")).await;
        let prepared = claim.prepare("\"receipt\"").await.unwrap();
        let transaction = app.client.transaction().await.unwrap();
        let store = app.dedup.store();
        let _version = store.complete_in(&transaction, &prepared).await.unwrap();
        let refused = store.complete_in(&transaction, &prepared).await.unwrap_err();
        assert!(matches!(refused, Error::NotCurrent { .. }), "{refused:?}");
        transaction.rollback().await.unwrap();
        claim.rolled_back();
    });
}
