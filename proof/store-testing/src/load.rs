//! A server killed under load, and started again.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use oncekey::{Answer, Deduplicator, Earlier, Key};
use tokio::task::JoinSet;

use crate::deployment::{Deployment, PATIENCE, engine};
use crate::ledger::{Effect, Ledger, assert_one_generation};
use crate::server::{Server, unique_name};

const LEASE: Duration = Duration::from_secs(10);
/// Completions before each kill.
const BETWEEN: usize = 200;
/// Stores among the clients.
const STORES: usize = 8;

/// Has `clients` complete operations, each of a key of its own, kills the server with SIGKILL in the middle, starts it
/// again, and once more, `kills` times in all. Then, over a store that is opened anew:
///
/// - each completion that was acknowledged is replayed, with its bytes, and had one effect;
/// - each other key is replayed or run again, and has one outcome from then on; its effects are of one generation, by
///   attempts and tokens that rise: no claim that was acknowledged is forgotten.
///
/// For a store that declares to survive it: [`DurabilityClass::Machine`](oncekey::store::DurabilityClass::Machine) or
/// more. The store must connect again by itself.
///
/// # Panics
/// If not; and outside of a tokio runtime of several threads.
pub async fn killed_server<D: Deployment>(
    deployment: &D,
    url: &str,
    server: &impl Server,
    clients: usize,
    kills: usize,
) {
    let load = Arc::new(Load::default());
    let scope = unique_name("load");
    let mut tasks = JoinSet::new();
    let mut engines = Vec::new();
    for _ in 0..clients.min(STORES) {
        engines.push(dedup(deployment.open(url).await));
    }
    for client in 0..clients {
        let (dedup, load, scope) =
            (engines[client % engines.len()].clone(), Arc::clone(&load), scope.clone());
        tasks.spawn(async move { load.client(&dedup, &scope).await });
    }
    for _ in 0..kills {
        let (acknowledged, failed) = (load.acknowledged(), load.failed());
        load.until("completions", || load.acknowledged() >= acknowledged + BETWEEN).await;
        tokio::task::block_in_place(|| server.kill());
        // All but those that are at their completion met it.
        load.until("failed calls", || load.failed() > failed).await;
        tokio::task::block_in_place(|| server.start_again());
    }
    let acknowledged = load.acknowledged();
    load.until("completions after the last start", || load.acknowledged() >= acknowledged + BETWEEN).await;
    load.enough.store(true, Ordering::SeqCst);
    while let Some(ended) = tasks.join_next().await {
        if let Err(failed) = ended {
            std::panic::resume_unwind(failed.into_panic());
        }
    }
    drop(engines);
    load.check(&patient(deployment.open(url).await), &patient(deployment.open(url).await), &scope).await;
}

/// For the check, which no timeout of a busy machine may end.
fn patient<S: oncekey::Store + 'static>(store: S) -> Deduplicator<S> {
    engine(store).lease(LEASE).store_timeout(PATIENCE).build().expect("options in order")
}

fn dedup<S: oncekey::Store + 'static>(store: S) -> Deduplicator<S> {
    let builder = engine(store).lease(LEASE).store_timeout(Duration::from_secs(3));
    // Some of what is under way at a kill is given up before the server is back.
    builder.completion_timeout(Duration::from_secs(1)).build().expect("options in order")
}

/// What the clients did.
#[derive(Default)]
struct Load {
    next: AtomicUsize,
    enough: AtomicBool,
    ledger: Ledger,
    failed: AtomicUsize,
    answers: Mutex<Vec<Answered>>,
}

struct Answered {
    id: String,
    /// The outcome, where it was acknowledged that it is on record.
    acknowledged: Option<String>,
}

impl Load {
    fn acknowledged(&self) -> usize {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.iter().filter(|answered| answered.acknowledged.is_some()).count()
    }

    fn failed(&self) -> usize {
        self.failed.load(Ordering::SeqCst)
    }

    async fn until(&self, what: &str, reached: impl Fn() -> bool) {
        let start = Instant::now();
        while !reached() {
            assert!(
                start.elapsed() < PATIENCE,
                "too few {what} within {PATIENCE:?}: {} acknowledged, {} failed",
                self.acknowledged(),
                self.failed()
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn client<S: oncekey::Store + 'static>(&self, dedup: &Deduplicator<S>, scope: &str) {
        while !self.enough.load(Ordering::SeqCst) {
            let number = self.next.fetch_add(1, Ordering::SeqCst);
            let key = &key(scope, &format!("{number:06}"));
            let operation = |attempt| async move { Ok::<_, Infallible>(self.ledger.effect(key, &attempt)) };
            let answer = dedup.request(key.clone()).run(operation).await;
            let acknowledged = match answer {
                Ok(Answer::Executed { value, .. }) => Some(value),
                // Its effect happened, and its completion may be on record, or not.
                Ok(Answer::Unrecorded { .. }) => None,
                Ok(other) => panic!("{}: a fresh key of its own: {other:?}", key.id()),
                Err(_) => None,
            };
            let failed = acknowledged.is_none();
            let answered = Answered { id: key.id().to_owned(), acknowledged };
            self.answers.lock().unwrap_or_else(PoisonError::into_inner).push(answered);
            if failed {
                self.failed.fetch_add(1, Ordering::SeqCst);
                // Lest thousands of keys fail while the server is down.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    async fn check<S: oncekey::Store + 'static>(
        &self,
        one: &Deduplicator<S>,
        two: &Deduplicator<S>,
        scope: &str,
    ) {
        let before = self.ledger.effects();
        let answers = std::mem::take(&mut *self.answers.lock().unwrap_or_else(PoisonError::into_inner));
        let (mut acknowledged, mut replayed, mut run_again) = (0, 0, 0);
        for Answered { id, acknowledged: outcome } in &answers {
            let key = key(scope, id);
            let effects: Vec<_> = before.iter().filter(|effect| effect.id == *id).cloned().collect();
            let answer = self.run(one, &key).await;
            let value = match (answer, outcome) {
                (Answer::Earlier(Earlier::Replayed { value, .. }), Some(outcome)) => {
                    assert_eq!(value, *outcome, "{id}: replayed, and not what was acknowledged");
                    assert_eq!(effects.len(), 1, "{id}: acknowledged, and not one effect: {effects:#?}");
                    acknowledged += 1;
                    value
                }
                (answer, Some(outcome)) => {
                    panic!("{id}: an acknowledged completion is lost: {outcome:?} became {answer:?}")
                }
                (Answer::Earlier(Earlier::Replayed { value, .. }), None) => {
                    assert!(effects.iter().any(|effect| effect.outcome() == value), "{id}: {value}");
                    replayed += 1;
                    value
                }
                (Answer::Executed { value, .. }, None) => {
                    run_again += 1;
                    value
                }
                (answer, None) => panic!("{id}: neither executed nor replayed: {answer:?}"),
            };
            let again = self.run(two, &key).await;
            assert!(
                matches!(&again, Answer::Earlier(Earlier::Replayed { value: second, .. }) if *second == value),
                "{id}: two outcomes: {value:?}, then {again:?}"
            );
        }
        let after = self.ledger.effects();
        for Answered { id, .. } in &answers {
            let effects: Vec<Effect> = after.iter().filter(|effect| effect.id == *id).cloned().collect();
            assert_one_generation(id, &effects);
        }
        println!(
            "{acknowledged} acknowledged completions, all replayed; of {} unanswered keys {replayed} replayed, {run_again} run",
            replayed + run_again
        );
    }

    async fn run<S: oncekey::Store + 'static>(&self, dedup: &Deduplicator<S>, key: &Key) -> Answer<String> {
        let request = dedup.request(key.clone()).wait(PATIENCE);
        let operation = |attempt| async move { Ok::<_, Infallible>(self.ledger.effect(key, &attempt)) };
        request.run(operation).await.unwrap_or_else(|error| panic!("{}: {error:?}", key.id()))
    }
}

fn key(scope: &str, id: &str) -> Key {
    Key::new(scope, id).expect("a key in order")
}
