//! Code of the user's that panics: a codec behind the handler, a resolver before it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use async_trait::async_trait;
use oncekey::admin::{Doubt, Resolution, Resolver, ResolverFailure};
use oncekey::codec::{Codec, CodecError, Raw};
use oncekey::{Attempt, Error, Failure, Key, Payload};
use oncekey_consume::{Consumer, DeliveryAction, Later, Message};

use crate::support::*;

/// Panics with what a handler returned.
#[derive(Clone, Copy)]
struct Panicking;

impl Codec<String> for Panicking {
    fn encode(&self, _: &String) -> Result<Payload, CodecError> {
        panic!("planned")
    }

    fn decode(&self, bytes: &Payload) -> Result<String, CodecError> {
        Raw.decode(bytes)
    }
}

#[test]
fn a_message_whose_value_panics_is_acknowledged_the_next_time() {
    let bench = bench();
    let consumer = Consumer::new(bench.dedup.clone()).codec(Panicking);
    let message = |id: &str| Message::new(Key::new("orders.ship", id).unwrap());
    let ships = || |_: Attempt| async { Ok::<_, Failure<String>>("shipped".to_owned()) };
    let alone = catch_unwind(AssertUnwindSafe(|| bench.run(consumer.consume(message("alone"), ships()))));
    assert!(alone.is_err_and(|panic| panic.downcast_ref::<&str>() == Some(&"planned")));
    let told = bench.run(consumer.consume_many([(message("in a poll"), ships())]));
    assert_eq!(told.iter().map(DeliveryAction::reason).collect::<Vec<_>>(), ["panicked"]);
    for id in ["alone", "in a poll"] {
        let again = consumer.consume(message(id), |_| async { panic!("it runs again") });
        let told: DeliveryAction<String, String> = bench.run(again);
        assert_eq!(told.reason(), "done", "{id}");
    }
}

/// Panics instead of saying what happened.
struct NeverSays;

#[async_trait]
impl Resolver for NeverSays {
    async fn resolve(&self, _: &Doubt) -> Option<Resolution> {
        panic!("planned")
    }
}

/// It has the message delivered again: it was not handled.
#[test]
fn a_message_in_doubt_is_retried_later_if_the_resolver_panics() {
    let bench = bench_with(|builder| builder.resolver(NeverSays));
    let message = || Message::new(Key::new("orders.ship", "stopped").unwrap());
    let consumer = Consumer::new(bench.dedup.clone());
    let mut stopped =
        Box::pin(consumer.consume(message(), |_| std::future::pending::<Result<String, Failure<String>>>()));
    assert!(poll_once(stopped.as_mut()).is_none());
    drop(stopped);
    bench.clock.advance(LEASE * 2);
    let told =
        bench
            .run(consumer.consume(message(), async |_| -> Result<String, Failure<String>> {
                panic!("it runs again")
            }));
    let DeliveryAction::RetryLater { because: Later::Store(error), .. } = told else { panic!("{told:?}") };
    assert!(matches!(error, Error::Resolver { source: ResolverFailure::Panicked, .. }), "{error:?}");
}

also_at_once! {
    a_message_whose_value_panics_is_acknowledged_the_next_time
    a_message_in_doubt_is_retried_later_if_the_resolver_panics
}
