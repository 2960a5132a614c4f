//! The drill on RabbitMQ: 5,000 messages each.
#![allow(clippy::unwrap_used)]

use std::sync::OnceLock;

use oncekey_brokers::drill::{Mode, RabbitMq, Wrong, consumer};
use oncekey_brokers::server;

mod support;

/// One server for all: it takes seconds to start, and is ended with this process.
fn url() -> &'static str {
    static SERVER: OnceLock<server::RabbitMq> = OnceLock::new();
    SERVER.get_or_init(server::RabbitMq::start).url()
}

#[test]
#[ignore = "run by other tests, in processes of their own"]
fn child() {
    if !consumer::<RabbitMq>() {
        println!("nothing to do: other tests run this, in processes of their own");
    }
}

#[test]
fn effect_and_completion_in_one_transaction_give_each_message_its_effect_once() {
    let report = support::drill::<RabbitMq>(Mode::Together, url());
    support::once_each(&report);
    // Two copies in one poll.
    assert!(report.tally.extended > 0, "{report}");
}

#[test]
fn effects_elsewhere_never_run_two_at_once_and_repeat_only_where_a_process_was_killed() {
    let report = support::drill::<RabbitMq>(Mode::Apart, url());
    support::never_two_at_once(&report);
}

#[test]
fn a_plain_consumer_beside_it_ships_twice_though_nothing_was_killed_there() {
    let report = support::drill::<RabbitMq>(Mode::Plain, url());
    support::twice_by_races(&report);
}

// What the drill is for: it sees what is wrong.

#[test]
fn a_key_taken_from_the_delivery_belongs_to_another_message_in_each_channel() {
    let report = support::wrongly::<RabbitMq>(Wrong::KeyOfDelivery, Mode::Together, url());
    support::found(&report, r#"its dead letters say ["mismatch""#);
}
