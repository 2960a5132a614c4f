use super::*;

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_pause_is_never_shorter_than_asked_while_there_is_room() {
    let of_ms = |ms| visibility(Duration::from_millis(ms), Duration::ZERO);
    assert_eq!([0, 1, 1_000, 1_001, 43_139_999].map(of_ms), [0, 1, 1, 2, 43_140]);
}

#[test]
fn the_twelve_hours_are_counted_from_the_receipt_and_leave_time_for_the_request() {
    let seconds = Duration::from_secs;
    for (pause, since_receipt, expected) in [
        (12 * HOUR, Duration::ZERO, 43_140),
        (12 * HOUR, seconds(90), 43_050),
        (12 * HOUR, Duration::from_millis(90_001), 43_049),
        (Duration::MAX, 6 * HOUR, 21_540),
        (HOUR, 10 * HOUR, 3_600),
        (HOUR, 11 * HOUR + seconds(30), 3_510),
        (HOUR, 12 * HOUR, 0),
        (HOUR, Duration::MAX, 0),
    ] {
        assert_eq!(visibility(pause, since_receipt), expected, "{pause:?} after {since_receipt:?}");
        let total = seconds(expected.try_into().unwrap()).saturating_add(since_receipt);
        assert!(expected == 0 || total + REQUEST_MAX <= INVISIBLE_MAX, "{pause:?} after {since_receipt:?}");
    }
}

fn attribute(value: &str) -> MessageAttributeValue {
    MessageAttributeValue::builder().data_type("String").string_value(value).build().unwrap()
}

fn order() -> aws_sdk_sqs::types::builders::MessageBuilder {
    Message::builder()
        .message_id("5fea7756")
        .body("an order")
        .message_attributes(MESSAGE_ID, attribute("order 1"))
}

#[test]
fn a_letter_for_a_fifo_queue_has_the_group_of_its_original_and_an_id_of_the_message() {
    let of_fifo = order()
        .attributes(MessageSystemAttributeName::MessageGroupId, "customer 1")
        .attributes(MessageSystemAttributeName::MessageDeduplicationId, "order 1")
        .build();
    let ids = |dead_letters: &str, message: &Message| {
        let letter = letter(dead_letters, message, attribute("failed"));
        (letter.get_message_group_id().clone(), letter.get_message_deduplication_id().clone())
    };
    let some = |text: &str| Some(text.to_owned());
    let (fifo, standard) = ("https://sqs.example/1/dead.fifo", "https://sqs.example/1/dead");
    assert_eq!(ids(fifo, &of_fifo), (some("customer 1"), some("5fea7756")));
    assert_eq!(ids(fifo, &order().build()), (some("5fea7756"), some("5fea7756")));
    assert_eq!(ids(standard, &of_fifo), (None, None));
}

#[test]
fn a_letter_has_its_reason_unless_that_is_one_attribute_too_many() {
    for (others, has_reason) in [(0, true), (8, true), (9, false)] {
        let message = (0..others)
            .fold(order(), |message, n| {
                message.message_attributes(format!("other-{n}"), attribute("a value"))
            })
            .build();
        let letter = letter("https://sqs.example/1/dead", &message, attribute("failed"));
        assert_eq!(letter.get_message_body().as_deref(), Some("an order"));
        let attributes = letter.get_message_attributes().as_ref().unwrap();
        assert_eq!(attributes.get(MESSAGE_ID), Some(&attribute("order 1")));
        assert_eq!(attributes.get(REASON), has_reason.then_some(&attribute("failed")));
        assert!(attributes.len() <= ATTRIBUTES_MAX);
    }
}

#[test]
fn a_letter_that_fails_again_has_the_reason_of_now() {
    let message = (0..8)
        .fold(order(), |message, n| message.message_attributes(format!("other-{n}"), attribute("a value")))
        .message_attributes(REASON, attribute("exhausted"))
        .build();
    let letter = letter("https://sqs.example/1/dead", &message, attribute("failed"));
    assert_eq!(letter.get_message_attributes().as_ref().unwrap().get(REASON), Some(&attribute("failed")));
}
