//! JetStream: limits of the server that a dead letter, or many messages that are put off, come up to.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{Context, stream};
use oncekey_brokers::jetstream::{
    EXPLANATION, MESSAGE_ID, ORIGINAL, REASON, carry_out, consumer, deliveries,
};
use oncekey_consume::Later;

use crate::refused::{Stored, block_on, context, dead_letter, next};

async fn created(context: &Context, name: &str) -> stream::Stream {
    context.create_stream(stream::Config { name: name.to_owned(), ..Default::default() }).await.unwrap()
}

#[test]
fn a_message_that_leaves_no_room_for_our_headers_is_parked_whole() {
    block_on(async {
        let context = context().await;
        let stream = created(&context, "limits-large").await;
        let letters = created(&context, "limits-large-dead").await;
        let consumer = stream.create_consumer(consumer("shippers", Duration::from_secs(600))).await.unwrap();
        // The version's line and the empty one, and that of the id.
        let its_own = "NATS/1.0\r\nMessage-Id: order 1\r\n\r\n".len();
        let max = context.client().server_info().max_payload;
        let (none, some, all) = ([false, false], [true, false], [true, true]);
        for (sequence, (room, has)) in (1..).zip([(0, none), (60, some), (1_000, all)]) {
            let body = vec![b'x'; max - its_own - room];
            let mut headers = HeaderMap::new();
            headers.insert(MESSAGE_ID, "order 1");
            let message = PublishMessage::build().payload(body.clone().into()).headers(headers);
            context.send_publish("limits-large", message).await.unwrap().await.unwrap();

            let delivery = next(&consumer).await;
            carry_out(&delivery, &dead_letter(), "limits-large-dead").await.unwrap();
            let letter = letters.get_raw_message(sequence).await.unwrap();
            assert!(letter.payload == body, "room for {room} bytes: the body is another");
            assert_eq!(letter.headers.get(MESSAGE_ID).unwrap().as_str(), "order 1");
            assert_eq!([REASON, EXPLANATION].map(|name| letter.headers.get(name).is_some()), has, "{room}");
        }
    });
}

#[test]
fn the_id_by_which_the_server_knows_a_message_is_in_a_header_of_ours() {
    block_on(async {
        let context = context().await;
        let stream = created(&context, "limits-id").await;
        let letters = created(&context, "limits-id-dead").await;
        let consumer = stream.create_consumer(consumer("shippers", Duration::from_secs(600))).await.unwrap();
        let message = PublishMessage::build().payload("an order".into()).message_id("order 1");
        context.send_publish("limits-id", message).await.unwrap().await.unwrap();
        carry_out(&next(&consumer).await, &dead_letter(), "limits-id-dead").await.unwrap();
        let letter = letters.get_raw_message(1).await.unwrap();
        let id = letter.headers.get(format!("{ORIGINAL}Nats-Msg-Id").as_str());
        assert_eq!(id.map(ToString::to_string).as_deref(), Some("order 1"));
    });
}

#[test]
fn messages_that_are_put_off_stop_no_others() {
    block_on(async {
        let context = context().await;
        let stream = created(&context, "limits-pending").await;
        let consumer = stream.create_consumer(consumer("shippers", Duration::from_secs(600))).await.unwrap();
        // One more than the server lets be pending by default.
        let failing = 1_001;
        for _ in 0..failing {
            context.publish("limits-pending", "fails".into()).await.unwrap().await.unwrap();
        }
        context.publish("limits-pending", "an order".into()).await.unwrap().await.unwrap();
        let hour = Duration::from_secs(3600);
        for _ in 0..failing {
            let put_off = Stored::RetryLater { after: hour, because: Later::InProgress };
            carry_out(&next(&consumer).await, &put_off, "nowhere").await.unwrap();
        }
        let good = next(&consumer).await;
        assert_eq!((&*good.payload, deliveries(&good)), (&b"an order"[..], 1));
    });
}
