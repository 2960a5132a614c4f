//! Thousands of messages, published with duplicates, to two consumer processes, one of which is killed again and again
//! while it handles them; and then a count of what happened.

mod audit;
mod consumer;
mod log;
mod messages;
mod nats;
mod process;
mod progress;
mod rabbitmq;
mod supervise;
mod together;

use std::time::Duration;

use oncekey::consume::Disposal;
use oncekey::protocol::Payload;

pub use audit::{Report, Tally};
pub use messages::{Copy, Kind, Messages, OTHER};
pub use nats::Nats;
pub use rabbitmq::RabbitMq;

pub use supervise::run;

/// What went wrong with a drill itself.
pub type Failed = Box<dyn std::error::Error + Send + Sync>;

/// What is done with a delivery; values and failures as they are stored.
pub type Told = Disposal<Payload, Payload>;

/// A lease: what a killed process held is free after it. Longer than a busy machine keeps a renewal waiting.
pub const LEASE: Duration = Duration::from_millis(2500);
/// After this, a broker that waits for an acknowledgement delivers again.
pub const ACK_WAIT: Duration = Duration::from_secs(2);
/// Attempts that a message has: poison ends so many processes. A message that is not poison must not meet so many kills.
pub const ATTEMPTS_MAX: u32 = 5;
/// The namespace of the keys.
pub const SCOPE: &str = "orders.ship";

/// Where a message's effect is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the database of the records: effect and completion are one transaction.
    Together,
    /// Elsewhere: the handler's effect comes first, then the completion.
    Apart,
    /// Elsewhere, without oncekey: it looks whether the message is noted as done, ships, and notes it.
    Plain,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Together, Self::Apart, Self::Plain];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Together => "same transaction",
            Self::Apart => "separate",
            Self::Plain => "plain",
        }
    }
}

/// Ways to use oncekey wrongly, for the drill to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The key is what the broker calls the delivery.
    KeyOfDelivery,
    /// The delivery is acknowledged before its message is handled.
    AcknowledgedFirst,
    /// Effects are committed, and completed after that.
    CompletedAfterwards,
}

impl Wrong {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::KeyOfDelivery, Self::AcknowledgedFirst, Self::CompletedAfterwards];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::KeyOfDelivery => "key of the delivery",
            Self::AcknowledgedFirst => "acknowledged first",
            Self::CompletedAfterwards => "completed afterwards",
        }
    }
}

/// A delivery, as any broker has it.
#[derive(Debug)]
pub struct Polled<D> {
    /// The broker's own.
    pub delivery: D,
    /// Which publication it is of.
    pub copy: u32,
    /// What the producer calls the message.
    pub id: String,
    /// What the broker calls this delivery: no key.
    pub tag: String,
    /// What it says.
    pub body: String,
    /// How often it was delivered, this time included, as far as the broker knows.
    pub deliveries: u32,
}

/// A dead letter, as it lies with the broker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeadLetter {
    /// The message's id.
    pub id: String,
    /// What it says.
    pub body: String,
    /// Why, as one word.
    pub reason: String,
    /// Why, as a sentence.
    pub explanation: String,
}

/// A broker, as a drill uses it: one connection.
pub trait Broker: Sized {
    /// What it is called in a table.
    const NAME: &'static str;
    /// A delivery of its own.
    type Delivery;

    /// Connects, for a drill of this name.
    fn connect(url: &str, name: &str) -> impl Future<Output = Result<Self, Failed>>;
    /// Makes what the drill needs: streams, queues.
    fn prepare(&self) -> impl Future<Output = Result<(), Failed>>;
    /// Publishes, and waits until all are stored, duplicates too.
    fn publish(&self, messages: &Messages) -> impl Future<Output = Result<(), Failed>>;
    /// The next deliveries, at most so many; none if none comes for a while.
    fn poll(&mut self, most: usize) -> impl Future<Output = Result<Vec<Polled<Self::Delivery>>, Failed>>;
    /// Says what becomes of a delivery.
    fn dispose(&self, delivery: &Self::Delivery, told: &Told) -> impl Future<Output = Result<(), Failed>>;
    /// Keeps a delivery while the work takes, where the broker can be told.
    fn while_working<F: Future>(&self, delivery: &Self::Delivery, work: F)
    -> impl Future<Output = F::Output>;
    /// Has what was said arrive.
    fn flush(&self) -> impl Future<Output = Result<(), Failed>>;
    /// The same, and ends the connection: what this consumer has and did not handle is there for others.
    fn close(&self) -> impl Future<Output = Result<(), Failed>>;
    /// How many messages wait, or wait for an acknowledgement, now that no consumer runs.
    fn backlog(&self) -> impl Future<Output = Result<u64, Failed>>;
    /// The dead letters.
    fn dead_letters(&self) -> impl Future<Output = Result<Vec<DeadLetter>, Failed>>;
    /// Deletes what was made.
    fn clean_up(&self) -> impl Future<Output = Result<(), Failed>>;
}

/// What is drilled.
#[derive(Clone, Debug)]
pub struct Drill {
    /// How many messages, besides their duplicates.
    pub messages: usize,
    /// How often a process is killed.
    pub kills: u32,
    /// What the consumers do.
    pub mode: Mode,
    /// What they do wrong. There is no poison then, and nothing that is refused.
    pub wrong: Option<Wrong>,
    /// How this program is started so that it calls [`consumer`]: by nothing, or as a test binary.
    pub child: &'static [&'static str],
}

/// The body of a consumer process; `false`, at once, if this process is none.
///
/// # Panics
/// If the consumer fails: its process ends, and the drill says so.
pub fn consumer<B: Broker>() -> bool {
    let Some(job) = process::Job::from_environment() else { return false };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime can be built");
    if let Err(failed) = runtime.block_on(consumer::run::<B>(&job)) {
        panic!("consumer {}: {failed}", job.process)
    }
    true
}

/// Runs a drill in each mode, and prints what came of it.
///
/// # Errors
/// As for [`run`]; and if a promise was broken.
pub fn show<B: Broker>(url: &str) -> Result<(), Failed> {
    let runtime = tokio::runtime::Runtime::new()?;
    let mut broken = 0;
    for mode in Mode::ALL {
        let drill = Drill { messages: 5_000, kills: 12, mode, wrong: None, child: &[] };
        let report = runtime.block_on(run::<B>(&drill, url))?;
        println!("{report}");
        broken += report.violations.len();
    }
    if broken == 0 { Ok(()) } else { Err(format!("promises were broken {broken} times").into()) }
}
