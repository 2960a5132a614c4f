//! A process killed with SIGKILL at each step of an operation, and a retry from another.

use std::convert::Infallible;
use std::future::pending;
use std::time::{Duration, Instant};

use oncekey::admin::{AdminAnswer, Resolution};
use oncekey::answer::RecordInfo;
use oncekey::store::ListInDoubt;
use oncekey::{Answer, ClaimAnswer, Deduplicator, Earlier, Key, OperationId, Outcome, Policy};
use tokio::task::JoinSet;

use super::policy::{name, policy};
use crate::deployment::{Deployment, PATIENCE, engine};
use crate::ledger::{Effect, Ledger, assert_one_generation};
use crate::process::{Child, Job, say};
use crate::server::unique_name;

/// The lease of the process that is killed. A retry just after the kill must meet it; where a machine is too slow for that, a
/// fresh process gets one that is twice as long.
const LEASE: Duration = Duration::from_secs(5);
/// The longest that is tried.
const LEASE_MAX: Duration = Duration::from_secs(80);
/// How much earlier than its lease a claim may seem to end: two clocks of one machine, and rounding.
const SLACK: Duration = Duration::from_millis(100);

/// Where a process is killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    BeforeClaim,
    /// The claim is granted, and nothing was begun.
    AfterClaim,
    /// The operation runs, and its effect has not happened.
    InEffect,
    /// The effect has happened, and its completion is not stored.
    AfterEffect,
    AfterCompletion,
}

const STEPS: [Step; 5] =
    [Step::BeforeClaim, Step::AfterClaim, Step::InEffect, Step::AfterEffect, Step::AfterCompletion];

/// Kills a process at each step of an operation, under each policy, and retries from another (this one): the answer is
/// what is promised. All in parallel, in about one lease, 5 s, on a machine that is not too busy.
///
/// | killed | `Reclaim` | `Hold` |
/// |---|---|---|
/// | before the claim | executed, once | executed, once |
/// | after the claim, or inside the effect | in progress; after the lease executed, attempt 2, after doubt, under the same operation id | in progress; after the lease in doubt; executed once it is resolved as having had no effect |
/// | after the effect | the same: the effect is repeated | in doubt; replayed once it is resolved as completed |
/// | after the completion | replayed | replayed |
///
/// # Panics
/// If not; and outside of a tokio runtime of several threads.
pub async fn check<D: Deployment>(deployment: &D, url: &str) {
    let mut checks = JoinSet::new();
    for step in STEPS {
        for policy in [Policy::Reclaim, Policy::Hold] {
            let (deployment, url) = (deployment.clone(), url.to_owned());
            checks.spawn(async move {
                let mut lease = LEASE;
                while !Killed::at(&deployment, &url, step, policy, lease).await.check().await {
                    lease *= 2;
                    assert!(lease <= LEASE_MAX, "this machine is too slow to retry within {LEASE_MAX:?}");
                }
            });
        }
    }
    while let Some(checked) = checks.join_next().await {
        if let Err(failed) = checked {
            std::panic::resume_unwind(failed.into_panic());
        }
    }
}

/// A process of [`check`], which stops at its step until it is killed.
pub(crate) async fn child<D: Deployment>(deployment: &D, job: Job) {
    let lease = Duration::from_secs(job.number("lease_s") as u64);
    let dedup = dedup(deployment.open(job.get("url")).await, lease);
    let key = Key::new(job.get("scope"), "killed").expect("a key in order");
    let request = dedup.request(key.clone()).policy(policy(job.get("policy")));
    let ledger = Ledger::at(job.get("ledger"));
    let step = STEPS.into_iter().find(|step| format!("{step:?}") == job.get("step")).expect("a step");
    match step {
        Step::BeforeClaim => stop_at::<()>(step).await,
        Step::AfterClaim => {
            let claimed = request.claim().await.expect("the store answers");
            let ClaimAnswer::Granted(_claim) = claimed else {
                panic!("a fresh key was not granted: {claimed:?}")
            };
            stop_at::<()>(step).await;
        }
        Step::InEffect => {
            let ran = request.run(|_| async { Ok::<_, Infallible>(stop_at::<String>(step).await) }).await;
            panic!("the operation ended, though it was to be killed: {ran:?}")
        }
        Step::AfterEffect => {
            let operation = |attempt| async move {
                ledger.effect(&key, &attempt);
                Ok::<_, Infallible>(stop_at::<String>(step).await)
            };
            let ran = request.run(operation).await;
            panic!("the operation ended, though it was to be killed: {ran:?}")
        }
        Step::AfterCompletion => {
            let ran = request
                .run(|attempt| async move { Ok::<_, Infallible>(ledger.effect(&key, &attempt)) })
                .await;
            assert!(ran.is_ok_and(|answer| answer.ran_now()), "a fresh key was executed");
            stop_at::<()>(step).await;
        }
    }
}

/// Says where it is, and stays there.
async fn stop_at<T>(step: Step) -> T {
    say(&format!("at {step:?}"));
    pending().await
}

fn dedup<S: oncekey::Store + 'static>(store: S, lease: Duration) -> Deduplicator<S> {
    engine(store).lease(lease).store_timeout(PATIENCE).build().expect("options in order")
}

/// What a killed process left.
struct Killed<S: ListInDoubt + 'static> {
    step: Step,
    policy: Policy,
    key: Key,
    ledger: Ledger,
    dedup: Deduplicator<S>,
    lease: Duration,
    /// Before its claim was sent: its lease cannot end earlier than a lease after this.
    started: Instant,
}

impl<S: ListInDoubt + 'static> Killed<S> {
    async fn at<D: Deployment<Store = S>>(
        deployment: &D,
        url: &str,
        step: Step,
        policy: Policy,
        lease: Duration,
    ) -> Self {
        let scope = unique_name("crash");
        let ledger = Ledger::new();
        let path = ledger.path().to_str().expect("a path in UTF-8");
        let step_name = format!("{step:?}");
        // Opened before: it takes its time.
        let dedup = dedup(deployment.open(url).await, PATIENCE);
        let lease_s = lease.as_secs().to_string();
        let started = Instant::now();
        let mut child = Child::start::<D>(
            "step",
            &[
                ("url", url),
                ("scope", &scope),
                ("policy", name(policy)),
                ("step", &step_name),
                ("lease_s", &lease_s),
                ("ledger", path),
            ],
        );
        child.expect(&format!("at {step_name}")).await;
        child.kill();
        let key = Key::new(&scope, "killed").expect("a key in order");
        Self { step, policy, key, ledger, dedup, lease, started }
    }

    /// Answers `false` where the machine was too slow to retry within the lease: then nothing is shown.
    async fn check(&self) -> bool {
        let before = self.effects();
        let effects_before = usize::from(matches!(self.step, Step::AfterEffect | Step::AfterCompletion));
        assert_eq!(before.len(), effects_before, "{}: effects before the retry", self.case());
        match self.step {
            Step::BeforeClaim => {
                let answer = self.retry(Duration::ZERO).await;
                self.assert_executed(&answer, 1, None);
            }
            Step::AfterCompletion => {
                let answer = self.retry(Duration::ZERO).await;
                self.assert_replayed(&answer, &before[0].outcome(), 1);
            }
            Step::AfterClaim | Step::InEffect | Step::AfterEffect => {
                let Some(operation_id) = self.check_while_leased().await else { return false };
                match self.policy {
                    Policy::Reclaim => self.check_reclaimed(operation_id).await,
                    Policy::Hold => self.check_held(operation_id, &before).await,
                }
            }
        }
        // What it came to stays, and is not run again.
        let effects = self.effects();
        let last = effects.last().expect("it was executed by now");
        assert_one_generation(&self.case(), &effects);
        let again = self.retry(PATIENCE).await;
        let Answer::Earlier(Earlier::Replayed { value, .. }) = &again else {
            panic!("{}: not replayed: {again:?}", self.case())
        };
        assert_eq!(*value, last.outcome(), "{}", self.case());
        assert_eq!(self.effects(), effects, "{}: run again", self.case());
        true
    }

    /// Just after the kill, the dead process's claim is honoured. Answers its operation id; `None` where the lease was over
    /// by then.
    async fn check_while_leased(&self) -> Option<OperationId> {
        let answer = self.retry(Duration::ZERO).await;
        if !matches!(answer, Answer::Earlier(Earlier::InProgress { attempt: 1, .. })) {
            let within = self.started.elapsed() < self.lease - SLACK;
            assert!(!within, "{}, within its lease: {answer:?}", self.case());
            return None;
        }
        let found = self.dedup.inspect(&self.key).await.expect("the store answers");
        Some(found.expect("the claim is on record").operation_id)
    }

    async fn check_reclaimed(&self, operation_id: OperationId) {
        let answer = self.retry(PATIENCE).await;
        assert!(self.started.elapsed() >= self.lease - SLACK, "{}: taken over within its lease", self.case());
        self.assert_executed(&answer, 2, Some(operation_id));
        let repeated = self.step == Step::AfterEffect;
        assert_eq!(self.effects().len(), 1 + usize::from(repeated), "{}: effects", self.case());
    }

    async fn check_held(&self, operation_id: OperationId, before: &[Effect]) {
        let answer = self.retry(PATIENCE).await;
        assert!(self.started.elapsed() >= self.lease - SLACK, "{}: in doubt within its lease", self.case());
        let Answer::Earlier(Earlier::InDoubt { attempt: 1, operation_id: of, .. }) = answer else {
            panic!("{}: not in doubt: {answer:?}", self.case())
        };
        assert_eq!(of, operation_id, "{}", self.case());
        assert_eq!(self.effects(), before, "{}: run although in doubt", self.case());
        assert!(self.is_listed().await, "{}: in doubt, and not listed", self.case());
        let outcome = before.first().map(Effect::outcome);
        let resolution = match &outcome {
            Some(outcome) => Resolution::Completed(Outcome::success(outcome.as_str())),
            None => Resolution::NoEffect,
        };
        let resolved = self.dedup.resolve(&self.key, &resolution).await.expect("the store answers");
        assert_eq!(resolved, AdminAnswer::Done, "{}", self.case());
        assert!(!self.is_listed().await, "{}: resolved, and still listed", self.case());
        let answer = self.retry(PATIENCE).await;
        match outcome {
            Some(outcome) => self.assert_replayed(&answer, &outcome, 1),
            None => {
                assert!(matches!(answer, Answer::Executed { .. }), "{}: {answer:?}", self.case());
                let effects = self.effects();
                assert_eq!(effects.len(), 1, "{}: effects", self.case());
                assert_eq!(effects[0].operation_id, operation_id.to_string(), "{}", self.case());
            }
        }
    }

    async fn is_listed(&self) -> bool {
        let mut cursor = None;
        loop {
            let page = self.dedup.list_in_doubt(cursor, 100).await.expect("the store answers");
            if page.entries.iter().any(|(key, _)| *key == self.key) {
                return true;
            }
            match page.next {
                Some(next) => cursor = Some(next),
                None => return false,
            }
        }
    }

    fn case(&self) -> String {
        format!("killed {:?} under {:?}", self.step, self.policy)
    }

    fn effects(&self) -> Vec<Effect> {
        self.ledger.effects()
    }

    async fn retry(&self, wait: Duration) -> Answer<String> {
        let request = self.dedup.request(self.key.clone()).policy(self.policy).wait(wait);
        let operation = |attempt| async move { Ok::<_, Infallible>(self.ledger.effect(&self.key, &attempt)) };
        request.run(operation).await.unwrap_or_else(|error| panic!("{}: {error:?}", self.case()))
    }

    fn assert_executed(&self, answer: &Answer<String>, attempt: u32, operation_id: Option<OperationId>) {
        let Answer::Executed { value, info, .. } = answer else {
            panic!("{}: not executed: {answer:?}", self.case())
        };
        assert_eq!(Some(value), self.effects().last().map(Effect::outcome).as_ref(), "{}", self.case());
        self.assert_info(info, attempt);
        assert!(
            operation_id.is_none_or(|id| info.operation_id == id),
            "{}: another operation id",
            self.case()
        );
    }

    fn assert_replayed(&self, answer: &Answer<String>, outcome: &str, attempt: u32) {
        let Answer::Earlier(Earlier::Replayed { value, info, .. }) = answer else {
            panic!("{}: not replayed: {answer:?}", self.case())
        };
        assert_eq!(value, outcome, "{}", self.case());
        self.assert_info(info, attempt);
    }

    fn assert_info(&self, info: &RecordInfo, attempt: u32) {
        assert_eq!((info.attempt, info.after_doubt), (attempt, attempt > 1), "{}: {info:?}", self.case());
    }
}
