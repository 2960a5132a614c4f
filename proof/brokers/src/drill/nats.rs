//! The drill on NATS JetStream.

use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::{self, Message, message::PublishMessage, stream};
use async_nats::{ConnectOptions, HeaderMap};
use futures::StreamExt as _;

use super::broker::{Broker, DeadLetter, DrillAction, Polled};
use super::messages::{Copy, Messages};
use super::scenario::{ACK_WAIT, Failed};
use crate::jetstream::{
    EXPLANATION, MESSAGE_ID, REASON, carry_out, consumer, deliveries, message_id, while_working,
};

/// How long the server looks for duplicates by itself: as short as it goes.
const WINDOW: Duration = Duration::from_millis(100);
/// How long a server on a busy machine may take for an answer.
const PATIENCE: Duration = Duration::from_secs(300);
/// In each message: which publication it is.
const COPY: &str = "Copy";

/// A connection to JetStream.
#[derive(Debug)]
pub struct Nats {
    context: jetstream::Context,
    name: String,
    /// Made when it is first polled: the drill itself does not.
    consumer: Option<PullConsumer>,
}

impl Nats {
    fn dead(&self) -> String {
        format!("{}-dead", self.name)
    }

    async fn consumer(&self) -> Result<PullConsumer, Failed> {
        let stream = self.context.get_stream(&self.name).await?;
        stream.get_consumer("shippers").await
    }

    /// Publishes, and answers what the server took for duplicates, and dropped.
    async fn publish_all<'c>(&self, copies: &[&'c Copy]) -> Result<Vec<&'c Copy>, Failed> {
        let mut dropped = Vec::new();
        for some in copies.chunks(200) {
            let mut acks = Vec::with_capacity(some.len());
            for copy in some {
                let mut headers = HeaderMap::new();
                headers.insert(MESSAGE_ID, copy.id.as_str());
                headers.insert(COPY, copy.number.to_string());
                let message = PublishMessage::build().payload(copy.body.clone().into()).headers(headers);
                let message = if copy.named_to_broker { message.message_id(&copy.id) } else { message };
                acks.push(self.context.send_publish(self.name.clone(), message).await?);
            }
            for (copy, ack) in some.iter().zip(acks) {
                if ack.await?.duplicate {
                    dropped.push(*copy);
                }
            }
        }
        Ok(dropped)
    }
}

impl Broker for Nats {
    const NAME: &'static str = "NATS JetStream";
    type Delivery = Message;

    async fn connect(url: &str, name: &str) -> Result<Self, Failed> {
        let options = ConnectOptions::new().connection_timeout(PATIENCE).request_timeout(Some(PATIENCE));
        let mut context = jetstream::new(options.connect(url).await?);
        context.set_timeout(PATIENCE);
        Ok(Self { context, name: name.to_owned(), consumer: None })
    }

    async fn prepare(&self) -> Result<(), Failed> {
        let dead = self.dead();
        for (name, duplicate_window) in [(&self.name, WINDOW), (&dead, Duration::from_secs(120))] {
            let stream = stream::Config { name: name.clone(), duplicate_window, ..Default::default() };
            self.context.create_stream(stream).await?;
        }
        let shippers = consumer("shippers", ACK_WAIT);
        self.context.get_stream(&self.name).await?.create_consumer(shippers).await?;
        Ok(())
    }

    async fn publish(&self, messages: &Messages) -> Result<(), Failed> {
        let soon: Vec<_> = messages.soon.iter().collect();
        if !self.publish_all(&soon).await?.is_empty() {
            return Err("the server dropped a message whose id is new to it".into());
        }
        // The server looks for duplicates when a message is published, and only within its window, which on a busy
        // machine ends late: what it still drops is published again.
        let mut late: Vec<_> = messages.late.iter().collect();
        let begun = Instant::now();
        while !late.is_empty() {
            if begun.elapsed() > PATIENCE {
                return Err(format!("the server still drops {} duplicates", late.len()).into());
            }
            tokio::time::sleep(WINDOW * 2).await;
            late = self.publish_all(&late).await?;
        }
        Ok(())
    }

    async fn poll(&mut self, most: usize) -> Result<Vec<Polled<Message>>, Failed> {
        if self.consumer.is_none() {
            self.consumer = Some(self.consumer().await?);
        }
        let consumer = self.consumer.as_ref().expect("it was made");
        let batch = consumer.batch().max_messages(most).expires(Duration::from_millis(200));
        let mut batch = batch.messages().await?;
        let mut polled = Vec::new();
        while let Some(delivery) = batch.next().await {
            let delivery = delivery?;
            let id = message_id(&delivery).ok_or("a message without an id")?.to_owned();
            let copy = delivery.headers.as_ref().and_then(|headers| headers.get(COPY));
            polled.push(Polled {
                copy: copy.ok_or("a message without a number")?.as_str().parse()?,
                id,
                tag: delivery.reply.as_ref().map(ToString::to_string).unwrap_or_default(),
                body: String::from_utf8(delivery.payload.to_vec())?,
                deliveries: deliveries(&delivery),
                delivery,
            });
        }
        Ok(polled)
    }

    async fn carry_out(&self, delivery: &Message, told: &DrillAction) -> Result<(), Failed> {
        Ok(carry_out(delivery, told, &self.dead()).await?)
    }

    async fn while_working<F: Future>(&self, delivery: &Message, work: F) -> F::Output {
        while_working(delivery, ACK_WAIT / 4, work).await
    }

    async fn flush(&self) -> Result<(), Failed> {
        Ok(self.context.client().flush().await?)
    }

    async fn close(&self) -> Result<(), Failed> {
        // The server keeps deliveries for a consumer, whoever connects as it.
        self.flush().await
    }

    async fn backlog(&self) -> Result<u64, Failed> {
        let mut consumer = self.consumer().await?;
        let info = consumer.info().await?;
        Ok(info.num_pending + info.num_ack_pending as u64)
    }

    async fn dead_letters(&self) -> Result<Vec<DeadLetter>, Failed> {
        let stream = self.context.get_stream(self.dead()).await?;
        let last = stream.cached_info().state.last_sequence;
        let mut letters = Vec::new();
        for sequence in 1..=last {
            let letter = stream.get_raw_message(sequence).await?;
            let header = |name| letter.headers.get(name).map(ToString::to_string).unwrap_or_default();
            letters.push(DeadLetter {
                id: header(MESSAGE_ID),
                body: String::from_utf8(letter.payload.to_vec())?,
                reason: header(REASON),
                explanation: header(EXPLANATION),
            });
        }
        Ok(letters)
    }

    async fn clean_up(&self) -> Result<(), Failed> {
        for name in [&self.name, &self.dead()] {
            self.context.delete_stream(name).await?;
        }
        Ok(())
    }
}
