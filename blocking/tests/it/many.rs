//! Many operations of one thread, and their writes in batches.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use futures::channel::oneshot;
use oncekey::ClaimAnswer;
use oncekey::builder::OnLeaseLost;
use oncekey::protocol::Status;
use oncekey::{Answer, ClaimError, Earlier, Failure, Key, Payload, RunError};
use oncekey_blocking::Request;
use oncekey_conformance::{CallKind, Intercept};

use super::*;

fn key_of(id: usize) -> Key {
    Key::new("orders.ship", id.to_string()).unwrap()
}

fn request(dedup: &Face, id: usize) -> Request<'_, FaultyStore> {
    dedup.request(key_of(id))
}

fn batches(threads: &Threads) -> Vec<usize> {
    threads.store.batches.lock().unwrap().clone()
}

fn is_completed(threads: &Threads, id: usize) -> bool {
    threads.store.peek(&key_of(id)).is_some_and(|entry| entry.status() == Status::Completed)
}

#[test]
fn a_poll_of_operations_is_claimed_in_one_round_trip_and_completed_in_batches() {
    let threads = threads();
    let order = RefCell::new(Vec::new());
    let ship = |ids: &[usize]| {
        let work = ids.iter().map(|&id| {
            let order = &order;
            let operation = move |attempt: blocking::Attempt| {
                assert!(!attempt.is_lost());
                order.borrow_mut().push(id);
                Ok::<_, String>(format!("shipped {id}"))
            };
            (request(&threads.dedup, id), operation)
        });
        threads.dedup.run_many(work)
    };
    let ids: Vec<_> = (0..500).collect();
    for (id, told) in ship(&ids).into_iter().enumerate() {
        assert!(matches!(told, Ok(Answer::Executed { value, .. }) if value == format!("shipped {id}")));
    }
    let sizes = batches(&threads);
    assert_eq!((sizes[0], sizes.iter().sum::<usize>()), (500, 1000));
    assert_eq!(threads.store.trips(), (1000, 0), "none went alone");
    assert_eq!(*order.borrow(), ids, "in order");
    // Two of a key, some new, some done.
    let told = ship(&[500, 7, 500, 501]);
    assert!(matches!(&told[0], Ok(Answer::Executed { .. })));
    assert!(matches!(&told[1], Ok(Answer::Earlier(Earlier::Replayed { value, .. })) if value == "shipped 7"));
    assert!(
        matches!(&told[2], Ok(Answer::Earlier(Earlier::Replayed { value, .. })) if value == "shipped 500")
    );
    assert!(matches!(&told[3], Ok(Answer::Executed { .. })));
    assert_eq!(order.borrow().len(), 502);
    assert!(ship(&[]).is_empty());
    assert_eq!(threads.dedup.held(), 0);
}

/// Nobody renews the lease of an operation that ended, so its outcome is not to wait for all that come after it.
#[test]
fn an_outcome_is_stored_while_the_next_operation_runs() {
    let threads = threads();
    let work = (0..8).map(|id| {
        let threads = &threads;
        let operation = move |_: blocking::Attempt| {
            eventually("all before are stored", || (0..id).all(|before| is_completed(threads, before)));
            Ok::<_, String>(String::new())
        };
        (request(&threads.dedup, id), operation)
    });
    let told = threads.dedup.run_many(work.collect::<Vec<_>>());
    assert!(told.iter().all(|told| matches!(told, Ok(Answer::Executed { .. }))), "{told:?}");
}

/// All leases are kept, though the operations take many leases together.
#[test]
fn the_claims_of_those_whose_turn_comes_late_are_kept() {
    const OPERATIONS: usize = 20;
    let threads = threads();
    let work = (0..OPERATIONS).map(|id| {
        let threads = &threads;
        let operation = move |attempt: blocking::Attempt| {
            assert_eq!((attempt.number(), attempt.is_lost()), (1, false), "{id}");
            let pass = || {
                threads.clock.advance(Duration::from_millis(2500));
                // Renewed each ten seconds, by the next round of the keeper.
                eventually("all are renewed", || {
                    (id..OPERATIONS).all(|id| threads.store.peek(&key_of(id)).unwrap().left > secs(17))
                });
            };
            let are_stored = || (0..id).all(|before| is_completed(threads, before));
            // As a rule before time passes. A completion that waited for a renewal is helped by the keeper's rounds.
            for _ in 0..100 {
                if !are_stored() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            for _ in 0..4 {
                pass();
            }
            // It may need some more of them: a round may fall between two of these steps.
            eventually("all before are stored", || {
                if !are_stored() {
                    pass();
                }
                are_stored()
            });
            Ok::<_, String>(String::new())
        };
        (request(&threads.dedup, id), operation)
    });
    let told = threads.dedup.run_many(work.collect::<Vec<_>>());
    assert!(told.iter().all(|told| matches!(told, Ok(Answer::Executed { .. }))), "{told:?}");
}

/// One whose lease is lost before its turn comes does not begin, and one whose lease is lost while it runs is stored.
#[test]
fn an_operation_whose_lease_is_lost_before_its_turn_does_not_begin() {
    for choice in [OnLeaseLost::Drop, OnLeaseLost::Signal] {
        let threads = threads_with(|builder| builder.on_lease_lost(choice));
        let begun = RefCell::new(Vec::new());
        let work = (0..3).map(|id| {
            let (threads, begun) = (&threads, &begun);
            let operation = move |attempt: blocking::Attempt| {
                begun.borrow_mut().push((id, attempt.is_lost()));
                if id == 0 {
                    threads.store.always(Fault::Refused);
                    threads.clock.advance(LEASE);
                    threads.keeper_sleeps(); // after a round in vain
                    assert!(attempt.wait_lost(Duration::MAX));
                    threads.store.always(Fault::None);
                }
                Ok::<_, String>(String::new())
            };
            (request(&threads.dedup, id), operation)
        });
        let told = threads.dedup.run_many(work.collect::<Vec<_>>());
        assert!(matches!(&told[0], Ok(Answer::Executed { .. })), "{choice:?}: {told:?}");
        match choice {
            OnLeaseLost::Drop => {
                assert!(
                    told[1..].iter().all(|told| matches!(told, Err(RunError::LeaseLost { .. }))),
                    "{told:?}"
                );
                assert_eq!(*begun.borrow(), [(0, false)]);
            }
            OnLeaseLost::Signal => assert_eq!(begun.borrow().len(), 3),
        }
    }
}

#[test]
fn each_is_settled_on_its_own() {
    let threads = threads();
    let work = (0..6).map(|id| {
        let operation = move |_: blocking::Attempt| match id % 3 {
            0 => Ok(format!("shipped {id}")),
            1 => Err(Failure::Final("sold out".to_owned())),
            _ => Err(Failure::NoEffect("busy".to_owned())),
        };
        (request(&threads.dedup, id), operation)
    });
    let told = threads.dedup.run_many_or_fail(work.collect::<Vec<_>>());
    for (id, told) in told.into_iter().enumerate() {
        match id % 3 {
            0 => assert!(
                matches!(told, Ok(Answer::Executed { value, .. }) if value == format!("shipped {id}"))
            ),
            1 => assert!(matches!(told, Err(RunError::Operation { error, .. }) if error == "sold out")),
            _ => assert!(matches!(told, Err(RunError::Operation { error, .. }) if error == "busy")),
        }
    }
    let again = threads
        .dedup
        .run_many_or_fail([(request(&threads.dedup, 1), |_| Ok::<_, Failure<String>>("twice".to_owned()))]);
    assert!(
        matches!(&again[0], Ok(Answer::Earlier(Earlier::FailedBefore { failure: Some(why), .. })) if why == "sold out")
    );
}

#[test]
fn a_store_that_fails_open_holds_nobody_up() {
    let threads = threads();
    threads.store.always(Fault::Hopeless);
    let refused =
        threads.dedup.run_many([(request(&threads.dedup, 0), |_| Ok::<_, ()>("unclaimed".to_owned()))]);
    assert!(matches!(&refused[0], Err(RunError::Claim { .. })), "{refused:?}");
    // Unprotected operations have no outcome to wait for.
    let store = FaultyStore::new(&ManualClock::new());
    store.always(Fault::Refused);
    let dedup = blocking::Deduplicator::new(
        oncekey::Deduplicator::builder(store).renew_every(Duration::from_millis(8)).build().unwrap(),
    )
    .unwrap();
    let work = [0, 1, 2].map(|id| {
        let operation = move |_: blocking::Attempt| {
            std::thread::sleep(Duration::from_millis(2));
            Ok::<_, String>(id.to_string())
        };
        (request(&dedup, id).fail_open(), operation)
    });
    for told in dedup.run_many(work) {
        assert!(matches!(told, Ok(Answer::Unrecorded { .. })), "{told:?}");
    }
}

#[test]
fn a_panic_ends_the_call_and_leaves_what_was_not_stored_to_its_lease() {
    let threads = threads();
    let work = (0..4).map(|id| {
        let operation = move |_: blocking::Attempt| {
            assert!(id < 2, "planned");
            Ok::<_, String>(String::new())
        };
        (request(&threads.dedup, id), operation)
    });
    let work: Vec<_> = work.collect();
    let panic = catch_unwind(AssertUnwindSafe(|| threads.dedup.run_many(work)));
    assert_eq!(panic.unwrap_err().downcast_ref(), Some(&"planned"));
    // What had ended is stored in the background; there, a try again waits for the clock.
    eventually("what ended is stored", || {
        if threads.clock.sleepers() > 1 {
            threads.clock.advance(Duration::from_millis(10)); // the keeper sleeps, and so does what is tried again
        }
        is_completed(&threads, 0) && is_completed(&threads, 1)
    });
    let states: Vec<_> = (0..4).map(|id| is_completed(&threads, id)).collect();
    assert_eq!(states, [true, true, false, false]);
    assert_eq!(threads.dedup.held(), 0);
}

#[test]
fn claims_are_taken_and_completed_in_a_round_trip_each() {
    let threads = threads();
    let other = threads.other_process();
    let ids = [0, 1, 2, 1];
    let answers = threads.dedup.claim_many(ids.map(|id| request(&threads.dedup, id)));
    assert!(matches!(&answers[3], Ok(ClaimAnswer::Answered(Earlier::InProgress { .. }))), "{answers:?}");
    let mut claims: Vec<_> = answers
        .into_iter()
        .filter_map(|answer| match answer.unwrap() {
            ClaimAnswer::Granted(claim) => Some(claim),
            _ => None,
        })
        .collect();
    assert_eq!((claims.len(), batches(&threads)), (3, vec![3, 1]));
    let told = threads.dedup.complete_many(claims.iter_mut().map(|claim| (claim, Payload::from("done"))));
    assert!(told.iter().all(Result::is_ok), "{told:?}");
    assert_eq!(batches(&threads), [3, 1, 3]);
    let told = threads.dedup.complete_many(claims.iter_mut().map(|claim| (claim, Payload::from("other"))));
    assert!(told.iter().all(|told| matches!(told, Err(ClaimError::AlreadyCompleted { .. }))), "{told:?}");
    // A request of another face keeps that one's thread, not this one's.
    let mut answers = threads.dedup.claim_many([request(&other, 9)]);
    let Some(Ok(ClaimAnswer::Granted(mut claim))) = answers.pop() else { panic!("not granted") };
    assert_eq!((threads.dedup.held(), other.held()), (3, 1));
    claim.release().unwrap();
}

/// Panics where it is to write this.
#[derive(Clone)]
struct Panicking(&'static str);

impl oncekey::codec::Codec<String> for Panicking {
    fn encode(&self, value: &String) -> Result<Payload, oncekey::codec::CodecError> {
        assert_ne!(value, self.0, "planned");
        Ok(value.as_str().into())
    }

    fn decode(&self, bytes: &Payload) -> Result<String, oncekey::codec::CodecError> {
        oncekey::codec::Raw.decode(bytes)
    }
}

#[test]
fn of_a_poll_the_operation_whose_value_panics_is_done() {
    let threads = threads();
    let work = (0..3).map(|id| {
        let request = request(&threads.dedup, id).codec(Panicking("shipped 1"));
        (request, move |_: blocking::Attempt| Ok::<_, String>(format!("shipped {id}")))
    });
    assert!(catch_unwind(AssertUnwindSafe(|| threads.dedup.run_many(work))).is_err());
    assert!(is_completed(&threads, 1));
    let again = request(&threads.dedup, 1).run(|_| Err::<String, _>("runs again"));
    assert!(matches!(again, Ok(Answer::Earlier(Earlier::Done { .. }))), "{again:?}");
}

/// A pair inside of the operation of its own key, from a plain thread.
#[test]
fn a_pair_inside_of_the_operation_of_its_own_key_is_answered() {
    let (told, is_told) = std::sync::mpsc::channel();
    // Left behind if it hangs.
    std::thread::spawn(move || {
        let engine = oncekey::Deduplicator::new(oncekey::MemoryStore::new());
        let dedup = blocking::Deduplicator::new(engine).unwrap();
        let inside = dedup.request(key_of(7)).run(|_| {
            let twins = [0, 1].map(|_| (dedup.request(key_of(7)), |_| Ok::<_, String>(String::new())));
            let told = dedup.run_many(twins);
            Ok::<_, String>(
                told.iter()
                    .all(|told| matches!(told, Ok(Answer::Earlier(Earlier::InProgress { .. }))))
                    .to_string(),
            )
        });
        let _ended = told.send(inside.unwrap().into_value().unwrap());
    });
    assert_eq!(is_told.recv_timeout(Duration::from_secs(60)), Ok("true".to_owned()));
}

/// An operation of a batch, too, is answered that it runs when it waits for its own key, also from inside of another one.
#[test]
fn an_operation_of_many_that_waits_for_its_own_key_is_answered() {
    let (told, is_told) = std::sync::mpsc::channel();
    // Left behind if it hangs.
    std::thread::spawn(move || {
        let engine = oncekey::Deduplicator::new(oncekey::MemoryStore::new());
        let dedup = blocking::Deduplicator::new(engine).unwrap();
        let in_progress = |id| {
            let run = dedup.request(key_of(id)).wait(Duration::MAX).run(|_| Ok::<_, String>(String::new()));
            matches!(run, Ok(Answer::Earlier(Earlier::InProgress { here: true, .. })))
        };
        let in_progress = &in_progress;
        let work = [7, 8].map(|id| {
            let inside = dedup.request(key_of(id + 10));
            (dedup.request(key_of(id)), move |_| {
                let own = in_progress(id);
                let outer = inside.run(|_| Ok::<_, String>(in_progress(id).to_string()));
                Ok::<_, String>(format!("{own}, {}", outer.unwrap().into_value().unwrap()))
            })
        });
        let values: Vec<_> =
            dedup.run_many(work).into_iter().map(|run| run.unwrap().into_value().unwrap()).collect();
        let _ended = told.send(values);
    });
    assert_eq!(is_told.recv_timeout(Duration::from_secs(60)), Ok(vec!["true, true".to_owned(); 2]));
}

/// Its grant came past its own deadline, and was renewed in a turn as a conclusion takes it. That was no conclusion: what it
/// returns is stored while the next operation has the thread, also where the keeper had the turn when it ended.
#[test]
fn an_outcome_after_a_late_grant_is_stored_while_the_next_operation_runs() {
    let Bench { clock, store, .. } = bench();
    let (is_late, passes) = (AtomicBool::new(true), clock.clone());
    let gate = Arc::new(Mutex::new(None::<oneshot::Receiver<()>>));
    let closed = Arc::clone(&gate);
    let store_with_gate = Intercept::new(store.clone()).before(move |kind| {
        if kind == CallKind::BatchItem && is_late.swap(false, Ordering::SeqCst) {
            passes.advance(LEASE);
        }
        let gate = closed.lock().unwrap().take();
        Box::pin(async {
            if let Some(gate) = gate {
                gate.await.unwrap();
            }
        })
    });
    let engine = oncekey::Deduplicator::builder(store_with_gate).clock(clock.clone());
    let engine = engine.lease(LEASE).margin(MARGIN).renew_every(secs(10)).purge_every(Duration::MAX);
    let engine = engine.completion_timeout(secs(3600)).build().unwrap();
    let dedup = blocking::Deduplicator::new(engine).unwrap();
    let (opens, opened) = oneshot::channel();
    let (opens, opened) = (Mutex::new(Some(opens)), Mutex::new(Some(opened)));
    let peek = |id| store.peek(&key_of(id)).unwrap();
    let told = dedup.run_many([0, 1].map(|id| {
        let (clock, gate, peek, opens, opened) = (&clock, &gate, &peek, &opens, &opened);
        let operation = move |_: blocking::Attempt| {
            // A panic here would leave the outcome to a clock that stands.
            let mut is_stored = id == 0;
            if id == 0 {
                *gate.lock().unwrap() = opened.lock().unwrap().take();
                clock.advance(secs(10));
                eventually("the keeper renews", || gate.lock().unwrap().is_none());
            } else {
                opens.lock().unwrap().take().unwrap().send(()).unwrap();
                for _ in 0..40 {
                    clock.advance(Duration::from_millis(2500));
                    // Renewed each ten seconds, by the next round of the keeper.
                    eventually("the keeper makes its rounds", || peek(1).left > secs(17));
                    is_stored |= peek(0).status() == Status::Completed;
                }
            }
            Ok::<_, String>(is_stored.to_string())
        };
        (dedup.request(key_of(id)), operation)
    }));
    let stored: Vec<_> = told.into_iter().map(|told| told.unwrap().into_value().unwrap()).collect();
    assert_eq!(stored, ["true", "true"], "the last outcome is not stored while the next operation runs");
}
