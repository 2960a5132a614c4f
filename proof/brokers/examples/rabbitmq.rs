//! 5,000 messages through RabbitMQ, a fifth of them published twice, to two processes of which one is killed again
//! and again: `cargo run -p oncekey-brokers --example rabbitmq`.
//!
//! It starts a throw-away server, or uses the one that `ONCEKEY_RABBITMQ_URL` names.

use oncekey_brokers::drill::{Failed, RabbitMq, consumer, show};
use oncekey_brokers::server;

fn main() -> Result<(), Failed> {
    // This program is also its consumers.
    if consumer::<RabbitMq>() {
        return Ok(());
    }
    let server = server::RabbitMq::start();
    show::<RabbitMq>(server.url())
}
