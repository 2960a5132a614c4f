//! What an observer hears: each thing once, where it happens, and no key's id.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncekey::answer::Kept;
use oncekey::builder::OnLeaseLost;
use oncekey::observe::Event;
use oncekey::time::Clock as _;
use oncekey::{DeduplicatorBuilder, Failure};

use super::*;

type Heard = Arc<Mutex<Vec<String>>>;

/// An engine that is listened to, and what is heard: the first word of each event, and its facts where they matter.
fn listening() -> (Bench, Heard) {
    listening_to(|builder| builder)
}

fn listening_to(
    change: impl FnOnce(DeduplicatorBuilder<FaultyStore>) -> DeduplicatorBuilder<FaultyStore>,
) -> (Bench, Heard) {
    let heard = Heard::default();
    let hears = Arc::clone(&heard);
    let bench = bench_with(|builder| {
        change(builder).on_lease_lost(OnLeaseLost::Signal).observer(move |key: &Key, event: &Event<'_>| {
            let shown = format!("{key:?} {event:?}");
            assert!(!shown.contains(key.id()), "{shown}");
            hears.lock().unwrap().push(match event {
                Event::Granted { attempt, after_doubt, reply_lost, .. } => {
                    format!("granted {attempt} doubt:{after_doubt} lost:{reply_lost}")
                }
                Event::Answered { answer, .. } => format!("answered {answer}"),
                Event::LeaseLost { superseded, .. } => format!("lease lost superseded:{superseded}"),
                Event::StoreFailed { retry_in, .. } => format!("store failed retry:{}", retry_in.is_some()),
                Event::LetGo => "let go".to_owned(),
                Event::Completed { kept: Kept::Whole, .. } => "completed".to_owned(),
                Event::Completed { kept, .. } => format!("completed {kept:?}"),
                other => format!("{other:?}").to_lowercase(),
            });
        })
    });
    (bench, heard)
}

fn take(heard: &Heard) -> Vec<String> {
    std::mem::take(&mut heard.lock().unwrap())
}

#[test]
fn a_run_its_replay_and_its_refused_duplicates_are_heard_once_each() {
    let (bench, heard) = listening();
    run_text(&bench.dedup, "first");
    assert_eq!(take(&heard), ["granted 1 doubt:false lost:false", "completed", "let go"]);
    run_text(&bench.dedup, "x");
    assert_eq!(take(&heard), ["answered replay"]);
    let other = bench.dedup.request(key()).fingerprint(Fingerprint::sha256(b"other"));
    assert!(matches!(ready(other.claim()), Ok(ClaimAnswer::Answered(Earlier::Mismatch))));
    assert_eq!(take(&heard), ["answered mismatch"]);
    assert_eq!(forget(&bench.dedup), AdminAnswer::Done);
    assert_eq!(take(&heard), ["forgotten"]);
}

#[test]
fn only_who_waits_is_heard_to_wait() {
    let (bench, heard) = listening();
    let _owner = claim(&bench.dedup);
    take(&heard);
    assert!(matches!(run_text(&bench.dedup, "x"), Answer::Earlier(Earlier::InProgress { .. })));
    assert_eq!(take(&heard), ["answered in progress"], "it was not asked to wait");
    let waits = bench.dedup.request(key()).wait(secs(1)).run(async |_| Ok::<_, String>(String::new()));
    assert!(matches!(bench.run(waits), Ok(Answer::Earlier(Earlier::InProgress { .. }))));
    assert_eq!(take(&heard), ["waiting", "waited", "answered in progress"]);
}

#[test]
fn what_a_holder_does_is_heard_once_each() {
    let (bench, heard) = listening();
    let mut owner = claim(&bench.dedup);
    take(&heard);
    ready(owner.renew()).unwrap();
    assert_eq!(take(&heard), ["renewed"]);
    ready(owner.release()).unwrap();
    assert_eq!(take(&heard), ["released"]);
    drop(owner);
    assert_eq!(take(&heard), ["let go"]);
    let mut owner = claim(&bench.dedup);
    ready(owner.abandon()).unwrap();
    assert_eq!(take(&heard), ["granted 2 doubt:false lost:false", "abandoned"]);
    drop(owner);
    take(&heard);
    let waits = bench.dedup.request(key()).wait(secs(1));
    let owner = claim(&bench.dedup);
    assert_eq!(take(&heard), ["granted 3 doubt:true lost:false"]);
    assert!(matches!(bench.run(waits.claim()), Ok(ClaimAnswer::Answered(Earlier::InProgress { .. }))));
    assert_eq!(take(&heard), ["waiting", "waited", "answered in progress"]);
    drop(owner);
}

#[test]
fn giving_up_after_doubt_is_heard_as_in_doubt_and_not_as_released() {
    let (bench, heard) = listening();
    ready(claim(&bench.dedup).abandon()).unwrap();
    take(&heard);
    let told = ready(
        bench.dedup.request(key()).run_or_fail(async |_| Err::<String, _>(Failure::NoEffect(String::new()))),
    );
    assert!(told.is_err());
    assert_eq!(take(&heard), ["granted 2 doubt:true lost:false", "abandoned", "let go"]);
    let mut third = claim(&bench.dedup);
    take(&heard);
    ready(third.release()).unwrap();
    assert_eq!(take(&heard), ["abandoned"]);
}

#[test]
fn doubt_exhaustion_and_their_end_are_heard() {
    let (bench, heard) = listening();
    let held = bench.dedup.request(key()).policy(Policy::Hold);
    let Ok(ClaimAnswer::Granted(mut owner)) = ready(held.claim()) else { panic!("not granted") };
    ready(owner.abandon()).unwrap();
    take(&heard);
    assert!(matches!(run_text(&bench.dedup, "x"), Answer::Earlier(Earlier::InDoubt { .. })));
    assert_eq!(take(&heard), ["answered in doubt"]);
    assert_eq!(resolve(&bench.dedup, &Resolution::NoEffect), AdminAnswer::Done);
    assert_eq!(take(&heard), ["resolved"]);
    assert_eq!(resolve(&bench.dedup, &Resolution::NoEffect), AdminAnswer::NotInDoubt);
    assert_eq!(take(&heard), [""; 0], "a refused command is no event");
    let limited = bench.dedup.request(key()).attempts_max(1);
    assert!(matches!(ready(limited.claim()), Ok(ClaimAnswer::Answered(Earlier::Exhausted { .. }))));
    assert_eq!(take(&heard), ["answered exhausted"]);
}

#[test]
fn an_outcome_that_is_no_longer_kept_is_heard_as_done() {
    let (bench, heard) = listening();
    let tailed = engine_with(&bench.clock, &bench.store, |builder| {
        let heard = Arc::clone(&heard);
        builder.tail(RETENTION).observer(move |_: &Key, event: &Event<'_>| {
            if let Event::Answered { answer, .. } = event {
                heard.lock().unwrap().push((*answer).to_owned());
            }
        })
    });
    run_text(&tailed, "first");
    bench.clock.advance(RETENTION);
    assert!(matches!(run_text(&tailed, "x"), Answer::Earlier(Earlier::Done { .. })));
    assert_eq!(take(&heard), ["done"]);
}

/// Of an outcome that is not kept, the first call is heard to say so, and later ones have nothing to replay.
#[test]
fn an_outcome_that_is_not_kept_is_heard_at_once_and_as_done_then() {
    let (bench, heard) = listening_to(|builder| builder.outcome_len_max(5));
    run_text(&bench.dedup, "first and long");
    let completed = ["granted 1 doubt:false lost:false", "completed TooLarge { len: 14 }", "let go"];
    assert_eq!(take(&heard), completed);
    assert!(matches!(run_text(&bench.dedup, "x"), Answer::Earlier(Earlier::Done { .. })));
    assert!(matches!(
        ready(bench.dedup.request(key()).claim()),
        Ok(ClaimAnswer::Answered(Earlier::Done { .. }))
    ));
    let waits = bench.dedup.request(key()).wait(secs(1)).claim();
    assert!(matches!(ready(waits), Ok(ClaimAnswer::Answered(Earlier::Done { .. }))));
    assert_eq!(take(&heard), ["answered done"; 3]);
    // So it is with a failure.
    let (bench, heard) = listening_to(|builder| builder.outcome_len_max(5));
    ready(claim(&bench.dedup).fail("refused")).unwrap();
    assert!(matches!(
        run_text(&bench.dedup, "x"),
        Answer::Earlier(Earlier::FailedBefore { failure: None, .. })
    ));
    assert_eq!(take(&heard).last().unwrap(), "answered done");
}

/// A waiter hears the outcome from the call that it waited for, not from the store.
#[test]
fn a_waiter_of_an_outcome_that_is_not_kept_is_heard_to_get_none() {
    let (bench, heard) = listening_to(|builder| builder.outcome_len_max(5));
    let mut owner = claim(&bench.dedup);
    let mut waits = Box::pin(bench.dedup.request(key()).wait(secs(1)).claim());
    assert!(poll_once(waits.as_mut()).is_none());
    ready(owner.complete("first and long")).unwrap();
    assert!(matches!(bench.run_pinned(waits.as_mut()), Ok(ClaimAnswer::Answered(Earlier::Done { .. }))));
    let told = ["waiting", "completed TooLarge { len: 14 }", "waited", "answered done"];
    assert_eq!(take(&heard)[1..], told);
}

#[test]
fn a_lease_lost_and_an_outcome_not_recorded_are_heard_once_each() {
    for superseded in [false, true] {
        let (bench, heard) = listening();
        let answer = bench.run(bench.dedup.request(key()).run(async |attempt: oncekey::Attempt| {
            bench.clock.advance(LEASE);
            if superseded {
                drop(claim(&engine_with(&bench.clock, &bench.store, |builder| builder)));
            }
            attempt.lost().await;
            attempt.lost().await;
            Ok::<_, String>("late".to_owned())
        }));
        let answer = answer.unwrap();
        assert_eq!(matches!(answer, Answer::Unrecorded { .. }), superseded, "{answer:?}");
        let end = if superseded { "unrecorded" } else { "completed" };
        let told = ["granted 1 doubt:false lost:false", "lease lost superseded:false", end, "let go"];
        assert_eq!(take(&heard), told);
    }
}

#[test]
fn a_failing_store_is_heard_at_each_try_with_whether_there_is_another() {
    let (bench, heard) = listening_to(|builder| builder.call_timeout(THREE_TRIES));
    bench.store.plan([Fault::ReplyLost]);
    drop(bench.run(bench.dedup.request(key()).claim()).unwrap());
    assert_eq!(take(&heard), ["store failed retry:true", "granted 1 doubt:false lost:true", "let go"]);
    bench.store.always(Fault::Refused);
    assert!(bench.run(bench.dedup.request(key()).claim()).is_err());
    let thrice = ["store failed retry:true", "store failed retry:true", "store failed retry:false"];
    let mut told = take(&heard);
    assert_eq!(told.pop().unwrap(), "unanswered");
    assert_eq!(told, thrice);
    assert!(bench.run(bench.dedup.forget(&key())).is_err());
    assert_eq!(take(&heard), thrice, "an operator's look too");
    let run = bench.dedup.request(key()).fail_open().run(async |_| Ok::<_, String>(String::new()));
    assert!(bench.run(run).is_ok());
    assert_eq!(take(&heard).last().unwrap(), "failedopen");
}

#[test]
fn a_holders_write_that_fails_is_heard_with_whether_it_is_tried_again() {
    let (bench, heard) = listening();
    let owner = claim(&bench.dedup);
    take(&heard);
    bench.store.plan([Fault::Refused]);
    bench.run(owner.renew()).unwrap();
    assert_eq!(take(&heard), ["store failed retry:true", "renewed"]);
    bench.store.plan([Fault::Hopeless]);
    assert!(bench.run(owner.renew()).is_err());
    assert_eq!(take(&heard), ["store failed retry:false"]);
}

/// Each try comes when the failure before it was heard to say.
#[test]
fn an_operators_call_that_fails_is_heard_and_tried_again_after_a_pause() {
    let (bench, heard) = listening();
    run_text(&bench.dedup, "first");
    take(&heard);
    let begun = bench.clock.now();
    // The look fails twice, then the write does.
    bench.store.plan([Fault::Refused, Fault::Refused, Fault::None, Fault::Refused]);
    assert_eq!(bench.run(bench.dedup.forget(&key())).unwrap(), AdminAnswer::Done);
    let thrice =
        ["store failed retry:true", "store failed retry:true", "store failed retry:true", "forgotten"];
    assert_eq!(take(&heard), thrice);
    // 25 ms and twice that, and 25 ms again: the write counts anew.
    assert_eq!(bench.clock.now().saturating_since(begun), Duration::from_millis(25 + 50 + 25));
}
