//! Throw-away brokers: started on a free port of 127.0.0.1, with their data in a directory of their own; ended and deleted
//! with their handle, and also when this process ends in any other way.
//!
//! A broker that cannot be started is a panic that says what to install: never a skip.

mod nats;
mod rabbitmq;

pub use nats::Nats;
pub use rabbitmq::RabbitMq;
