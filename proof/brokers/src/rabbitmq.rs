//! RabbitMQ: what a consumer answers, in its words. A module to copy.
//!
//! | action | RabbitMQ |
//! |---|---|
//! | acknowledge | `basic.ack` |
//! | retry later | a copy to a queue whose messages expire into the work queue, and, once that is stored, `basic.ack` |
//! | extend | as retry later: there is no timeout of a delivery to wait for. [`DeliveryAction::or_later`] says so of the answer |
//! | dead letter | a copy with the reason to the dead-letter exchange, and, once that is stored, `basic.ack` |
//!
//! `basic.nack` with requeue has no delay: what is in progress elsewhere would circle. `basic.reject` without requeue takes
//! a delivery to the dead-letter exchange too, without a word of why. A delay is a queue with one time to live for all its
//! messages: with a time of their own, those behind a long one wait with it.
//!
//! The broker acts on some properties and headers of a message: `expiration`, `user-id`, `CC`, `x-delay`, `x-death` and
//! others. They are about the first publication. In a copy they would let a dead letter expire, have it refused, or send
//! it elsewhere, so they are in headers of ours there: see [`ORIGINAL`].
//!
//! Between the copy and the `basic.ack` a process may end: then there are two of the message, which is what oncekey is for.

mod copy;

use std::time::Duration;

use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, ExchangeKind};
use oncekey_consume::DeliveryAction;

pub use self::copy::ORIGINAL;
use self::copy::{DELIVERED, text};

/// In a dead letter: why, as one word.
pub const REASON: &str = "oncekey-reason";
/// In a dead letter: why, as a sentence.
pub const EXPLANATION: &str = "oncekey-explanation";
/// The shortest delay; each further queue has twice that of the one before.
const DELAY_MIN_MS: u32 = 125;

/// What went wrong.
#[derive(Debug)]
pub enum Error {
    /// The server could not be told.
    Client(lapin::Error),
    /// It did not keep a copy that it was given.
    NotKept,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Client(error) => write!(f, "RabbitMQ: {error}"),
            Self::NotKept => f.write_str("RabbitMQ did not keep the copy of a message"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Client(error) => Some(error),
            Self::NotKept => None,
        }
    }
}

impl From<lapin::Error> for Error {
    fn from(error: lapin::Error) -> Self {
        Self::Client(error)
    }
}

/// What the producer called the message: its property `message-id`, the same for each time that it sends it. It is the
/// key. One without a name cannot be told from its duplicates: put it aside.
pub fn message_id(delivery: &Delivery) -> Option<&str> {
    delivery.properties.message_id().as_ref().map(ShortString::as_str)
}

/// How often it was delivered, this time included, as far as is known: RabbitMQ says only whether it was before.
pub fn deliveries(delivery: &Delivery) -> u32 {
    delivered(delivery).saturating_add(1 + u32::from(delivery.redelivered))
}

/// How often it was put off.
fn delivered(delivery: &Delivery) -> u32 {
    let headers = delivery.properties.headers().as_ref();
    match headers.and_then(|headers| headers.inner().get(DELIVERED)) {
        Some(AMQPValue::LongUInt(delivered)) => *delivered,
        _ => 0,
    }
}

/// A work queue, with the queues for its delays and its dead letters.
#[derive(Clone, Debug)]
pub struct Queues {
    channel: Channel,
    work: String,
    delays_ms: Vec<u32>,
}

impl Queues {
    /// Declares them, all durable: `work`; `work.dead`, an exchange and its queue; `work.later.125` and so on, up to the
    /// longest delay. What is to be put off for longer comes back after that one. The channel is switched to publisher
    /// confirms.
    ///
    /// # Errors
    /// If the server refuses it, or a queue is there with other properties.
    pub async fn declare(channel: Channel, work: &str, longest: Duration) -> Result<Self, Error> {
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let dead = dead(work);
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        channel.exchange_declare(&dead, ExchangeKind::Fanout, durable, FieldTable::default()).await?;
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(&dead, durable, FieldTable::default()).await?;
        channel.queue_bind(&dead, &dead, "", QueueBindOptions::default(), FieldTable::default()).await?;

        // What somebody rejects goes there too.
        let mut arguments = FieldTable::default();
        arguments.insert("x-dead-letter-exchange".into(), text(&dead));
        channel.queue_declare(work, durable, arguments).await?;

        let delays_ms = delays_ms(longest);
        for delay_ms in &delays_ms {
            let mut arguments = FieldTable::default();
            arguments.insert("x-message-ttl".into(), AMQPValue::LongUInt(*delay_ms));
            // When its time is over: back, by the exchange that takes the name of a queue.
            arguments.insert("x-dead-letter-exchange".into(), text(""));
            arguments.insert("x-dead-letter-routing-key".into(), text(work));
            channel.queue_declare(&later(work, *delay_ms), durable, arguments).await?;
        }
        Ok(Self { channel, work: work.to_owned(), delays_ms })
    }

    /// The work queue.
    pub fn work(&self) -> &str {
        &self.work
    }

    /// The queue of the dead letters.
    pub fn dead_letters(&self) -> String {
        dead(&self.work)
    }

    /// The queues of the delays.
    pub fn delays(&self) -> impl Iterator<Item = String> {
        self.delays_ms.iter().map(|delay_ms| later(&self.work, *delay_ms))
    }

    /// Tells the server what becomes of a delivery.
    ///
    /// # Errors
    /// If it cannot be told, or does not keep a copy. The delivery is then unacknowledged, and comes again when the channel
    /// is closed.
    ///
    /// # Cancel safety
    /// If dropped, the server may or may not have been told; the message may be there twice.
    pub async fn carry_out<T, E, F>(
        &self,
        delivery: &Delivery,
        action: &DeliveryAction<T, E, F>,
    ) -> Result<(), Error> {
        match action {
            DeliveryAction::Acknowledge(_) => {}
            DeliveryAction::RetryLater { after, .. } | DeliveryAction::Extend { by: after } => {
                let delivered = AMQPValue::LongUInt(deliveries(delivery));
                let queue = later(&self.work, self.delay_ms(*after));
                self.copy(delivery, "", &queue, [(DELIVERED, delivered)]).await?;
            }
            DeliveryAction::DeadLetter(why) => {
                let why = [(REASON, text(why.reason())), (EXPLANATION, text(&why.to_string()))];
                self.copy(delivery, &dead(&self.work), "", why).await?;
            }
        }
        // In this order: what was acknowledged and not kept would be lost.
        delivery.ack(BasicAckOptions::default()).await?;
        Ok(())
    }

    /// The shortest delay that is as long; the longest one, if none is.
    fn delay_ms(&self, after: Duration) -> u32 {
        let long_enough = self.delays_ms.iter().find(|delay| u128::from(**delay) >= after.as_millis());
        *long_enough.or(self.delays_ms.last()).unwrap_or(&DELAY_MIN_MS)
    }

    /// Publishes a copy, and waits until it is kept.
    async fn copy<const N: usize>(
        &self,
        delivery: &Delivery,
        exchange: &str,
        queue: &str,
        more: [(&str, AMQPValue); N],
    ) -> Result<(), Error> {
        let headers = copy::headers(&delivery.properties, more);
        let properties = copy::properties(&delivery.properties).with_headers(headers);
        publish(&self.channel, exchange, queue, &delivery.data, properties).await
    }
}

/// Publishes a message on a channel with confirms, and waits until it is kept.
///
/// # Errors
/// If the server cannot be told, or does not keep it.
pub async fn publish(
    channel: &Channel,
    exchange: &str,
    queue: &str,
    payload: &[u8],
    properties: BasicProperties,
) -> Result<(), Error> {
    let mandatory = BasicPublishOptions { mandatory: true, ..Default::default() };
    let confirm = channel.basic_publish(exchange, queue, mandatory, payload, properties).await?.await?;
    // One that goes nowhere comes back, with an acknowledgement.
    let kept = confirm.is_ack() && confirm.take_message().is_none();
    if kept { Ok(()) } else { Err(Error::NotKept) }
}

fn dead(work: &str) -> String {
    format!("{work}.dead")
}

fn later(work: &str, delay_ms: u32) -> String {
    format!("{work}.later.{delay_ms}")
}

/// The delays that there are queues for: each twice the one before, until one is as long as
/// `longest`.
fn delays_ms(longest: Duration) -> Vec<u32> {
    let longest = u32::try_from(longest.as_millis()).unwrap_or(u32::MAX);
    std::iter::successors(Some(DELAY_MIN_MS), |delay| delay.checked_mul(2))
        .take_while(|delay| delay / 2 < longest.max(DELAY_MIN_MS))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_longest_delay_has_its_queues() {
        let of_ms = |ms| delays_ms(Duration::from_millis(ms));
        assert_eq!(delays_ms(Duration::ZERO), [125]);
        assert_eq!(delays_ms(Duration::from_nanos(1)), [125]);
        assert_eq!(
            [of_ms(125), of_ms(126), of_ms(1000)],
            [vec![125], vec![125, 250], vec![125, 250, 500, 1000]]
        );
        let most = delays_ms(Duration::MAX);
        assert_eq!(
            (most.len(), most.last()),
            (26, Some(&(125 << 25))),
            "some 48 days: the most that 32 bits count"
        );
    }
}
