//! Processes that are frozen past their lease, and go on when another has taken over: as by a debugger, a suspended
//! container, a machine that swaps.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oncekey::{Answer, ClaimAnswer, ClaimError, Deduplicator, Earlier, Key, Policy, RunError};
use rustix::process::Signal;

use super::policy::{name, policy};
use crate::deployment::{Deployment, PATIENCE, engine};
use crate::ledger::{Effect, Ledger, assert_one_generation};
use crate::process::{Child, Job, say};
use crate::server::unique_name;

const LEASE: Duration = Duration::from_secs(3);

/// Freezes a process with SIGSTOP at three places, until its lease is over and another call (here) was answered, and lets
/// it go on:
///
/// | frozen | under | meanwhile | then |
/// |---|---|---|---|
/// | in its operation, at an await before the effect | `Reclaim` | taken over: attempt 2 | its operation is dropped: it has no effect |
/// | after the effect, before the completion | `Reclaim` | taken over: attempt 2 | its completion is refused as superseded, and the outcome of attempt 2 stands |
/// | after the effect, before the completion | `Hold` | in doubt | its completion is accepted, and the doubt is over |
///
/// # Panics
/// If not; and outside of a tokio runtime of several threads.
pub async fn frozen<D: Deployment>(deployment: &D, url: &str) {
    let dedup = dedup(deployment.open(url).await);
    tokio::join!(
        in_operation::<D>(&dedup, url),
        before_completion::<D>(&dedup, url, Policy::Reclaim),
        before_completion::<D>(&dedup, url, Policy::Hold),
    );
}

fn dedup<S: oncekey::Store + 'static>(store: S) -> Deduplicator<S> {
    engine(store).lease(LEASE).build().expect("options in order")
}

/// A frozen process, and its key.
struct Frozen {
    child: Child,
    key: Key,
    policy: Policy,
    ledger: Ledger,
}

impl Frozen {
    async fn at<D: Deployment>(url: &str, place: &str, policy: Policy) -> Self {
        let (scope, ledger) = (unique_name("frozen"), Ledger::new());
        let path = ledger.path().to_str().expect("a path in UTF-8");
        let parameters =
            [("url", url), ("scope", &scope), ("policy", name(policy)), ("place", place), ("ledger", path)];
        let mut child = Child::start::<D>("frozen", &parameters);
        child.expect("at").await;
        child.signal(Signal::STOP);
        let key = Key::new(&scope, place).expect("a key in order");
        Self { child, key, policy, ledger }
    }

    /// What another call is answered, once the lease is over.
    async fn other<S: oncekey::Store + 'static>(&self, dedup: &Deduplicator<S>) -> Answer<String> {
        let request = dedup.request(self.key.clone()).policy(self.policy).wait(PATIENCE);
        let operation = |attempt| async move { Ok::<_, Infallible>(self.ledger.effect(&self.key, &attempt)) };
        request.run(operation).await.unwrap_or_else(|error| panic!("{}: {error:?}", self.key.id()))
    }

    /// What it says came of it, when it goes on.
    async fn goes_on(&mut self) -> String {
        // It lies ready when the process wakes, so that nothing but the engine keeps it from acting.
        self.child.go();
        self.child.signal(Signal::CONT);
        self.child.expect("ended").await
    }

    /// The outcomes of the effects, which are of one generation.
    fn outcomes(&self) -> Vec<String> {
        let effects = self.ledger.effects();
        assert_one_generation(self.key.id(), &effects);
        effects.iter().map(Effect::outcome).collect()
    }
}

async fn in_operation<D: Deployment>(dedup: &Deduplicator<D::Store>, url: &str) {
    let mut frozen = Frozen::at::<D>(url, "in-operation", Policy::Reclaim).await;
    let other = frozen.other(dedup).await;
    let Answer::Executed { value, info, .. } = &other else { panic!("not taken over: {other:?}") };
    assert_eq!((info.attempt, info.after_doubt), (2, true));
    let ended = frozen.goes_on().await;
    assert_eq!(ended, "lease lost", "a process that was frozen past its lease");
    assert_eq!(frozen.outcomes(), [value.as_str()], "a process that was frozen past its lease had an effect");
    frozen.child.finished().await;
}

async fn before_completion<D: Deployment>(dedup: &Deduplicator<D::Store>, url: &str, policy: Policy) {
    let mut frozen = Frozen::at::<D>(url, "before-completion", policy).await;
    let [of_frozen] = &frozen.outcomes()[..] else { panic!("it has had its effect") };
    let (of_frozen, other) = (of_frozen.clone(), frozen.other(dedup).await);
    let ended = frozen.goes_on().await;
    let kept = match policy {
        Policy::Reclaim => {
            let Answer::Executed { value, info, .. } = other else { panic!("not taken over: {other:?}") };
            assert_eq!((info.attempt, info.after_doubt), (2, true));
            assert_eq!(ended, "superseded", "a completion after another took over");
            assert_eq!(frozen.outcomes(), [of_frozen.as_str(), value.as_str()]);
            value
        }
        Policy::Hold => {
            assert!(
                matches!(other, Answer::Earlier(Earlier::InDoubt { attempt: 1, .. })),
                "not in doubt: {other:?}"
            );
            assert_eq!(ended, "completed", "a late completion that nobody took over");
            of_frozen
        }
    };
    let effects = frozen.outcomes();
    let later = frozen.other(dedup).await;
    assert!(
        matches!(&later, Answer::Earlier(Earlier::Replayed { value, .. }) if *value == kept),
        "under {policy:?} {kept:?} stands, and {later:?} is answered"
    );
    assert_eq!(frozen.outcomes(), effects, "run again");
    frozen.child.finished().await;
}

/// A process of [`frozen`]: at its place it waits for the go, and is frozen meanwhile.
pub(crate) async fn child<D: Deployment>(deployment: &D, mut job: Job) {
    let dedup = dedup(deployment.open(job.get("url")).await);
    let (place, policy) = (job.get("place").to_owned(), policy(job.get("policy")));
    let key = Key::new(job.get("scope"), &place).expect("a key in order");
    let ledger = Ledger::at(job.get("ledger"));
    let request = dedup.request(key.clone()).policy(policy);
    if place == "in-operation" {
        let waits = &AtomicBool::new(false);
        let operation = |attempt| async move {
            waits.store(true, Ordering::SeqCst);
            job.go().await;
            Ok::<_, Infallible>(ledger.effect(&key, &attempt))
        };
        let mut ran = pin!(request.run(operation));
        // Said between two polls of the run. Frozen within one, behind the engine's look at the clock, the operation would
        // go on, which only its resource could refuse: nobody promises otherwise.
        let ran = poll_fn(|cx| {
            let polled = ran.as_mut().poll(cx);
            if polled.is_pending() && waits.swap(false, Ordering::SeqCst) {
                say("at");
            }
            polled
        });
        let ended = match ran.await {
            Err(RunError::LeaseLost { .. }) => "lease lost".to_owned(),
            other => format!("{other:?}"),
        };
        say(&format!("ended {ended}"));
        return;
    }
    let claimed = request.claim().await.expect("the store answers");
    let ClaimAnswer::Granted(mut claim) = claimed else { panic!("a fresh key was not granted: {claimed:?}") };
    let outcome = ledger.effect(&key, &claim.attempt());
    say("at");
    job.go().await;
    let ended = match claim.complete(outcome.as_str()).await {
        Ok(_) => "completed".to_owned(),
        Err(ClaimError::Superseded { .. }) => "superseded".to_owned(),
        Err(other) => format!("{other:?}"),
    };
    say(&format!("ended {ended}"));
}
