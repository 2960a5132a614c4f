//! Leases: deadlines, renewal, takeover, and clocks that do not run alike (T1, P2).

mod blocked;
mod by_itself;
mod clocks;
mod housekeeping;
mod keeper;
mod takeover;
mod turns;

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use oncekey::answer::Unrecorded;
use oncekey::builder::OnLeaseLost;
use oncekey::time::{Clock as _, Moment};
use oncekey::{Answer, ClaimError, Earlier, RunError};

use crate::support::*;

/// What the second process's operation returns in these tests.
const SECOND: &str = "second";

/// Spawns a call of another process, over a connection without faults, that waits for the key and then runs.
fn successor<'a>(bench: &Bench, spans: &Spans, tasks: &mut Tasks<'a>) -> Slot<Answer<String>> {
    let dedup = engine_with(&bench.clock, &bench.store.twin(), |builder| builder);
    let spans = spans.clone();
    tasks.spawn(async move {
        let request = dedup.request(key()).wait(secs(600));
        let run = request.run(async |attempt: oncekey::Attempt| {
            spans.watch(attempt.number(), async { Ok::<_, String>(SECOND.to_owned()) }).await
        });
        run.await.unwrap()
    })
}

#[test]
fn when_no_renewal_succeeds_the_operation_is_dropped_at_its_deadline_and_only_then_another_starts() {
    use Fault::{HangAfter, HangBefore, Refused, ReplyLost, RequestLost};
    for fault in [Refused, RequestLost, HangBefore, ReplyLost, HangAfter] {
        let bench = bench();
        let (spans, begun) = (Spans::new(&bench.clock), bench.clock.now());
        let mut tasks = Tasks::default();
        let hung = tasks.spawn(bench.dedup.request(key()).run(async |attempt: oncekey::Attempt| {
            bench.store.always(fault);
            spans.watch(attempt.number(), pending::<Result<String, String>>()).await
        }));
        tasks.settle();
        let second = successor(&bench, &spans, &mut tasks);
        tasks.pass(&bench.clock, secs(60));

        let lost = hung.take().unwrap_err();
        assert!(
            matches!(lost, RunError::LeaseLost { source: ClaimError::DeadlinePassed { .. }, .. }),
            "{fault:?}: {lost:?}"
        );
        assert_eq!(second.take().value().unwrap(), SECOND, "{fault:?}");
        let [first, second] = spans.all()[..] else { panic!("{fault:?}: {:?}", spans.all()) };
        // A renewal that was not confirmed does not extend the deadline, whether it was applied or not.
        assert_eq!(first.gone, Some(begun + (LEASE - MARGIN)), "{fault:?}");
        assert!(first.last <= begun + (LEASE - MARGIN), "{fault:?}");
        // The store's lease is longer where a renewal was applied at 10 s and only its reply lost.
        let applied = matches!(fault, ReplyLost | HangAfter);
        let lease_end = begun + LEASE + if applied { secs(10) } else { secs(0) };
        assert!(second.first >= lease_end && second.first <= lease_end + secs(1), "{fault:?}: {second:?}");
        spans.assert_no_overlap();
    }
}

#[test]
fn an_operation_left_unpolled_past_its_deadline_does_not_go_on() {
    let bench = bench();
    let spans = Spans::new(&bench.clock);
    let mut run = Box::pin(bench.dedup.request(key()).run(async |attempt: oncekey::Attempt| {
        spans.watch(attempt.number(), pending::<Result<String, String>>()).await
    }));
    assert!(poll_once(run.as_mut()).is_none());
    let polls = spans.all()[0].polls;
    bench.clock.advance(LEASE - MARGIN);
    let lost = poll_once(run.as_mut()).expect("it is dropped at once").unwrap_err();
    assert!(matches!(lost, RunError::LeaseLost { .. }), "{lost:?}");
    assert_eq!(spans.all()[0].polls, polls, "it was polled once more, past its deadline");
    assert!(spans.all()[0].gone.is_some(), "it was dropped");
}

#[test]
fn one_nanosecond_before_its_deadline_it_still_goes_on() {
    let bench = bench();
    let spans = Spans::new(&bench.clock);
    let mut run = Box::pin(bench.dedup.request(key()).run(async |attempt: oncekey::Attempt| {
        spans.watch(attempt.number(), pending::<Result<String, String>>()).await
    }));
    assert!(poll_once(run.as_mut()).is_none());
    let polls = spans.all()[0].polls;
    bench.clock.advance(LEASE - MARGIN - std::time::Duration::from_nanos(1));
    assert!(poll_once(run.as_mut()).is_none());
    assert_eq!(spans.all()[0].polls, polls + 1);
    // That poll also renewed.
    assert_eq!(on_record(&bench).left, LEASE);
}

/// Polls a run up to the moment where the store has applied its claim and the answer is under way.
fn claim_under_way<F: Future>(bench: &Bench, mut run: std::pin::Pin<&mut F>) {
    bench.store.yields.store(true, Ordering::SeqCst);
    while bench.store.peek(&key()).is_none() {
        assert!(poll_once(run.as_mut()).is_none());
    }
    bench.store.yields.store(false, Ordering::SeqCst);
}

#[test]
fn a_grant_that_arrives_past_its_deadline_is_renewed_before_anything_starts() {
    // Past its deadline and within its lease; and past its lease, while nobody took over.
    for late in [LEASE - MARGIN, LEASE - secs(1), LEASE, LEASE + secs(100)] {
        let bench = bench();
        let mut run = Box::pin(bench.dedup.request(key()).run(async |attempt: oncekey::Attempt| {
            assert_eq!(bench.store.trips().0, 2, "claim and renewal");
            assert_eq!(attempt.time_left(), LEASE - MARGIN);
            assert_eq!((attempt.number(), attempt.after_doubt()), (1, false));
            Ok::<_, String>("done".to_owned())
        }));
        claim_under_way(&bench, run.as_mut());
        bench.clock.advance(late);
        let answer = ready(run).unwrap();
        assert!(matches!(answer, Answer::Executed { .. }), "{late:?}: {answer:?}");
    }
}

#[test]
fn the_renewal_of_a_late_grant_outlasts_a_store_that_fails_for_more_than_one_timeout() {
    let bench = bench();
    let mut run = Box::pin(bench.dedup.request(key()).run(async |_| Ok::<_, String>("done".to_owned())));
    claim_under_way(&bench, run.as_mut());
    bench.clock.advance(LEASE - MARGIN);
    // Tried at 0, 25, 75, 175, 375 and 775 ms, and answered at 1.575 s; the store's timeout is 1 s.
    bench.store.plan([Fault::Refused; 6]);
    let answer = bench.run(run).unwrap();
    assert!(matches!(answer, Answer::Executed { .. }), "{answer:?}");
}

#[test]
fn a_grant_that_arrives_after_a_takeover_runs_nothing() {
    let bench = bench();
    let runs = AtomicU32::new(0);
    let mut run = Box::pin(bench.dedup.request(key()).run(async |_| {
        runs.fetch_add(1, Ordering::SeqCst);
        Ok::<_, String>("late".to_owned())
    }));
    claim_under_way(&bench, run.as_mut());
    bench.clock.advance(LEASE);
    let successor = claim(&bench.other_process());
    let before = on_record(&bench);
    let answer = ready(run).unwrap();
    assert!(matches!(answer, Answer::Earlier(Earlier::InProgress { attempt: 2, .. })), "{answer:?}");
    assert_eq!(runs.load(Ordering::SeqCst), 0);
    assert_eq!(on_record(&bench), before, "the successor's record");
    drop(successor);
}

#[test]
fn a_grant_that_arrives_late_in_its_lease_is_renewed_in_time() {
    // The reply to the claim is lost, and the claim found again 22 s later, with 8 s left of its lease: past the time
    // at which a claim that came at once would have been renewed.
    let bench = bench_with(|builder| builder.store_timeout(secs(22)).call_timeout(secs(60)));
    bench.store.plan([Fault::HangAfter]);
    let answer = bench.run(bench.dedup.request(key()).run(async |attempt: oncekey::Attempt| {
        assert!(attempt.time_left() > secs(5), "it is renewed at once: {:?}", attempt.time_left());
        bench.clock.sleep_until(bench.clock.now() + secs(100)).await;
        Ok::<_, String>("done".to_owned())
    }));
    let answer = answer.unwrap();
    assert!(matches!(answer, Answer::Executed { .. }), "{answer:?}");
}

#[test]
fn renewal_keeps_a_long_operation_alive_and_stops_when_it_ends() {
    for ends_well in [true, false] {
        let bench = bench();
        let other = bench.other_process();
        let begun = bench.clock.now();
        let mut tasks = Tasks::default();
        let run = tasks.spawn(bench.dedup.request(key()).run(async |_| {
            bench.clock.sleep_until(begun + secs(605)).await;
            if ends_well { Ok("done".to_owned()) } else { Err("failed".to_owned()) }
        }));
        for _ in 0..60 {
            tasks.pass(&bench.clock, secs(10));
            let duplicate = run_text(&other, "a second run");
            assert!(
                matches!(duplicate, Answer::Earlier(Earlier::InProgress { attempt: 1, .. })),
                "{duplicate:?}"
            );
        }
        let duplicates = 60;
        // One claim, one renewal each 10 s, and one conclusion.
        tasks.pass(&bench.clock, secs(5));
        assert_eq!(bench.store.trips(), (1 + 60 + 1 + duplicates, 0));
        assert_eq!(run.take().is_ok(), ends_well);
        assert_eq!((bench.clock.sleepers(), bench.dedup.held()), (0, 0));
        let keeper = tasks.spawn(bench.dedup.keeper());
        tasks.pass(&bench.clock, secs(100));
        assert_eq!(bench.store.trips().0, 62 + duplicates, "nobody renews what is over");
        assert!(!keeper.is_done());
    }
}

#[test]
fn one_failed_renewal_is_not_the_end() {
    use Fault::{HangAfter, HangBefore, Refused, ReplyLost, RequestLost, Twice};
    for fault in [Refused, RequestLost, HangBefore, ReplyLost, HangAfter, Twice] {
        let bench = bench();
        let answer = bench.run(bench.dedup.request(key()).run(async |_| {
            for _ in 0..5 {
                bench.store.plan([fault]);
                bench.clock.sleep_until(bench.clock.now() + secs(20)).await;
            }
            Ok::<_, String>("done".to_owned())
        }));
        assert!(matches!(answer, Ok(Answer::Executed { .. })), "{fault:?}: {answer:?}");
    }
}

#[test]
fn a_store_that_recovers_before_the_deadline_is_in_time() {
    let bench = bench();
    let begun = bench.clock.now();
    let answer = bench.run(bench.dedup.request(key()).run(async |_| {
        bench.store.always(Fault::HangBefore);
        bench.clock.sleep_until(begun + secs(24)).await;
        bench.store.always(Fault::None);
        bench.clock.sleep_until(begun + secs(100)).await;
        Ok::<_, String>("done".to_owned())
    }));
    assert!(matches!(answer, Ok(Answer::Executed { .. })), "{answer:?}");
}

#[test]
fn an_outcome_that_comes_after_the_lease_is_kept_when_nobody_took_over() {
    // The operation ends in time, and the store takes its outcome only 40 s later.
    let bench = bench();
    let begun = bench.clock.now();
    let mut tasks = Tasks::default();
    let run = tasks.spawn(bench.dedup.request(key()).run(async |_| {
        bench.store.always(Fault::Refused);
        Ok::<_, String>("first".to_owned())
    }));
    tasks.pass(&bench.clock, secs(40));
    assert!(!run.is_done(), "it is tried on past the lease");
    bench.store.always(Fault::None);
    tasks.pass(&bench.clock, secs(5));
    let answer = run.take().unwrap();
    let Answer::Executed { info, .. } = answer else { panic!("{answer:?}") };
    assert_eq!((info.attempt, info.after_doubt), (1, false));
    assert!(bench.clock.now() > begun + LEASE);
    assert!(
        matches!(run_text(&bench.other_process(), "again"), Answer::Earlier(Earlier::Replayed { value, .. }) if value == "first")
    );
}

#[test]
fn a_hung_operation_loses_its_key_when_renewal_has_gone_on_long_enough() {
    let bench = bench_with(|builder| builder.renew_for_max(secs(60)));
    let (spans, begun) = (Spans::new(&bench.clock), bench.clock.now());
    let mut tasks = Tasks::default();
    let hung = tasks.spawn(bench.dedup.request(key()).run(async |attempt: oncekey::Attempt| {
        spans.watch(attempt.number(), pending::<Result<String, String>>()).await
    }));
    tasks.settle();
    let second = successor(&bench, &spans, &mut tasks);
    tasks.pass(&bench.clock, secs(120));
    assert!(matches!(hung.take(), Err(RunError::LeaseLost { .. })));
    assert_eq!(second.take().value().unwrap(), SECOND);
    // The last renewal was at 50 s.
    assert_eq!(spans.all()[0].gone, Some(begun + secs(50) + (LEASE - MARGIN)));
    assert!(spans.all()[1].first >= begun + secs(50) + LEASE);
    spans.assert_no_overlap();
}

#[test]
fn an_operation_whose_effect_is_fenced_is_told_that_its_lease_is_lost_and_goes_on() {
    for taken_over in [false, true] {
        let bench = bench_with(|builder| builder.on_lease_lost(OnLeaseLost::Signal));
        let (begun, told_at) = (bench.clock.now(), Arc::new(std::sync::Mutex::new(None)));
        let mut tasks = Tasks::default();
        let run = tasks.spawn(bench.dedup.request(key()).run(async |attempt: oncekey::Attempt| {
            bench.store.always(Fault::Refused);
            assert!(!attempt.is_lost());
            attempt.lost().await;
            *told_at.lock().unwrap() = Some(bench.clock.now());
            assert!(attempt.is_lost());
            assert_eq!(attempt.time_left(), secs(0));
            bench.clock.sleep_until(begun + secs(50)).await;
            bench.store.always(Fault::None);
            Ok::<_, String>("fenced".to_owned())
        }));
        tasks.pass(&bench.clock, secs(45));
        assert_eq!(*told_at.lock().unwrap(), Some(begun + (LEASE - MARGIN)));
        let other = engine_with(&bench.clock, &bench.store.twin(), |builder| builder);
        let successor = taken_over.then(|| claim(&other));
        tasks.pass(&bench.clock, secs(10));
        let answer = run.take().unwrap();
        match answer {
            Answer::Executed { ref value, .. } if !taken_over => assert_eq!(value, "fenced"),
            Answer::Unrecorded {
                ref value,
                why: Unrecorded::Completion(ClaimError::Superseded { .. }),
                ..
            } if taken_over => {
                assert_eq!(value, "fenced");
            }
            other => panic!("taken over: {taken_over}: {other:?}"),
        }
        drop(successor);
    }
}

#[test]
fn an_operation_that_was_told_can_still_write_and_is_not_stuck_behind_a_renewal_that_hangs() {
    let bench = bench_with(|builder| builder.on_lease_lost(OnLeaseLost::Signal).store_timeout(secs(20)));
    let answer = bench.run(bench.dedup.request(key()).run(async |attempt: oncekey::Attempt| {
        bench.store.plan([Fault::HangBefore]); // the renewal at 10 s is under way when the deadline passes
        attempt.lost().await;
        let refused = attempt.checkpoint("half way").await.unwrap_err();
        assert!(matches!(refused, ClaimError::DeadlinePassed { .. }), "{refused:?}");
        Ok::<_, String>("done".to_owned())
    }));
    assert!(matches!(answer, Ok(Answer::Executed { .. })), "{answer:?}");
}

#[test]
fn a_checkpoint_renews_the_lease() {
    let bench = bench();
    let claim = claim(&bench.dedup);
    let begun: Moment = bench.clock.now();
    bench.clock.advance(secs(20));
    ready(claim.checkpoint("half way")).unwrap();
    assert_eq!(claim.time_left(), LEASE - MARGIN);
    assert_eq!(on_record(&bench).left, LEASE);
    assert_eq!(bench.clock.now(), begun + secs(20));
}

crate::support::also_at_once! {
    an_operation_left_unpolled_past_its_deadline_does_not_go_on
    one_nanosecond_before_its_deadline_it_still_goes_on
    renewal_keeps_a_long_operation_alive_and_stops_when_it_ends
    an_outcome_that_comes_after_the_lease_is_kept_when_nobody_took_over
    a_hung_operation_loses_its_key_when_renewal_has_gone_on_long_enough
    an_operation_whose_effect_is_fenced_is_told_that_its_lease_is_lost_and_goes_on
    a_checkpoint_renews_the_lease
}
