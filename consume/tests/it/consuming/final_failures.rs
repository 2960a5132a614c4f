//! Messages that fail for good: dead letters once that is on record, and not before.

use oncekey::ClaimError;
use oncekey::builder::OnLeaseLost;

use super::*;

#[test]
fn a_final_failure_is_a_dead_letter_at_once_and_for_every_later_delivery() {
    let bench = bench();
    let consumer = consumer(&bench);
    let told = deliver(&bench, &consumer, message("a"), Err(Failure::Final("no such order".into())));
    assert!(
        matches!(&told, DeliveryAction::DeadLetter(Dead::Failed(error)) if error == "no such order"),
        "{told:?}"
    );
    let told = deliver_again(&bench, &consumer, message("a"));
    assert!(
        matches!(&told, DeliveryAction::DeadLetter(Dead::FailedBefore(Some(error))) if error == "no such order"),
        "{told:?}"
    );
    // Also once the bytes are not kept any more, by either way of asking.
    let bench = bench_with(|builder| builder.tail(RETENTION));
    let consumer = self::consumer(&bench);
    let _ = deliver(&bench, &consumer, message("a"), Err(Failure::Final("no such order".into())));
    bench.clock.advance(RETENTION);
    let told = deliver_again(&bench, &consumer, message("a"));
    assert!(matches!(&told, DeliveryAction::DeadLetter(Dead::FailedBefore(None))), "{told:?}");
    let told = bench.run(consumer.claim(message("a"))).unwrap_err();
    assert!(matches!(&told, DeliveryAction::DeadLetter(Dead::FailedBefore(None))), "{told:?}");
}

/// Another consumer may handle the message before the store answers again. The next delivery finds out.
#[test]
fn a_final_failure_that_cannot_be_recorded_comes_back_and_is_decided_by_what_is_on_record() {
    // Whether it was recorded, or not, and whether somebody knows: no message is parked before that is known.
    let cases = [
        (Fault::Refused, "executed"),
        (Fault::Hopeless, "executed"),
        (Fault::RequestLost, "executed"),
        (Fault::ReplyLost, "failed-before"),
        (Fault::HangBefore, "executed"),
        (Fault::HangAfter, "failed-before"),
    ];
    for (fault, afterwards) in cases {
        let bench = bench();
        let consumer = consumer(&bench);
        let store = bench.store.clone();
        let told: Told = bench.run(consumer.consume(message("a"), |_| async move {
            store.always(fault);
            Err(Failure::Final("no such order".to_owned()))
        }));
        assert!(
            matches!(&told, DeliveryAction::RetryLater { because: Later::LeaseLost(_), .. }),
            "{fault:?}: {told:?}"
        );
        assert!(is_spread(after(&told).0, secs(1)), "{told:?}");
        bench.store.always(Fault::None);
        bench.clock.advance(LEASE);
        let told = deliver(&bench, &consumer, message("a").deliveries(2), ok());
        assert_eq!(told.reason(), afterwards, "{fault:?}: {told:?}");
    }
}

/// The delivery is retried later, for a lease that was lost to another consumer. That one has done the message, so the
/// next delivery is acknowledged.
fn is_left_to_what_the_other_put_on_record(bench: &Bench, first: &Consumer<FaultyStore>, told: &Told) {
    let DeliveryAction::RetryLater { because: Later::LeaseLost(error), .. } = told else {
        panic!("{told:?}")
    };
    assert!(
        matches!(error, ClaimError::Superseded { .. } | ClaimError::AlreadyCompleted { .. }),
        "{error:?}"
    );
    assert!(is_spread(after(told).0, secs(1)), "{told:?}");
    let told = deliver_again(bench, first, message("a").deliveries(2));
    assert!(
        matches!(&told, DeliveryAction::Acknowledge(Acknowledged::Replayed(value)) if value == "shipped"),
        "{told:?}"
    );
}

/// The first handler blocks its thread while its lease passes, so nothing can drop it; then it fails for good.
#[test]
fn a_final_failure_of_a_message_that_another_consumer_has_done_is_no_dead_letter() {
    let bench = bench();
    let first = consumer(&bench);
    let second = Consumer::new(bench.other_process());
    let told: Told = bench.run(first.consume(message("a"), |_| async {
        bench.store.always(Fault::Refused);
        bench.clock.advance(LEASE + MARGIN);
        bench.store.always(Fault::None);
        assert_eq!(deliver(&bench, &second, message("a"), ok()).reason(), "executed");
        Err(Failure::Final("no such order".to_owned()))
    }));
    is_left_to_what_the_other_put_on_record(&bench, &first, &told);
}

/// The same with a handler that waits, in an engine that lets it go on without its lease.
#[test]
fn a_final_failure_of_a_handler_that_went_on_without_its_lease_is_no_dead_letter() {
    let bench = bench_with(|builder| builder.on_lease_lost(OnLeaseLost::Signal));
    let first = consumer(&bench);
    let second = Consumer::new(bench.other_process());
    let (release, released) = futures::channel::oneshot::channel::<()>();
    let mut tasks = Tasks::default();
    let slow = tasks.spawn(first.consume(message("a"), |_| async {
        released.await.unwrap();
        Err(Failure::Final("no such order".to_owned()))
    }));
    tasks.settle();
    bench.store.always(Fault::Refused);
    tasks.pass(&bench.clock, LEASE + MARGIN);
    bench.store.always(Fault::None);
    assert_eq!(deliver(&bench, &second, message("a"), ok()).reason(), "executed");
    release.send(()).unwrap();
    tasks.settle();
    is_left_to_what_the_other_put_on_record(&bench, &first, &slow.take());
}
