//! The drill on NATS JetStream: 5,000 messages each.
#![allow(clippy::unwrap_used)]

use oncekey_brokers::drill::{Mode, Nats, consumer};
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
