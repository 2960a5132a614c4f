//! The drill on RabbitMQ.

use std::fmt;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use lapin::message::Delivery;
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicQosOptions, ExchangeDeleteOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

use super::broker::{Broker, DeadLetter, DrillAction, Polled};
use super::messages::{Copy, Messages};
use super::scenario::{Failed, LEASE};
use crate::rabbitmq::{EXPLANATION, Queues, REASON, deliveries, message_id, publish};

/// In each message: which publication it is.
const COPY: &str = "copy";
/// Most deliveries that a consumer has unacknowledged.
const PREFETCH: u16 = 50;
/// How long a poll waits for its first delivery, and for more.
const WAIT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(2));

/// A connection to RabbitMQ.
pub struct RabbitMq {
    connection: Connection,
    channel: Channel,
    queues: Queues,
    /// Made when it is first polled: the drill itself does not.
    consumer: Option<lapin::Consumer>,
}

impl fmt::Debug for RabbitMq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitMq").field("queues", &self.queues).finish_non_exhaustive()
    }
}

impl RabbitMq {
    async fn publish_all(&self, copies: &[Copy]) -> Result<(), Failed> {
        for some in copies.chunks(200) {
            let published = some.iter().map(|copy| {
                let mut headers = FieldTable::default();
                headers.insert(COPY.into(), AMQPValue::LongUInt(copy.number));
                let properties = BasicProperties::default().with_message_id(copy.id.as_str().into());
                let properties = properties.with_headers(headers).with_delivery_mode(2);
                publish(&self.channel, "", self.queues.work(), copy.body.as_bytes(), properties)
            });
            join_all(published).await.into_iter().collect::<Result<Vec<()>, _>>()?;
        }
        Ok(())
    }
}

impl Broker for RabbitMq {
    const NAME: &'static str = "RabbitMQ";
    type Delivery = Delivery;

    async fn connect(url: &str, name: &str) -> Result<Self, Failed> {
        let tokio = ConnectionProperties::default()
            .with_executor(tokio_executor_trait::Tokio::current())
            .with_reactor(tokio_reactor_trait::Tokio::current());
        let connection = Connection::connect(url, tokio).await?;
        let channel = connection.create_channel().await?;
        let queues = Queues::declare(channel.clone(), name, LEASE).await?;
        Ok(Self { connection, channel, queues, consumer: None })
    }

    async fn prepare(&self) -> Result<(), Failed> {
        // Each connection declares what it needs.
        Ok(())
    }

    async fn publish(&self, messages: &Messages) -> Result<(), Failed> {
        self.publish_all(&messages.soon).await?;
        self.publish_all(&messages.late).await
    }

    async fn poll(&mut self, most: usize) -> Result<Vec<Polled<Delivery>>, Failed> {
        if self.consumer.is_none() {
            self.channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
            let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
            self.consumer =
                Some(self.channel.basic_consume(self.queues.work(), "", options, arguments).await?);
        }
        let consumer = self.consumer.as_mut().expect("it was made");
        let (mut wait, more) = WAIT;
        let mut polled = Vec::new();
        while polled.len() < most {
            let Ok(delivery) = tokio::time::timeout(wait, consumer.next()).await else { break };
            wait = more;
            let delivery = delivery.ok_or("the channel is closed")??;
            let headers = delivery.properties.headers().as_ref();
            let Some(AMQPValue::LongUInt(copy)) = headers.and_then(|headers| headers.inner().get(COPY))
            else {
                return Err("a message without a number".into());
            };
            polled.push(Polled {
                copy: *copy,
                id: message_id(&delivery).ok_or("a message without an id")?.to_owned(),
                tag: delivery.delivery_tag.to_string(),
                body: String::from_utf8(delivery.data.clone())?,
                deliveries: deliveries(&delivery),
                delivery,
            });
        }
        Ok(polled)
    }

    async fn carry_out(&self, delivery: &Delivery, told: &DrillAction) -> Result<(), Failed> {
        Ok(self.queues.carry_out(delivery, told).await?)
    }

    async fn while_working<F: Future>(&self, _delivery: &Delivery, work: F) -> F::Output {
        // A delivery has no timeout here, short of the server's of half an hour.
        work.await
    }

    async fn flush(&self) -> Result<(), Failed> {
        // All that was sent before is carried out before this is answered.
        Ok(self.channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?)
    }

    async fn close(&self) -> Result<(), Failed> {
        Ok(self.connection.close(200, "done").await?)
    }

    async fn backlog(&self) -> Result<u64, Failed> {
        let mut waiting = 0;
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        for queue in self.queues.delays().chain([self.queues.work().to_owned()]) {
            let queue = self.channel.queue_declare(&queue, passive, FieldTable::default()).await?;
            waiting += u64::from(queue.message_count());
        }
        Ok(waiting)
    }

    async fn dead_letters(&self) -> Result<Vec<DeadLetter>, Failed> {
        let mut letters = Vec::new();
        let options = BasicGetOptions::default();
        while let Some(letter) = self.channel.basic_get(&self.queues.dead_letters(), options).await? {
            let headers = letter.properties.headers().clone().unwrap_or_default();
            let header = |name| match headers.inner().get(name) {
                Some(AMQPValue::LongString(value)) => value.to_string(),
                _ => String::new(),
            };
            letters.push(DeadLetter {
                id: message_id(&letter).unwrap_or_default().to_owned(),
                body: String::from_utf8(letter.data.clone())?,
                reason: header(REASON),
                explanation: header(EXPLANATION),
            });
        }
        Ok(letters)
    }

    async fn clean_up(&self) -> Result<(), Failed> {
        let queues = self.queues.delays().chain([self.queues.work().to_owned(), self.queues.dead_letters()]);
        for queue in queues {
            self.channel.queue_delete(&queue, QueueDeleteOptions::default()).await?;
        }
        let dead = self.queues.dead_letters();
        Ok(self.channel.exchange_delete(&dead, ExchangeDeleteOptions::default()).await?)
    }
}
