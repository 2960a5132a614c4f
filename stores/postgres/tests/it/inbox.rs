//! Claim, effect and completion in one transaction.

use std::sync::Arc;
use std::time::Duration;

use oncekey::protocol::{Conclusion, OutcomeBody};
use oncekey::store::{StoreError as _, StoreErrorKind};
use oncekey::{Fingerprint, Outcome, Policy};
use oncekey_postgres::{Error, Inbox, InboxAnswer, Ticket, Wait};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::support::{Tables, block_on, connect, database, key, number, pid, until_waiting};

const LONG: Duration = Duration::from_secs(60);

async fn client() -> Client {
    connect(database().url()).await
}

fn ticket(answer: InboxAnswer) -> Ticket {
    match answer {
        InboxAnswer::Granted(ticket) => ticket,
        other => panic!("not granted: {other:?}"),
    }
}

fn kept(answer: InboxAnswer) -> String {
    match answer {
        InboxAnswer::Replay(Outcome {
            conclusion: Conclusion::Succeeded,
            body: OutcomeBody::Kept(bytes),
        }) => String::from_utf8(bytes.to_vec()).unwrap(),
        other => panic!("not replayed: {other:?}"),
    }
}

#[test]
fn one_transaction_and_then_its_replay() {
    block_on(async {
        let tables = Tables::new().await;
        let inbox = Inbox::new(tables.schema.clone());
        let mut client = client().await;
        let transaction = client.transaction().await.unwrap();
        let claimed = ticket(inbox.claim(&transaction, &key("one"), None).await.unwrap());
        assert_eq!((claimed.number(), claimed.after_doubt()), (1, false));
        claimed.complete(&transaction, "first").await.unwrap();
        transaction.commit().await.unwrap();

        let transaction = client.transaction().await.unwrap();
        assert_eq!(kept(inbox.claim(&transaction, &key("one"), None).await.unwrap()), "first");
        let bound = Fingerprint::sha256(b"another request");
        let other = inbox.claim(&transaction, &key("one"), Some(bound)).await.unwrap();
        assert!(matches!(other, InboxAnswer::Mismatch), "{other:?}");
        transaction.commit().await.unwrap();

        let transaction = client.transaction().await.unwrap();
        let failing = ticket(inbox.claim(&transaction, &key("fails"), None).await.unwrap());
        failing.fail(&transaction, "no").await.unwrap();
        let replayed = inbox.claim(&transaction, &key("fails"), None).await.unwrap();
        assert!(
            matches!(&replayed, InboxAnswer::Replay(outcome) if *outcome == Outcome::failure("no")),
            "{replayed:?}"
        );
        transaction.commit().await.unwrap();
    });
}

/// Many sessions on each key: the effect happens once, and all others get its outcome.
#[test]
fn of_many_sessions_one_acts() {
    const SESSIONS: usize = 16;
    const KEYS: usize = 30;
    block_on(async {
        let tables = Tables::new().await;
        let effects = format!("\"{}\".effects", tables.name);
        client()
            .await
            .batch_execute(&format!("CREATE TABLE {effects} (id text, session int)"))
            .await
            .unwrap();
        let inbox = Arc::new(Inbox::new(tables.schema.clone()).wait(Wait::Always));
        let barrier = Arc::new(Barrier::new(SESSIONS));
        let mut sessions = JoinSet::new();
        for session in 0..SESSIONS {
            let (inbox, barrier, effects) = (Arc::clone(&inbox), Arc::clone(&barrier), effects.clone());
            sessions.spawn(async move {
                let mut client = client().await;
                let mut got = Vec::new();
                for number in 0..KEYS {
                    barrier.wait().await;
                    let id = format!("key {number}");
                    let transaction = client.transaction().await.unwrap();
                    let answer = inbox.claim(&transaction, &key(&id), None).await.unwrap();
                    if let InboxAnswer::Granted(ticket) = answer {
                        let insert = format!("INSERT INTO {effects} VALUES ('{id}', {session})");
                        transaction.batch_execute(&insert).await.unwrap();
                        // One in three fails after its effect, and somebody else has to do it.
                        if (number + session) % 3 == 0 {
                            transaction.rollback().await.unwrap();
                            got.push(None);
                            continue;
                        }
                        ticket.complete(&transaction, session.to_string()).await.unwrap();
                        transaction.commit().await.unwrap();
                        got.push(Some(session.to_string()));
                    } else {
                        got.push(Some(kept(answer)));
                        transaction.rollback().await.unwrap();
                    }
                }
                got
            });
        }
        let all = sessions.join_all().await;
        let client = client().await;
        for number in 0..KEYS {
            let rows = format!("SELECT session::text FROM {effects} WHERE id = 'key {number}'");
            let rows = client.query(&rows, &[]).await.unwrap();
            assert_eq!(rows.len(), 1, "key {number}: one effect");
            let winner: String = rows[0].get(0);
            let got: Vec<_> = all.iter().filter_map(|got| got[number].clone()).collect();
            assert!(got.iter().all(|outcome| *outcome == winner), "key {number}: {got:?}, not {winner}");
        }
    });
}

/// A duplicate that waits wins if the holder rolls back, and is answered if it commits.
#[test]
fn a_waiting_duplicate_wins_if_the_holder_rolls_back() {
    block_on(async {
        let tables = Tables::new().await;
        let observer = client().await;
        for commits in [false, true] {
            let id = format!("holder commits: {commits}");
            let inbox = Arc::new(Inbox::new(tables.schema.clone()).wait(Wait::AtMost(LONG)));
            let mut holder = client().await;
            let transaction = holder.transaction().await.unwrap();
            let claimed = ticket(inbox.claim(&transaction, &key(&id), None).await.unwrap());
            claimed.complete(&transaction, "holder").await.unwrap();
            let mut client = client().await;
            let waits = pid(&client).await;
            let waiter = tokio::spawn({
                let (inbox, id) = (Arc::clone(&inbox), id.clone());
                async move {
                    let transaction = client.transaction().await.unwrap();
                    let answer = inbox.claim(&transaction, &key(&id), None).await.unwrap();
                    transaction.commit().await.unwrap();
                    answer
                }
            });
            until_waiting(&observer, waits).await;
            if commits {
                transaction.commit().await.unwrap();
                assert_eq!(kept(waiter.await.unwrap()), "holder");
            } else {
                transaction.rollback().await.unwrap();
                assert_eq!(ticket(waiter.await.unwrap()).number(), 1);
            }
        }
    });
}

/// A duplicate is told after its wait, and its own transaction, and its `lock_timeout`, are as they were.
#[test]
fn in_progress_leaves_the_callers_transaction_as_it_was() {
    block_on(async {
        let tables = Tables::new().await;
        let inbox = Inbox::new(tables.schema.clone()).wait(Wait::AtMost(Duration::from_millis(50)));
        let work = format!("\"{}\".work", tables.name);
        let mut holder = client().await;
        holder.batch_execute(&format!("CREATE TABLE {work} (id text)")).await.unwrap();
        let holding = holder.transaction().await.unwrap();
        let _ticket = ticket(inbox.claim(&holding, &key("held"), None).await.unwrap());
        assert_eq!(lock_timeout(holding.client()).await, "0");

        let mut other = client().await;
        let transaction = other.transaction().await.unwrap();
        transaction.batch_execute("SET LOCAL lock_timeout = '1234ms'").await.unwrap();
        transaction.batch_execute(&format!("INSERT INTO {work} VALUES ('before')")).await.unwrap();
        let answer = inbox.claim(&transaction, &key("held"), None).await.unwrap();
        assert!(matches!(answer, InboxAnswer::InProgress), "{answer:?}");
        assert_eq!(lock_timeout(transaction.client()).await, "1234ms");
        let granted = inbox.claim(&transaction, &key("free"), None).await.unwrap();
        assert_eq!(lock_timeout(transaction.client()).await, "1234ms");
        ticket(granted).complete(&transaction, "done").await.unwrap();
        transaction.batch_execute(&format!("INSERT INTO {work} VALUES ('after')")).await.unwrap();
        transaction.commit().await.unwrap();
        holding.rollback().await.unwrap();
        assert_eq!(number(&other, &format!("SELECT count(*) FROM {work}")).await, 2);
        assert_eq!(lock_timeout(&other).await, "0", "nothing is left on the connection");
    });
}

async fn lock_timeout(client: &Client) -> String {
    client.query_one("SHOW lock_timeout", &[]).await.unwrap().get(0)
}

#[test]
fn a_claim_that_was_committed_alone_goes_by_the_policy() {
    block_on(async {
        let tables = Tables::new().await;
        let mut client = client().await;
        for policy in [Policy::Reclaim, Policy::Hold] {
            let inbox = Inbox::new(tables.schema.clone()).policy(policy);
            let id = format!("{policy:?}");
            let transaction = client.transaction().await.unwrap();
            let first = ticket(inbox.claim(&transaction, &key(&id), None).await.unwrap());
            let operation = first.operation_id();
            drop(first);
            transaction.commit().await.unwrap();
            let transaction = client.transaction().await.unwrap();
            match inbox.claim(&transaction, &key(&id), None).await.unwrap() {
                InboxAnswer::Granted(again) if policy == Policy::Reclaim => {
                    assert_eq!((again.number(), again.after_doubt()), (2, true));
                    assert_eq!(again.operation_id(), operation);
                }
                InboxAnswer::InDoubt { attempt: 1, operation_id, .. } if policy == Policy::Hold => {
                    assert_eq!(operation_id, operation);
                }
                other => panic!("{policy:?}: {other:?}"),
            }
            transaction.rollback().await.unwrap();
        }
    });
}

/// Where the row is gone and not purged: of two transactions the second waits for the first.
#[test]
fn a_key_whose_record_is_gone_is_claimed_anew() {
    block_on(async {
        let tables = Tables::new().await;
        let inbox = Inbox::new(tables.schema.clone()).retention(Duration::from_millis(1));
        let mut client = client().await;
        let mut before = None;
        for _ in 0..3 {
            let transaction = client.transaction().await.unwrap();
            let claimed = ticket(inbox.claim(&transaction, &key("short"), None).await.unwrap());
            assert_eq!(claimed.number(), 1);
            assert!(Some(claimed.fence()) > before, "tokens rise");
            before = Some(claimed.fence());
            claimed.complete(&transaction, "x").await.unwrap();
            transaction.commit().await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(number(&client, &format!("SELECT count(*) FROM {}", tables.records())).await, 1);
    });
}

#[test]
fn without_a_transaction_it_is_refused() {
    block_on(async {
        let tables = Tables::new().await;
        let inbox = Inbox::new(tables.schema.clone());
        let client = client().await;
        let refused = inbox.claim(&client, &key("none"), None).await.unwrap_err();
        assert_eq!(refused.code(), Some(&SqlState::NO_ACTIVE_SQL_TRANSACTION), "{refused:?}");
        assert!(matches!(refused, Error::Server { .. }));
        assert_eq!(number(&client, &format!("SELECT count(*) FROM {}", tables.records())).await, 0);
    });
}

/// Where no write ever meets what was found, it ends, and says why. A trigger swallows the writes.
#[test]
fn a_claim_that_is_overtaken_again_and_again_gives_up() {
    block_on(async {
        let tables = Tables::new().await;
        let inbox = Inbox::new(tables.schema.clone());
        let mut client = client().await;
        let transaction = client.transaction().await.unwrap();
        drop(ticket(inbox.claim(&transaction, &key("overtaken"), None).await.unwrap()));
        transaction.commit().await.unwrap();
        let swallow = format!(
            "CREATE FUNCTION \"{0}\".swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$; \
             CREATE TRIGGER swallow BEFORE UPDATE ON {1} FOR EACH ROW EXECUTE FUNCTION \"{0}\".swallow()",
            tables.name,
            tables.records()
        );
        client.batch_execute(&swallow).await.unwrap();
        let transaction = client.transaction().await.unwrap();
        let overtaken = inbox.claim(&transaction, &key("overtaken"), None).await.unwrap_err();
        assert!(matches!(overtaken, Error::Overtaken { tries: 100, .. }), "{overtaken:?}");
        assert_eq!((overtaken.kind(), overtaken.maybe_applied()), (StoreErrorKind::Unavailable, false));
        assert!(overtaken.to_string().contains("overtaken by others 100 times"), "{overtaken}");
        // The transaction can go on.
        let other = ticket(inbox.claim(&transaction, &key("another"), None).await.unwrap());
        assert_eq!(other.number(), 1);
        transaction.rollback().await.unwrap();
    });
}

/// A poll with a duplicate in it: the second claim of a key is told that its own transaction is at it, and takes nothing
/// over. Each savepoint that is rolled back takes its claims along.
#[test]
fn a_key_that_this_very_transaction_has_claimed_is_in_progress() {
    block_on(async {
        let tables = Tables::new().await;
        let mut client = client().await;
        for policy in [Policy::Reclaim, Policy::Hold] {
            let inbox = Inbox::new(tables.schema.clone()).policy(policy);
            let another = Inbox::new(tables.schema.clone());
            let id = format!("{policy:?}");
            let (bound, unlike) = (Fingerprint::sha256(b"request"), Fingerprint::sha256(b"another request"));
            let mut transaction = client.transaction().await.unwrap();
            let first = ticket(inbox.claim(&transaction, &key(&id), Some(bound)).await.unwrap());
            let again = async |transaction: &tokio_postgres::Transaction<'_>| {
                for inbox in [&inbox, &another] {
                    let answer = inbox.claim(transaction, &key(&id), Some(bound)).await.unwrap();
                    assert!(matches!(answer, InboxAnswer::InProgress), "{policy:?}: {answer:?}");
                    let answer = inbox.claim(transaction, &key(&id), Some(unlike)).await.unwrap();
                    assert!(matches!(answer, InboxAnswer::Mismatch), "{policy:?}: {answer:?}");
                }
            };
            again(&transaction).await;

            let savepoint = transaction.transaction().await.unwrap();
            again(&savepoint).await;
            let inner = format!("inner {id}");
            let undone = ticket(inbox.claim(&savepoint, &key(&inner), None).await.unwrap());
            assert_eq!(undone.number(), 1);
            savepoint.rollback().await.unwrap();
            again(&transaction).await;
            let anew = ticket(inbox.claim(&transaction, &key(&inner), None).await.unwrap());
            assert_eq!((anew.number(), anew.after_doubt()), (1, false));
            drop(anew);

            assert_eq!((first.number(), first.after_doubt()), (1, false));
            first.complete(&transaction, "first").await.unwrap();
            assert_eq!(kept(inbox.claim(&transaction, &key(&id), Some(bound)).await.unwrap()), "first");
            transaction.commit().await.unwrap();

            // In the next transaction, what was committed uncompleted is nobody's.
            let transaction = client.transaction().await.unwrap();
            match (inbox.claim(&transaction, &key(&inner), None).await.unwrap(), policy) {
                (InboxAnswer::InDoubt { attempt: 1, .. }, Policy::Hold) => {}
                (InboxAnswer::Granted(second), Policy::Reclaim) => {
                    assert_eq!((second.number(), second.after_doubt()), (2, true));
                    let answer = inbox.claim(&transaction, &key(&inner), None).await.unwrap();
                    assert!(matches!(answer, InboxAnswer::InProgress), "taken over here: {answer:?}");
                }
                (other, policy) => panic!("{policy:?}: {other:?}"),
            }
            transaction.rollback().await.unwrap();
        }
    });
}

/// The first claim of a transaction is in a savepoint that is rolled back, and the next is outside of it.
#[test]
fn a_claim_that_was_rolled_back_leaves_the_transaction_as_if_it_had_never_been() {
    block_on(async {
        let tables = Tables::new().await;
        let inbox = Inbox::new(tables.schema.clone());
        let mut client = client().await;
        let mut transaction = client.transaction().await.unwrap();
        for _ in 0..2 {
            let savepoint = transaction.transaction().await.unwrap();
            let undone = ticket(inbox.claim(&savepoint, &key("undone"), None).await.unwrap());
            assert_eq!((undone.number(), undone.after_doubt()), (1, false));
            savepoint.rollback().await.unwrap();
        }
        let held = ticket(inbox.claim(&transaction, &key("undone"), None).await.unwrap());
        let answer = inbox.claim(&transaction, &key("undone"), None).await.unwrap();
        assert!(matches!(answer, InboxAnswer::InProgress), "{answer:?}");
        held.complete(&transaction, "done").await.unwrap();
        transaction.commit().await.unwrap();
    });
}

/// Also where outcomes are kept for a shorter time than the transaction takes.
#[test]
fn a_claim_of_this_transaction_does_not_expire_within_it() {
    block_on(async {
        let tables = Tables::new().await;
        let inbox = Inbox::new(tables.schema.clone()).retention(Duration::ZERO);
        let mut client = client().await;
        let transaction = client.transaction().await.unwrap();
        let held = ticket(inbox.claim(&transaction, &key("brief"), None).await.unwrap());
        let answer = inbox.claim(&transaction, &key("brief"), None).await.unwrap();
        assert!(matches!(answer, InboxAnswer::InProgress), "{answer:?}");
        held.complete(&transaction, "done").await.unwrap();
        transaction.commit().await.unwrap();
    });
}
