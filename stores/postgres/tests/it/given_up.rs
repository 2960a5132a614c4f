//! Calls that nobody waits for any more, while a lock on the whole table is held: their statements end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use oncekey::Store as _;
use oncekey_postgres::{OneConnection, PostgresStore};
use tokio::task::JoinSet;
use tokio_postgres::tls::{MakeTlsConnect, NoTlsStream, TlsConnect};
use tokio_postgres::{NoTls, Socket};

use crate::statements::{claim, some_record};
use crate::support::{
    Tables, block_on, connect, database, in_time, key, number, pid, pool_to, until_waiting,
};

const LOCK_WAIT: Duration = Duration::from_millis(100);
const POOL: usize = 4;

/// Sends no request encrypted, and counts them.
#[derive(Clone, Default)]
struct Counted(Arc<AtomicUsize>);

impl MakeTlsConnect<Socket> for Counted {
    type Stream = NoTlsStream;
    type TlsConnect = NoTls;
    type Error = <NoTls as TlsConnect<Socket>>::Error;

    fn make_tls_connect(&mut self, _: &str) -> Result<NoTls, Self::Error> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(NoTls)
    }
}

/// A backend that waits for a lock does not notice that its connection is closed: without a cancel, each call that is given
/// up leaves one, and a pool of four soon has dozens.
#[test]
fn no_more_sessions_wait_for_a_lock_than_the_pool_has_places() {
    // The store keeps at a statement for three seconds at most. On a busy machine one may outlast that, and then waits until
    // the lock is gone. Without a cancel, there is one in every round.
    let none_was_left = (0..ROUNDS).any(|_| block_on(sessions_that_wait_are_ended()));
    assert!(none_was_left, "in each of {ROUNDS} rounds a session waits that nobody ends");
}

const ROUNDS: usize = 8;

/// Whether no session waits once its callers are gone, with the lock still held.
async fn sessions_that_wait_are_ended() -> bool {
    let tables = Tables::new().await;
    let name = format!("given up {}", tables.name);
    let mut url: tokio_postgres::Config = database().url().parse().unwrap();
    url.application_name(&name);
    let manager = deadpool_postgres::Manager::new(url, NoTls);
    let pool = deadpool_postgres::Pool::builder(manager).max_size(POOL).build().unwrap();
    let cancels = Counted::default();
    let store = PostgresStore::builder(pool.clone())
        .schema(tables.schema.clone())
        .lock_wait(LOCK_WAIT)
        .cancel_over(cancels.clone());
    let store = Arc::new(store.build());
    let version = claim(&*store, &key("a"), &some_record().await).await;
    let observer = connect(database().url()).await;
    let mut holder = connect(database().url()).await;
    let holding = holder.transaction().await.unwrap();
    holding.batch_execute(&format!("LOCK TABLE {}", tables.records())).await.unwrap();

    let given_up = Arc::new(AtomicUsize::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for _ in 0..20 {
        let (store, given_up, over) = (Arc::clone(&store), Arc::clone(&given_up), Arc::clone(&over));
        callers.spawn(async move {
            while !over.load(Ordering::SeqCst) {
                let call = tokio::time::timeout(LOCK_WAIT * 3, store.load(&key("a"))).await;
                assert!(call.is_err(), "the table is locked: {call:?}");
                given_up.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    let waiting = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}' AND wait_event_type = 'Lock'"
    );
    // A connection whose statement was cancelled keeps its place in the pool until the server ends the statement, for three
    // seconds at most, which a busy server may exceed. So those that wait for less than that have a place each.
    // Those that wait longer are few, too: without a cancel, each of the pool's places would leave one every three seconds.
    let recently = format!("{waiting} AND clock_timestamp() - query_start < interval '3 seconds'");
    let mut most = 0;
    in_time(async {
        // Several times what the pool has places for, each with its request; and all places were seen to wait.
        while cancels.0.load(Ordering::SeqCst) < POOL * 8
            || given_up.load(Ordering::SeqCst) <= POOL * 4
            || most < 4
        {
            most = most.max(number(&observer, &recently).await);
            assert!(most <= 4, "{most} sessions wait");
            let all = number(&observer, &waiting).await;
            assert!(all <= 4 * 4, "{all} sessions wait, those included that wait for long");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    over.store(true, Ordering::SeqCst);
    assert_eq!(callers.join_all().await.len(), 20);
    // With the lock still held: no session waits any more, however long it did. Without a cancel, all would wait until the
    // lock is gone.
    let mut left = number(&observer, &waiting).await;
    let since = Instant::now();
    while left > 0 && since.elapsed() < Duration::from_secs(15) {
        tokio::time::sleep(LOCK_WAIT / 2).await;
        left = number(&observer, &waiting).await;
    }
    holding.rollback().await.unwrap();
    assert_eq!(in_time(store.load(&key("a"))).await.unwrap().unwrap().version, version);
    assert!(pool.status().size <= POOL);
    left == 0
}

/// A call that is dropped at once leaves no statement to the next call on its connection.
#[test]
fn a_call_that_is_dropped_at_once_is_in_nobodys_way() {
    block_on(async {
        let (locked, free) = (Tables::new().await, Tables::new().await);
        let pool = pool_to(database().url(), 1);
        let store = |tables: &Tables| tables.builder(pool.clone()).lock_wait(LOCK_WAIT).build();
        let (waits, other) = (store(&locked), store(&free));
        let mut holder = connect(database().url()).await;
        let holding = holder.transaction().await.unwrap();
        holding.batch_execute(&format!("LOCK TABLE {}", locked.records())).await.unwrap();
        for _ in 0..3 {
            let brief = tokio::time::timeout(LOCK_WAIT / 10, waits.load(&key("a"))).await;
            assert!(brief.is_err(), "the table is locked");
            assert!(in_time(other.load(&key("a"))).await.unwrap().is_none());
        }
        holding.rollback().await.unwrap();
    });
}

/// On a connection that is shared, what runs may be another's: nothing is cancelled.
#[test]
fn a_call_that_is_given_up_on_a_shared_connection_takes_no_other_along() {
    block_on(async {
        let tables = Tables::new().await;
        let client = connect(database().url()).await;
        let session = pid(&client).await;
        let cancels = Counted::default();
        let store = PostgresStore::builder(OneConnection::new(client))
            .schema(tables.schema.clone())
            .lock_wait(LOCK_WAIT)
            .cancel_over(cancels.clone());
        let store = Arc::new(store.build());
        let version = claim(&*store, &key("a"), &some_record().await).await;
        let observer = connect(database().url()).await;
        let mut holder = connect(database().url()).await;
        let holding = holder.transaction().await.unwrap();
        holding.batch_execute(&format!("LOCK TABLE {}", tables.records())).await.unwrap();

        let patient = tokio::spawn({
            let store = Arc::clone(&store);
            async move { store.load(&key("a")).await }
        });
        until_waiting(&observer, session).await;
        let brief = tokio::time::timeout(LOCK_WAIT * 3, store.load(&key("a"))).await;
        assert!(brief.is_err());
        tokio::time::sleep(LOCK_WAIT * 5).await;
        assert_eq!(cancels.0.load(Ordering::SeqCst), 0);
        holding.rollback().await.unwrap();
        let loaded = in_time(patient).await.unwrap().unwrap();
        assert_eq!(loaded.unwrap().version, version);
    });
}
