//! Clients under load, each of which calls again until it has an outcome, and what they saw.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use oncekey::store::StoreErrorKind;
use oncekey::{Answer, Attempt, Earlier, Error, Key, RunError};
use parking_lot::Mutex;

use super::Service;
use crate::support::{PATIENCE, until};

/// How long a duplicate waits for the other client's attempt.
pub(super) const WAIT: Duration = Duration::from_secs(2);

/// One run of an operation.
#[derive(Clone, Debug)]
struct Execution {
    id: String,
    outcome: String,
    start: Instant,
    end: Option<Instant>,
}

/// What the clients did.
#[derive(Default)]
pub(super) struct Load {
    enough: AtomicBool,
    executions: Mutex<Vec<Execution>>,
    /// The outcome of each key, as soon as one client was told that it is on record; and how long that took.
    acknowledged: Mutex<BTreeMap<String, (String, Duration)>>,
    /// How long each call took that was refused.
    refused: Mutex<Vec<(StoreErrorKind, Duration)>>,
    /// Operations that ran, and whose outcome could not be put on record.
    unrecorded: AtomicUsize,
}

impl Load {
    pub(super) fn acknowledged(&self) -> usize {
        self.acknowledged.lock().len()
    }

    pub(super) fn refused(&self) -> usize {
        self.refused.lock().len()
    }

    pub(super) fn unrecorded(&self) -> usize {
        self.unrecorded.load(Ordering::SeqCst)
    }

    /// The operations that run at this moment.
    pub(super) fn running(&self) -> usize {
        self.executions.lock().iter().filter(|execution| execution.end.is_none()).count()
    }

    pub(super) fn end(&self) {
        self.enough.store(true, Ordering::SeqCst);
    }

    pub(super) async fn until(&self, what: &str, reached: impl Fn() -> bool) {
        until(what, async || reached()).await;
    }

    /// Goes through the keys of a name, in order, until it is told that there were enough.
    pub(super) async fn client(&self, service: &Service, name: &str) {
        for number in 0.. {
            if self.enough.load(Ordering::SeqCst) {
                return;
            }
            self.settle(service, &key(&format!("{name}-{number:05}")), number).await;
        }
    }

    /// Calls until it has an outcome.
    async fn settle(&self, service: &Service, key: &Key, number: usize) {
        let since = Instant::now();
        // Most are short. Some are under way whenever the primary is killed.
        let work = Duration::from_millis(if number % 8 == 3 { 300 } else { number as u64 % 5 });
        loop {
            assert!(since.elapsed() < PATIENCE, "{}: no outcome within {PATIENCE:?}", key.id());
            let began = Instant::now();
            let operation = |attempt: Attempt| async move {
                let execution = self.begin(key, &attempt);
                tokio::time::sleep(work).await;
                Ok::<_, Infallible>(self.finish(execution))
            };
            match service.request(key.clone()).json().wait(WAIT).run(operation).await {
                Ok(Answer::Executed { value, .. } | Answer::Earlier(Earlier::Replayed { value, .. })) => {
                    return self.acknowledge(key, &value, since.elapsed());
                }
                Ok(Answer::Unrecorded { .. }) => drop(self.unrecorded.fetch_add(1, Ordering::SeqCst)),
                Ok(Answer::Earlier(Earlier::InProgress { .. })) => {}
                Err(RunError::Claim { source: Error::Store { source, .. }, .. }) => {
                    self.refused.lock().push((source.kind(), began.elapsed()));
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Ok(other) => panic!("{}: {other:?}", key.id()),
                Err(other) => panic!("{}: {other:?}", key.id()),
            }
        }
    }

    fn begin(&self, key: &Key, attempt: &Attempt) -> usize {
        let (operation, number) = (attempt.operation_id(), attempt.number());
        let mut executions = self.executions.lock();
        executions.push(Execution {
            id: key.id().to_owned(),
            outcome: format!("{} by attempt {number} of {operation}", key.id()),
            start: Instant::now(),
            end: None,
        });
        executions.len() - 1
    }

    fn finish(&self, execution: usize) -> String {
        let execution = &mut self.executions.lock()[execution];
        execution.end = Some(Instant::now());
        execution.outcome.clone()
    }

    fn acknowledge(&self, key: &Key, value: &str, took: Duration) {
        let mut acknowledged = self.acknowledged.lock();
        let (first, _) = acknowledged.entry(key.id().to_owned()).or_insert_with(|| (value.to_owned(), took));
        assert_eq!(*first, value, "{}: two outcomes", key.id());
    }

    /// The keys whose clients took longer than this to get the outcome, and the longest that one took.
    pub(super) fn slower_than(&self, limit: Duration) -> (usize, Duration) {
        let acknowledged = self.acknowledged.lock();
        let times = acknowledged.values().map(|(_, took)| *took);
        (times.clone().filter(|took| *took > limit).count(), times.max().unwrap_or_default())
    }

    /// The refusals by kind, and the longest of each kind.
    pub(super) fn refusals(&self) -> BTreeMap<String, (usize, Duration)> {
        let mut kinds = BTreeMap::<_, (usize, Duration)>::new();
        for (kind, took) in self.refused.lock().iter() {
            let (count, longest) = kinds.entry(format!("{kind:?}")).or_default();
            (*count, *longest) = (*count + 1, (*longest).max(*took));
        }
        kinds
    }

    /// The keys whose operation ran more than once.
    pub(super) fn executed_twice(&self) -> Vec<String> {
        self.by_key().into_iter().filter(|(_, all)| all.len() > 1).map(|(id, _)| id).collect()
    }

    pub(super) fn executed(&self) -> usize {
        self.executions.lock().len()
    }

    /// T1: no run of a key's operation began before the one before had ended.
    pub(super) fn assert_no_overlap(&self) {
        for (id, all) in self.by_key() {
            for pair in all.windows(2) {
                let ended = pair[0].end.is_some_and(|end| end <= pair[1].start);
                assert!(ended, "{id}: two attempts at once: {pair:#?}");
            }
        }
    }

    fn by_key(&self) -> BTreeMap<String, Vec<Execution>> {
        let mut keys = BTreeMap::<_, Vec<_>>::new();
        for execution in self.executions.lock().iter() {
            keys.entry(execution.id.clone()).or_default().push(execution.clone());
        }
        keys
    }

    /// The keys of which the outcome that was acknowledged is not the one on record.
    pub(super) async fn lost(&self, service: &Service) -> Vec<String> {
        let acknowledged = self.acknowledged.lock().clone();
        let mut lost = Vec::new();
        for (id, (outcome, _)) in acknowledged {
            let again = |_| async { Ok::<_, Infallible>("lost".to_owned()) };
            let answer = service.request(key(&id)).json().run(again).await.unwrap();
            match answer {
                Answer::Earlier(Earlier::Replayed { value, .. }) if value == outcome => {}
                _ => lost.push(id),
            }
        }
        lost
    }
}

pub(super) fn key(id: &str) -> Key {
    Key::new("failover", id).unwrap()
}
