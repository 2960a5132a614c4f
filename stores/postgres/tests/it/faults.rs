//! Replies that are cut, a server that is killed, hangs, or is away: one effect each, and nothing acknowledged is lost.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadpool_postgres::Pool;
use oncekey::store::StoreErrorKind;
use oncekey::{Answer, Deduplicator, DeduplicatorBuilder, Earlier, Error as EngineError, RunError};
use oncekey_postgres::{PostgresStore, Schema, migrate};
use oncekey_store_testing::proxy::{Mode, Proxy};
use oncekey_store_testing::server::Postgres;
use tokio::task::JoinSet;

use crate::support::{PATIENCE, block_on, connect, key, pool_to, store_over, until};

fn engine(url: &str, connections: usize) -> DeduplicatorBuilder<PostgresStore<Pool>> {
    Deduplicator::builder(store_over(pool_to(url, connections))).tokio()
}

async fn run(
    dedup: &Deduplicator<PostgresStore<Pool>>,
    id: &str,
    effects: &AtomicUsize,
) -> Result<Answer<String>, RunError<std::io::Error>> {
    let request = dedup.request(key(id)).json().wait(PATIENCE);
    request
        .run(|_| async {
            effects.fetch_add(1, Ordering::SeqCst);
            Ok("receipt".to_owned())
        })
        .await
}

/// Each request of a run meets each fault once: one effect, and its outcome is what everybody gets.
#[test]
fn replies_that_are_lost_and_requests_that_are_cut() {
    let server = Postgres::start();
    block_on(async {
        let database = server.database();
        let proxy = Proxy::start(server.addr());
        migrate(&mut connect(database.url()).await, &Schema::of_search_path()).await.unwrap();
        let mut faulted = proxy.faulted();
        for mode in [Mode::DropAnswers, Mode::Reset] {
            for spared in 0..4 {
                for faults in 1..=2 {
                    let id = format!("{mode:?} {spared} {faults}");
                    let effects = AtomicUsize::new(0);
                    let dedup = engine(&proxy.url(database.url()), 2).build().unwrap();
                    // Connected beforehand, so that it is the statements that meet the faults.
                    let _connected = dedup.inspect(&key("connects")).await.unwrap();
                    proxy.after(spared, faults, mode);
                    let first = run(&dedup, &id, &effects).await;
                    // A second call goes on where the faults are not used up yet.
                    let again = run(&dedup, &id, &effects).await;
                    proxy.set(Mode::Pass);
                    let last = run(&dedup, &id, &effects).await.unwrap();
                    assert!(
                        matches!(&last, Answer::Earlier(Earlier::Replayed { value, .. }) if value == "receipt"),
                        "{id}: {first:?}, {again:?}, {last:?}"
                    );
                    assert_eq!(effects.load(Ordering::SeqCst), 1, "{id}: {first:?}, {again:?}");
                    assert!(first.is_ok(), "the engine tries again by itself: {id}: {first:?}");
                }
            }
        }
        faulted = proxy.faulted() - faulted;
        assert!(faulted >= 16, "{faulted} faults were met");
    });
}

/// A claim that is stalled for longer than its lease, and arrives when another engine has done it: it gets the outcome.
#[test]
fn a_claim_that_stalls_past_its_lease() {
    let server = Postgres::start();
    block_on(async {
        let database = server.database();
        let proxy = Proxy::start(server.addr());
        migrate(&mut connect(database.url()).await, &Schema::of_search_path()).await.unwrap();
        let effects = Arc::new(AtomicUsize::new(0));
        let slow = engine(&proxy.url(database.url()), 2)
            .lease(Duration::from_millis(500))
            .store_timeout(PATIENCE)
            .build()
            .unwrap();
        let _connected = slow.inspect(&key("connects")).await.unwrap();
        proxy.set(Mode::Stall);
        let stalled = tokio::spawn({
            let (slow, effects) = (slow.clone(), Arc::clone(&effects));
            async move { run(&slow, "stalled", &effects).await }
        });
        proxy.until_held(1).await;
        let other = engine(database.url(), 2).build().unwrap();
        assert!(run(&other, "stalled", &effects).await.unwrap().ran_now());
        tokio::time::sleep(Duration::from_millis(600)).await;
        proxy.set(Mode::Pass);
        let late = stalled.await.unwrap().unwrap();
        assert!(matches!(late, Answer::Earlier(Earlier::Replayed { .. })), "{late:?}");
        assert_eq!(effects.load(Ordering::SeqCst), 1);
    });
}

/// The completion's answer stalls past the lease, and another takes over meanwhile or gets the outcome: the completion had
/// been applied, so it is the outcome.
#[test]
fn a_completion_whose_answer_stalls_past_the_lease() {
    let server = Postgres::start();
    block_on(async {
        let database = server.database();
        let proxy = Proxy::start(server.addr());
        migrate(&mut connect(database.url()).await, &Schema::of_search_path()).await.unwrap();
        let effects = Arc::new(AtomicUsize::new(0));
        // Where the machine is so busy that the lease is over before the completion, another call gets a longer one.
        for lease in [2, 4, 8, 16, 32, 64].map(Duration::from_secs) {
            effects.store(0, Ordering::SeqCst);
            let id = format!("completing within {lease:?}");
            let slow = engine(&proxy.url(database.url()), 2).lease(lease).store_timeout(PATIENCE);
            let slow = slow.build().unwrap();
            let _connected = slow.inspect(&key("connects")).await.unwrap();
            // The claim passes; the completion's answer does not.
            proxy.after(1, 1, Mode::StallAnswers);
            let mut stalled = tokio::spawn({
                let (slow, id, effects) = (slow.clone(), id.clone(), Arc::clone(&effects));
                async move { run(&slow, &id, &effects).await }
            });
            tokio::select! {
                () = proxy.until_held(1) => {}
                lost = &mut stalled => {
                    let lost = lost.unwrap();
                    // The lease was over in the operation, or already when the grant arrived.
                    let is_late = matches!(lost, Err(RunError::LeaseLost { .. } | RunError::Claim { .. }));
                    assert!(is_late, "{lost:?}");
                    proxy.set(Mode::Pass);
                    continue;
                }
            }
            tokio::time::sleep(lease + Duration::from_millis(100)).await;
            let other = engine(database.url(), 2).build().unwrap();
            let got = run(&other, &id, &effects).await.unwrap();
            assert!(matches!(got, Answer::Earlier(Earlier::Replayed { .. })), "{got:?}");
            proxy.set(Mode::Pass);
            assert!(stalled.await.unwrap().unwrap().ran_now());
            assert_eq!(effects.load(Ordering::SeqCst), 1);
            return;
        }
        panic!("no completion was sent within its lease");
    });
}

/// SIGKILL of all of the server's processes under load, and a restart: what was acknowledged is there.
#[test]
fn a_killed_server_loses_nothing_acknowledged() {
    const CLIENTS: usize = 16;
    let server = Arc::new(Postgres::start());
    block_on(async {
        let mut client = connect(server.url()).await;
        migrate(&mut client, &Schema::of_search_path()).await.unwrap();
        let dedup = engine(server.url(), 8).completion_timeout(Duration::from_secs(120)).build().unwrap();
        let acknowledged: Arc<Mutex<BTreeMap<String, String>>> = Arc::default();
        let effects: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
        let enough = Arc::new(AtomicUsize::new(0));
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let (dedup, acknowledged, effects) =
                (dedup.clone(), Arc::clone(&acknowledged), Arc::clone(&effects));
            let enough = Arc::clone(&enough);
            clients.spawn(async move {
                let mut errors = 0;
                for n in 0.. {
                    if enough.load(Ordering::SeqCst) == 2 {
                        break;
                    }
                    let id = format!("{client} {n}");
                    let request = dedup.request(key(&id)).json();
                    let ran = request.run(|attempt| {
                        *effects.lock().unwrap().entry(id.clone()).or_default() += 1;
                        async move { Ok::<_, std::io::Error>(attempt.operation_id().to_string()) }
                    });
                    match ran.await {
                        Ok(Answer::Executed { value, .. }) => {
                            acknowledged.lock().unwrap().insert(id, value);
                        }
                        Ok(other) => panic!("{id}: {other:?}"),
                        Err(_) => errors += 1,
                    }
                }
                errors
            });
        }
        for kill in 0..2 {
            let before = acknowledged.lock().unwrap().len();
            until("operations are acknowledged", async || acknowledged.lock().unwrap().len() >= before + 300)
                .await;
            let server = Arc::clone(&server);
            tokio::task::spawn_blocking(move || {
                server.kill();
                server.start_again();
            })
            .await
            .unwrap();
            enough.store(kill + 1, Ordering::SeqCst);
        }
        let errors: usize = clients.join_all().await.into_iter().sum();
        let acknowledged = acknowledged.lock().unwrap().clone();
        println!("{} acknowledged, {errors} errors", acknowledged.len());
        let fresh = engine(server.url(), 8).build().unwrap();
        for (id, value) in &acknowledged {
            assert_eq!(effects.lock().unwrap()[id], 1, "{id}: effects");
            let request = fresh.request(key(id)).json();
            let again = request.run(|_| async { Ok::<_, std::io::Error>("lost".to_owned()) }).await.unwrap();
            assert!(
                matches!(&again, Answer::Earlier(Earlier::Replayed { value: kept, .. }) if kept == value),
                "{id}: {again:?}"
            );
        }
    });
}

/// Away, then back, with the same pool: the operation is not run, the error says so, and then it goes on.
#[test]
fn a_server_that_goes_and_comes_back() {
    let server = Postgres::start();
    block_on(async {
        migrate(&mut connect(server.url()).await, &Schema::of_search_path()).await.unwrap();
        let dedup = engine(server.url(), 4).call_timeout(Duration::from_secs(5)).build().unwrap();
        let effects = AtomicUsize::new(0);
        assert!(run(&dedup, "before", &effects).await.unwrap().ran_now());
        server.stop();
        let refused = run(&dedup, "during", &effects).await.unwrap_err();
        assert_eq!(kind(&refused), Some(StoreErrorKind::Unavailable), "{refused:?}");
        assert_eq!(effects.load(Ordering::SeqCst), 1, "it was not run");
        server.start_again();
        assert!(run(&dedup, "during", &effects).await.unwrap().ran_now());
        assert!(matches!(
            run(&dedup, "before", &effects).await.unwrap(),
            Answer::Earlier(Earlier::Replayed { .. })
        ));
        assert_eq!(effects.load(Ordering::SeqCst), 2);
    });
}

/// A server that does not answer: an error in time, the operation not run; then it goes on.
#[test]
fn a_server_that_hangs() {
    let server = Postgres::start();
    block_on(async {
        migrate(&mut connect(server.url()).await, &Schema::of_search_path()).await.unwrap();
        let dedup = engine(server.url(), 4)
            .store_timeout(Duration::from_millis(300))
            .call_timeout(Duration::from_millis(700))
            .build()
            .unwrap();
        let effects = AtomicUsize::new(0);
        // No claim is made under this timeout before the server hangs: it is short for a busy machine.
        let patient = engine(server.url(), 4).build().unwrap();
        assert!(run(&patient, "before", &effects).await.unwrap().ran_now());
        until("it is connected", async || dedup.inspect(&key("connects")).await.is_ok()).await;
        server.hang();
        let refused = run(&dedup, "during", &effects).await.unwrap_err();
        assert_eq!(kind(&refused), Some(StoreErrorKind::TimedOut), "{refused:?}");
        assert_eq!(effects.load(Ordering::SeqCst), 1, "it was not run");
        server.go_on();
        // The claims that were under way may have been applied: they are orphans for a lease, or released.
        assert!(run(&patient, "after", &effects).await.unwrap().ran_now());
        let later = run(&patient, "during", &effects).await.unwrap();
        assert!(later.ran_now(), "{later:?}");
        assert_eq!(effects.load(Ordering::SeqCst), 3);
    });
}

fn kind(error: &RunError<std::io::Error>) -> Option<StoreErrorKind> {
    match error {
        RunError::Claim { source: EngineError::Store { source, .. }, .. } => Some(source.kind()),
        _ => None,
    }
}
