//! NATS JetStream: what a consumer answers, in its words. A module to copy.
//!
//! | action | JetStream |
//! |---|---|
//! | acknowledge | `+ACK` |
//! | retry later | `-NAK` with the delay |
//! | extend | `+WPI`, in progress: the server's `ack_wait` begins anew, and then it delivers again |
//! | dead letter | published to a stream of dead letters with the reason, and, once that is stored, `+TERM` |
//!
//! The settings of the consumer matter: see [`consumer`].
//!
//! An acknowledgement is sent and not confirmed. If it is lost, the message is delivered again, found done, and
//! acknowledged again.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{AckKind, Message};
use oncekey_consume::DeliveryAction;

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

/// In a dead letter: begins the names of the headers that keep those of the original on which the server acts. Where
/// `Nats-Msg-Id` is the key, it is in `Oncekey-Original-Nats-Msg-Id`.
pub const ORIGINAL: &str = "Oncekey-Original-";

/// What went wrong.
#[derive(Debug)]
pub enum Error {
    /// The server could not be told, or it did not store a dead letter.
    Client(async_nats::Error),
    /// A dead letter is larger than what the server takes, also without any header of ours. Nothing was sent. Raise the
    /// server's `max_payload`, which was higher when the message was published.
    TooLarge {
        /// Bytes of the message with its headers.
        len: usize,
        /// The most that the server takes, in bytes.
        max_payload: usize,
    },
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Client(error) => write!(f, "JetStream: {error}"),
            Self::TooLarge { len, max_payload } => write!(
                f,
                "JetStream: a dead letter of {len} bytes is over the server's max_payload of {max_payload}; raise that"
            ),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Client(error) => Some(error.as_ref()),
            Self::TooLarge { .. } => None,
        }
    }
}

/// The settings of a consumer that this module needs; change others as you like.
///
/// - Acknowledgements are explicit.
/// - `max_deliver` is not set: attempts are counted in the record, and a message that the server gave up would be nowhere.
///   Set it only far above, as a net below the net.
/// - `max_ack_pending` has no limit. A message that is put off counts as pending for as long as its delay runs, and at the
///   limit (1,000 by default) the server delivers no other: as many failing messages stop all good ones. A pull consumer
///   is bounded by how many it asks for.
pub fn consumer(name: &str, ack_wait: Duration) -> pull::Config {
    pull::Config {
        durable_name: Some(name.to_owned()),
        ack_policy: AckPolicy::Explicit,
        ack_wait,
        max_ack_pending: -1,
        ..Default::default()
    }
}

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
/// If the server cannot be told, or does not store a dead letter. Leave the delivery to its `ack_wait` then: it comes again.
///
/// # Cancel safety
/// If dropped, the server may or may not have been told; a dead letter may be there twice.
pub async fn carry_out<T, E, F>(
    delivery: &Message,
    action: &DeliveryAction<T, E, F>,
    dead_letters: &str,
) -> Result<(), Error> {
    let told = match action {
        DeliveryAction::Acknowledge(_) => delivery.ack().await,
        DeliveryAction::RetryLater { after, .. } => delivery.ack_with(put_off(*after)).await,
        DeliveryAction::Extend { .. } => delivery.ack_with(AckKind::Progress).await,
        DeliveryAction::DeadLetter(why) => {
            // In this order: what was ended and not parked would be lost.
            park(delivery, why.reason(), &why.to_string(), dead_letters).await?;
            delivery.ack_with(AckKind::Term).await
        }
    };
    told.map_err(Error::Client)
}

/// The longest delay: the server counts nanoseconds in 63 bits, and takes a longer one for none.
const DELAY_MAX: Duration = Duration::from_secs(366 * 86_400);

/// Has a delivery come again after so long, or after a year.
fn put_off(after: Duration) -> AckKind {
    AckKind::Nak(Some(after.min(DELAY_MAX)))
}

/// Publishes a copy to the dead letters, and waits until it is stored.
async fn park(delivery: &Message, reason: &str, explanation: &str, subject: &str) -> Result<(), Error> {
    let info = delivery.info().map_err(Error::Client)?;
    // One that is parked again, since its `+TERM` was lost, is dropped by the window of the dead letters' stream.
    let parked_as = format!("{} {}", info.stream, info.stream_sequence);
    // The most important first.
    let ours = [
        (REASON, reason),
        (PARKED_AS, &parked_as),
        (SUBJECT, delivery.subject.as_str()),
        (EXPLANATION, explanation),
    ];
    let max_payload = delivery.context.client().server_info().max_payload;
    let headers = letter(delivery.headers.as_ref(), delivery.payload.len(), ours, max_payload)?;
    let letter = PublishMessage::build().payload(delivery.payload.clone()).headers(headers);
    let sent = delivery.context.send_publish(subject.to_owned(), letter).await;
    let stored = sent.map_err(|error| Error::Client(error.into()))?.await;
    stored.map(drop).map_err(|error| Error::Client(error.into()))
}

/// By which the server drops a second copy, within its window.
const PARKED_AS: &str = "Nats-Msg-Id";
/// What a letter has that was handed in again, and is about the last time.
const OURS: [&str; 3] = [REASON, SUBJECT, EXPLANATION];

/// The headers of a dead letter: the producer's, and ours as far as there is room. The server ends the connection of a
/// client that publishes more than its `max_payload`, of headers and payload together.
fn letter(
    original: Option<&HeaderMap>,
    payload_len: usize,
    ours: [(&str, &str); 4],
    max_payload: usize,
) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    let mut ours = ours.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    // The line of the version and the empty one.
    let mut len = payload_len + "NATS/1.0\r\n\r\n".len();
    let line = |name: &str, value: &str| name.len() + ": ".len() + value.len() + "\r\n".len();
    for (name, values) in original.into_iter().flat_map(HeaderMap::iter) {
        let text = name.to_string();
        for value in values {
            // Those on which the server acts are about the first publication: its window would drop the copy, or its time
            // to live end it.
            if text.starts_with("Nats-") {
                ours.push((format!("{ORIGINAL}{text}"), value.to_string()));
            } else if !OURS.contains(&text.as_str()) {
                len += line(&text, value.as_str());
                headers.append(name.clone(), value.clone());
            }
        }
    }
    if len > max_payload {
        return Err(Error::TooLarge { len, max_payload });
    }
    for (name, value) in ours {
        // A header is one line.
        let value = value.replace(['\r', '\n'], " ");
        let added = line(&name, &value);
        if len + added <= max_payload {
            len += added;
            headers.insert(name, value);
        }
    }
    Ok(headers)
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
    fn a_letter_has_as_many_of_our_headers_as_there_is_room_for() {
        let mut original = HeaderMap::new();
        original.insert(MESSAGE_ID, "order 1");
        original.insert("Nats-TTL", "1s");
        original.insert(REASON, "of the last time");
        let explanation = "one line\r\nInjected: and no other";
        let ours = [(REASON, "failed"), (PARKED_AS, "s 1"), (SUBJECT, "orders"), (EXPLANATION, explanation)];
        let names = |max_payload| {
            let headers = letter(Some(&original), 100, ours, max_payload)?;
            let mut names: Vec<_> = headers.iter().map(|(name, _)| name.to_string()).collect();
            names.sort_unstable();
            Ok::<_, Error>(names)
        };
        // 12 bytes, 21 of its id, and 100; then 24, 18 and 25 of ours.
        assert!(matches!(names(132), Err(Error::TooLarge { len: 133, max_payload: 132 })));
        assert_eq!(names(133).unwrap(), [MESSAGE_ID]);
        assert_eq!(names(150).unwrap(), [MESSAGE_ID]);
        assert_eq!(names(156).unwrap(), [MESSAGE_ID, "Nats-Msg-Id"]);
        assert_eq!(names(157).unwrap(), [MESSAGE_ID, REASON]);
        assert_eq!(names(175).unwrap(), [MESSAGE_ID, "Nats-Msg-Id", REASON]);
        assert_eq!(names(200).unwrap(), [MESSAGE_ID, "Nats-Msg-Id", REASON, SUBJECT]);
        let all = [MESSAGE_ID, "Nats-Msg-Id", EXPLANATION, "Oncekey-Original-Nats-TTL", REASON, SUBJECT];
        assert_eq!(names(1_000).unwrap(), all);
        let all = letter(Some(&original), 100, ours, 1_000).unwrap();
        let value = |name: &str| all.get(name).map(ToString::to_string);
        assert_eq!(value(REASON).as_deref(), Some("failed"));
        assert_eq!(value("Oncekey-Original-Nats-TTL").as_deref(), Some("1s"));
        assert_eq!(value(EXPLANATION).as_deref(), Some("one line  Injected: and no other"));
    }

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
