//! A broker, as a drill sees it.

use oncekey::protocol::Payload;
use oncekey_consume::DeliveryAction;

use super::messages::Messages;
use super::scenario::Failed;

/// The answer for a delivery, with values and failures as they are stored.
pub type DrillAction = DeliveryAction<Payload, Payload, Payload>;

/// A delivery, as any broker has it.
#[derive(Debug)]
pub struct Polled<D> {
    /// The broker's own.
    pub delivery: D,
    /// Which publication it is of.
    pub copy: u32,
    /// The producer's name for the message.
    pub id: String,
    /// The broker's name for this delivery: no key.
    pub tag: String,
    /// Its text.
    pub body: String,
    /// How often it was delivered, this time included, as far as the broker knows.
    pub deliveries: u32,
}

/// A dead letter, as it lies with the broker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeadLetter {
    /// The message's id.
    pub id: String,
    /// Its text.
    pub body: String,
    /// Why, as one word.
    pub reason: String,
    /// Why, as a sentence.
    pub explanation: String,
}

/// A broker, as a drill uses it: one connection.
pub trait Broker: Sized {
    /// Its name in a table.
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
    fn carry_out(
        &self,
        delivery: &Self::Delivery,
        told: &DrillAction,
    ) -> impl Future<Output = Result<(), Failed>>;
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
