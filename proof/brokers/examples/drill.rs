//! 5,000 messages through a broker, a fifth of them published twice, to two processes of which one is killed again and
//! again: `cargo run -p oncekey-brokers --example drill -- nats`, or `-- rabbitmq`.
//!
//! It starts a throw-away server, or uses the one that `ONCEKEY_NATS_URL` or `ONCEKEY_RABBITMQ_URL` names.

use oncekey_brokers::drill::{Failed, Nats, RabbitMq, consumer, show};
use oncekey_brokers::server;

fn main() -> Result<(), Failed> {
    // This program is also its consumers.
    match std::env::args().nth(1).as_deref() {
        Some("nats") if consumer::<Nats>() => Ok(()),
        Some("nats") => show::<Nats>(server::Nats::start().url(), &["nats"]),
        Some("rabbitmq") if consumer::<RabbitMq>() => Ok(()),
        Some("rabbitmq") => show::<RabbitMq>(server::RabbitMq::start().url(), &["rabbitmq"]),
        _ => Err("name a broker: nats or rabbitmq".into()),
    }
}
