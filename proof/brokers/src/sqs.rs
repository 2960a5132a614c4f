//! SQS: what a consumer answers, in its words. Compiled, and not run here: no server is started for it.
//!
//! `docs/kafka-and-sqs.md` says what is different about SQS.

use std::time::{Duration, Instant};

use aws_sdk_sqs::operation::send_message::builders::SendMessageInputBuilder;
use aws_sdk_sqs::types::{Message, MessageAttributeValue, MessageSystemAttributeName};
use aws_sdk_sqs::{Client, Error};
use oncekey_consume::DeliveryAction;

/// The attribute in which the producer names its message: the same for each time that it sends it. It is the key.
pub const MESSAGE_ID: &str = "message-id";
/// In a dead letter: why, as one word.
pub const REASON: &str = "oncekey-reason";
/// The longest that a message may be invisible, all in all, from when it was received.
const INVISIBLE_MAX: Duration = Duration::from_secs(12 * 3600);
/// What a request that changes it may take until it is carried out, with its retries.
const REQUEST_MAX: Duration = Duration::from_secs(60);
/// The most attributes of a message.
const ATTRIBUTES_MAX: usize = 10;
/// The shortest: zero would show the message to others at once.
const INVISIBLE_MIN: Duration = Duration::from_secs(1);

/// A message, and since when it counts as received.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// When it was asked for: the queue counts its twelve hours from some time after this.
    pub asked_at: Instant,
}

/// Receives at most ten messages, with what [`message_id`] and [`deliveries`] look at; waits up to 20 s for the first.
///
/// # Errors
/// As the client's.
///
/// # Cancel safety
/// If dropped, what was received is delivered again after its visibility timeout.
pub async fn receive(client: &Client, queue: &str) -> Result<Vec<Delivery>, Error> {
    let asked_at = Instant::now();
    let received = client
        .receive_message()
        .queue_url(queue)
        .max_number_of_messages(10)
        .wait_time_seconds(20)
        .message_attribute_names("All")
        .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
        .message_system_attribute_names(MessageSystemAttributeName::MessageGroupId)
        .send()
        .await?;
    let messages = received.messages.unwrap_or_default().into_iter();
    Ok(messages.map(|message| Delivery { message, asked_at }).collect())
}

/// What the producer called the message. One without a name cannot be told from its duplicates: put it aside.
pub fn message_id(message: &Message) -> Option<&str> {
    message.message_attributes()?.get(MESSAGE_ID)?.string_value()
}

/// How often it was received, this time included.
pub fn deliveries(message: &Message) -> u32 {
    let count = system_attribute(message, &MessageSystemAttributeName::ApproximateReceiveCount);
    count.and_then(|count| count.parse().ok()).unwrap_or(1)
}

fn system_attribute<'m>(message: &'m Message, name: &MessageSystemAttributeName) -> Option<&'m str> {
    message.attributes()?.get(name).map(String::as_str)
}

/// Tells the queue what becomes of a delivery; dead letters go to a queue of their own.
///
/// # Errors
/// As the client's. Leave the delivery to its visibility timeout then: it comes again.
///
/// # Cancel safety
/// If dropped, the queue may or may not have been told; a dead letter may be there twice.
pub async fn carry_out<T, E, F>(
    client: &Client,
    queue: &str,
    dead_letters: &str,
    delivery: &Delivery,
    action: &DeliveryAction<T, E, F>,
) -> Result<(), Error> {
    let message = &delivery.message;
    match action {
        DeliveryAction::Acknowledge(_) => delete(client, queue, message).await,
        // It becomes visible again when the pause, or the lease of whoever handles it here, is over.
        DeliveryAction::RetryLater { after, .. } | DeliveryAction::Extend { by: after } => {
            invisible_for(client, queue, message, visibility(*after, delivery.asked_at.elapsed())).await
        }
        DeliveryAction::DeadLetter(why) => {
            // In this order: what was deleted and not parked would be lost.
            park(client, dead_letters, message, why.reason()).await?;
            delete(client, queue, message).await
        }
    }
}

/// Keeps a delivery this consumer's while work goes on that may take longer than its visibility timeout: gives it another
/// `timeout` each third of it. It is taken as a second if it is less, since SQS counts whole ones. Twelve hours after the
/// receipt, the queue delivers it again, whatever it is told.
///
/// # Cancel safety
/// As that of the work.
pub async fn while_working<F: Future>(
    client: &Client,
    queue: &str,
    delivery: &Delivery,
    timeout: Duration,
    work: F,
) -> F::Output {
    let timeout = timeout.max(INVISIBLE_MIN);
    let mut work = std::pin::pin!(work);
    loop {
        match tokio::time::timeout(timeout / 3, &mut work).await {
            Ok(output) => return output,
            // If none arrives, another consumer gets the message, and finds it in progress.
            Err(_) => match visibility(timeout, delivery.asked_at.elapsed()) {
                // Its twelve hours are over: zero would only end them sooner.
                0 => {}
                seconds => drop(invisible_for(client, queue, &delivery.message, seconds).await),
            },
        }
    }
}

async fn delete(client: &Client, queue: &str, message: &Message) -> Result<(), Error> {
    client
        .delete_message()
        .queue_url(queue)
        .set_receipt_handle(message.receipt_handle.clone())
        .send()
        .await?;
    Ok(())
}

async fn invisible_for(client: &Client, queue: &str, message: &Message, seconds: i32) -> Result<(), Error> {
    client
        .change_message_visibility()
        .queue_url(queue)
        .set_receipt_handle(message.receipt_handle.clone())
        .visibility_timeout(seconds)
        .send()
        .await?;
    Ok(())
}

async fn park(client: &Client, dead_letters: &str, message: &Message, reason: &str) -> Result<(), Error> {
    let reason = MessageAttributeValue::builder().data_type("String").string_value(reason).build()?;
    letter(dead_letters, message, reason).send_with(client).await?;
    Ok(())
}

/// A copy for the queue of dead letters, with the reason if there is an attribute left for it.
fn letter(dead_letters: &str, message: &Message, reason: MessageAttributeValue) -> SendMessageInputBuilder {
    let mut attributes = message.message_attributes.clone().unwrap_or_default();
    if attributes.len() < ATTRIBUTES_MAX || attributes.contains_key(REASON) {
        attributes.insert(REASON.to_owned(), reason);
    }
    let letter = SendMessageInputBuilder::default()
        .queue_url(dead_letters)
        .set_message_body(message.body.clone())
        .set_message_attributes(Some(attributes));
    if !dead_letters.ends_with(".fifo") {
        return letter;
    }
    // A FIFO queue refuses a message without a group. One from another kind of queue is a group of its own.
    let group =
        system_attribute(message, &MessageSystemAttributeName::MessageGroupId).or(message.message_id());
    // One that is parked again, since it could not be deleted, is dropped as a duplicate. Not by the producer's id:
    // that would also drop a message that was handed in again and failed again.
    letter
        .set_message_group_id(group.map(str::to_owned))
        .set_message_deduplication_id(message.message_id.clone())
}

/// A pause in whole seconds, rounded up, since one that comes early finds the lease still running; at most what is left
/// of the twelve hours since the receipt.
fn visibility(pause: Duration, since_receipt: Duration) -> i32 {
    let left = INVISIBLE_MAX.saturating_sub(REQUEST_MAX).saturating_sub(since_receipt);
    let up = pause.min(INVISIBLE_MAX) + Duration::from_nanos(999_999_999);
    i32::try_from(up.min(left).as_secs()).expect("at most twelve hours")
}

#[cfg(test)]
#[path = "sqs_tests.rs"]
mod tests;
