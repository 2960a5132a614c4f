//! 5,000 messages through NATS JetStream, a fifth of them published twice, to two processes of which one is killed again
//! and again: `cargo run -p oncekey-brokers --example nats`.
//!
//! It starts a throw-away server, or uses the one that `ONCEKEY_NATS_URL` names.

use oncekey_brokers::drill::{Failed, Nats, consumer, show};
use oncekey_brokers::server;

fn main() -> Result<(), Failed> {
    // This program is also its consumers.
    if consumer::<Nats>() {
        return Ok(());
    }
    let server = server::Nats::start();
    show::<Nats>(server.url())
}
