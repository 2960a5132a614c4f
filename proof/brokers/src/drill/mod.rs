//! Thousands of messages, published with duplicates, to two consumer processes, one of which is killed again and again
//! while it handles them; and then a count of what happened.

mod audit;
mod broker;
mod consumer;
mod engine;
mod log;
mod messages;
mod nats;
mod process;
mod progress;
mod rabbitmq;
mod scenario;
mod stalls;
mod stay;
mod supervise;
mod together;

pub use audit::{Report, Tally};
pub use broker::{Broker, DeadLetter, DrillAction, Polled};
pub use consumer::consumer;
pub use messages::{Copy, Kind, Messages, OTHER};
pub use nats::Nats;
pub use rabbitmq::RabbitMq;
pub use scenario::{ACK_WAIT, ATTEMPTS_MAX, Drill, Failed, LEASE, Mode, SCOPE, Wrong};
pub use supervise::{run, show};
