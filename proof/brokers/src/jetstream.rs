//! NATS JetStream: what a consumer answers, in its words. A module to copy.
//!
//! | action | JetStream |
//! |---|---|
//! | acknowledge | `+ACK` |
//! | retry later | `-NAK` with the delay |
//! | extend | `+WPI`, in progress: the server's `ack_wait` begins anew, and then it delivers again |
//! | dead letter | published to a stream of dead letters with the reason, and, once that is stored, `+TERM` |
//!
//! The consumer has `AckPolicy::Explicit`, and no `max_deliver`: attempts are counted in the record, and a message that the
//! server gave up would be nowhere. Set `max_deliver` only far above, as a net below the net.
//!
//! An acknowledgement is sent and not confirmed. If it is lost, the message is delivered again, found done, and
//! acknowledged again.

use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{AckKind, Message};
use async_nats::{Error, HeaderMap};
use oncekey::consume::DeliveryAction;

/// The header in which the producer names its message: the same for each time that it sends it. It is the key.
///
/// Where all producers set `Nats-Msg-Id`, take that. The server looks at it only for as long as its own window
/// (two minutes, unless the stream says otherwise), and only when a message is published, not when it is delivered.
pub const MESSAGE_ID: &str = "Message-Id";
/// In a dead letter: why, as one word.
pub const REASON: &str = "Oncekey-Reason";
/// In a dead letter: why, as a sentence.
pub const EXPLANATION: &str = "Oncekey-Explanation";
/// In a dead letter: the subject it was published to.
pub const SUBJECT: &str = "Oncekey-Subject";

/// What the producer called the message. One without a name cannot be told from its duplicates: put it aside.
pub fn message_id(delivery: &Message) -> Option<&str> {
    delivery.headers.as_ref()?.get(MESSAGE_ID).map(|value| value.as_str())
}

/// How often it was delivered, this time included.
pub fn deliveries(delivery: &Message) -> u32 {
    let delivered = delivery.info().map_or(1, |info| info.delivered);
    u32::try_from(delivered.max(1)).unwrap_or(u32::MAX)
}

/// Tells the server what becomes of a delivery; dead letters go to a subject that a stream keeps.
///
/// # Errors
/// If the server cannot be told. Leave the delivery to its `ack_wait` then: it comes again.
///
/// # Cancel safety
/// If dropped, the server may or may not have been told; a dead letter may be there twice.
pub async fn carry_out<T, E, F>(
    delivery: &Message,
    action: &DeliveryAction<T, E, F>,
    dead_letters: &str,
) -> Result<(), Error> {
    match action {
        DeliveryAction::Acknowledge(_) => delivery.ack().await,
        DeliveryAction::RetryLater { after, .. } => delivery.ack_with(put_off(*after)).await,
        DeliveryAction::Extend { .. } => delivery.ack_with(AckKind::Progress).await,
        DeliveryAction::DeadLetter(why) => {
            // In this order: what was ended and not parked would be lost.
            park(delivery, why.reason(), &why.to_string(), dead_letters).await?;
            delivery.ack_with(AckKind::Term).await
        }
    }
}

/// The longest delay: the server counts nanoseconds in 63 bits, and takes a longer one for none.
const DELAY_MAX: Duration = Duration::from_secs(366 * 86_400);

/// Has a delivery come again after so long, or after a year.
fn put_off(after: Duration) -> AckKind {
    AckKind::Nak(Some(after.min(DELAY_MAX)))
}

/// Publishes a copy to the dead letters, and waits until it is stored.
async fn park(delivery: &Message, reason: &str, explanation: &str, subject: &str) -> Result<(), Error> {
    let info = delivery.info()?;
    let mut headers = HeaderMap::new();
    for (name, values) in delivery.headers.iter().flat_map(HeaderMap::iter) {
        // Those of the server's own are about the first publication: its window would drop the copy.
        if !name.to_string().starts_with("Nats-") {
            values.iter().for_each(|value| headers.append(name.clone(), value.clone()));
        }
    }
    headers.insert(REASON, reason);
    headers.insert(EXPLANATION, explanation);
    headers.insert(SUBJECT, delivery.subject.as_str());
    // One that is parked again, since its `+TERM` was lost, is dropped by the window of the dead letters' stream.
    let parked_as = format!("{} {}", info.stream, info.stream_sequence);
    let letter =
        PublishMessage::build().payload(delivery.payload.clone()).headers(headers).message_id(parked_as);
    delivery.context.send_publish(subject.to_owned(), letter).await?.await?;
    Ok(())
}

/// Keeps a delivery this consumer's while work goes on that may take longer than `ack_wait`: says so each `every`, which
/// is to be well below it, and is taken as 1 ms if it is less.
///
/// Without it, a message whose handler takes long is delivered to another consumer meanwhile, which is harmless: it is in
/// progress there, and retried later.
///
/// # Cancel safety
/// As that of the work.
pub async fn while_working<F: Future>(delivery: &Message, every: Duration, work: F) -> F::Output {
    let every = every.max(Duration::from_millis(1));
    let mut work = std::pin::pin!(work);
    loop {
        match tokio::time::timeout(every, &mut work).await {
            Ok(output) => return output,
            // If that is lost, the next one may arrive; if none does, see above.
            Err(_) => drop(delivery.ack_with(AckKind::Progress).await),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_one_that_the_server_counts() {
        let second = Duration::from_secs(1);
        for (after, delay) in [
            (Duration::ZERO, Duration::ZERO),
            (Duration::from_nanos(1), Duration::from_nanos(1)),
            (2 * second, 2 * second),
            (Duration::MAX, DELAY_MAX),
        ] {
            let AckKind::Nak(Some(put_off)) = put_off(after) else { panic!("not put off by a time") };
            assert_eq!(put_off, delay);
            assert!(i64::try_from(put_off.as_nanos()).is_ok(), "{after:?}");
        }
    }
}
