//! Each duration that a user may give, at its extremes: zero, a nanosecond, the longest.

use std::time::Duration;

use oncekey::Failure;
use oncekey_consume::{Consumer, DeliveryAction, Later, Message};

use crate::support::*;

const NANO: Duration = Duration::from_nanos(1);
const EXTREMES: [Duration; 3] = [Duration::ZERO, NANO, Duration::MAX];

#[test]
fn a_wait_of_a_consumer() {
    for wait in EXTREMES {
        let bench = bench();
        let mut owner = claim(&bench.dedup);
        let consumer = Consumer::new(bench.dedup.clone()).wait(wait);
        let mut tasks = Tasks::default();
        let told = tasks.spawn(async {
            let handler = async |_| Ok::<_, Failure<String>>("second".to_owned());
            consumer.consume(Message::new(key()), handler).await.reason()
        });
        tasks.pass(&bench.clock, NANO);
        ready(owner.complete("first")).unwrap();
        tasks.settle();
        let expected = if wait == Duration::MAX { "replayed" } else { "in-progress-here" };
        assert_eq!(told.take(), expected, "{wait:?}");
    }
}

/// The delay is what was asked for, and up to half as much again, whatever the number of the attempt.
#[test]
fn a_backoff_of_a_consumer() {
    for (first, most) in EXTREMES.into_iter().flat_map(|first| EXTREMES.map(|most| (first, most))) {
        let bench = bench();
        let consumer = Consumer::new(bench.dedup.clone()).backoff(first, most);
        for attempt in 1..=40 {
            let message = Message::new(key()).deliveries(attempt);
            let told = bench.run(
                consumer.consume(message, async |_| Err::<String, _>(Failure::NoEffect("busy".to_owned()))),
            );
            let DeliveryAction::RetryLater { after, because: Later::NoEffect(_) } = told else {
                panic!("{first:?}, {most:?}: {told:?}")
            };
            let doubled = first.saturating_mul(2_u32.saturating_pow(attempt - 1));
            let exactly = doubled.min(most.max(first));
            // Spread, and rounded to a nanosecond.
            let longest = exactly.saturating_add(exactly / 2).saturating_add(NANO);
            assert!(
                (exactly..=longest).contains(&after),
                "{first:?}, {most:?}, attempt {attempt}: {after:?}"
            );
        }
    }
}
