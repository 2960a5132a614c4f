//! Requests and answers that are late, later than the lease, while another wants the key.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use oncekey::observe::Event;
use oncekey::{Answer, Attempt, Deduplicator, Earlier, Key, RunError, Store};
use tokio::task::JoinSet;

use super::place::{PLACES_MAX, Place};
use crate::deployment::{Deployment, PATIENCE, engine};
use crate::ledger::{Effect, Ledger, assert_one_generation};
use crate::proxy::{Mode, Proxy};
use crate::server::unique_name;

/// The lease of the call that is in the way of the other.
const LEASE: Duration = Duration::from_secs(3);
/// How long a request of the call that is in the way is waited for.
const STORE_TIMEOUT: Duration = Duration::from_millis(500);
/// How much earlier than the store its engine takes it to be over. Long, so that its operation is dropped before another
/// begins, also where its thread has to wait for a processor.
const MARGIN: Duration = Duration::from_secs(1);
/// How often a place is tried that a call did not come to since its machine was slow.
const TRIES: usize = 20;

/// Holds each request of a run with a checkpoint in turn, and then the answer of each, for longer than the lease, while
/// another call wants the same key; then lets them go on, late. At no time do two operations run; there is one outcome,
/// which all who were told one were told; what comes late changes nothing; each attempt has one effect at most, and the
/// store works again.
///
/// The store is opened through a proxy in front of the server that the URL names.
///
/// # Panics
/// If not; and outside of a tokio runtime of several threads.
pub async fn stalls<D: Deployment>(deployment: &D, url: &str) {
    let mut sweeps = JoinSet::new();
    for mode in [Mode::Stall, Mode::StallAnswers] {
        let (proxy, near_url) = Proxy::before(url);
        let near = engine(deployment.open(&near_url).await).lease(LEASE).margin(MARGIN);
        let failed = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&failed);
        let near = near.observer(move |_: &Key, event: &Event<'_>| {
            if matches!(event, Event::StoreFailed { .. }) {
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        let near =
            near.store_timeout(STORE_TIMEOUT).call_timeout(PATIENCE).build().expect("options in order");
        let direct = engine(deployment.open(url).await).lease(PATIENCE).store_timeout(PATIENCE).build();
        let direct = direct.expect("options in order");
        sweeps.spawn(async move {
            let start = Instant::now();
            let (mut met, mut cut_short) = (0, 0);
            loop {
                match Case::new(&near, &direct).check(&proxy, mode, met).await {
                    Came::Met => (met, cut_short) = (met + 1, 0),
                    Came::Ended => break,
                    Came::CutShort => cut_short += 1,
                }
                assert!(met < PLACES_MAX, "{mode:?}: no end of requests after {PLACES_MAX}");
                assert!(
                    cut_short < TRIES,
                    "{mode:?}: {TRIES} calls lost their lease before request {}",
                    met + 1
                );
            }
            // Claim, checkpoint, completion.
            assert!(met >= 3, "{mode:?} met {met} requests, and there are 3 at least");
            // A try is given up after the timeout, and not before: tries that follow on each other sooner would be more.
            let (failed, took) = (failed.load(Ordering::SeqCst), start.elapsed());
            println!("{mode:?}: {failed} tries failed in {took:?}");
            let failed_max = (took.as_millis() / STORE_TIMEOUT.as_millis() + 1) * 2;
            assert!(failed as u128 <= failed_max, "{mode:?}: {failed} tries failed in {took:?}");
        });
    }
    while let Some(swept) = sweeps.join_next().await {
        if let Err(failed) = swept {
            std::panic::resume_unwind(failed.into_panic());
        }
    }
}

/// How far a call came.
enum Came {
    /// To its fault.
    Met,
    /// To its end, without having met it.
    Ended,
    /// To the end of its lease, without having met it.
    CutShort,
}

type Ran = Result<Answer<String>, RunError<Infallible>>;

struct Case<S: Store + 'static> {
    key: Key,
    near: Deduplicator<S>,
    direct: Deduplicator<S>,
    ledger: Ledger,
    running: Arc<AtomicUsize>,
}

/// Counts an operation that runs; dropped with it, however it ends.
struct Running(Arc<AtomicUsize>);

impl Running {
    fn begin(running: &Arc<AtomicUsize>, key: &Key) -> Self {
        let before = running.fetch_add(1, Ordering::SeqCst);
        assert_eq!(before, 0, "{}: two operations run", key.id());
        Self(Arc::clone(running))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl<S: Store + 'static> Case<S> {
    fn new(near: &Deduplicator<S>, direct: &Deduplicator<S>) -> Arc<Self> {
        let key = Key::new("stall", unique_name("stall")).expect("a key in order");
        let (near, direct, ledger) = (near.clone(), direct.clone(), Ledger::new());
        Arc::new(Self { key, near, direct, ledger, running: Arc::default() })
    }

    async fn run(&self, dedup: &Deduplicator<S>) -> Ran {
        let operation = |attempt: Attempt| async move {
            let _running = Running::begin(&self.running, &self.key);
            // Its failure is the lease's to judge.
            let _checkpoint = attempt.checkpoint("half").await;
            Ok(self.ledger.effect(&self.key, &attempt))
        };
        dedup.request(self.key.clone()).wait(PATIENCE).run(operation).await
    }

    async fn check(self: Arc<Self>, proxy: &Proxy, mode: Mode, spared: usize) -> Came {
        let place = Place::arm(proxy, &self.near, mode, spared).await;
        let start = Instant::now();
        let mut stalled = {
            let case = Arc::clone(&self);
            tokio::spawn(async move { case.run(&case.near).await })
        };
        let first = tokio::select! {
            () = proxy.until_held(1) => None,
            ended = &mut stalled => Some(ended.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()))),
        };
        // Answers that nobody waits for any more may be held too, after the call has ended.
        let other = self.run(&self.direct).await;
        let other =
            other.unwrap_or_else(|error| panic!("{place}: another call, with nothing in its way: {error:?}"));
        if place.is_met() {
            tokio::time::sleep((LEASE + LEASE / 4).saturating_sub(start.elapsed())).await;
        }
        proxy.set(Mode::Pass);
        let first = match first {
            Some(first) => first,
            None => stalled.await.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic())),
        };
        // Whatever was late has come when the same connection answers again.
        let _place = Place::arm(proxy, &self.near, Mode::Pass, 0).await;
        self.assert_one_outcome(&place, &first, &other).await;
        match first {
            _ if place.is_met() => Came::Met,
            Ok(Answer::Executed { .. }) => Came::Ended,
            _ => Came::CutShort,
        }
    }

    async fn assert_one_outcome(&self, place: &Place<'_>, first: &Ran, other: &Answer<String>) {
        let found = self.run(&self.direct).await;
        let Ok(Answer::Earlier(Earlier::Replayed { value: outcome, .. })) = &found else {
            panic!("{place}: no outcome: {found:?}")
        };
        let effects = self.ledger.effects();
        assert_one_generation(&place.to_string(), &effects);
        let outcomes: Vec<_> = effects.iter().map(Effect::outcome).collect();
        assert!(outcomes.contains(outcome), "{place}: {outcome} is of none of {outcomes:?}");
        assert!(effects.len() <= 2, "{place}: {effects:#?}");
        let told = match first {
            Ok(Answer::Executed { value, .. } | Answer::Earlier(Earlier::Replayed { value, .. })) => {
                Some(value)
            }
            // It ran, and its answer says that it is not on record; or it says that it was not run, or not to its end.
            Ok(Answer::Unrecorded { .. }) | Err(RunError::Claim { .. } | RunError::LeaseLost { .. }) => None,
            wrong => panic!("{place}: {wrong:?}"),
        };
        assert!(told.is_none_or(|told| told == outcome), "{place}: told {told:?}, on record {outcome:?}");
        let (Answer::Executed { value, .. } | Answer::Earlier(Earlier::Replayed { value, .. })) = other
        else {
            panic!("{place}: another call, with nothing in its way: {other:?}")
        };
        assert_eq!(value, outcome, "{place}: another call was told another outcome");
        // Through the connection that was in the way, too.
        let again = self.run(&self.near).await;
        assert!(
            matches!(&again, Ok(Answer::Earlier(Earlier::Replayed { value, .. })) if value == outcome),
            "{place}: first {outcome:?}, then {again:?}"
        );
        assert_eq!(self.ledger.effects(), effects, "{place}: run again");
    }
}
