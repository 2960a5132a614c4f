//! Polls of many messages: one round trip, twins, failures that are one message's own.

use super::*;

/// Consumes these ids in one poll, each handled as `handle` says; how often each handler ran.
fn poll(
    bench: &Bench,
    consumer: &Consumer<FaultyStore>,
    ids: &[&'static str],
    handle: impl Fn(&str) -> Handled,
) -> (Vec<Told>, Vec<&'static str>) {
    let ran = RefCell::new(Vec::new());
    let messages: Vec<_> = ids
        .iter()
        .map(|id| {
            let (ran, handle, id) = (&ran, &handle, *id);
            (message(id), move |_: Attempt| async move {
                ran.borrow_mut().push(id);
                handle(id)
            })
        })
        .collect();
    let told = bench.run(consumer.consume_many(messages));
    (told, ran.into_inner())
}

fn reasons(told: &[Told]) -> Vec<&'static str> {
    told.iter().map(DeliveryAction::reason).collect()
}

#[test]
fn a_poll_is_one_round_trip_to_claim_and_one_to_complete() {
    let bench = bench();
    let consumer = consumer(&bench);
    let messages: Vec<_> = (0..500)
        .map(|id| {
            (
                message(&id.to_string()),
                move |_: Attempt| async move { Ok::<_, Failure<String>>(id.to_string()) },
            )
        })
        .collect();
    let told: Vec<Told> = bench.run(consumer.consume_many(messages));
    for (id, told) in told.iter().enumerate() {
        assert_eq!(told.value(), Some(&id.to_string()));
    }
    assert_eq!(*bench.store.batches.lock().unwrap(), [500, 500]);
    assert_eq!(bench.store.trips(), (1000, 0));
    assert_eq!(bench.dedup.held(), 0);
}

#[test]
fn a_key_that_comes_twice_in_a_poll_is_handled_once_and_both_are_acknowledged() {
    let bench = bench();
    let consumer = consumer(&bench);
    let (told, ran) = poll(&bench, &consumer, &["a", "b", "a", "c", "b"], |_| ok());
    assert_eq!(reasons(&told), ["executed", "executed", "replayed", "executed", "replayed"]);
    assert_eq!(ran, ["a", "b", "c"]);
    // Claims, completions, and one look for the others.
    assert_eq!(*bench.store.batches.lock().unwrap(), [3, 3, 2]);
}

#[test]
fn a_message_that_fails_fails_none_of_its_neighbours_and_its_twin_waits_as_it_does() {
    let bench = bench();
    let consumer = consumer(&bench).backoff(secs(3), secs(60));
    let (told, ran) =
        poll(&bench, &consumer, &["busy", "a", "broken", "busy", "broken", "b"], |id| match id {
            "busy" => Err(Failure::NoEffect("busy".to_owned())),
            "broken" => Err(Failure::Final("broken".to_owned())),
            _ => ok(),
        });
    assert_eq!(
        reasons(&told),
        ["no-effect", "executed", "failed", "not-done-before", "failed-before", "executed"]
    );
    assert_eq!(ran, ["busy", "a", "broken", "b"]);
    assert!(is_spread(after(&told[0]).0, secs(3)), "{:?}", told[0]);
    assert_eq!(after(&told[3]).0, after(&told[0]).0, "its twin");
    let attempts = bench.store.peek(&key_of("busy")).unwrap().record.attempt();
    assert_eq!(attempts, 1, "no second attempt followed at once");
}

/// The second of one key may be another message: that is found out, whatever the first was.
#[test]
fn twins_in_a_poll_with_other_payloads_are_told_apart() {
    let bench = bench();
    let consumer = consumer(&bench);
    let messages: Vec<_> = ["ship 7", "ship 8", "ship 7"]
        .into_iter()
        .map(|body| {
            let message = message("a").fingerprint_of(body);
            (message, move |_: Attempt| async move { Ok::<_, Failure<String>>(body.to_owned()) })
        })
        .collect();
    let told: Vec<Told> = bench.run(consumer.consume_many(messages));
    assert_eq!(reasons(&told), ["executed", "mismatch", "replayed"]);
}

#[test]
fn a_handler_that_panics_in_a_poll_costs_its_neighbours_nothing() {
    let bench = bench();
    let consumer = consumer(&bench).policy(Policy::Hold);
    let messages: Vec<_> = ["good", "poison", "slow"]
        .into_iter()
        .map(|id| {
            let clock = bench.clock.clone();
            let handler = move |_: Attempt| async move {
                match id {
                    "poison" => panic!("the handler panics"),
                    "slow" => clock.sleep_until(clock.now() + secs(2)).await,
                    _ => {}
                }
                ok()
            };
            (message(id), handler)
        })
        .collect();
    let told: Vec<Told> = bench.run(consumer.consume_many(messages));
    assert_eq!(reasons(&told), ["executed", "panicked", "executed"]);
    assert_eq!(bench.dedup.held(), 0);
    // Its claim is left to its lease; then it is in doubt.
    assert_eq!(deliver_again(&bench, &consumer, message("poison")).reason(), "in-progress");
    bench.clock.advance(LEASE);
    assert_eq!(deliver_again(&bench, &consumer, message("poison")).reason(), "in-doubt");
}

/// Twins that are other messages are asked for one after the other, and wait for nobody.
#[test]
fn twins_of_another_payload_hold_up_no_poll_and_are_tried_once() {
    let bench = bench();
    let consumer = consumer(&bench).attempts_max(3);
    let one = || message("a").fingerprint_of("ship 7");
    let two = || message("a").fingerprint_of("ship 8");
    let elsewhere = Consumer::new(bench.other_process());
    let running = bench.run(elsewhere.claim(two())).unwrap();
    let begun = bench.clock.now();
    let fails = |_: Attempt| async { Err::<String, _>(Failure::NoEffect("busy".to_owned())) };
    let told: Vec<Told> = bench.run(consumer.consume_many([
        (one(), fails),
        (two(), fails),
        (two(), fails),
        (message("b"), fails),
    ]));
    assert_eq!(reasons(&told), ["mismatch", "in-progress", "not-done-before", "no-effect"]);
    assert_eq!(bench.clock.now(), begun, "it waited");

    std::mem::forget(running);
    bench.clock.advance(LEASE);
    let poll = [(one(), fails), (two(), fails), (two(), fails), (two(), fails), (two(), fails)];
    let told: Vec<Told> = bench.run(consumer.consume_many(poll));
    assert_eq!(reasons(&told)[..2], ["mismatch", "unknown-effect"], "after doubt it cannot vouch");
    assert_eq!(reasons(&told)[2..], ["not-done-before"; 3]);
    assert_eq!(bench.store.peek(&key_of("a")).unwrap().record.attempt(), 2);
}

/// A store that is broken as a whole says nothing of any message.
#[test]
fn a_store_that_fails_for_every_key_fills_no_dead_letters() {
    for fault in [Fault::Refused, Fault::Hopeless, Fault::RequestLost] {
        let bench = bench();
        bench.store.always(fault);
        let (told, ran) = poll(&bench, &consumer(&bench), &["a", "b", "c"], |_| ok());
        assert_eq!((reasons(&told), ran.len()), (vec!["store"; 3], 0), "{fault:?}");
    }
}

#[test]
fn a_store_that_fails_for_some_puts_off_these_only() {
    let bench = bench();
    let consumer = consumer(&bench);
    // The second is refused in the batch, and then alone as often as it is tried.
    bench.store.plan([Fault::None, Fault::Hopeless, Fault::None]);
    let (told, ran) = poll(&bench, &consumer, &["a", "b", "c"], |_| ok());
    assert_eq!(reasons(&told), ["executed", "store", "executed"]);
    assert_eq!(ran, ["a", "c"]);
}

#[test]
fn a_poll_of_nothing_is_nothing() {
    let bench = bench();
    let (told, _) = poll(&bench, &consumer(&bench), &[], |_| ok());
    assert!(told.is_empty());
    assert_eq!(bench.store.trips(), (0, 0));
}

#[test]
fn messages_that_failed_together_do_not_come_back_together() {
    let bench = bench();
    let consumer = consumer(&bench);
    let messages = (0..200).map(|id| {
        let failing = |_: Attempt| async { Err::<String, _>(Failure::NoEffect("down".to_owned())) };
        (message(&id.to_string()), failing)
    });
    let told: Vec<Told> = bench.run(consumer.consume_many(messages));
    let pauses: std::collections::BTreeSet<_> = told.iter().map(|told| after(told).0).collect();
    assert!(pauses.iter().all(|pause| is_spread(*pause, secs(1))), "{pauses:?}");
    assert!(pauses.len() > 150, "{} pauses of 200 messages", pauses.len());
    // Over the whole of the spread, and not at one end of it.
    let early = pauses.iter().filter(|pause| **pause < Duration::from_millis(1_250)).count();
    assert!((20..180).contains(&early), "{early} of 200 in the first half");
}
