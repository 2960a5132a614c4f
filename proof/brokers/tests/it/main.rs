//! The drill on real brokers, 2,000 messages each; and the page on those that are only compiled.
#![allow(clippy::unwrap_used)]

mod copies;
mod docs;
mod limits;
mod refused;
mod support;

use oncekey_brokers::drill::{Mode, Nats, RabbitMq, Wrong, consumer};

/// The drills of each broker.
macro_rules! drills {
    ($($broker:ident: $Broker:ty;)*) => {$(
        mod $broker {
            use super::*;

            #[test]
            #[ignore = "run by other tests, in processes of their own"]
            fn child() {
                if !consumer::<$Broker>() {
                    println!("nothing to do: other tests run this, in processes of their own");
                }
            }

            #[test]
            fn effect_and_completion_in_one_transaction_give_each_message_its_effect_once() {
                let report = support::drill::<$Broker>(Mode::Together);
                support::once_each(&report);
            }

            #[test]
            fn effects_elsewhere_never_run_two_at_once_and_repeat_only_where_a_process_was_killed() {
                let report = support::drill::<$Broker>(Mode::Apart);
                support::never_two_at_once(&report);
            }

            #[test]
            fn a_plain_consumer_beside_it_ships_twice_though_nothing_was_killed_there() {
                let report = support::drill::<$Broker>(Mode::Plain);
                support::twice_by_races(&report);
            }
        }
    )*};
}

drills! {
    nats: Nats;
    rabbitmq: RabbitMq;
}

// The drill sees what is wrong: consumers with a mistake each.

#[test]
fn a_key_taken_from_the_delivery_ships_each_duplicate_again() {
    let report = support::wrongly::<Nats>(Wrong::KeyOfDelivery);
    support::found(&report, "has an effect more, though nothing was in doubt");
}

#[test]
fn a_key_taken_from_the_delivery_belongs_to_another_message_in_each_channel() {
    let report = support::wrongly::<RabbitMq>(Wrong::KeyOfDelivery);
    support::found(&report, r#"its dead letters say ["mismatch""#);
}

#[test]
fn a_delivery_acknowledged_before_it_is_handled_is_lost_with_its_process() {
    let report = support::wrongly::<Nats>(Wrong::AcknowledgedFirst);
    support::found(&report, "shipped is false");
}

#[test]
fn a_completion_after_the_transaction_ships_twice() {
    let report = support::wrongly::<Nats>(Wrong::CompletedAfterwards);
    support::found(&report, "has an effect more, though nothing was in doubt");
}
