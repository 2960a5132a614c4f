use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use futures::FutureExt as _;

use super::*;
use oncekey::memory::MemoryError;
use oncekey::protocol::{
    ClaimCommand, Decision, Lifetimes, OnDoubt, OperationId, Owner, Policy, Record, UnixMillis, decide,
};
use oncekey::time::ManualClock;
use oncekey::{Answer, Deduplicator, MemoryStore};

const SECOND: Duration = Duration::from_secs(1);

struct Bench {
    clock: ManualClock,
    store: FaultStore<MemoryStore>,
    record: Record,
}

fn bench() -> Bench {
    let clock = ManualClock::new();
    let memory = MemoryStore::builder().clock(clock.clone()).build();
    let store = FaultStore::new(memory).with_clock(clock.clone());
    Bench { clock, store, record: in_progress() }
}

fn in_progress() -> Record {
    let claim = ClaimCommand {
        owner: Owner::from_bytes([1; 16]),
        operation_id: OperationId::from_bytes([2; 16]),
        fingerprint: None,
        policy: Policy::Reclaim,
        attempts_max: None,
        on_doubt: OnDoubt::GoByPolicy,
        now: UnixMillis(0),
    };
    let lifetimes = Lifetimes { lease: SECOND, retention: SECOND, tail: SECOND };
    match decide(None, &claim, &lifetimes) {
        Decision::Write(write) => write.record,
        Decision::Answer(verdict) => panic!("a vacant key is answered by a write, not {verdict:?}"),
    }
}

fn key(id: usize) -> Key {
    Key::new("s", id.to_string()).unwrap()
}

type Answered = Result<Exchange, FaultError<MemoryError>>;

impl Bench {
    fn put(&self) -> Put<'_> {
        Put::new(&self.record, 10 * SECOND, 10 * SECOND)
    }

    async fn claim(&self, id: usize) -> Answered {
        self.store.compare_exchange(&key(id), Expected::Vacant, self.put()).await
    }

    /// What is there, past all faults.
    fn is_there(&self, id: usize) -> bool {
        now(self.store.inner().load(&key(id))).unwrap().is_some()
    }
}

fn now<F: Future>(future: F) -> F::Output {
    future.now_or_never().expect("answered at once")
}

fn is_injected(answer: &Answered, maybe_applied: bool) -> bool {
    matches!(answer, Err(error @ FaultError::Injected { .. }) if error.maybe_applied() == maybe_applied)
}

#[test]
fn no_call_goes_round_the_faults_by_the_short_way() {
    let store = bench().store;
    assert!(store.inner().at_once().is_some());
    assert!(store.at_once().is_none());
}

#[test]
fn what_is_lost_on_the_way_there_is_not_applied_and_only_a_refusal_says_so() {
    let bench = bench();
    bench.store.plan([Some(Fault::Refused), Some(Fault::RequestLost)]);
    assert!(is_injected(&now(bench.claim(1)), false));
    assert!(is_injected(&now(bench.claim(1)), true));
    assert!(!bench.is_there(1));
    assert!(matches!(now(bench.claim(1)), Ok(Exchange::Done(_))), "the plan is used up");
}

#[test]
fn a_lost_reply_is_of_a_write_that_was_applied() {
    let bench = bench();
    bench.store.plan([Some(Fault::ReplyLost)]);
    assert!(is_injected(&now(bench.claim(1)), true));
    assert!(bench.is_there(1));
}

#[test]
fn a_delay_before_or_after_applying_lasts_as_long_as_it_says() {
    let bench = bench();
    bench.store.plan([Some(Fault::DelayedBefore(20 * SECOND)), Some(Fault::DelayedAfter(20 * SECOND))]);
    let (mut before, mut after) = (pin!(bench.claim(1)), pin!(bench.claim(2)));
    for _ in 0..20 {
        assert!(before.as_mut().now_or_never().is_none() && after.as_mut().now_or_never().is_none());
        assert!(!bench.is_there(1), "the request is under way");
        bench.clock.advance(SECOND);
    }
    assert!(!bench.is_there(2), "its lease, lingering and all, is over before its owner hears of it");
    assert!(matches!(now(before), Ok(Exchange::Done(_))));
    assert!(matches!(now(after), Ok(Exchange::Done(_))));
    assert!(bench.is_there(1));
}

#[test]
fn a_delayed_call_that_is_dropped_was_applied_or_was_not() {
    let bench = bench();
    bench.store.plan([Some(Fault::DelayedBefore(SECOND)), Some(Fault::DelayedAfter(SECOND))]);
    assert!(bench.claim(1).now_or_never().is_none());
    assert!(bench.claim(2).now_or_never().is_none());
    bench.clock.advance(SECOND);
    assert_eq!((bench.is_there(1), bench.is_there(2)), (false, true));
    assert_eq!(bench.clock.sleepers(), 0, "no sleep is left behind");
}

#[test]
fn of_a_write_applied_twice_the_second_answer_arrives() {
    let bench = bench();
    bench.store.plan([Some(Fault::Twice)]);
    let answer = now(bench.claim(1));
    let there = now(bench.store.inner().load(&key(1))).unwrap().unwrap();
    assert_eq!(answer.unwrap(), Exchange::Conflict(Some(there)), "the second met the first");
}

#[test]
fn a_late_copy_arrives_right_before_the_call_that_was_named() {
    let bench = bench();
    bench.store.plan([Some(Fault::late_copy(3))]);
    assert!(is_injected(&now(bench.claim(1)), true));
    for later in 1..=2 {
        assert!(now(bench.store.load(&key(1))).unwrap().is_none(), "{later} calls later");
    }
    assert!(now(bench.store.load(&key(1))).unwrap().is_some(), "before the third");
}

#[test]
fn a_late_copy_still_expects_what_it_expected() {
    let bench = bench();
    bench.store.plan([Some(Fault::late_copy(2))]);
    assert!(is_injected(&now(bench.claim(1)), true));
    let Ok(Exchange::Done(first)) = now(bench.claim(1)) else { panic!("the copy is still under way") };
    let there = now(bench.store.load(&key(1))).unwrap().unwrap();
    assert_eq!(there.version, first, "the copy met an entry, and changed nothing");
}

#[test]
fn an_echo_is_answered_at_once_and_arrives_again() {
    let bench = bench();
    bench.store.plan([Some(Fault::echo(1))]);
    let Ok(Exchange::Done(first)) = now(bench.claim(1)) else { panic!("applied and answered") };
    bench.clock.advance(20 * SECOND); // past live and linger: the key is vacant again
    let there = now(bench.store.load(&key(1))).unwrap().unwrap();
    assert!(there.version > first, "an orphan, which nobody knows of");
}

#[test]
fn what_is_never_answered_stays_so_applied_or_not() {
    let bench = bench();
    bench.store.plan([Some(Fault::HangsBefore), Some(Fault::HangsAfter)]);
    let (mut before, mut after) = (pin!(bench.claim(1)), pin!(bench.claim(2)));
    assert!(before.as_mut().now_or_never().is_none() && after.as_mut().now_or_never().is_none());
    bench.store.heal();
    bench.clock.advance(Duration::from_secs(1 << 30));
    assert!(before.now_or_never().is_none() && after.now_or_never().is_none());
    assert!(!bench.is_there(1));
}

#[test]
fn each_item_of_a_batch_meets_a_fault_of_its_own() {
    let bench = bench();
    let keys: Vec<_> = (0..6).map(key).collect();
    let batch: Vec<_> = keys.iter().map(|key| BatchPut::new(key, Expected::Vacant, bench.put())).collect();
    bench.store.plan([
        None,
        Some(Fault::Refused),
        Some(Fault::ReplyLost),
        Some(Fault::Twice),
        Some(Fault::late_copy(2)),
        Some(Fault::DelayedAfter(SECOND)),
    ]);
    let mut call = pin!(bench.store.compare_exchange_many(&batch));
    assert!(call.as_mut().now_or_never().is_none(), "one delay delays the answer to all");
    bench.clock.advance(SECOND);
    let answers = now(call);
    assert_eq!(answers.len(), 6);
    assert!(matches!(answers[0], Ok(Exchange::Done(_))));
    assert!(is_injected(&answers[1], false));
    assert!(is_injected(&answers[2], true));
    assert!(matches!(answers[3], Ok(Exchange::Conflict(Some(_)))));
    assert!(is_injected(&answers[4], true));
    assert!(matches!(answers[5], Ok(Exchange::Done(_))));
    let there: Vec<_> = (0..6).map(|id| bench.is_there(id)).collect();
    assert_eq!(there, [true, false, true, true, false, true]);
    assert!(now(bench.store.load(&key(4))).unwrap().is_some(), "the late copy");
}

#[test]
fn one_item_that_hangs_leaves_a_batch_without_an_answer_and_the_others_applied() {
    let bench = bench();
    let keys = [key(1), key(2)];
    let batch = [&keys[0], &keys[1]].map(|key| BatchPut::new(key, Expected::Vacant, bench.put()));
    bench.store.plan([Some(Fault::HangsBefore)]);
    assert!(bench.store.compare_exchange_many(&batch).now_or_never().is_none());
    assert_eq!((bench.is_there(1), bench.is_there(2)), (false, true));
}

#[test]
fn loads_and_purges_go_wrong_too() {
    let bench = bench();
    now(bench.claim(1)).unwrap();
    bench.store.plan([Some(Fault::RequestLost), Some(Fault::ReplyLost), Some(Fault::ReplyLost)]);
    assert!(now(bench.store.load(&key(1))).is_err());
    assert!(now(bench.store.load(&key(1))).is_err());
    bench.clock.advance(20 * SECOND);
    assert!(now(bench.store.purge(10)).is_err());
    assert_eq!(now(bench.store.purge(10)).unwrap().removed, 0, "the first was applied");
    bench.store.plan_at(1, Fault::Refused);
    assert!(now(bench.store.list_in_doubt(None, 10)).is_err());
    let kinds: Vec<_> = bench.store.log().iter().map(|injection| injection.kind).collect();
    assert_eq!(kinds, [CallKind::Load, CallKind::Load, CallKind::Purge, CallKind::Load]);
}

#[test]
fn a_fault_can_be_planned_for_the_nth_call_from_now() {
    let bench = bench();
    bench.store.plan_at(3, Fault::Refused);
    let failed: Vec<_> = (0..5).map(|id| now(bench.claim(id)).is_err()).collect();
    assert_eq!(failed, [false, false, true, false, false]);
    assert_eq!(bench.store.log().to_string(), "call 3, exchange: refused\n");
    assert_eq!((bench.store.calls(), bench.store.faults()), (5, 1));
}

fn odds() -> Odds {
    let odds = Odds::none().refused(0.1).request_lost(0.1).reply_lost(0.1).delayed(0.1, SECOND);
    odds.stalled(0.1, 60 * SECOND).twice(0.1).late_copy(0.1, 3).echo(0.1, 3).hangs(0.1)
}

#[test]
fn a_seed_replays_whatever_else_happens_between_the_calls() {
    let faults = |seed, kind, with_pauses: bool| {
        let store = bench().store.with_odds(seed, odds());
        let mut met = Vec::new();
        for _ in 0..1000 {
            met.push(store.plan.lock().decide(kind, None).fault);
            if with_pauses {
                drop(store.log());
            }
        }
        met
    };
    let once = faults(7, CallKind::Exchange, false);
    assert_eq!(once, faults(7, CallKind::Exchange, true));
    assert_ne!(once, faults(8, CallKind::Exchange, false));
    assert_ne!(once, faults(7, CallKind::Load, false));
    for fault in
        ["refused", "the request", "and the reply", "applied after", "answered after", "twice", "to arrive"]
    {
        let met = once.iter().flatten().filter(|met| met.to_string().contains(fault)).count();
        assert!(met > 20, "{fault}: {met} of 1000");
    }
    let spared = once.iter().filter(|fault| fault.is_none()).count();
    assert!((50..150).contains(&spared), "{spared} of 1000, where a tenth is due");
}

#[test]
fn odds_of_one_kind_leave_the_others_alone_and_healing_ends_all() {
    let bench = bench();
    let store = bench.store.with_odds_of(CallKind::Load, 1, Odds::none().request_lost(1.0));
    let bench = Bench { store, ..bench };
    now(bench.claim(1)).unwrap();
    assert!(now(bench.store.load(&key(1))).is_err());
    bench.store.plan([Some(Fault::late_copy(1)), None]);
    assert!(now(bench.claim(2)).is_err());
    bench.store.heal();
    assert!(now(bench.store.load(&key(2))).unwrap().is_none(), "the copy never arrives");
}

#[test]
fn the_log_keeps_the_latest_and_counts_all() {
    let bench = bench();
    let calls = FaultLog::LEN_MAX + 10;
    bench.store.plan((0..calls).map(|_| Some(Fault::Refused)));
    for _ in 0..calls {
        assert!(now(bench.claim(1)).is_err());
    }
    let log = bench.store.log();
    assert_eq!((log.iter().count(), log.count()), (FaultLog::LEN_MAX, calls as u64));
    assert_eq!(log.iter().next().unwrap().call, 11);
    assert!(log.to_string().starts_with("(10 earlier ones are not kept)\ncall 11, exchange: refused\n"));
}

#[test]
fn an_engine_hears_of_it_what_a_store_would_say() {
    let bench = bench();
    let store = Arc::new(bench.store);
    let builder =
        Deduplicator::builder(Arc::clone(&store)).clock(bench.clock).call_timeout(Duration::from_millis(1));
    let dedup = builder.build().unwrap();
    store.plan([Some(Fault::ReplyLost)]);
    let run = |id| dedup.request(key(id)).run(|_| async { Ok::<_, String>("x".to_owned()) });
    let error = now(run(1)).unwrap_err();
    assert!(error.to_string().contains("not run"), "{error}");
    assert!(matches!(now(run(2)).unwrap(), Answer::Executed { .. }));
}
