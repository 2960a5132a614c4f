//! What a client does with one call, and what it tells the oracle about it.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::link::{Hub, Link};
use super::oracle::Begun;
use super::rng::Rng;
use crate::Time;
use oncekey::answer::{ClaimFate, Unrecorded};
use oncekey::protocol::{Algorithm, FencingToken, Fingerprint, Key, Outcome, Policy, Resolution};
use oncekey::store::Store as _;
use oncekey::time::Clock as _;
use oncekey::{Answer, Attempt, Claim, ClaimAnswer, ClaimError, Deduplicator, Earlier, Failure, RunError};

/// What to do where the core answers something that came after this kit.
const NEWER: &str = "update oncekey-conformance to the version of oncekey";

/// One call of one client.
pub(super) struct Call {
    pub(super) hub: Arc<Hub>,
    pub(super) engine: Deduplicator<Link>,
    /// The client's own clock.
    pub(super) clock: Time,
    /// What lifetimes are counted in.
    pub(super) unit: Duration,
    pub(super) rng: Rng,
    pub(super) key: Key,
    /// Tells the values of different calls apart.
    pub(super) number: usize,
}

/// How an operation is going to end.
#[derive(Clone, Copy)]
enum End {
    Value,
    NoEffect,
    Final,
    Unknown,
}

/// What was seen of an operation from inside.
#[derive(Default)]
struct Ran {
    token: Cell<Option<FencingToken>>,
}

impl Call {
    pub(super) async fn play(mut self) {
        match self.rng.below(100) {
            0..=54 => self.run().await,
            55..=84 => self.claim().await,
            _ => self.operate_on_record().await,
        }
    }

    fn begin(&self) -> Begun {
        self.hub.oracle.lock().begin(self.hub.time.now())
    }

    /// Most requests are the same, so that mismatches do not drown the rest.
    fn fingerprint(&mut self) -> Option<Fingerprint> {
        let digest = match self.rng.below(12) {
            0 => return None,
            1 => [2; 32],
            _ => [1; 32],
        };
        Some(Fingerprint::from_digest(Algorithm::SHA256, &digest).expect("32 bytes"))
    }

    fn quarters(&mut self, below: u64) -> Duration {
        self.unit * u32::try_from(self.rng.below(below)).expect("short") / 4
    }

    async fn run(mut self) {
        let fingerprint = self.fingerprint();
        let wait = if self.rng.percent(40) { self.quarters(60) } else { Duration::ZERO };
        let policy = if self.rng.percent(25) { Policy::Hold } else { Policy::Reclaim };
        let end = match self.rng.below(10) {
            0..=5 => End::Value,
            6 => End::NoEffect,
            7 => End::Final,
            _ => End::Unknown,
        };
        let (pieces, piece) = (self.rng.below(6), self.quarters(8));
        let checkpoints = self.rng.percent(30);
        let mut request = self.engine.request(self.key.clone()).wait(wait).policy(policy);
        if let Some(fingerprint) = fingerprint {
            request = request.fingerprint(fingerprint);
        }
        if self.rng.percent(20) {
            request = request.attempts_max(2);
        }
        let ran = Rc::new(Ran::default());
        let begun = self.begin();
        let answer = {
            let (hub, clock, key) = (Arc::clone(&self.hub), self.clock.clone(), self.key.clone());
            let (seen, number) = (Rc::clone(&ran), self.number);
            let (vouch, about) = (Arc::clone(&hub), key.clone());
            let operation = move |attempt: Attempt| {
                let token = attempt.fence();
                let work = async move {
                    for _ in 0..pieces {
                        clock.sleep_until(clock.now() + piece).await;
                        if checkpoints {
                            // Refused or lost, the operation goes on until it is dropped.
                            let _told = attempt.checkpoint(&b"half-way"[..]).await;
                        }
                    }
                    let text = format!("{number} under {}", token.get());
                    match end {
                        End::Value => Ok(text),
                        End::NoEffect => {
                            vouch.oracle.lock().vouches(&about, token);
                            Err(Failure::NoEffect(text))
                        }
                        End::Final => Err(Failure::Final(text)),
                        End::Unknown => Err(Failure::Unknown(text)),
                    }
                };
                watched(hub, key, token, fingerprint, seen, work)
            };
            request.run_or_fail(operation).await
        };
        self.judge(answer, ran.token.get(), fingerprint, begun);
    }

    fn judge(
        &self,
        answer: Result<Answer<String, String>, RunError<String>>,
        ran: Option<FencingToken>,
        fingerprint: Option<Fingerprint>,
        begun: Begun,
    ) {
        let mut oracle = self.hub.oracle.lock();
        let says_it_ran = match &answer {
            Ok(answer) => answer.ran_now(),
            // An operation may be dropped before its first poll when its lease is lost.
            Err(RunError::LeaseLost { .. }) => ran.is_some(),
            Err(error) => matches!(error, RunError::Operation { .. }),
        };
        oracle.ran(says_it_ran, ran.is_some());
        let token = ran.unwrap_or(FencingToken::new(0));
        match answer {
            Ok(Answer::Executed { value, .. }) => {
                oracle.note("executed");
                oracle.told_completed(&self.key, token, &Outcome::success(value));
            }
            Ok(Answer::Earlier(Earlier::Replayed { value, .. })) => {
                oracle.replayed(&self.key, &Outcome::success(value), fingerprint, begun);
            }
            Ok(Answer::Earlier(Earlier::FailedBefore { failure: Some(failure), .. })) => {
                oracle.replayed(&self.key, &Outcome::failure(failure), fingerprint, begun);
            }
            Ok(Answer::Unrecorded { value, why, .. }) => {
                oracle.note("unrecorded");
                if let Unrecorded::Completion(error) = why {
                    refused(&mut oracle, &self.key, token, &Outcome::success(value), &error);
                }
            }
            Ok(Answer::Earlier(Earlier::Mismatch)) => oracle.mismatched(&self.key, fingerprint, begun),
            Ok(Answer::Earlier(Earlier::InProgress { .. })) => {
                oracle.in_progress(&self.key, self.number, begun);
            }
            Ok(Answer::Earlier(Earlier::InDoubt { .. })) => oracle.note("in doubt"),
            Ok(Answer::Earlier(Earlier::Exhausted { .. })) => oracle.note("exhausted"),
            Ok(Answer::Earlier(Earlier::Done { .. } | Earlier::FailedBefore { failure: None, .. })) => {
                oracle.note("done");
            }
            Err(RunError::Operation { error, claim, .. }) => match claim {
                ClaimFate::Recorded { .. } => {
                    oracle.note("failure recorded");
                    oracle.told_completed(&self.key, token, &Outcome::failure(error));
                }
                ClaimFate::Released => {
                    oracle.note("released");
                    oracle.told_given_up(&self.key, token);
                }
                ClaimFate::InDoubt => oracle.note("left in doubt"),
                ClaimFate::NotStored(_) | ClaimFate::Unprotected => oracle.note("failure not stored"),
                other => panic!("the kit does not know {other:?}: {NEWER}"),
            },
            Err(RunError::LeaseLost { .. }) => oracle.note("lease lost"),
            Err(RunError::Claim { .. }) => oracle.note("claim not answered"),
            Err(RunError::Decode { .. }) => oracle.note("not decoded"),
            Err(other) => panic!("the kit does not know {other:?}: {NEWER}"),
        }
    }

    async fn claim(mut self) {
        let fingerprint = self.fingerprint();
        let policy = if self.rng.percent(25) { Policy::Hold } else { Policy::Reclaim };
        let mut request = self.engine.request(self.key.clone()).policy(policy);
        if let Some(fingerprint) = fingerprint {
            request = request.fingerprint(fingerprint);
        }
        let begun = self.begin();
        let answer = request.claim().await;
        match answer {
            Ok(ClaimAnswer::Granted(claim)) => self.hold(claim, fingerprint).await,
            Ok(ClaimAnswer::Answered(Earlier::Replayed { value, .. })) => {
                self.hub.oracle.lock().replayed(&self.key, &Outcome::success(value), fingerprint, begun);
            }
            Ok(ClaimAnswer::Answered(Earlier::FailedBefore { failure: Some(failure), .. })) => {
                self.hub.oracle.lock().replayed(&self.key, &Outcome::failure(failure), fingerprint, begun);
            }
            Ok(ClaimAnswer::Answered(Earlier::Done { .. } | Earlier::FailedBefore { failure: None, .. })) => {
            }
            Ok(ClaimAnswer::Answered(Earlier::Mismatch)) => {
                self.hub.oracle.lock().mismatched(&self.key, fingerprint, begun);
            }
            Ok(ClaimAnswer::Answered(Earlier::InProgress { .. })) => {
                self.hub.oracle.lock().in_progress(&self.key, self.number, begun);
            }
            Ok(ClaimAnswer::Answered(Earlier::InDoubt { .. })) => self.hub.note("in doubt"),
            Ok(ClaimAnswer::Answered(Earlier::Exhausted { .. })) => self.hub.note("exhausted"),
            Err(_) => self.hub.note("claim not answered"),
        }
    }

    /// Works under a claim as its docs say: looks at the time left before it acts.
    async fn hold(mut self, mut claim: Claim<Link>, fingerprint: Option<Fingerprint>) {
        let token = claim.fence();
        let mut first = true;
        for _ in 0..self.rng.below(6) {
            if claim.time_left().is_zero() {
                break;
            }
            let now = self.hub.poll_began();
            self.hub.oracle.lock().polled(&self.key, token, fingerprint, first, now);
            first = false;
            let piece = self.quarters(10);
            self.clock.sleep_until(self.clock.now() + piece).await;
            match self.rng.below(4) {
                0 => drop(claim.renew().await),
                1 => drop(claim.checkpoint(&b"half-way"[..]).await),
                _ => {}
            }
        }
        // A slow owner: past its lease, or past everything, it still concludes.
        let late = match self.rng.below(8) {
            0..=1 => self.unit * 9,
            2 if self.clock.manual_clock().is_some() => self.unit * 60,
            _ => Duration::ZERO,
        };
        self.clock.sleep_until(self.clock.now() + late).await;
        let value = format!("{} under {}", self.number, token.get());
        match self.rng.below(10) {
            0..=4 => self.complete(&mut claim, Outcome::success(value)).await,
            5 => self.complete(&mut claim, Outcome::failure(value)).await,
            6..=7 => {
                self.hub.oracle.lock().vouches(&self.key, token);
                if claim.release().await.is_ok() && !claim.after_doubt() {
                    self.hub.note("released");
                    self.hub.oracle.lock().told_given_up(&self.key, token);
                }
            }
            8 => drop(claim.abandon().await),
            _ => self.hub.note("dropped unconcluded"),
        }
    }

    /// Completes, and completes again: the second answer must be as true as the first.
    async fn complete(&mut self, claim: &mut Claim<Link>, outcome: Outcome) {
        let token = claim.fence();
        for again in [false, true] {
            if again && self.rng.percent(25) && self.clock.manual_clock().is_some() {
                // So late that nothing is left to read.
                self.clock.sleep_until(self.clock.now() + self.unit * 90).await;
            }
            let oncekey::protocol::OutcomeBody::Kept(bytes) = outcome.body.clone() else { return };
            let told = match outcome.conclusion {
                oncekey::protocol::Conclusion::Succeeded => claim.complete(bytes).await,
                oncekey::protocol::Conclusion::Failed => claim.fail(bytes).await,
            };
            let mut oracle = self.hub.oracle.lock();
            match told {
                Ok(_) => oracle.told_completed(&self.key, token, &outcome),
                Err(error) => refused(&mut oracle, &self.key, token, &outcome, &error),
            }
        }
    }

    /// What operators do.
    async fn operate_on_record(mut self) {
        let key = self.key.clone();
        match self.rng.below(10) {
            0..=1 => drop(self.engine.forget(&key).await),
            2..=4 => {
                self.hub.oracle.lock().resolves(&key);
                if self.rng.percent(50) {
                    drop(self.engine.resolve(&key, &Resolution::NoEffect).await);
                } else {
                    let outcome = Outcome::success(format!("{} found out", self.number));
                    let found_out = Resolution::Completed(outcome.clone());
                    if let Ok(answer) = self.engine.resolve(&key, &found_out).await {
                        self.hub.oracle.lock().told_operator(&key, &outcome, answer);
                    }
                }
            }
            5..=6 => drop(self.engine.inspect(&key).await),
            7 => drop(self.engine.reset_attempts(&key).await),
            8 => drop(self.engine.store().purge(3).await),
            _ => self.engine.flush().await,
        }
    }
}

/// What a refusal of a completion says about itself.
fn refused(
    oracle: &mut super::oracle::Oracle,
    key: &Key,
    token: FencingToken,
    outcome: &Outcome,
    error: &ClaimError,
) {
    match error {
        ClaimError::Superseded { possibly_applied: false, .. }
        | ClaimError::Gone { .. }
        | ClaimError::AlreadyReleased { .. } => {
            oracle.note("completion refused");
            oracle.told_not_applied(key, token, outcome);
        }
        ClaimError::AlreadyCompleted { .. } => {
            oracle.note("completed by another hand");
            oracle.told_not_applied(key, token, outcome);
        }
        ClaimError::Superseded { possibly_applied: true, .. } => oracle.note("superseded, possibly applied"),
        ClaimError::Unknown { .. } => oracle.note("gone, unknown"),
        _ => oracle.note("completion not stored"),
    }
}

/// An operation of which every poll is seen.
async fn watched<F: Future>(
    hub: Arc<Hub>,
    key: Key,
    token: FencingToken,
    fingerprint: Option<Fingerprint>,
    ran: Rc<Ran>,
    work: F,
) -> F::Output {
    let mut work = pin!(work);
    poll_fn(|cx| {
        let first = ran.token.get() != Some(token);
        let now = hub.poll_began();
        ran.token.set(Some(token));
        hub.oracle.lock().polled(&key, token, fingerprint, first, now);
        work.as_mut().poll(cx)
    })
    .await
}
