//! Kafka: what a consumer answers, in its words. Compiled, and not run here: no server is started for it.
//!
//! `docs/kafka-and-sqs.md` says what is different about Kafka.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oncekey_consume::DeliveryAction;
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};

use crate::offsets::Offsets;

/// The header in which the producer names its message: the same for each time that it sends it. It is the key.
pub const MESSAGE_ID: &str = "message-id";
/// In a dead letter: why, as one word.
pub const REASON: &str = "oncekey-reason";
/// In a message that was put off: not before this, in milliseconds since the Unix epoch.
pub const NOT_BEFORE: &str = "oncekey-not-before-ms";

/// What is received and not disposed of, for this member of the group.
#[derive(Debug, Default)]
pub struct Group {
    offsets: Mutex<Offsets>,
}

impl Group {
    fn offsets(&self) -> MutexGuard<'_, Offsets> {
        self.offsets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Group {}

impl ConsumerContext for Group {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(partitions) = rebalance {
            for partition in partitions.elements() {
                self.offsets().revoked(partition.topic(), partition.partition());
            }
        }
    }
}

/// A member of a group that commits what it stores, and stores nothing by itself.
///
/// # Errors
/// As the client's.
pub fn member(servers: &str, group: &str, topics: &[&str]) -> Result<StreamConsumer<Group>, KafkaError> {
    let consumer: StreamConsumer<Group> = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", group)
        .set("auto.offset.reset", "earliest")
        // What is stored is committed now and then; a message is stored when it is disposed of, not when it is received.
        .set("enable.auto.commit", "true")
        .set("enable.auto.offset.store", "false")
        .create_with_context(Group::default())?;
    consumer.subscribe(topics)?;
    Ok(consumer)
}

/// Receives a message, and notes that it is not disposed of.
///
/// # Errors
/// As the client's.
///
/// # Cancel safety
/// If dropped, nothing is received.
pub async fn receive(consumer: &StreamConsumer<Group>) -> Result<BorrowedMessage<'_>, KafkaError> {
    let message = consumer.recv().await?;
    consumer.context().offsets().received(message.topic(), message.partition(), message.offset());
    Ok(message)
}

/// What the producer called the message. One without a name cannot be told from its duplicates: put it aside.
pub fn message_id<'a>(message: &'a BorrowedMessage<'_>) -> Option<&'a str> {
    let id = message.headers()?.iter().find(|header| header.key == MESSAGE_ID)?;
    std::str::from_utf8(id.value?).ok()
}

/// Where messages go that are not done.
#[derive(Debug, Clone, Copy)]
pub struct Topics<'a> {
    /// What is to be tried again later. Its consumer waits with each until [`NOT_BEFORE`], and then handles it as any
    /// other.
    pub later: &'a str,
    /// The dead letters.
    pub dead: &'a str,
}

/// Carries out an action: puts a copy where it belongs, and then has the group pass over the message.
///
/// # Errors
/// As the client's. The message is then not passed over: it comes again with the next rebalance.
///
/// # Cancel safety
/// If dropped, a copy may be there, and the message comes again all the same.
pub async fn carry_out<T, E, F>(
    consumer: &StreamConsumer<Group>,
    producer: &FutureProducer,
    message: &BorrowedMessage<'_>,
    action: &DeliveryAction<T, E, F>,
    topics: Topics<'_>,
) -> Result<(), KafkaError> {
    match action {
        DeliveryAction::Acknowledge(_) => {}
        // A partition waits for nobody: what is put off goes to a topic of its own.
        DeliveryAction::RetryLater { after, .. } | DeliveryAction::Extend { by: after } => {
            let not_before = millis_since_epoch(SystemTime::now() + *after).to_string();
            copy(producer, message, topics.later, NOT_BEFORE, &not_before).await?;
        }
        DeliveryAction::DeadLetter(why) => copy(producer, message, topics.dead, REASON, why.reason()).await?,
    }
    pass_over(consumer, message)
}

/// Stores the offset up to which all is disposed of.
fn pass_over(consumer: &StreamConsumer<Group>, message: &BorrowedMessage<'_>) -> Result<(), KafkaError> {
    let (topic, partition) = (message.topic(), message.partition());
    // Held while it is stored, so that a lower one does not come after a higher.
    let mut offsets = consumer.context().offsets();
    if let Some(next) = offsets.disposed(topic, partition, message.offset()) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(next))?;
        consumer.store_offsets(&list)?;
    }
    Ok(())
}

/// Produces a copy, and waits until it is stored.
async fn copy(
    producer: &FutureProducer,
    message: &BorrowedMessage<'_>,
    topic: &str,
    name: &str,
    value: &str,
) -> Result<(), KafkaError> {
    let mut headers = OwnedHeaders::new();
    for header in message.headers().into_iter().flat_map(|headers| headers.iter()) {
        if header.key != name {
            headers = headers.insert(header);
        }
    }
    let headers = headers.insert(Header { key: name, value: Some(value) });
    let mut record = FutureRecord::<[u8], [u8]>::to(topic).headers(headers);
    record.key = message.key();
    record.payload = message.payload();
    producer.send(record, Duration::from_secs(30)).await.map(drop).map_err(|(error, _)| error)
}

fn millis_since_epoch(time: SystemTime) -> u128 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis())
}
