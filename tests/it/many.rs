//! Many calls at once, and their writes in batches.

mod batches;
mod twins;

use std::cell::{Cell, RefCell};
use std::sync::atomic::Ordering;

use oncekey::answer::{ClaimFate, Kept};
use oncekey::protocol::State;
use oncekey::time::Clock as _;
use oncekey::{
    Answer, Attempt, Claim, ClaimAnswer, ClaimError, Deduplicator, Earlier, Error, Failure, Key, MemoryStore,
    Payload, Policy, Request, RunError,
};

use crate::support::*;

type Told = Result<Answer<String>, RunError<String>>;

fn key_of(id: impl std::fmt::Display) -> Key {
    Key::new("orders.ship", id.to_string()).unwrap()
}

fn request(dedup: &Deduplicator<FaultyStore>, id: impl std::fmt::Display) -> Request<'_, FaultyStore> {
    dedup.request(key_of(id))
}

/// Runs these ids, each answering its own.
fn ship<'d>(
    dedup: &'d Deduplicator<FaultyStore>,
    ids: &[usize],
) -> impl Future<Output = Vec<Told>> + use<'d> {
    let work: Vec<_> = ids
        .iter()
        .map(|id| {
            let id = *id;
            (request(dedup, id), move |_: Attempt| async move { Ok::<_, String>(format!("shipped {id}")) })
        })
        .collect();
    dedup.run_many(work)
}

fn executed(told: &Told) -> Option<&str> {
    match told {
        Ok(Answer::Executed { value, .. }) => Some(value),
        _ => None,
    }
}

/// The sizes of the batches so far, and how many writes went alone.
fn trips(bench: &Bench) -> (Vec<usize>, usize) {
    let batches = bench.store.batches.lock().unwrap().clone();
    let alone = bench.store.exchanges.load(Ordering::SeqCst) as usize - batches.iter().sum::<usize>();
    (batches, alone)
}

#[test]
fn five_hundred_operations_are_one_round_trip_to_claim_and_one_to_complete_and_one_to_replay() {
    let bench = bench();
    let ids: Vec<_> = (0..500).collect();
    let told = bench.run(ship(&bench.dedup, &ids));
    for (id, told) in told.iter().enumerate() {
        assert_eq!(executed(told), Some(format!("shipped {id}").as_str()));
    }
    assert_eq!(trips(&bench), (vec![500, 500], 0));
    let again = bench.run(ship(&bench.dedup, &ids));
    assert_eq!(trips(&bench), (vec![500, 500, 500], 0));
    for (id, told) in again.iter().enumerate() {
        assert!(
            matches!(told, Ok(Answer::Earlier(Earlier::Replayed { value, .. })) if *value == format!("shipped {id}")),
            "{told:?}"
        );
    }
    assert_eq!(bench.store.loads.load(Ordering::SeqCst), 0);
    assert_eq!(bench.dedup.held(), 0);
}

#[test]
fn a_call_takes_more_than_one_batch_holds() {
    let bench = bench();
    let told = bench.run(ship(&bench.dedup, &(0..2_300).collect::<Vec<_>>()));
    assert!(told.iter().all(|told| executed(told).is_some()));
    let (batches, alone) = trips(&bench);
    assert_eq!((batches.iter().sum::<usize>(), alone), (4_600, 0));
    assert!(batches.iter().all(|size| *size <= 1000) && batches.len() <= 7, "{batches:?}");
}

#[test]
fn nothing_at_all_is_no_round_trip() {
    let bench = bench();
    assert!(ready(ship(&bench.dedup, &[])).is_empty());
    assert_eq!(trips(&bench), (vec![], 0));
}

#[test]
fn a_key_that_comes_twice_runs_once_and_both_get_its_outcome() {
    let bench = bench();
    let runs = Cell::new(0);
    let work: Vec<_> = ["a", "b", "a", "c", "a"]
        .into_iter()
        .map(|id| {
            let runs = &runs;
            (request(&bench.dedup, id), move |_: Attempt| async move {
                runs.set(runs.get() + 1);
                Ok::<_, String>(format!("{id}, run {}", runs.get()))
            })
        })
        .collect();
    let told = bench.run(bench.dedup.run_many(work));
    let values: Vec<_> = told.iter().map(|told| told.as_ref().unwrap().value().unwrap().as_str()).collect();
    assert_eq!(runs.get(), 3);
    assert_eq!(values, ["a, run 1", "b, run 2", "a, run 1", "c, run 3", "a, run 1"]);
    assert_eq!(told.iter().filter(|told| executed(told).is_some()).count(), 3);
    assert_eq!((bench.dedup.held(), bench.dedup.waiting(), bench.clock.sleepers()), (0, 0, 0));
}

#[test]
fn a_key_that_comes_twice_and_fails_first_runs_a_second_time_and_never_both_at_once() {
    let bench = bench();
    let (runs, running) = (Cell::new(0), Cell::new(false));
    let work: Vec<_> = (0..3)
        .map(|_| {
            let (runs, running) = (&runs, &running);
            let operation = move |_: Attempt| async move {
                assert!(!running.replace(true), "two at once");
                yield_now().await;
                running.set(false);
                runs.set(runs.get() + 1);
                if runs.get() == 1 {
                    Err(Failure::NoEffect("busy".to_owned()))
                } else {
                    Ok("done".to_owned())
                }
            };
            (request(&bench.dedup, "a"), operation)
        })
        .collect();
    let told = bench.run(bench.dedup.run_many_or_fail(work));
    assert_eq!(runs.get(), 2);
    let failed = told
        .iter()
        .filter(|told| matches!(told, Err(RunError::Operation { claim: ClaimFate::Released, .. })));
    assert_eq!(failed.count(), 1, "{told:?}");
    let done = told.iter().filter(|told| told.as_ref().is_ok_and(|answer| answer.value().unwrap() == "done"));
    assert_eq!(done.count(), 2, "{told:?}");
}

#[test]
fn one_that_fails_does_not_fail_its_neighbours() {
    let bench = bench();
    let work: Vec<_> = (0..6)
        .map(|id| {
            let operation = move |_: Attempt| async move {
                match id % 3 {
                    0 => Ok(id.to_string()),
                    1 => Err(Failure::Final("broken".to_owned())),
                    _ => Err(Failure::Unknown("timed out".to_owned())),
                }
            };
            (request(&bench.dedup, id).policy(Policy::Hold), operation)
        })
        .collect();
    let told = bench.run(bench.dedup.run_many_or_fail(work));
    for (id, told) in told.iter().enumerate() {
        match id % 3 {
            0 => assert!(matches!(told, Ok(Answer::Executed { .. })), "{told:?}"),
            1 => assert!(
                matches!(told, Err(RunError::Operation { claim: ClaimFate::Recorded { .. }, .. })),
                "{told:?}"
            ),
            _ => assert!(
                matches!(told, Err(RunError::Operation { claim: ClaimFate::InDoubt, .. })),
                "{told:?}"
            ),
        }
    }
    // Completions, final failures and doubts alike went in one.
    assert_eq!(trips(&bench), (vec![6, 6], 0));
    let again = bench.run(ship(&bench.dedup, &[0, 1, 2]));
    assert!(
        matches!(
            again[..],
            [
                Ok(Answer::Earlier(Earlier::Replayed { .. })),
                Ok(Answer::Earlier(Earlier::FailedBefore { .. })),
                Ok(Answer::Earlier(Earlier::InDoubt { .. }))
            ]
        ),
        "{again:?}"
    );
}

/// Each item of a batch is settled on its own: those whose reply was lost, those that were refused, those that went well.
#[test]
fn what_goes_wrong_with_some_items_is_settled_for_these() {
    let faults = [Fault::None, Fault::ReplyLost, Fault::RequestLost, Fault::Refused, Fault::Twice];
    // As claims, and as completions.
    for first in [0, 5] {
        let bench = bench();
        bench.store.plan(vec![Fault::None; first]);
        bench.store.plan(faults);
        let runs = RefCell::new(Vec::new());
        let work: Vec<_> = (0..5)
            .map(|id| {
                let runs = &runs;
                (request(&bench.dedup, id), move |_: Attempt| async move {
                    runs.borrow_mut().push(id);
                    Ok::<_, String>(id.to_string())
                })
            })
            .collect();
        let told = bench.run(bench.dedup.run_many(work));
        for (id, told) in told.iter().enumerate() {
            assert_eq!(executed(told), Some(id.to_string().as_str()), "faults from {first}: {told:?}");
            let entry = bench.store.peek(&key_of(id)).unwrap();
            assert!(matches!(entry.record.state(), State::Completed(_)) && entry.record.attempt() == 1);
        }
        runs.borrow_mut().sort_unstable();
        assert_eq!(*runs.borrow(), [0, 1, 2, 3, 4], "each ran once");
        // What was tried again went in batches too.
        assert_eq!(trips(&bench).1, 0);
    }
}

#[test]
fn a_store_that_is_down_fails_each_and_runs_none() {
    let bench = bench();
    bench.store.always(Fault::Refused);
    let told = bench.run(ship(&bench.dedup, &[1, 2, 3]));
    for told in &told {
        assert!(matches!(told, Err(RunError::Claim { source: Error::Store { .. }, .. })), "{told:?}");
    }
    assert!(bench.store.written.lock().unwrap().is_empty());
}

#[test]
fn a_batch_that_hangs_ends_with_the_store_timeout_and_is_sent_again() {
    let bench = bench();
    bench.store.plan([Fault::None, Fault::HangBefore]);
    let told = bench.run(ship(&bench.dedup, &[1, 2, 3]));
    assert!(told.iter().all(|told| executed(told).is_some()), "{told:?}");
    let entries = [1, 2, 3].map(|id| bench.store.peek(&key_of(id)).unwrap());
    assert!(entries.iter().all(|entry| entry.record.attempt() == 1));
}

/// Operations of different length complete together with whatever ends while a batch is under way, and none waits for the
/// slowest.
#[test]
fn nobody_waits_for_the_slowest() {
    let bench = bench();
    let ended = RefCell::new(Vec::new());
    let work: Vec<_> = [5, 1, 3, 1]
        .into_iter()
        .enumerate()
        .map(|(id, seconds)| {
            let (clock, ended) = (&bench.clock, &ended);
            (request(&bench.dedup, id), move |_: Attempt| async move {
                clock.sleep_until(clock.now() + secs(seconds)).await;
                ended.borrow_mut().push(id);
                Ok::<_, String>(String::new())
            })
        })
        .collect();
    let mut run = std::pin::pin!(bench.dedup.run_many(work));
    assert!(poll_once(run.as_mut()).is_none());
    bench.clock.advance(secs(1));
    while poll_once(run.as_mut()).is_none() && bench.store.written.lock().unwrap().len() < 6 {}
    assert_eq!(*ended.borrow(), [1, 3]);
    for id in [1, 3] {
        assert!(matches!(bench.store.peek(&key_of(id)).unwrap().record.state(), State::Completed(_)));
    }
    let told = bench.run_pinned(run.as_mut());
    assert!(told.iter().all(|told| executed(told).is_some()));
    assert_eq!(trips(&bench), (vec![4, 2, 1, 1], 0));
}

/// A run that lasts longer than a lease renews all of its claims, in batches.
#[test]
fn claims_of_a_long_run_are_renewed_together() {
    let bench = bench();
    let work: Vec<_> = (0..20)
        .map(|id| {
            let clock = &bench.clock;
            (request(&bench.dedup, id), move |_: Attempt| async move {
                clock.sleep_until(clock.now() + secs(45)).await;
                Ok::<_, String>(String::new())
            })
        })
        .collect();
    let told = bench.run(bench.dedup.run_many(work));
    assert!(told.iter().all(|told| executed(told).is_some()), "{told:?}");
    let (batches, alone) = trips(&bench);
    assert_eq!((batches, alone), (vec![20; 6], 0), "claims, four renewals, completions");
}

#[test]
fn claims_are_taken_and_completed_together() {
    let bench = bench();
    let ids = ["a", "b", "a"];
    let answers = bench.run(bench.dedup.claim_many(ids.map(|id| request(&bench.dedup, id))));
    assert_eq!(trips(&bench).0, [2, 1]);
    let mut claims = Vec::new();
    for (place, answer) in answers.into_iter().enumerate() {
        match answer.unwrap() {
            ClaimAnswer::Granted(claim) => claims.push(claim),
            ClaimAnswer::Answered(Earlier::InProgress { .. }) => {
                assert_eq!(place, 2, "the second of one key does not wait");
            }
            other => panic!("{other:?}"),
        }
    }
    let [a, b] = &mut claims[..] else { panic!("{claims:?}") };
    // A claim is as any other in between.
    bench.run(a.renew()).unwrap();
    let values = |value: &str| Payload::from(value);
    let told = bench.run(bench.dedup.complete_many([(&mut *a, values("A")), (&mut *b, values("B"))]));
    assert!(matches!(told[..], [Ok(Kept::Whole), Ok(Kept::Whole)]), "{told:?}");
    assert_eq!(trips(&bench), (vec![2, 1, 2], 1));
    // The same again is the same; another outcome is refused, and its neighbour is not.
    let told = bench.run(bench.dedup.complete_many([(a, values("A")), (b, values("other"))]));
    assert!(matches!(told[..], [Ok(Kept::Whole), Err(ClaimError::AlreadyCompleted { .. })]), "{told:?}");
    let replayed = bench.run(ship(&bench.dedup, &[]));
    assert!(replayed.is_empty());
    let entry = bench.store.peek(&key_of("b")).unwrap();
    assert_eq!(entry.record.outcome(), Some(oncekey::Outcome::success("B")));
}

#[test]
fn requests_and_claims_of_another_engine_go_to_their_own_store() {
    let (here, there) = (bench(), bench());
    let work = [(&here, 1), (&there, 2)].map(|(bench, id)| {
        (request(&bench.dedup, id), move |_: Attempt| async move { Ok::<_, String>(id.to_string()) })
    });
    let mut run = std::pin::pin!(here.dedup.run_many(work));
    let told = ready(run.as_mut());
    assert!(told.iter().all(|told| executed(told).is_some()));
    assert!(here.store.peek(&key_of(1)).is_some() && here.store.peek(&key_of(2)).is_none());
    assert!(there.store.peek(&key_of(2)).is_some() && there.store.peek(&key_of(1)).is_none());
}

/// Dropped at any await, each run ends as it does alone: what had not begun is released, what had is left to its lease,
/// and what was completed is.
#[test]
fn dropped_anywhere_nothing_runs_twice_and_nothing_is_lost() {
    for polls in 0..40 {
        let bench = bench();
        bench.store.yields.store(true, Ordering::SeqCst);
        let runs = RefCell::new(vec![0; 3]);
        let work = |dedup, runs| {
            let work: Vec<_> = (0..3)
                .map(|id| {
                    let runs: &RefCell<Vec<i32>> = runs;
                    (request(dedup, id), move |_: Attempt| async move {
                        runs.borrow_mut()[id] += 1;
                        yield_now().await;
                        Ok::<_, String>(id.to_string())
                    })
                })
                .collect();
            work
        };
        let mut run = Box::pin(bench.dedup.run_many(work(&bench.dedup, &runs)));
        let ended = (0..polls).any(|_| poll_once(run.as_mut()).is_some());
        drop(run);
        let begun = runs.borrow().clone();
        bench.run(bench.dedup.flush());
        assert_eq!(bench.dedup.held(), 0);
        // What had not begun is free at once.
        for (id, begun) in begun.iter().enumerate() {
            let found = bench.store.peek(&key_of(id));
            let state = found.as_ref().map(|entry| entry.record.state());
            match begun {
                0 => assert!(!matches!(state, Some(State::InProgress)), "{polls} polls, {id}: {state:?}"),
                _ => assert!(state.is_some(), "{polls} polls, {id}"),
            }
        }
        bench.clock.advance(LEASE);
        let told = bench.run(bench.dedup.run_many(work(&bench.dedup, &runs)));
        for (id, told) in told.iter().enumerate() {
            assert_eq!(told.as_ref().unwrap().value(), Some(&id.to_string()), "{polls} polls: {told:?}");
            let entry = bench.store.peek(&key_of(id)).unwrap();
            assert!(matches!(entry.record.state(), State::Completed(_)));
        }
        if ended {
            assert_eq!(*runs.borrow(), [1, 1, 1]);
        }
    }
}

/// The future can be spawned.
#[test]
fn a_call_for_many_is_send() {
    fn check<T: Send>(value: T) -> T {
        value
    }
    let dedup = Deduplicator::new(MemoryStore::new());
    let requests = [1, 2].map(|id| {
        (dedup.request(key_of(id)), move |_: Attempt| async move { Ok::<_, String>(id.to_string()) })
    });
    let told = futures::executor::block_on(check(dedup.run_many(requests)));
    assert!(told.iter().all(Result::is_ok));
    drop(check(dedup.claim_many([dedup.request(key_of(3))])));
}

/// P4: what is handed out is still the caller's, however long the last of them took.
#[test]
fn claims_that_waited_for_the_slowest_are_renewed_or_claimed_anew_before_they_are_handed_out() {
    let bench = bench();
    let other = bench.other_process();
    let busy = ready(other.request(key_of("busy")).claim()).unwrap();
    let mut tasks = Tasks::default();
    // Its owner renews it, until it is completed after 40 s.
    let claims = tasks
        .spawn(bench.dedup.claim_many(["a", "busy", "b"].map(|id| request(&bench.dedup, id).wait(secs(40)))));
    for _ in 0..3 {
        tasks.pass(&bench.clock, secs(10));
        if let ClaimAnswer::Granted(busy) = &busy {
            ready(busy.renew()).unwrap();
        }
    }
    tasks.pass(&bench.clock, secs(3));
    // The lease of `a` and `b` is over: another takes `a`.
    let taken = ready(other.request(key_of("a")).claim()).unwrap();
    assert!(matches!(&taken, ClaimAnswer::Granted(claim) if claim.number() == 2));
    tasks.pass(&bench.clock, secs(20));
    let told = claims.take();
    assert!(
        matches!(&told[0], Ok(ClaimAnswer::Answered(Earlier::InProgress { attempt: 2, .. }))),
        "{:?}",
        told[0]
    );
    assert!(matches!(&told[1], Ok(ClaimAnswer::Answered(Earlier::InProgress { .. }))), "{:?}", told[1]);
    let Ok(ClaimAnswer::Granted(b)) = &told[2] else { panic!("{:?}", told[2]) };
    assert!(!b.attempt().is_lost() && b.time_left() > secs(10), "{:?} left", b.time_left());
    drop(busy);
}

/// Nobody had them: they end as a lone claim that is dropped does, and leave no doubt.
#[test]
fn claims_of_a_call_that_is_dropped_are_released() {
    let bench = bench_with(|builder| builder.policy(Policy::Hold));
    let _busy = ready(bench.dedup.request(key_of("busy")).claim()).unwrap();
    let claims = bench.dedup.claim_many(["a", "busy"].map(|id| request(&bench.dedup, id).wait(secs(20))));
    let mut claims = Box::pin(claims);
    assert!(poll_once(claims.as_mut()).is_none());
    assert_eq!(bench.dedup.held(), 2);
    drop(claims);
    bench.run(bench.dedup.flush());
    let record = bench.store.peek(&key_of("a")).unwrap().record;
    assert!(matches!(record.state(), State::Released { .. }), "{record:?}");
}
