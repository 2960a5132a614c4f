//! A server that is down, or does not answer.

use std::convert::Infallible;
use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use oncekey::store::{StoreErrorKind, StoreFailure};
use oncekey::{Answer, Deduplicator, Earlier, Error, Key, RunError};

use crate::deployment::{Deployment, PATIENCE, engine};
use crate::ledger::{Ledger, assert_one_generation};
use crate::server::{Server, unique_name};

const LEASE: Duration = Duration::from_secs(5);
const STORE_TIMEOUT: Duration = Duration::from_millis(700);
/// How long a call that meets the outage goes on. One that the server is there for has `PATIENCE`: a busy machine may take
/// longer than the timeout, again and again.
const CALL_TIMEOUT: Duration = STORE_TIMEOUT.saturating_mul(3);
/// Within which a call that meets the outage says so: ten times what it may take, for a busy machine.
const SOON: Duration = CALL_TIMEOUT.saturating_mul(10);

/// Stops the server. A call says so by an error of kind `Unavailable` or `TimedOut`, while the server is still away, and its
/// operation is not run. A completion under way is stored once the server is back. The same store works again then, and
/// nothing is lost.
///
/// The store must connect again by itself, and must survive the end of the server.
///
/// # Panics
/// If not; and outside of a tokio runtime of several threads.
pub async fn down<D: Deployment>(deployment: &D, url: &str, server: &impl Server) {
    let end = || tokio::task::block_in_place(|| server.stop());
    let begin = || tokio::task::block_in_place(|| server.start_again());
    outage(deployment, url, "down", end, begin).await;
}

/// As [`down`], with a server that is killed instead.
///
/// # Panics
/// As [`down`].
pub async fn killed<D: Deployment>(deployment: &D, url: &str, server: &impl Server) {
    let end = || tokio::task::block_in_place(|| server.kill());
    let begin = || tokio::task::block_in_place(|| server.start_again());
    outage(deployment, url, "killed", end, begin).await;
}

/// As [`down`], with a server that hangs: connections stay, and nothing is answered. A claim that it took before it hung,
/// or takes when it goes on, ends with its lease at the latest.
///
/// # Panics
/// As [`down`].
pub async fn hanging<D: Deployment>(deployment: &D, url: &str, server: &impl Server) {
    let end = || tokio::task::block_in_place(|| server.hang());
    let begin = || tokio::task::block_in_place(|| server.go_on());
    outage(deployment, url, "hanging", end, begin).await;
}

async fn outage<D: Deployment>(deployment: &D, url: &str, how: &str, end: impl Fn(), begin: impl Fn()) {
    let scope = unique_name("outage");
    let store = Arc::new(deployment.open(url).await);
    let engine_of = |call_timeout| {
        let builder =
            engine(Arc::clone(&store)).lease(LEASE).store_timeout(STORE_TIMEOUT).call_timeout(call_timeout);
        builder.completion_timeout(PATIENCE).build().expect("options in order")
    };
    let hasty = engine_of(CALL_TIMEOUT);
    let outage = Outage { scope, ledger: Ledger::new(), dedup: engine_of(PATIENCE) };
    let Ok(Answer::Executed { value: kept, .. }) = outage.run("before").await else { panic!("a fresh key") };

    // A completion meets the outage, and is stored once it is over.
    let key = outage.key("completing");
    let ended = AtomicBool::new(false);
    let completing = outage.dedup.request(key.clone()).run(|attempt| {
        let (outage, key, ended, end) = (&outage, &key, &ended, &end);
        async move {
            let outcome = outage.ledger.effect(key, &attempt);
            end();
            ended.store(true, Ordering::SeqCst);
            Ok::<_, Infallible>(outcome)
        }
    });
    let others = async {
        let start = Instant::now();
        while !ended.load(Ordering::SeqCst) {
            assert!(start.elapsed() < PATIENCE, "{how}: the completing operation is not run");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // The server is away until `begin`: a call that waited for it would never say so.
        for id in ["first", "second"] {
            let said = tokio::time::timeout(SOON, outage.run_by(&hasty, id)).await;
            let answer = said.unwrap_or_else(|_| panic!("{how}: {id} says nothing for {SOON:?}"));
            assert_says_so(how, &answer);
            let effects = outage.ledger.of(id);
            assert!(effects.is_empty(), "{how}: {id} was run without a claim: {effects:#?}");
        }
        let inspected = tokio::time::timeout(SOON, hasty.inspect(&outage.key("before"))).await;
        let inspected = inspected.unwrap_or_else(|_| panic!("{how}: a look says nothing for {SOON:?}"));
        let Err(Error::Store { source, .. }) = inspected else {
            panic!("{how}: it answered {inspected:?}, though nobody could know")
        };
        assert_kind(how, &source);
        begin();
    };
    let (completed, ()) = tokio::join!(completing, others);
    let completed = completed.unwrap_or_else(|error| panic!("{how}: a completion was given up: {error:?}"));
    let Answer::Executed { value: completed, .. } = completed else {
        panic!("{how}: not on record: {completed:?}")
    };

    // The same store works again.
    for (id, outcome) in
        [("before", Some(kept)), ("completing", Some(completed)), ("first", None), ("second", None)]
    {
        let answer = outage.run_when_back(how, id).await;
        let effects = outage.ledger.of(id);
        assert_one_generation(id, &effects);
        assert_eq!(effects.len(), 1, "{how}: {id} has not one effect: {effects:#?}");
        assert_eq!(answer.value(), Some(&effects[0].outcome()), "{how}: {id}: {answer:?}");
        if outcome.is_some() {
            assert!(
                matches!(answer, Answer::Earlier(Earlier::Replayed { .. })),
                "{how}: {id} is lost: {answer:?}"
            );
        }
    }
}

struct Outage<S: oncekey::Store + 'static> {
    scope: String,
    ledger: Ledger,
    dedup: Deduplicator<S>,
}

impl<S: oncekey::Store + 'static> Outage<S> {
    fn key(&self, id: &str) -> Key {
        Key::new(&self.scope, id).expect("a key in order")
    }

    async fn run(&self, id: &str) -> Result<Answer<String>, RunError<Infallible>> {
        self.run_by(&self.dedup, id).await
    }

    async fn run_by(
        &self,
        dedup: &Deduplicator<S>,
        id: &str,
    ) -> Result<Answer<String>, RunError<Infallible>> {
        let key = &self.key(id);
        // A claim of an earlier call that was taken late ends with its lease.
        let request = dedup.request(key.clone()).wait(PATIENCE / 2);
        request.run(|attempt| async move { Ok(self.ledger.effect(key, &attempt)) }).await
    }

    async fn run_when_back(&self, how: &str, id: &str) -> Answer<String> {
        let start = Instant::now();
        loop {
            match self.run(id).await {
                Ok(answer) => return answer,
                Err(error) => {
                    assert!(
                        start.elapsed() < PATIENCE,
                        "{how}: the server is back, and {id} is refused: {error:?}"
                    );
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

#[track_caller]
fn assert_says_so(how: &str, answer: &Result<Answer<String>, RunError<Infallible>>) {
    match answer {
        Err(RunError::Claim { source: Error::Store { source, .. }, .. }) => assert_kind(how, source),
        other => panic!("{how}: the answer does not say so: {other:?}"),
    }
}

#[track_caller]
fn assert_kind(how: &str, failure: &StoreFailure) {
    let kind = failure.kind();
    let right = matches!(kind, StoreErrorKind::Unavailable | StoreErrorKind::TimedOut);
    let said = failure.source().map(ToString::to_string).unwrap_or_default();
    assert!(right, "{how}: the error is of kind {kind:?}: {said}");
    assert!(!said.is_empty(), "{how}: the error says nothing");
}
