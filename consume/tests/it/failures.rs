//! Handlers that fail with errors of any type.

use std::fmt;

use oncekey::codec::FactOnly;
use oncekey::{Attempt, Failure, Key, OrFailure as _, Policy};
use oncekey_consume::{Consumer, Dead, DeliveryAction, Later, Message};

use crate::support::*;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

#[test]
fn a_handler_of_messages_may_fail_with_any_error() {
    fn ship(order: &str) -> anyhow::Result<u32> {
        Ok(order.parse()?)
    }
    let bench = bench();
    let consumer = Consumer::new(bench.dedup);
    let handle = |order: &'static str| {
        ready(consumer.consume(Message::new(key()), async |_| -> Result<String, Failure<anyhow::Error>> {
            let shipped = ship(order)?;
            if shipped == 0 {
                Err(anyhow::anyhow!("order 0 is nobody's")).or_final()?;
            }
            Ok(shipped.to_string())
        }))
    };
    let action = handle("no number");
    assert!(matches!(action, DeliveryAction::RetryLater { because: Later::Unknown(_), .. }), "{action:?}");
    let action = handle("0");
    assert!(matches!(action, DeliveryAction::DeadLetter(Dead::Failed(_))), "{action:?}");
    match handle("0") {
        DeliveryAction::DeadLetter(Dead::FailedBefore(Some(text))) => assert_eq!(text, "order 0 is nobody's"),
        other => panic!("{other:?}"),
    }
}

/// Handlers whose error says nothing of itself: of any type, one by one and as a poll.
#[test]
fn a_handler_of_messages_may_return_a_plain_error() {
    #[derive(Debug)]
    struct Textless;
    async fn by_anyhow(_: Attempt) -> anyhow::Result<String> {
        anyhow::bail!("the carrier is busy")
    }
    async fn by_io(_: Attempt) -> std::io::Result<String> {
        Err(std::io::ErrorKind::BrokenPipe.into())
    }
    async fn by_box(_: Attempt) -> Result<String, AnyError> {
        Err("the carrier is busy")?
    }
    async fn by_textless(_: Attempt) -> Result<String, Textless> {
        Err(Textless)
    }
    fn is_retried<E: fmt::Debug, F: fmt::Debug>(told: &DeliveryAction<String, E, F>) {
        assert!(matches!(told, DeliveryAction::RetryLater { because: Later::Unknown(_), .. }), "{told:?}");
    }
    let bench = bench();
    let consumer = Consumer::new(bench.dedup);
    let message = |id: &str| Message::new(Key::new("orders.ship", id).unwrap());
    is_retried(&ready(consumer.consume_plain(message("a"), by_anyhow)));
    is_retried(&ready(consumer.consume_plain(message("b"), by_io)));
    is_retried(&ready(consumer.consume_plain(message("c"), by_box)));
    let textless = consumer.clone().failures(FactOnly);
    is_retried(&ready(textless.consume_plain(message("d"), by_textless)));
    let told = ready(consumer.consume_many_plain(["e", "f"].map(|id| (message(id), by_anyhow))));
    assert_eq!(told.len(), 2);
    told.iter().for_each(is_retried);
    // Under Hold, somebody has to find out what happened.
    let careful = consumer.policy(Policy::Hold);
    is_retried(&ready(careful.consume_plain(message("g"), by_anyhow)));
    let told = ready(careful.consume_plain(message("g"), by_anyhow));
    assert!(matches!(told, DeliveryAction::DeadLetter(Dead::InDoubt { .. })), "{told:?}");
}
