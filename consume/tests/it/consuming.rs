//! What is to be done with the deliveries of messages: each ends, or something will end it.

mod final_failures;
mod polls;

use std::cell::{Cell, RefCell};
use std::time::Duration;

use oncekey::admin::Resolution;
use oncekey::answer::Kept;
use oncekey::codec::{AsValue, Json};
use oncekey::protocol::State;
use oncekey::time::Clock as _;
use oncekey::{Attempt, Claim, Deduplicator, Failure, Fingerprint, Key, Outcome, Policy, Settled};
use oncekey_consume::{Acknowledged, Consumer, Dead, DeliveryAction, Later, Message};

use crate::support::*;

type Told = DeliveryAction<String, String>;
type Handled = Result<String, Failure<String>>;

fn key_of(id: &str) -> Key {
    Key::new("orders.ship", id).unwrap()
}

fn message(id: &str) -> Message {
    Message::new(key_of(id))
}

fn consumer(bench: &Bench) -> Consumer<FaultyStore> {
    Consumer::new(bench.dedup.clone())
}

/// Consumes a delivery whose handler says this.
fn deliver(bench: &Bench, consumer: &Consumer<FaultyStore>, message: Message, says: Handled) -> Told {
    bench.run(consumer.consume(message, |_| async { says }))
}

/// Consumes a delivery whose handler must not run.
fn deliver_again(bench: &Bench, consumer: &Consumer<FaultyStore>, message: Message) -> Told {
    bench.run(consumer.consume(message, |_| async { panic!("it runs again") }))
}

fn ok() -> Handled {
    Ok("shipped".to_owned())
}

fn after(told: &Told) -> (Duration, &'static str) {
    match told {
        DeliveryAction::RetryLater { after, .. } => (*after, told.reason()),
        other => panic!("not retried: {other:?}"),
    }
}

/// The pause as it is spread: as long, or up to half longer.
fn is_spread(pause: Duration, exactly: Duration) -> bool {
    pause >= exactly && pause <= exactly * 3 / 2
}

#[test]
fn a_delivery_is_handled_and_acknowledged_and_so_are_all_after_it() {
    let bench = bench();
    let consumer = consumer(&bench);
    let told = deliver(&bench, &consumer, message("a"), ok());
    assert!(
        matches!(
            &told,
            DeliveryAction::Acknowledge(Acknowledged::Executed { value, kept: Kept::Whole }) if value == "shipped"
        ),
        "{told:?}"
    );
    for deliveries in 2..5 {
        let told = deliver_again(&bench, &consumer, message("a").deliveries(deliveries));
        assert!(
            matches!(&told, DeliveryAction::Acknowledge(Acknowledged::Replayed(value)) if value == "shipped"),
            "{told:?}"
        );
    }
}

#[test]
fn a_duplicate_elsewhere_comes_back_soon_and_one_here_is_extended() {
    let bench = bench();
    let (here, elsewhere) = (consumer(&bench), Consumer::new(bench.other_process()));
    let mut tasks = Tasks::default();
    let (release, released) = futures::channel::oneshot::channel::<()>();
    let first = tasks.spawn(here.consume(message("a"), |_| async {
        released.await.unwrap();
        ok()
    }));
    tasks.pass(&bench.clock, secs(4));
    let told = deliver_again(&bench, &here, message("a"));
    assert!(matches!(&told, DeliveryAction::Extend { by } if *by == secs(26)), "{told:?}");
    // RabbitMQ knows no extension.
    assert_eq!(after(&told.or_later()), (secs(26), "in-progress"));
    let told = deliver_again(&bench, &elsewhere, message("a"));
    let (pause, reason) = after(&told);
    assert!(is_spread(pause, secs(4)), "as long as it has run: {pause:?}");
    assert_eq!(reason, "in-progress");
    // The lease is renewed meanwhile: it is still so.
    tasks.pass(&bench.clock, secs(50));
    let told = deliver_again(&bench, &elsewhere, message("a"));
    assert!(is_spread(after(&told).0, secs(5)), "{told:?}");
    assert_eq!(told.reason(), "in-progress");

    release.send(()).unwrap();
    tasks.settle();
    assert_eq!(first.take().reason(), "executed");
    for consumer in [&here, &elsewhere] {
        assert_eq!(deliver_again(&bench, consumer, message("a")).reason(), "replayed");
    }
}

/// A duplicate here is one of the same claim: not one whose lease ended under this engine's hands.
#[test]
fn what_another_took_over_is_not_said_to_be_handled_here() {
    let bench = bench();
    let here = consumer(&bench);
    let stuck = bench.run(here.claim(message("a"))).unwrap();
    bench.clock.advance(LEASE);
    let other = bench.other_process();
    let taken = bench.run(Consumer::new(other).claim(message("a"))).unwrap();
    assert_eq!(taken.number(), 2);
    assert_eq!(deliver_again(&bench, &here, message("a")).reason(), "in-progress");
    drop((stuck, taken));
}

#[test]
fn a_duplicate_that_waits_is_acknowledged_with_the_first() {
    let bench = bench();
    let consumer = consumer(&bench).wait(secs(20));
    let mut tasks = Tasks::default();
    let clock = bench.clock.clone();
    let first = tasks.spawn(consumer.consume(message("a"), |_| async move {
        clock.sleep_until(clock.now() + secs(5)).await;
        ok()
    }));
    let second = tasks.spawn(consumer.consume(message("a"), |_| async { ok() }));
    tasks.pass(&bench.clock, secs(6));
    assert_eq!((first.take().reason(), second.take().reason()), ("executed", "replayed"));
}

#[test]
fn what_fails_without_effect_pauses_longer_each_time_until_its_attempts_are_used_up() {
    let bench = bench();
    let consumer = consumer(&bench).attempts_max(4).backoff(secs(1), secs(3));
    let mut pauses = Vec::new();
    for _ in 0..4 {
        let told = deliver(&bench, &consumer, message("a"), Err(Failure::NoEffect("busy".into())));
        assert!(
            matches!(&told, DeliveryAction::RetryLater { because: Later::NoEffect(error), .. } if error == "busy"),
            "{told:?}"
        );
        pauses.push(after(&told).0);
        bench.clock.advance(pauses[pauses.len() - 1]);
    }
    let exactly = [1, 2, 3, 3].map(secs);
    assert!(pauses.iter().zip(exactly).all(|(pause, exactly)| is_spread(*pause, exactly)), "{pauses:?}");
    for _ in 0..2 {
        let told = deliver_again(&bench, &consumer, message("a").deliveries(5));
        assert!(matches!(&told, DeliveryAction::DeadLetter(Dead::Exhausted { attempts: 4, .. })), "{told:?}");
    }
    // An operator looks, and has it tried again.
    let key = key_of("a");
    let found = bench.run(bench.dedup.inspect(&key)).unwrap().unwrap();
    assert_eq!(found.attempts_counted, 4);
    bench.run(bench.dedup.reset_attempts(&key)).unwrap();
    assert_eq!(deliver(&bench, &consumer, message("a"), ok()).reason(), "executed");
}

/// The count is in the record: it does not depend on a handler that comes to its end, nor on the process.
#[test]
fn attempts_that_crash_count() {
    let bench = bench();
    for _ in 0..3 {
        let process = Consumer::new(bench.other_process()).attempts_max(3);
        let claim = bench.run(process.claim(message("a"))).unwrap();
        std::mem::forget(claim); // a process that is killed concludes nothing
        bench.clock.advance(LEASE);
    }
    let consumer = consumer(&bench).attempts_max(3);
    let told = deliver_again(&bench, &consumer, message("a"));
    assert!(matches!(&told, DeliveryAction::DeadLetter(Dead::Exhausted { attempts: 3, .. })), "{told:?}");
}

/// Whether a later delivery gets what the handler returned is told with the first, by each way to complete.
#[test]
fn a_message_whose_value_is_not_kept_is_acknowledged_with_that_and_done_for_later_deliveries() {
    let is_too_large = |told: &Told| match told {
        DeliveryAction::Acknowledge(Acknowledged::Executed { kept, .. }) => {
            matches!(kept, Kept::TooLarge { len: 7, .. })
        }
        _ => false,
    };
    let bench = bench_with(|builder| builder.outcome_len_max(6));
    let consumer = consumer(&bench);
    let told = deliver(&bench, &consumer, message("a"), ok());
    assert!(is_too_large(&told), "{told:?}");
    assert_eq!(deliver_again(&bench, &consumer, message("a")).reason(), "done");
    let mut claim = bench.run(consumer.claim(message("b"))).unwrap();
    let settled = bench.run(claim.complete("shipped")).map(|_| Settled::Committed);
    let told: Told = consumer.settled(&claim, settled, "shipped".to_owned());
    assert!(is_too_large(&told), "{told:?}");
}

#[test]
fn another_message_under_the_same_key_is_a_dead_letter_whatever_became_of_the_first() {
    let bench = bench();
    let consumer = consumer(&bench);
    let one = || message("a").fingerprint(Fingerprint::sha256(b"ship 7"));
    let two = || message("a").fingerprint(Fingerprint::sha256(b"ship 8"));
    let claim = bench.run(consumer.claim(one())).unwrap();
    let told = deliver_again(&bench, &consumer, two());
    assert!(matches!(&told, DeliveryAction::DeadLetter(Dead::Mismatch)), "while it runs: {told:?}");
    drop(claim);
    bench.clock.advance(LEASE);
    assert_eq!(deliver(&bench, &consumer, one(), ok()).reason(), "executed");
    let told = deliver_again(&bench, &consumer, two());
    assert!(matches!(&told, DeliveryAction::DeadLetter(Dead::Mismatch)), "when it is done: {told:?}");
    assert_eq!(deliver_again(&bench, &consumer, one()).reason(), "replayed");
}

#[test]
fn doubt_under_hold_is_a_dead_letter_until_it_is_resolved_and_then_it_is_acknowledged() {
    let bench = bench();
    let consumer = consumer(&bench).policy(Policy::Hold);
    let id = Cell::new(None);
    let told: Told = bench.run(consumer.consume(message("a"), |attempt: Attempt| {
        id.set(Some(attempt.operation_id()));
        async { Err(Failure::Unknown("timed out".to_owned())) }
    }));
    assert!(
        matches!(&told, DeliveryAction::RetryLater { because: Later::Unknown(error), .. } if error == "timed out"),
        "{told:?}"
    );
    let told = deliver_again(&bench, &consumer, message("a"));
    let DeliveryAction::DeadLetter(dead @ Dead::InDoubt { operation_id, .. }) = &told else {
        panic!("{told:?}")
    };
    assert_eq!(Some(*operation_id), id.get());
    assert!(dead.to_string().contains(&operation_id.to_string()), "{dead}");
    let outcome = Resolution::Completed(Outcome::success("shipped"));
    bench.run(bench.dedup.resolve(&key_of("a"), &outcome)).unwrap();
    assert_eq!(deliver_again(&bench, &consumer, message("a")).reason(), "replayed");
}

#[test]
fn under_reclaim_what_failed_with_unknown_effect_runs_again_as_the_same_operation() {
    let bench = bench();
    let consumer = consumer(&bench);
    let seen = RefCell::new(Vec::new());
    for says in [Err(Failure::Unknown("timed out".to_owned())), ok()] {
        let _told: Told = bench.run(consumer.consume(message("a"), |attempt: Attempt| {
            seen.borrow_mut().push((attempt.operation_id(), attempt.number()));
            async { says }
        }));
    }
    let seen = seen.into_inner();
    assert_eq!((seen[0].0, seen[0].1, seen[1].1), (seen[1].0, 1, 2));
}

#[test]
fn a_store_that_cannot_answer_puts_deliveries_off_longer_each_time_and_runs_nothing() {
    let bench = bench();
    let consumer = consumer(&bench).backoff(secs(2), secs(60));
    bench.store.always(Fault::Refused);
    let pauses = [1, 2, 3, 9].map(|deliveries| {
        let told = deliver_again(&bench, &consumer, message("a").deliveries(deliveries));
        after(&told)
    });
    for ((pause, reason), exactly) in pauses.into_iter().zip([2, 4, 8, 60]) {
        assert_eq!(reason, "store");
        assert!(is_spread(pause, secs(exactly)), "{pause:?} of {exactly} s");
    }
    bench.store.always(Fault::None);
    assert_eq!(deliver(&bench, &consumer, message("a"), ok()).reason(), "executed");
}

#[test]
fn a_handler_that_ran_and_is_not_on_record_is_acknowledged_and_says_so() {
    let bench = bench();
    let consumer = consumer(&bench);
    let store = bench.store.clone();
    let told: Told = bench.run(consumer.consume(message("a"), |_| async move {
        store.always(Fault::Hopeless);
        ok()
    }));
    assert!(
        matches!(&told, DeliveryAction::Acknowledge(Acknowledged::Unrecorded(value)) if value == "shipped"),
        "{told:?}"
    );
}

#[test]
fn a_lost_lease_stops_the_handler_and_the_message_comes_back() {
    let bench = bench();
    let consumer = consumer(&bench);
    let store = bench.store.clone();
    let told: Told = bench.run(consumer.consume(message("a"), |_| async move {
        store.always(Fault::RequestLost);
        std::future::pending().await
    }));
    assert!(matches!(&told, DeliveryAction::RetryLater { because: Later::LeaseLost(_), .. }), "{told:?}");
    bench.store.always(Fault::None);
    bench.clock.advance(LEASE);
    assert_eq!(deliver(&bench, &consumer, message("a"), ok()).reason(), "executed");
}

#[test]
fn what_does_not_decode_is_done_all_the_same() {
    let bench = bench();
    let numbers = consumer(&bench).json();
    let told: DeliveryAction<u64, u64> = bench.run(numbers.consume(message("a"), |_| async { Ok(7) }));
    assert_eq!(told.value(), Some(&7));
    let told: DeliveryAction<Vec<String>, String> =
        bench.run(numbers.consume(message("a"), |_| async { panic!("it runs again") }));
    assert!(matches!(&told, DeliveryAction::Acknowledge(Acknowledged::Done)), "it is done: {told:?}");
    // A final failure stays one.
    let numbers = numbers.failures(AsValue(Json));
    let told: DeliveryAction<u64, u64, u64> =
        bench.run(numbers.consume(message("b"), |_| async { Err(Failure::Final(7)) }));
    assert_eq!(told.reason(), "failed");
    let told: DeliveryAction<u64, Vec<String>, Vec<String>> =
        bench.run(numbers.consume(message("b"), |_| async { panic!("it runs again") }));
    assert!(matches!(&told, DeliveryAction::DeadLetter(Dead::FailedBefore(None))), "{told:?}");
}

// --- The effect in the caller's own transaction -----------------------------------------------------------------------

fn granted(bench: &Bench, consumer: &Consumer<FaultyStore>, id: &str) -> Claim<FaultyStore> {
    bench.run(consumer.claim(message(id))).unwrap()
}

#[test]
fn a_claimed_message_is_disposed_of_by_how_its_transaction_ended() {
    let bench = bench();
    let consumer = consumer(&bench);
    let mut claim = granted(&bench, &consumer, "a");
    let prepared = bench.run(claim.prepare("shipped")).unwrap();
    // Not committed: nothing happened.
    let settled = bench.run(claim.settle(&prepared));
    let told: Told = consumer.settled(&claim, settled, String::new());
    assert!(is_spread(after(&told).0, secs(1)) && told.reason() == "not-committed", "{told:?}");
    assert!(is_spread(consumer.pause_after(&claim), secs(1)));
    bench.run(claim.release()).unwrap();
    // Another took over: it is retried, and found done.
    let mut slow = granted(&bench, &consumer, "a");
    assert_eq!(slow.number(), 2);
    let prepared = bench.run(slow.prepare("shipped")).unwrap();
    bench.clock.advance(LEASE);
    let other = Consumer::new(bench.other_process());
    assert_eq!(deliver(&bench, &other, message("a"), ok()).reason(), "executed");
    let settled = bench.run(slow.settle(&prepared));
    let told: Told = consumer.settled(&slow, settled, String::new());
    assert!(is_spread(after(&told).0, secs(2)) && told.reason() == "lease-lost", "{told:?}");
    assert!(is_spread(consumer.pause_after(&slow), secs(2)));
    assert_eq!(deliver_again(&bench, &consumer, message("a")).reason(), "replayed");

    let told: Told = consumer.settled(&slow, Ok(Settled::Committed), "shipped".to_owned());
    assert_eq!((told.reason(), told.value().unwrap().as_str()), ("executed", "shipped"));
}

#[test]
fn a_poll_of_claims_is_one_round_trip_and_a_key_that_comes_twice_is_granted_once() {
    let bench = bench();
    let consumer = consumer(&bench);
    let _ = deliver(&bench, &consumer, message("done"), ok());
    bench.store.batches.lock().unwrap().clear();
    let claims = bench.run(consumer.claim_many(["a", "b", "a", "done"].map(message)));
    let told: Vec<_> = claims
        .iter()
        .map(|claim| claim.as_ref().map(Claim::number).map_err(DeliveryAction::reason))
        .collect();
    assert_eq!(told, [Ok(1), Ok(1), Err("in-progress-here"), Err("replayed")]);
    // A batch is of distinct keys.
    assert_eq!(*bench.store.batches.lock().unwrap(), [3, 1]);
}

// --- Retention against redelivery -------------------------------------------------------------------------------------

#[test]
fn a_retention_shorter_than_the_redelivery_horizon_is_refused_with_the_reason() {
    let day = secs(86_400);
    let build = |retention, tail, horizon| {
        let store = FaultyStore::new(&oncekey::time::ManualClock::new());
        Deduplicator::builder(store).retention(retention).tail(tail).redelivered_for(horizon).build()
    };
    let refused = build(day, Duration::ZERO, 7 * day).unwrap_err();
    assert_eq!(refused.option(), "redelivered_for");
    for part in ["7 days", "1 day only", "retention", "tail"] {
        assert!(refused.to_string().contains(part), "{refused}");
    }
    assert!(build(day, 6 * day - secs(1), 7 * day).is_err());
    assert!(build(day, 6 * day, 7 * day).is_ok());
    assert!(build(7 * day, Duration::ZERO, 7 * day).is_ok());
    assert!(build(day, Duration::MAX, Duration::MAX).is_ok());
    assert!(build(day, Duration::ZERO, Duration::MAX).is_err());
}

/// A redelivery at the far end of the horizon finds what it needs: that it is done, or its operation id and attempts.
#[test]
fn within_the_horizon_nothing_is_forgotten() {
    let (tail, horizon) = (3 * RETENTION, 4 * RETENTION);
    let bench = bench_with(|builder| builder.tail(tail).redelivered_for(horizon));
    let consumer = consumer(&bench).attempts_max(3);
    let _ = deliver(&bench, &consumer, message("done"), ok());
    let _ = deliver(&bench, &consumer, message("released"), Err(Failure::NoEffect("busy".into())));
    let _ = deliver(&bench, &consumer, message("doubt"), Err(Failure::Unknown("timed out".into())));
    let crashed = granted(&bench, &consumer, "crashed");
    let ids = |name: &str| bench.store.peek(&key_of(name)).unwrap().record.operation_id();
    let before = ["released", "doubt", "crashed"].map(ids);
    std::mem::forget(crashed);

    bench.clock.advance(horizon - secs(1));
    assert_eq!(deliver_again(&bench, &consumer, message("done")).reason(), "done");
    let attempts = RefCell::new(Vec::new());
    for name in ["released", "doubt", "crashed"] {
        let _told: Told = bench.run(consumer.consume(message(name), |attempt: Attempt| {
            attempts.borrow_mut().push((attempt.operation_id(), attempt.number()));
            async { ok() }
        }));
    }
    assert_eq!(attempts.into_inner(), before.map(|id| (id, 2)));

    bench.clock.advance(secs(2));
    assert!(bench.store.peek(&key_of("done")).is_none_or(|entry| entry.record.state() == State::InProgress));
}
