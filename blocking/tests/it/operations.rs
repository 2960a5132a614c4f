//! Run, in its forms: on the caller's thread, with the lease kept meanwhile.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;

use oncekey::OrFailure as _;
use oncekey::answer::{ClaimFate, Unrecorded};
use oncekey::builder::{OnDrop, OnLeaseLost};
use oncekey::codec::AsValue;
use oncekey::protocol::{State, Status};
use oncekey::{Answer, ClaimError, Deduplicator, Earlier, Failure, Key, MemoryStore, RunError};

use super::*;

fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

#[test]
fn an_operation_runs_once_on_the_thread_of_its_caller_and_is_replayed() {
    let threads = threads();
    let ran_on = Cell::new(None);
    let answer = threads.dedup.request(key()).run(|attempt| {
        ran_on.set(Some(thread::current().id()));
        assert_eq!((attempt.number(), attempt.after_doubt(), attempt.is_lost()), (1, false, false));
        assert!(attempt.fence().get() > 0 && attempt.last_checkpoint().is_empty());
        text("done")
    });
    assert!(matches!(answer, Ok(Answer::Executed { value, .. }) if value == "done"));
    assert_eq!(ran_on.get(), Some(thread::current().id()));
    let again = threads.dedup.request(key()).run(|_| text("twice"));
    assert!(matches!(again, Ok(Answer::Earlier(Earlier::Replayed { value, .. })) if value == "done"));
    assert_eq!(threads.store.trips(), (2 + 1, 0), "a claim, a completion, a replay");
    assert_eq!(threads.dedup.held(), 0);
}

/// The same engine: what one face did, the other replays, and both are one room of waiters.
#[test]
fn both_faces_are_one_engine() {
    let threads = threads();
    assert!(matches!(run_text(threads.dedup.engine(), "async"), Answer::Executed { .. }));
    let answer = threads.dedup.request(key()).run(|_| text("twice"));
    assert!(matches!(answer, Ok(Answer::Earlier(Earlier::Replayed { value, .. })) if value == "async"));
}

#[test]
fn a_request_says_what_the_async_one_says() {
    let threads = threads();
    let request = || threads.dedup.request(key()).fingerprint_of("pay 50");
    assert_eq!(request().key(), &key());
    let answer = request().json().run(|_| Ok::<_, String>(BTreeMap::from([("a".to_owned(), 1)]))).map(|_| ());
    answer.unwrap();
    let read = request().json().run(|_| Err::<BTreeMap<String, i32>, _>("runs twice"));
    assert_eq!(read.unwrap().into_value().unwrap(), BTreeMap::from([("a".to_owned(), 1)]));
    let other = threads.dedup.request(key()).fingerprint_of("pay 51").run(|_| text("another"));
    assert!(matches!(other, Ok(Answer::Earlier(Earlier::Mismatch))), "{other:?}");
}

#[test]
fn a_failure_is_what_its_operation_says() {
    let threads = threads();
    let request = || threads.dedup.request(key());
    let failed = request().run_or_fail(|_| Err::<String, _>(Failure::NoEffect("busy".to_owned())));
    assert!(matches!(failed, Err(RunError::Operation { claim: ClaimFate::Released, .. })));
    let failed = request().run_or_fail(|_| Err::<String, _>("broken").or_unknown::<&str>());
    assert!(matches!(failed, Err(RunError::Operation { claim: ClaimFate::InDoubt, .. })));
    let failed = request().run(|_| Err::<String, _>(7));
    assert!(matches!(failed, Err(RunError::Operation { error: 7, claim: ClaimFate::InDoubt, .. })));
    let declined = || Err::<String, _>("declined".to_owned());
    let failed = request().run_or_fail(|_| declined().or_final::<String>());
    assert!(matches!(failed, Err(RunError::Operation { claim: ClaimFate::Recorded { .. }, .. })));
    let again = request().run_or_fail(|_| text("runs after all").or_final::<String>());
    assert!(
        matches!(again, Ok(Answer::Earlier(Earlier::FailedBefore { failure: Some(why), .. })) if why == "declined")
    );
}

/// 64 threads, each with a go at each of 200 keys, each in an order of its own.
#[test]
fn of_many_threads_one_executes_each_key() {
    const THREADS: usize = 64;
    const KEYS: usize = 200;
    let engine = Deduplicator::builder(MemoryStore::new()).lease(secs(3600)).build().unwrap();
    let dedup = blocking::Deduplicator::new(engine).unwrap();
    let executions: Vec<_> = (0..KEYS).map(|_| AtomicU32::new(0)).collect();
    thread::scope(|scope| {
        for number in 0..THREADS {
            let (dedup, executions) = (&dedup, &executions);
            scope.spawn(move || {
                for step in 0..KEYS {
                    let id = (step * 7 + number * 31) % KEYS;
                    let request = dedup.request(Key::new("race", id.to_string()).unwrap());
                    let answer = request.wait(secs(1800)).run(|attempt| {
                        assert_eq!(attempt.number(), 1);
                        executions[id].fetch_add(1, Ordering::SeqCst);
                        thread::yield_now();
                        Ok::<_, String>(format!("{id} by {number}"))
                    });
                    let value = answer.unwrap().into_value().unwrap();
                    assert!(value.starts_with(&format!("{id} by ")), "{value}");
                }
            });
        }
    });
    let executions: Vec<_> = executions.into_iter().map(AtomicU32::into_inner).collect();
    assert_eq!(executions, [1; KEYS]);
    assert_eq!((dedup.held(), dedup.waiting()), (0, 0));
}

#[test]
fn a_duplicate_waits_for_the_thread_that_runs() {
    let threads = threads();
    let (started, has_started) = mpsc::channel();
    let (let_go, may_go_on) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let threads = &threads;
        let owner = scope.spawn(move || {
            threads.dedup.request(key()).run(|_| {
                started.send(()).unwrap();
                may_go_on.recv().unwrap();
                text("done")
            })
        });
        has_started.recv().unwrap();
        let running = threads.dedup.request(key()).run(|_| text("two at once"));
        assert!(
            matches!(running, Ok(Answer::Earlier(Earlier::InProgress { attempt: 1, .. }))),
            "{running:?}"
        );
        let waiter = scope.spawn(|| threads.dedup.request(key()).wait(secs(5)).run(|_| text("two at once")));
        eventually("the duplicate waits", || threads.dedup.waiting() == 1);
        let_go.send(()).unwrap();
        assert!(matches!(owner.join().unwrap(), Ok(Answer::Executed { .. })));
        let waited = waiter.join().unwrap();
        assert!(
            matches!(&waited, Ok(Answer::Earlier(Earlier::Replayed { value, .. })) if value == "done"),
            "{waited:?}"
        );
    });
    assert_eq!(threads.dedup.waiting(), 0);
}

/// Starts an operation on a thread of its own, lets `meanwhile` happen while it is in it, and then lets it end.
fn during(
    dedup: &Face,
    operation: impl FnOnce(blocking::Attempt) -> Result<String, String> + Send,
    meanwhile: impl FnOnce(),
) -> Result<Answer<String>, RunError<String>> {
    let (started, has_started) = mpsc::channel();
    let (let_go, may_go_on) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let owner = scope.spawn(move || {
            dedup.request(key()).run(|attempt| {
                started.send(()).unwrap();
                may_go_on.recv().unwrap();
                operation(attempt)
            })
        });
        has_started.recv().unwrap();
        meanwhile();
        let_go.send(()).unwrap();
        owner.join().unwrap()
    })
}

#[test]
fn an_operation_that_takes_ten_leases_keeps_its_key() {
    let threads = threads();
    let other = threads.other_process();
    eventually("both keepers sleep", || threads.clock.sleepers() == 2);
    let answer = during(
        &threads.dedup,
        |attempt| {
            assert!(!attempt.is_lost() && attempt.time_left() > secs(0));
            text("done")
        },
        || {
            for _ in 0..120 {
                threads.clock.advance(Duration::from_millis(2500));
                eventually("both keepers sleep", || threads.clock.sleepers() == 2);
                assert!(!threads.store.peek(&key()).unwrap().left.is_zero());
            }
            let second = other.request(key()).run(|_| text("two at once"));
            assert!(matches!(second, Ok(Answer::Earlier(Earlier::InProgress { .. }))), "{second:?}");
        },
    );
    assert!(matches!(answer, Ok(Answer::Executed { value, .. }) if value == "done"));
    assert_eq!(threads.store.exchanges.load(Ordering::SeqCst), 1 + 30 + 1 + 1, "one renewal each interval");
}

/// The engine's cap is the face's too.
#[test]
fn an_operation_that_hangs_does_not_hold_its_key_for_ever() {
    let threads = threads_with(|builder| builder.renew_for_max(secs(60)));
    let other = engine_with(&threads.clock, &threads.store, |builder| builder);
    let answer = during(
        &threads.dedup,
        |attempt| {
            assert!(attempt.is_lost());
            text("too late")
        },
        || {
            threads.pass(secs(60) + LEASE);
            assert!(matches!(run_text(&other, "second"), Answer::Executed { .. }));
        },
    );
    assert!(matches!(answer, Ok(Answer::Unrecorded { .. })), "{answer:?}");
}

#[test]
fn a_lost_lease_is_told_to_who_asks_and_the_outcome_is_refused_once_another_took_over() {
    for choice in [OnLeaseLost::Drop, OnLeaseLost::Signal] {
        let threads = threads_with(|builder| builder.on_lease_lost(choice));
        let other = engine_with(&threads.clock, &threads.store.twin(), |builder| builder);
        let answer = during(
            &threads.dedup,
            |attempt| {
                assert!(attempt.is_lost() && attempt.wait_lost(Duration::MAX));
                assert_eq!(attempt.time_left(), secs(0));
                assert!(matches!(attempt.checkpoint("half"), Err(ClaimError::DeadlinePassed { .. })));
                text("too late")
            },
            || {
                threads.store.always(Fault::Refused); // no renewal gets through
                threads.pass(LEASE);
                assert!(matches!(run_text(&other, "second"), Answer::Executed { .. }));
                threads.store.always(Fault::None);
            },
        );
        let Ok(Answer::Unrecorded { value, why: Unrecorded::Completion(why), .. }) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(value, "too late");
        assert!(matches!(why, ClaimError::Superseded { .. }), "{why}");
        let replay = threads.dedup.request(key()).run(|_| text("third"));
        assert!(matches!(replay, Ok(Answer::Earlier(Earlier::Replayed { value, .. })) if value == "second"));
    }
}

#[test]
fn what_an_operation_returns_after_its_lease_is_stored_if_nobody_came_in_between() {
    let threads = threads();
    let answer = during(
        &threads.dedup,
        |attempt| {
            assert!(attempt.is_lost());
            text("late")
        },
        || {
            threads.store.always(Fault::Refused);
            threads.pass(LEASE);
            threads.store.always(Fault::None);
        },
    );
    assert!(matches!(answer, Ok(Answer::Executed { value, .. }) if value == "late"));
    assert_eq!(threads.store.peek(&key()).unwrap().status(), Status::Completed);
}

/// Waiting for the loss ends with it, not with the sleep; and sleeps that long otherwise.
#[test]
fn an_operation_can_sleep_until_its_lease_is_lost() {
    let threads = threads();
    let (told, is_told) = mpsc::channel();
    thread::scope(|scope| {
        let threads = &threads;
        let owner = scope.spawn(move || {
            threads.dedup.request(key()).run(|attempt| {
                let slept = threads.clock.clone();
                let begun = oncekey::time::Clock::now(&slept);
                assert!(!attempt.wait_lost(secs(2)));
                assert!(oncekey::time::Clock::now(&slept) >= begun + secs(2));
                told.send(()).unwrap();
                assert!(attempt.wait_lost(Duration::MAX));
                Err::<String, _>("stopped in time".to_owned())
            })
        });
        for half in 1..=4 {
            // The keeper, and the operation until the end of its lease or of its sleep.
            eventually("it sleeps", || threads.clock.sleepers() == 3);
            assert!(is_told.try_recv().is_err(), "it woke before {half} halves of a second had passed");
            threads.clock.advance(Duration::from_millis(500));
        }
        is_told.recv().unwrap();
        threads.store.always(Fault::Refused);
        while !owner.is_finished() {
            threads.clock.advance(Duration::from_millis(500));
            thread::sleep(Duration::from_millis(1));
        }
        let answer = owner.join().unwrap();
        assert!(matches!(&answer, Err(RunError::Operation { error, .. }) if error == "stopped in time"));
    });
}

#[test]
fn a_checkpoint_is_there_for_the_next_attempt() {
    let threads = threads();
    let failed = threads.dedup.request(key()).run(|attempt| {
        attempt.checkpoint("half").unwrap();
        let long = vec![0; 1 << 20];
        assert!(matches!(attempt.checkpoint(long), Err(ClaimError::CheckpointTooLarge { .. })));
        Err::<String, _>("stopped")
    });
    assert!(failed.is_err());
    let answer = threads.dedup.request(key()).run(|attempt| {
        assert_eq!((&attempt.last_checkpoint()[..], attempt.number()), (&b"half"[..], 2));
        assert!(attempt.after_doubt());
        text("done")
    });
    assert!(matches!(answer, Ok(Answer::Executed { .. })));
}

#[test]
fn a_panic_reaches_the_caller_and_leaves_the_claim_to_its_lease_and_the_keeper_alive() {
    let threads = threads();
    let request = threads.dedup.request(key());
    let panic =
        catch_unwind(AssertUnwindSafe(|| request.run(|_| -> Result<String, String> { panic!("planned") })));
    assert_eq!(panic.unwrap_err().downcast_ref(), Some(&"planned"));
    let entry = threads.store.peek(&key()).unwrap();
    assert_eq!((entry.record.state(), entry.left), (State::InProgress, LEASE));
    assert_eq!(threads.dedup.held(), 0, "and nobody renews it");
    threads.pass(LEASE);
    let answer = during(&threads.dedup, |_| text("second"), || threads.pass(LEASE * 3));
    assert!(matches!(answer, Ok(Answer::Executed { value, .. }) if value == "second"));
}

#[test]
fn a_panic_ends_the_claim_at_once_if_the_engine_says_so() {
    let threads = threads_with(|builder| builder.on_drop(OnDrop::ExpireNow));
    let request = threads.dedup.request(key());
    let panic =
        catch_unwind(AssertUnwindSafe(|| request.run(|_| -> Result<String, String> { panic!("planned") })));
    assert!(panic.is_err());
    eventually("the claim is given up", || threads.store.peek(&key()).unwrap().left.is_zero());
    let answer = threads.dedup.request(key()).run(|attempt| Ok::<_, String>(attempt.number().to_string()));
    assert_eq!(answer.unwrap().into_value().unwrap(), "2");
}

#[test]
fn a_completion_is_tried_until_the_store_takes_it_or_its_time_is_over() {
    let engine = |store: &FaultyStore, completion_timeout: Duration| {
        let builder = Deduplicator::builder(store.clone()).completion_timeout(completion_timeout);
        blocking::Deduplicator::new(builder.build().unwrap()).unwrap()
    };
    let store = FaultyStore::new(&ManualClock::new());
    let dedup = engine(&store, secs(600));
    let answer = dedup.request(key()).run(|_| {
        store.plan([Fault::Refused, Fault::ReplyLost]);
        text("done")
    });
    assert!(matches!(answer, Ok(Answer::Executed { .. })), "{answer:?}");

    let store = FaultyStore::new(&ManualClock::new());
    let dedup = engine(&store, Duration::from_millis(200));
    let answer = dedup.request(key()).run(|_| {
        store.always(Fault::RequestLost);
        text("done")
    });
    let Ok(Answer::Unrecorded {
        value, why: Unrecorded::Completion(ClaimError::Store { source, .. }), ..
    }) = answer
    else {
        panic!("{answer:?}")
    };
    assert!(value == "done" && source.maybe_applied());
    store.always(Fault::None);
    let again = dedup.request(key()).run(|_| text("twice"));
    assert!(matches!(again, Ok(Answer::Earlier(Earlier::InProgress { .. }))), "left to its lease: {again:?}");
}

#[test]
fn a_store_that_cannot_answer_means_no_run_unless_it_was_chosen_to_fail_open() {
    let store = FaultyStore::new(&ManualClock::new());
    store.always(Fault::Refused);
    let dedup = blocking::Deduplicator::new(Deduplicator::new(store)).unwrap();
    let refused = dedup.request(key()).run(|_| text("unclaimed"));
    assert!(matches!(refused, Err(RunError::Claim { .. })), "{refused:?}");
    let open = dedup.request(key()).fail_open().run(|attempt| {
        assert_eq!(attempt.fence().get(), 0);
        assert!(!attempt.wait_lost(Duration::from_millis(1)));
        assert!(matches!(attempt.checkpoint("half"), Err(ClaimError::Unprotected)));
        text("open")
    });
    assert!(matches!(open, Ok(Answer::Unrecorded { why: Unrecorded::FailedOpen(_), .. })), "{open:?}");
}

/// Operations are made of operations.
#[test]
fn an_operation_may_run_another_and_does_not_wait_for_itself() {
    let threads = threads();
    let answer = threads.dedup.request(key()).run(|_| {
        let other = Key::new("payments.refund", "7f3a-91").unwrap();
        let inner = threads.dedup.request(other.clone()).wait(Duration::MAX).run(|_| {
            // Two levels down, of both keys.
            for key in [key(), other.clone()] {
                let own = threads.dedup.request(key).wait(Duration::MAX).run(|_| text("two at once"));
                assert!(matches!(own, Ok(Answer::Earlier(Earlier::InProgress { .. }))), "{own:?}");
            }
            let many = [key(), other.clone()]
                .map(|key| (threads.dedup.request(key).wait(Duration::MAX), |_| text("no")));
            for own in threads.dedup.run_many(many) {
                assert!(matches!(own, Ok(Answer::Earlier(Earlier::InProgress { .. }))), "{own:?}");
            }
            let own = threads.dedup.request(key()).wait(Duration::MAX).claim();
            assert!(matches!(own, Ok(oncekey::ClaimAnswer::Answered(Earlier::InProgress { .. }))), "{own:?}");
            text("inner")
        });
        Ok::<_, String>(inner.unwrap().into_value().unwrap() + " and outer")
    });
    assert_eq!(answer.unwrap().into_value().unwrap(), "inner and outer");
    // It is over: the next call is answered as any other.
    let again = threads.dedup.request(key()).wait(Duration::MAX).run(|_| text("twice"));
    assert!(matches!(again, Ok(Answer::Earlier(Earlier::Replayed { .. }))));
}

#[test]
fn an_operation_may_use_another_executor() {
    let threads = threads();
    let answer = threads.dedup.request(key()).run(|_| futures::executor::block_on(async { text("done") }));
    assert!(matches!(answer, Ok(Answer::Executed { .. })));
}

/// Panics where it is to write.
struct Panicking;

impl oncekey::codec::Codec<String> for Panicking {
    fn encode(&self, _: &String) -> Result<oncekey::Payload, oncekey::codec::CodecError> {
        panic!("planned")
    }

    fn decode(&self, _: &oncekey::Payload) -> Result<String, oncekey::codec::CodecError> {
        panic!("planned")
    }
}

#[test]
fn a_panic_after_the_effect_leaves_the_operation_done() {
    for encodes in [true, false] {
        let threads = threads();
        let request = threads.dedup.request(key());
        let panicked = catch_unwind(AssertUnwindSafe(|| match encodes {
            true => drop(request.codec(Panicking).run(|_| text("done"))),
            false => drop(
                request
                    .failures(AsValue(Panicking))
                    .run_or_fail(|_| Err::<String, _>("broken".to_owned()).or_final::<String>()),
            ),
        }));
        assert!(panicked.is_err());
        threads.clock.advance(LEASE);
        let again = threads.dedup.request(key()).run(|_| -> Result<String, String> { panic!("runs again") });
        match again {
            Ok(Answer::Earlier(Earlier::Done { .. })) => assert!(encodes),
            Ok(Answer::Earlier(Earlier::FailedBefore { failure: None, .. })) => assert!(!encodes),
            other => panic!("{other:?}"),
        }
    }
}
