//! The headers and properties of a copy: the producer's, without those on which the broker acts.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};

/// In a copy: begins the names of the headers that keep what the broker acted on in the original. A time to live is in
/// `oncekey-original-expiration`, and an `x-delay` in `oncekey-original-x-delay`.
pub const ORIGINAL: &str = "oncekey-original-";
/// In a message that was put off: how often it was delivered until then.
pub(super) const DELIVERED: &str = "oncekey-delivered";
/// Of a message that is on disk.
const PERSISTENT: u8 = 2;

/// Headers on which the broker acts, or a plugin of it, or which it sets. With an `x-death` that names the work queue, a
/// message is dropped when its delay is over: the broker takes it for one that circles.
const ACTED_ON: [&str; 16] = [
    "CC",
    "BCC",
    "x-death",
    "x-first-death-exchange",
    "x-first-death-queue",
    "x-first-death-reason",
    "x-last-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
    "x-delivery-count",
    "x-acquired-count",
    "x-delay",
    "x-received-from",
    "x-stream-filter-value",
    "x-deduplication-header",
    "x-cache-ttl",
];

/// Most bytes of headers with ours among them: a server refuses those that do not fit into a frame, and closes the
/// connection. Its own limit is of 131,072 bytes with all properties, unless it is configured otherwise.
const HEADERS_MAX: usize = 120_000;

/// The producer's headers as they are; and, as far as there is room, ours and what the broker acted on as [`ORIGINAL`].
pub(super) fn headers<const N: usize>(
    original: &BasicProperties,
    more: [(&str, AMQPValue); N],
) -> FieldTable {
    let mut headers = FieldTable::default();
    let mut ours: Vec<_> = more.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    for (name, value) in [("expiration", original.expiration()), ("user-id", original.user_id())] {
        ours.extend(value.as_ref().map(|value| (format!("{ORIGINAL}{name}"), text(value.as_str()))));
    }
    let of_original = original.headers().as_ref().map(FieldTable::inner);
    // In a copy of a copy, what the broker acted on is of the delay between them.
    let is_copy = of_original.is_some_and(|headers| headers.contains_key(DELIVERED));
    for (name, value) in of_original.into_iter().flatten() {
        if !ACTED_ON.contains(&name.as_str()) {
            headers.insert(name.clone(), value.clone());
        } else if !is_copy {
            ours.push((format!("{ORIGINAL}{name}"), value.clone()));
        }
    }
    let mut len = table_len(&headers);
    for (name, value) in ours {
        let added = 1 + name.len() + value_len(&value);
        if len + added <= HEADERS_MAX {
            len += added;
            headers.insert(name.into(), value);
        }
    }
    headers
}

/// Those on which the broker does not act. The priority is among them: it counts when the message is back in the work
/// queue.
pub(super) fn properties(original: &BasicProperties) -> BasicProperties {
    type Get = fn(&BasicProperties) -> &Option<ShortString>;
    type With = fn(BasicProperties, ShortString) -> BasicProperties;
    const TEXTS: [(Get, With); 7] = [
        (BasicProperties::content_type, BasicProperties::with_content_type),
        (BasicProperties::content_encoding, BasicProperties::with_content_encoding),
        (BasicProperties::correlation_id, BasicProperties::with_correlation_id),
        (BasicProperties::reply_to, BasicProperties::with_reply_to),
        (BasicProperties::message_id, BasicProperties::with_message_id),
        (BasicProperties::kind, BasicProperties::with_type),
        (BasicProperties::app_id, BasicProperties::with_app_id),
    ];
    let mut copy = BasicProperties::default().with_delivery_mode(PERSISTENT);
    for (get, with) in TEXTS {
        if let Some(value) = get(original) {
            copy = with(copy, value.clone());
        }
    }
    if let Some(priority) = original.priority() {
        copy = copy.with_priority(*priority);
    }
    if let Some(timestamp) = original.timestamp() {
        copy = copy.with_timestamp(*timestamp);
    }
    copy
}

pub(super) fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(value))
}

fn table_len(table: &FieldTable) -> usize {
    let fields = table.inner().iter();
    4 + fields.map(|(name, value)| 1 + name.as_str().len() + value_len(value)).sum::<usize>()
}

/// How many bytes a value takes, or a few more.
fn value_len(value: &AMQPValue) -> usize {
    match value {
        AMQPValue::LongString(value) => 5 + value.as_bytes().len(),
        AMQPValue::ShortString(value) => 5 + value.as_str().len(),
        AMQPValue::ByteArray(value) => 5 + value.len(),
        AMQPValue::FieldArray(values) => 5 + values.as_slice().iter().map(value_len).sum::<usize>(),
        AMQPValue::FieldTable(table) => 1 + table_len(table),
        _ => 9,
    }
}
