//! Scenes that are played over both ways. None of them has a request or a reply that is lost: at once there are none.

use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use async_trait::async_trait;
use oncekey::admin::{Doubt, Resolution, Resolver};
use oncekey::protocol::{Algorithm, Expected};
use oncekey::store::Put;
use oncekey::time::Clock as _;
use oncekey::{ClaimError, Failure, Fingerprint, Outcome, Policy, RunError, Settled, Store as _};

use super::Stage;
use crate::one_key::granted;
use crate::support::{Fault, LEASE, RETENTION, Tasks, key, poll_once, ready, secs};

/// Its name, and what happens.
pub(super) type Scene = (&'static str, fn(&Stage));

pub(super) const SCENES: &[Scene] = &[
    ("fresh and replayed", fresh_and_replayed),
    ("past its retention", past_its_retention),
    ("other fingerprints", other_fingerprints),
    ("three kinds of failure", three_kinds_of_failure),
    ("in doubt under Hold", in_doubt_under_hold),
    ("attempts are used up", attempts_are_used_up),
    ("waits in the same process", waits_in_the_same_process),
    ("waits in another process", waits_in_another_process),
    ("waits until its time is up", waits_until_its_time_is_up),
    ("a waiter is dropped", a_waiter_is_dropped),
    ("taken over", taken_over),
    ("an operation that is taken over", an_operation_that_is_taken_over),
    ("an explicit claim", an_explicit_claim),
    ("concluded twice", concluded_twice),
    ("released, given up, dropped", released_given_up_dropped),
    ("operators", operators),
    ("a resolver", a_resolver),
    ("prepared and settled", prepared_and_settled),
    ("a long operation", a_long_operation),
    ("a keeper", a_keeper),
    ("an operation that panics", an_operation_that_panics),
    ("an operation that is dropped", an_operation_that_is_dropped),
    ("a store that refuses claims", a_store_that_refuses_claims),
    ("a store that refuses completions", a_store_that_refuses_completions),
    ("a renewal that is refused", a_renewal_that_is_refused),
];

fn run_text(stage: &Stage, text: &str) {
    let dedup = &stage.bench.dedup;
    let run = dedup.request(key()).run(|_| async { Ok::<_, String>(text.to_owned()) });
    drop(stage.bench.run(run));
}

fn fresh_and_replayed(stage: &Stage) {
    run_text(stage, "first");
    run_text(stage, "second");
    drop(stage.bench.run(stage.bench.dedup.request(key()).claim()).unwrap());
}

fn past_its_retention(stage: &Stage) {
    run_text(stage, "first");
    stage.bench.clock.advance(RETENTION);
    run_text(stage, "second");
    stage.bench.clock.advance(2 * RETENTION);
    run_text(stage, "third");
}

fn other_fingerprints(stage: &Stage) {
    let of = |print: &[u8]| stage.bench.dedup.request(key()).fingerprint(Fingerprint::sha256(print));
    let mut claim = granted(stage.bench.run(of(b"a").claim()));
    drop(stage.bench.run(of(b"b").claim()).unwrap());
    stage.bench.run(claim.complete("done")).unwrap();
    drop(stage.bench.run(of(b"b").claim()).unwrap());
    drop(stage.bench.run(of(b"a").claim()).unwrap());
    drop(stage.bench.run(stage.bench.dedup.request(key()).claim()).unwrap());
    let other = Fingerprint::from_digest(Algorithm::BLAKE3, &[7; 32]).unwrap();
    stage.bench.run(stage.bench.dedup.request(key()).fingerprint(other).claim()).unwrap_err();
}

fn fail(stage: &Stage, policy: Policy, failure: Failure<String>) {
    let request = stage.bench.dedup.request(key()).policy(policy);
    drop(stage.bench.run(request.run_or_fail(async |_| Err::<String, _>(failure))));
}

fn three_kinds_of_failure(stage: &Stage) {
    fail(stage, Policy::Reclaim, Failure::NoEffect("no effect".to_owned()));
    fail(stage, Policy::Reclaim, Failure::Unknown("unknown".to_owned()));
    fail(stage, Policy::Reclaim, Failure::NoEffect("no effect, after doubt".to_owned()));
    fail(stage, Policy::Reclaim, Failure::Final("final".to_owned()));
    fail(stage, Policy::Reclaim, Failure::Final("replayed".to_owned()));
}

fn in_doubt_under_hold(stage: &Stage) {
    fail(stage, Policy::Hold, Failure::Unknown("unknown".to_owned()));
    fail(stage, Policy::Hold, Failure::Unknown("held".to_owned()));
    let (bench, dedup) = (&stage.bench, &stage.bench.dedup);
    bench.run(dedup.resolve(&key(), &Resolution::NoEffect)).unwrap();
    fail(stage, Policy::Hold, Failure::Unknown("again".to_owned()));
    bench.run(dedup.resolve(&key(), &Resolution::Completed(Outcome::success("as the bank says")))).unwrap();
    fail(stage, Policy::Hold, Failure::Unknown("replayed".to_owned()));
}

fn attempts_are_used_up(stage: &Stage) {
    for _ in 0..3 {
        let request = stage.bench.dedup.request(key()).attempts_max(2);
        let run = request.run_or_fail(async |_| Err::<String, _>(Failure::Unknown("unknown".to_owned())));
        drop(stage.bench.run(run));
    }
    stage.bench.run(stage.bench.dedup.reset_attempts(&key())).unwrap();
    run_text(stage, "reset");
}

fn waits_in_the_same_process(stage: &Stage) {
    let (bench, mut tasks) = (&stage.bench, Tasks::default());
    let mut owner = bench.grant();
    let waits = || bench.dedup.request(key()).wait(secs(20)).run(async |_| Ok::<_, String>("no".to_owned()));
    let told = [tasks.spawn(waits()), tasks.spawn(waits())];
    tasks.settle();
    ready(owner.complete("yes")).unwrap();
    tasks.settle();
    assert!(told.iter().all(|told| told.is_done()));
}

fn waits_in_another_process(stage: &Stage) {
    let bench = &stage.bench;
    let other = stage.other(|builder| builder);
    let mut tasks = Tasks::default();
    let mut owner = bench.grant();
    let told =
        tasks.spawn(other.request(key()).wait(secs(20)).run(async |_| Ok::<_, String>("no".to_owned())));
    tasks.pass(&bench.clock, secs(4));
    ready(owner.release()).unwrap();
    drop(owner);
    tasks.pass(&bench.clock, secs(6));
    assert!(told.is_done());
}

fn waits_until_its_time_is_up(stage: &Stage) {
    let _owner = stage.bench.grant();
    let request = stage.bench.dedup.request(key()).wait(secs(3));
    drop(stage.bench.run(request.claim()).unwrap());
    // It outlives the lease, and takes over.
    let other = stage.other(|builder| builder);
    drop(stage.bench.run(other.request(key()).wait(2 * LEASE).claim()).unwrap());
}

fn a_waiter_is_dropped(stage: &Stage) {
    let mut owner = stage.bench.grant();
    let mut tasks = Tasks::default();
    let waits = tasks.spawn(stage.bench.dedup.request(key()).wait(secs(20)).claim());
    tasks.settle();
    tasks.cancel(&waits);
    ready(owner.complete("done")).unwrap();
}

fn taken_over(stage: &Stage) {
    let mut first = stage.bench.grant();
    stage.bench.clock.advance(LEASE);
    let other = stage.other(|builder| builder);
    let mut second = granted(stage.bench.run(other.request(key()).claim()));
    let told = stage.bench.run(first.complete("late"));
    assert!(matches!(told, Err(ClaimError::Superseded { .. })), "{told:?}");
    stage.bench.run(second.complete("in time")).unwrap();
}

fn an_operation_that_is_taken_over(stage: &Stage) {
    let (bench, mut tasks) = (&stage.bench, Tasks::default());
    let told = tasks.spawn(bench.dedup.request(key()).run(|_| pending::<Result<String, String>>()));
    tasks.settle();
    // The store's lease is over, and the owner's clock has not moved.
    let stored = bench.on_record();
    let put = Put::new(&stored.record, Duration::ZERO, RETENTION);
    ready(bench.store.inner.compare_exchange(&key(), Expected::At(stored.version), put)).unwrap();
    let other = stage.other(|builder| builder);
    let mut second = granted(bench.run(other.request(key()).claim()));
    tasks.pass(&bench.clock, secs(11));
    assert!(matches!(told.take(), Err(RunError::LeaseLost { .. })));
    bench.run(second.complete("second")).unwrap();
}

fn an_explicit_claim(stage: &Stage) {
    let mut claim = stage.bench.grant();
    stage.bench.run(claim.checkpoint("half way")).unwrap();
    stage.bench.clock.advance(secs(20));
    stage.bench.run(claim.renew()).unwrap();
    stage.bench.run(claim.complete("done")).unwrap();
    drop(claim);
}

fn concluded_twice(stage: &Stage) {
    let mut claim = stage.bench.grant();
    stage.bench.run(claim.complete("done")).unwrap();
    stage.bench.run(claim.complete("done")).unwrap();
    stage.bench.run(claim.complete("other")).unwrap_err();
    stage.bench.run(claim.release()).unwrap_err();
    stage.bench.run(claim.renew()).unwrap_err();
}

fn released_given_up_dropped(stage: &Stage) {
    let mut claim = stage.bench.grant();
    stage.bench.run(claim.release()).unwrap();
    stage.bench.run(claim.release()).unwrap();
    drop(claim);
    let mut claim = stage.bench.grant();
    stage.bench.run(claim.release_with_fresh_id()).unwrap();
    drop(claim);
    let mut claim = stage.bench.grant();
    stage.bench.run(claim.abandon()).unwrap();
    drop(claim);
    drop(stage.bench.grant());
    stage.bench.run(stage.bench.dedup.flush());
    stage.bench.clock.advance(LEASE);
    drop(stage.bench.grant());
}

fn operators(stage: &Stage) {
    let (bench, dedup) = (&stage.bench, &stage.bench.dedup);
    bench.run(dedup.forget(&key())).unwrap();
    let claim = bench.grant();
    bench.run(dedup.forget(&key())).unwrap();
    bench.run(dedup.resolve(&key(), &Resolution::NoEffect)).unwrap();
    drop(claim);
    bench.clock.advance(LEASE);
    run_text(stage, "done");
    bench.run(dedup.forget(&key())).unwrap();
    run_text(stage, "done again");
    bench.run(dedup.inspect(&key())).unwrap();
}

struct Bank(Option<Resolution>);

#[async_trait]
impl Resolver for Bank {
    async fn resolve(&self, _: &Doubt) -> Option<Resolution> {
        self.0.clone()
    }
}

fn a_resolver(stage: &Stage) {
    let unsure = stage.other(|builder| builder.resolver(Bank(None)));
    let knows_better = stage.other(|builder| builder.resolver(Bank(Some(Resolution::NoEffect))));
    let knows = stage
        .other(|builder| builder.resolver(Bank(Some(Resolution::Completed(Outcome::success("charged"))))));
    for engine in [unsure, knows_better, knows] {
        drop(stage.bench.grant());
        stage.bench.clock.advance(LEASE);
        let run = engine.request(key()).run(|_| async { Err::<String, _>("fails".to_owned()) });
        drop(stage.bench.run(run));
    }
}

fn prepared_and_settled(stage: &Stage) {
    let commit = |prepared: &oncekey::Prepared| {
        let put = Put::new(&prepared.record, prepared.live, prepared.linger);
        let expected = Expected::At(prepared.expected);
        ready(stage.bench.store.inner.compare_exchange(&prepared.key, expected, put)).unwrap();
    };
    let mut claim = stage.bench.grant();
    let prepared = stage.bench.run(claim.prepare("charged")).unwrap();
    assert_eq!(stage.bench.run(claim.settle(&prepared)).unwrap(), Settled::NotCommitted);
    let prepared = stage.bench.run(claim.prepare("charged")).unwrap();
    commit(&prepared);
    assert_eq!(stage.bench.run(claim.settle(&prepared)).unwrap(), Settled::Committed);
    drop(claim);
    stage.bench.run(stage.bench.dedup.forget(&key())).unwrap();
    let mut claim = stage.bench.grant();
    let prepared = stage.bench.run(claim.prepare("charged")).unwrap();
    commit(&prepared);
    claim.committed(&prepared).unwrap();
    drop(claim);
}

fn a_long_operation(stage: &Stage) {
    let clock = stage.bench.clock.clone();
    let operation = |_| async move {
        clock.sleep_until(clock.now() + secs(75)).await;
        Ok::<_, String>("slow".to_owned())
    };
    drop(stage.bench.run(stage.bench.dedup.request(key()).run(operation)).unwrap());
}

fn a_keeper(stage: &Stage) {
    let mut claim = stage.bench.grant();
    let mut keeper = Box::pin(stage.bench.dedup.keeper());
    assert!(poll_once(keeper.as_mut()).is_none());
    for _ in 0..6 {
        stage.bench.clock.advance(secs(5));
        assert!(poll_once(keeper.as_mut()).is_none());
    }
    stage.bench.run(claim.complete("kept")).unwrap();
    stage.bench.clock.advance(secs(5));
    assert!(poll_once(keeper.as_mut()).is_none());
}

fn an_operation_that_panics(stage: &Stage) {
    let panics = |_| async { resume_unwind(Box::new("a bug")) };
    let run = stage.bench.dedup.request(key()).run::<String, String, _, _>(panics);
    assert!(catch_unwind(AssertUnwindSafe(|| ready(run))).is_err());
    stage.bench.run(stage.bench.dedup.flush());
    run_text(stage, "too early");
    stage.bench.clock.advance(LEASE);
    run_text(stage, "second");
}

fn an_operation_that_is_dropped(stage: &Stage) {
    let mut tasks = Tasks::default();
    let run = tasks.spawn(stage.bench.dedup.request(key()).run(|_| pending::<Result<String, String>>()));
    tasks.settle();
    tasks.cancel(&run);
    stage.bench.run(stage.bench.dedup.flush());
    run_text(stage, "too early");
    stage.bench.clock.advance(LEASE);
    run_text(stage, "second");
}

fn a_store_that_refuses_claims(stage: &Stage) {
    stage.bench.store.always(Fault::Refused);
    run_text(stage, "unheard");
    let open = stage.bench.dedup.request(key()).fail_open();
    drop(stage.bench.run(open.run(|_| async { Ok::<_, String>("unprotected".to_owned()) })));
    stage.bench.store.always(Fault::Hopeless);
    run_text(stage, "unheard");
    stage.bench.store.always(Fault::None);
    run_text(stage, "first");
}

pub(crate) fn a_claim_that_is_refused_once(stage: &Stage) {
    stage.bench.store.plan([Fault::Refused]);
    run_text(stage, "first");
}

pub(crate) fn a_completion_that_is_refused_once(stage: &Stage) {
    let store = stage.bench.store.clone();
    let operation = |_| async move {
        store.plan([Fault::Refused]);
        Ok::<_, String>("done".to_owned())
    };
    drop(stage.bench.run(stage.bench.dedup.request(key()).run(operation)));
}

fn a_store_that_refuses_completions(stage: &Stage) {
    let store = stage.bench.store.clone();
    let operation = |_| async move {
        store.always(Fault::Refused);
        Ok::<_, String>("done".to_owned())
    };
    drop(stage.bench.run(stage.bench.dedup.request(key()).run(operation)));
    stage.bench.store.always(Fault::None);
    stage.bench.run(stage.bench.dedup.flush());
    run_text(stage, "second");
}

fn a_renewal_that_is_refused(stage: &Stage) {
    let mut claim = stage.bench.grant();
    stage.bench.store.always(Fault::Refused);
    stage.bench.run(claim.renew()).unwrap_err();
    stage.bench.store.always(Fault::None);
    stage.bench.run(claim.complete("done")).unwrap();
}
