//! The drill on NATS JetStream: 5,000 messages each.
#![allow(clippy::unwrap_used)]

use oncekey_brokers::drill::{Mode, Nats, Wrong, consumer};
use oncekey_brokers::server;

mod support;

#[test]
#[ignore = "run by other tests, in processes of their own"]
fn child() {
    if !consumer::<Nats>() {
        println!("nothing to do: other tests run this, in processes of their own");
    }
}

#[test]
fn effect_and_completion_in_one_transaction_give_each_message_its_effect_once() {
    let report = support::drill::<Nats>(Mode::Together, server::Nats::start().url());
    support::once_each(&report);
    // Two copies in one poll.
    assert!(report.tally.extended > 0, "{report}");
}

#[test]
fn effects_elsewhere_never_run_two_at_once_and_repeat_only_where_a_process_was_killed() {
    let report = support::drill::<Nats>(Mode::Apart, server::Nats::start().url());
    support::never_two_at_once(&report);
}

#[test]
fn a_plain_consumer_beside_it_ships_twice_though_nothing_was_killed_there() {
    let report = support::drill::<Nats>(Mode::Plain, server::Nats::start().url());
    support::twice_by_races(&report);
}

// What the drill is for: it sees what is wrong.

#[test]
fn a_key_taken_from_the_delivery_ships_each_duplicate_again() {
    let server = server::Nats::start();
    let report = support::wrongly::<Nats>(Wrong::KeyOfDelivery, Mode::Together, server.url());
    support::found(&report, "has an effect more, though nothing was in doubt");
}

#[test]
fn a_delivery_acknowledged_before_it_is_handled_is_lost_with_its_process() {
    let server = server::Nats::start();
    let report = support::wrongly::<Nats>(Wrong::AcknowledgedFirst, Mode::Together, server.url());
    support::found(&report, "shipped is false");
}

#[test]
fn a_completion_after_the_transaction_ships_twice() {
    let server = server::Nats::start();
    let report = support::wrongly::<Nats>(Wrong::CompletedAfterwards, Mode::Together, server.url());
    support::found(&report, "has an effect more, though nothing was in doubt");
}
