//! A call made inside of an operation for the key of that operation.

use std::time::Duration;

use oncekey::time::Clock as _;
use oncekey::{Answer, Attempt, ClaimAnswer, Earlier, Key, RunError};

use crate::support::*;

type Told = Result<Answer<String>, RunError<String>>;

fn key_of(id: impl std::fmt::Display) -> Key {
    Key::new("orders.ship", id.to_string()).unwrap()
}

async fn done(_: Attempt) -> Result<String, String> {
    Ok("done".to_owned())
}

/// An operation that waits for its own key would wait for itself.
#[test]
fn an_operation_that_waits_for_its_own_key_is_told_at_once_that_it_is_in_progress_here() {
    let bench = bench();
    let begun = bench.clock.now();
    let inside = async |_| {
        let run = bench.dedup.request(key()).wait(Duration::MAX).run(done).await;
        let told = matches!(run, Ok(Answer::Earlier(Earlier::InProgress { here: true, .. })));
        let claim = bench.dedup.request(key()).wait(Duration::MAX).claim().await;
        let claimed = matches!(claim, Ok(ClaimAnswer::Answered(Earlier::InProgress { here: true, .. })));
        Ok::<_, String>(format!("{told}, {claimed}"))
    };
    let told: Told = bench.run(bench.dedup.request(key()).run(inside));
    assert!(matches!(&told, Ok(Answer::Executed { value, .. }) if value == "true, true"), "{told:?}");
    assert_eq!(bench.clock.now(), begun);
}

/// Through another key it is the same.
#[test]
fn an_operation_inside_of_another_that_waits_for_the_outer_key_is_told_at_once() {
    let bench = bench();
    let begun = bench.clock.now();
    let inner = async |_| {
        let run = bench.dedup.request(key_of("outer")).wait(Duration::MAX).run(done).await;
        Ok::<_, String>(
            matches!(run, Ok(Answer::Earlier(Earlier::InProgress { here: true, .. }))).to_string(),
        )
    };
    let outer = async |_| {
        let told = bench.dedup.request(key_of("inner")).run(inner).await;
        told.map_err(|error| format!("{error:?}"))?.into_value().map_err(|error| format!("{error:?}"))
    };
    let told: Told = bench.run(bench.dedup.request(key_of("outer")).run(outer));
    assert!(matches!(&told, Ok(Answer::Executed { value, .. }) if value == "true"), "{told:?}");
    assert_eq!(bench.clock.now(), begun);
}
