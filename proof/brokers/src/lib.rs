//! oncekey's consumers on real brokers.
//!
//! Modules to copy, each of which says what an answer of a [`Consumer`](oncekey_consume::Consumer) is in a broker's words:
//! [`jetstream`], [`rabbitmq`], and, compiled but not run here, `kafka` and `sqs` (features of these names).
//!
//! And the [`drill`] that shows what comes of it: thousands of messages, published with duplicates, to two processes, one
//! of which is killed again and again while it handles them. It is run by the examples and by the tests.

pub mod drill;
pub mod jetstream;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod offsets;
pub mod rabbitmq;
pub mod server;
#[cfg(feature = "sqs")]
pub mod sqs;
