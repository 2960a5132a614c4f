//! A broker that does not keep a copy: the delivery is not ended, and comes again.

use std::future::Future;
use std::time::{Duration, Instant};

use async_nats::ConnectOptions;
use async_nats::jetstream::{self, Message, stream};
use futures::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicGetOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use oncekey_brokers::drill::{Nats, RabbitMq};
use oncekey_brokers::rabbitmq::{Error, Queues, publish};
use oncekey_consume::{Dead, DeliveryAction, Later};

use crate::support::Served;

/// Only ends a hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) type Stored = DeliveryAction<String, String>;

pub(crate) fn dead_letter() -> Stored {
    DeliveryAction::DeadLetter(Dead::Failed("no such order".to_owned()))
}

pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

pub(crate) async fn context() -> jetstream::Context {
    let options = ConnectOptions::new().connection_timeout(PATIENCE).request_timeout(Some(PATIENCE));
    let mut context = jetstream::new(options.connect(Nats::url()).await.unwrap());
    context.set_timeout(PATIENCE);
    context
}

pub(crate) async fn next(consumer: &jetstream::consumer::PullConsumer) -> Message {
    let begun = Instant::now();
    loop {
        let batch = consumer.batch().max_messages(1).expires(Duration::from_millis(500));
        if let Some(delivery) = batch.messages().await.unwrap().next().await {
            return delivery.unwrap();
        }
        assert!(begun.elapsed() < PATIENCE, "no message is delivered: it is lost");
    }
}

#[test]
fn jetstream_ends_no_message_whose_dead_letter_is_not_stored() {
    block_on(async {
        let context = context().await;
        // No stream keeps the one subject, and that of the other takes nothing more.
        let full = stream::Config {
            name: "refused-full".to_owned(),
            max_messages: 1,
            discard: stream::DiscardPolicy::New,
            ..Default::default()
        };
        context.create_stream(full).await.unwrap();
        context.publish("refused-full", "a dead letter".into()).await.unwrap().await.unwrap();
        for (name, dead_letters) in [("refused-a", "refused-nowhere"), ("refused-b", "refused-full")] {
            let config = stream::Config { name: name.to_owned(), ..Default::default() };
            let stream = context.create_stream(config).await.unwrap();
            let config = oncekey_brokers::jetstream::consumer("shippers", Duration::from_secs(1));
            let consumer = stream.create_consumer(config).await.unwrap();
            context.publish(name, "an order".into()).await.unwrap().await.unwrap();

            let delivery = next(&consumer).await;
            let told = oncekey_brokers::jetstream::carry_out(&delivery, &dead_letter(), dead_letters).await;
            assert!(told.is_err(), "{dead_letters}: the dead letter was stored");
            assert_eq!(next(&consumer).await.payload, "an order", "{dead_letters}");
        }
    });
}

pub(crate) async fn channel() -> (Connection, Channel) {
    let tokio = ConnectionProperties::default()
        .with_executor(tokio_executor_trait::Tokio::current())
        .with_reactor(tokio_reactor_trait::Tokio::current());
    let connection = Connection::connect(RabbitMq::url(), tokio).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

pub(crate) async fn get(channel: &Channel, queue: &str) -> Delivery {
    let begun = Instant::now();
    loop {
        let message = channel.basic_get(queue, BasicGetOptions::default()).await.unwrap();
        if let Some(message) = message {
            return message.delivery;
        }
        assert!(begun.elapsed() < PATIENCE, "{queue} has no message: it is lost");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn rabbitmq_acknowledges_no_message_whose_copy_goes_nowhere_or_is_refused() {
    block_on(async {
        let later = || Stored::RetryLater { after: Duration::from_millis(125), because: Later::InProgress };
        let cases = [
            ("refused-later", "refused-later.later.125", false, later()),
            ("refused-dead", "refused-dead.dead", false, dead_letter()),
            ("refused-later-full", "refused-later-full.later.125", true, later()),
        ];
        for (work, target, is_full, told) in cases {
            let (connection, channel) = channel().await;
            let queues = Queues::declare(channel.clone(), work, Duration::from_millis(125)).await.unwrap();
            // The queue of the copies is gone; or it is another one, which takes nothing.
            channel.queue_delete(target, QueueDeleteOptions::default()).await.unwrap();
            if is_full {
                let mut full = FieldTable::default();
                full.insert("x-max-length".into(), AMQPValue::LongUInt(0));
                full.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
                channel.queue_declare(target, QueueDeclareOptions::default(), full).await.unwrap();
            }
            publish(&channel, "", work, b"an order", BasicProperties::default()).await.unwrap();

            let delivery = get(&channel, work).await;
            let carried_out = queues.carry_out(&delivery, &told).await;
            assert!(matches!(carried_out, Err(Error::NotKept)), "{target}: {carried_out:?}");
            connection.close(200, "done").await.unwrap();
            let (_connection, channel) = self::channel().await;
            assert_eq!(get(&channel, work).await.data, b"an order", "{target}");
        }
    });
}
