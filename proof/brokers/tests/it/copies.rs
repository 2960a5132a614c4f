//! RabbitMQ: properties on which the broker acts are about the first publication, and not about a copy.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{BasicProperties, Channel};
use oncekey_brokers::rabbitmq::{ORIGINAL, Queues, REASON, deliveries, publish};
use oncekey_consume::Later;

use crate::refused::{PATIENCE, Stored, block_on, channel, dead_letter, get};

fn put_off(after: Duration) -> Stored {
    Stored::RetryLater { after, because: Later::InProgress }
}

async fn declared(channel: &Channel, work: &str) -> Queues {
    Queues::declare(channel.clone(), work, Duration::from_secs(4)).await.unwrap()
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(value))
}

fn header<'a>(delivery: &'a Delivery, name: &str) -> Option<&'a AMQPValue> {
    delivery.properties.headers().as_ref()?.inner().get(name)
}

fn original<'a>(delivery: &'a Delivery, name: &str) -> Option<&'a AMQPValue> {
    header(delivery, &format!("{ORIGINAL}{name}"))
}

async fn next(consumer: &mut lapin::Consumer) -> Delivery {
    let delivery = tokio::time::timeout(PATIENCE, consumer.next()).await;
    delivery.expect("no message is delivered: it is lost").expect("the channel is open").unwrap()
}

/// A message that is gone unless a consumer waits for it.
fn at_once() -> BasicProperties {
    BasicProperties::default().with_expiration("0".into())
}

#[test]
fn a_copy_does_not_expire_with_the_time_to_live_of_its_original() {
    block_on(async {
        let (_connection, channel) = channel().await;
        let queues = declared(&channel, "copies-expiration").await;
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        let mut consumer = channel.basic_consume(queues.work(), "", options, arguments).await.unwrap();
        publish(&channel, "", queues.work(), b"an order", at_once()).await.unwrap();

        let delivery = next(&mut consumer).await;
        let (pause, begun) = (Duration::from_secs(4), Instant::now());
        queues.carry_out(&delivery, &put_off(pause)).await.unwrap();
        let again = next(&mut consumer).await;
        assert!(begun.elapsed() >= pause, "put off for {pause:?}, and back after {:?}", begun.elapsed());
        assert_eq!(deliveries(&again), 2);

        queues.carry_out(&again, &dead_letter()).await.unwrap();
        // Its time to live was over when it was stored.
        let letter = get(&channel, &queues.dead_letters()).await;
        assert_eq!(letter.properties.expiration(), &None);
        assert_eq!(original(&letter, "expiration"), Some(&text("0")));
    });
}

#[test]
fn a_copy_is_not_from_the_user_of_its_original_and_goes_nowhere_else() {
    block_on(async {
        let (_connection, channel) = channel().await;
        let queues = declared(&channel, "copies-routes").await;
        let audit = "copies-routes-audit";
        channel.queue_declare(audit, QueueDeclareOptions::default(), FieldTable::default()).await.unwrap();
        let mut headers = FieldTable::default();
        headers.insert("CC".into(), AMQPValue::FieldArray(vec![text(audit)].into()));
        headers.insert("x-delay".into(), AMQPValue::LongInt(5_000));
        headers.insert("x-tenant".into(), text("a tenant"));
        let properties = BasicProperties::default().with_headers(headers).with_priority(3);
        let properties = properties.with_message_id("order 1".into()).with_correlation_id("request 1".into());
        publish(&channel, "", queues.work(), b"an order", properties).await.unwrap();

        let mut delivery = get(&channel, queues.work()).await;
        // As from a producer with a user of its own: the broker refuses what another user publishes in that name.
        delivery.properties = delivery.properties.with_user_id("billing".into());
        queues.carry_out(&delivery, &put_off(Duration::ZERO)).await.unwrap();
        let again = get(&channel, queues.work()).await;
        queues.carry_out(&again, &dead_letter()).await.unwrap();
        let letter = get(&channel, &queues.dead_letters()).await;

        for copy in [&again, &letter] {
            assert_eq!(copy.properties.user_id(), &None);
            assert_eq!(original(copy, "user-id"), Some(&text("billing")));
            for (name, value) in [
                ("CC", AMQPValue::FieldArray(vec![text(audit)].into())),
                ("x-delay", AMQPValue::LongInt(5_000)),
            ] {
                assert_eq!((header(copy, name), original(copy, name)), (None, Some(&value)), "{name}");
            }
            // What is the producer's alone stays where it was.
            assert_eq!(header(copy, "x-tenant"), Some(&text("a tenant")));
            assert_eq!(copy.properties.priority(), &Some(3));
            assert_eq!(copy.properties.message_id().as_ref().map(ShortString::as_str), Some("order 1"));
            assert_eq!(copy.properties.correlation_id().as_ref().map(ShortString::as_str), Some("request 1"));
        }
        get(&channel, audit).await.ack(BasicAckOptions::default()).await.unwrap();
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let audit = channel.queue_declare(audit, passive, FieldTable::default()).await.unwrap();
        assert_eq!(audit.message_count(), 0, "a copy of the order went there too");
    });
}

#[test]
fn a_message_that_had_expired_in_the_work_queue_and_was_handed_in_again_is_put_off_and_not_dropped() {
    block_on(async {
        let (_connection, channel) = channel().await;
        let queues = declared(&channel, "copies-death").await;
        publish(&channel, "", queues.work(), b"an order", at_once()).await.unwrap();
        let expired = get(&channel, &queues.dead_letters()).await;
        let death = header(&expired, "x-death").expect("the broker says that it died").clone();
        // As a shovel does it.
        publish(&channel, "", queues.work(), &expired.data, expired.properties.clone()).await.unwrap();

        // The broker drops what expires into a queue in which it had expired before.
        for _ in 0..2 {
            let delivery = get(&channel, queues.work()).await;
            queues.carry_out(&delivery, &put_off(Duration::ZERO)).await.unwrap();
        }
        let again = get(&channel, queues.work()).await;
        queues.carry_out(&again, &dead_letter()).await.unwrap();
        let letter = get(&channel, &queues.dead_letters()).await;
        assert_eq!(header(&letter, "x-death"), None);
        assert_eq!(original(&letter, "x-death"), Some(&death), "not that of a delay");
    });
}

#[test]
fn a_message_whose_headers_leave_no_room_for_ours_is_parked_without_them() {
    block_on(async {
        let (_connection, channel) = channel().await;
        let queues = declared(&channel, "copies-large").await;
        // As many as the server takes in one frame, less than one header of ours; and enough for the reason alone.
        for (len, reason) in [(131_000, None), (119_900, Some(text("failed")))] {
            let mut headers = FieldTable::default();
            headers.insert("notes".into(), text(&"x".repeat(len)));
            let properties = BasicProperties::default().with_headers(headers.clone());
            publish(&channel, "", queues.work(), b"an order", properties).await.unwrap();

            let delivery = get(&channel, queues.work()).await;
            queues.carry_out(&delivery, &dead_letter()).await.unwrap();
            let letter = get(&channel, &queues.dead_letters()).await;
            assert_eq!(
                (&*letter.data, header(&letter, "notes")),
                (&b"an order"[..], headers.inner().get("notes"))
            );
            assert_eq!(header(&letter, REASON), reason.as_ref());
        }
    });
}
