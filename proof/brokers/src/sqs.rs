//! SQS: what a consumer answers, in its words. Compiled, and not run here: no server is started for it.
//!
//! `docs/kafka-and-sqs.md` says what is different about SQS.

use std::time::Duration;

use aws_sdk_sqs::types::{Message, MessageAttributeValue, MessageSystemAttributeName};
use aws_sdk_sqs::{Client, Error};
use oncekey::consume::DeliveryAction;

/// The attribute in which the producer names its message: the same for each time that it sends it. It is the key.
pub const MESSAGE_ID: &str = "message-id";
/// In a dead letter: why, as one word.
pub const REASON: &str = "oncekey-reason";
/// The longest that a message may be invisible, from when it was received.
const INVISIBLE_MAX: Duration = Duration::from_secs(12 * 3600);
/// The shortest: zero would show the message to others at once.
const INVISIBLE_MIN: Duration = Duration::from_secs(1);

/// Receives at most ten messages, with what [`message_id`] and [`deliveries`] look at; waits up to 20 s for the first.
///
/// # Errors
/// As the client's.
///
/// # Cancel safety
/// If dropped, what was received is delivered again after its visibility timeout.
pub async fn receive(client: &Client, queue: &str) -> Result<Vec<Message>, Error> {
    let received = client
        .receive_message()
        .queue_url(queue)
        .max_number_of_messages(10)
        .wait_time_seconds(20)
        .message_attribute_names("All")
        .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
        .send()
        .await?;
    Ok(received.messages.unwrap_or_default())
}

/// What the producer called the message. One without a name cannot be told from its duplicates: put it aside.
pub fn message_id(message: &Message) -> Option<&str> {
    message.message_attributes()?.get(MESSAGE_ID)?.string_value()
}

/// How often it was received, this time included.
pub fn deliveries(message: &Message) -> u32 {
    let count = message
        .attributes()
        .and_then(|attributes| attributes.get(&MessageSystemAttributeName::ApproximateReceiveCount));
    count.and_then(|count| count.parse().ok()).unwrap_or(1)
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
    message: &Message,
    action: &DeliveryAction<T, E, F>,
) -> Result<(), Error> {
    match action {
        DeliveryAction::Acknowledge(_) => delete(client, queue, message).await,
        // It becomes visible again when the pause, or the lease of whoever handles it here, is over.
        DeliveryAction::RetryLater { after, .. } | DeliveryAction::Extend { by: after } => {
            invisible_for(client, queue, message, *after).await
        }
        DeliveryAction::DeadLetter(why) => {
            // In this order: what was deleted and not parked would be lost.
            park(client, dead_letters, message, why.reason()).await?;
            delete(client, queue, message).await
        }
    }
}

/// Keeps a delivery this consumer's while work goes on that may take longer than its visibility timeout: gives it another
/// `timeout` each third of it. It is taken as a second if it is less, since SQS counts whole ones.
///
/// # Cancel safety
/// As that of the work.
pub async fn while_working<F: Future>(
    client: &Client,
    queue: &str,
    message: &Message,
    timeout: Duration,
    work: F,
) -> F::Output {
    let timeout = timeout.max(INVISIBLE_MIN);
    let mut work = std::pin::pin!(work);
    loop {
        match tokio::time::timeout(timeout / 3, &mut work).await {
            Ok(output) => return output,
            // If none arrives, another consumer gets the message, and finds it in progress.
            Err(_) => drop(invisible_for(client, queue, message, timeout).await),
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

async fn invisible_for(
    client: &Client,
    queue: &str,
    message: &Message,
    pause: Duration,
) -> Result<(), Error> {
    client
        .change_message_visibility()
        .queue_url(queue)
        .set_receipt_handle(message.receipt_handle.clone())
        .visibility_timeout(whole_seconds(pause))
        .send()
        .await?;
    Ok(())
}

async fn park(client: &Client, dead_letters: &str, message: &Message, reason: &str) -> Result<(), Error> {
    let reason = MessageAttributeValue::builder().data_type("String").string_value(reason).build();
    let mut attributes = message.message_attributes.clone().unwrap_or_default();
    attributes.insert(REASON.to_owned(), reason?);
    client
        .send_message()
        .queue_url(dead_letters)
        .set_message_body(message.body.clone())
        .set_message_attributes(Some(attributes))
        .send()
        .await?;
    Ok(())
}

/// Rounded up: one that comes early finds the lease still running.
fn whole_seconds(pause: Duration) -> i32 {
    let up = pause.min(INVISIBLE_MAX) + Duration::from_nanos(999_999_999);
    i32::try_from(up.min(INVISIBLE_MAX).as_secs()).expect("at most twelve hours")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_never_shorter_than_asked_up_to_the_longest() {
        let of_ms = |ms| whole_seconds(Duration::from_millis(ms));
        assert_eq!([0, 1, 1_000, 1_001, 43_199_999].map(of_ms), [0, 1, 1, 2, 43_200]);
        assert_eq!(whole_seconds(Duration::MAX), 43_200);
    }
}
