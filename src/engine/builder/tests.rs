//! Each option of an engine: what it takes, and what it refuses by name.

use super::*;
use crate::MemoryStore;

/// How a test sets an option wrong.
type Change = fn(DeduplicatorBuilder<MemoryStore>) -> DeduplicatorBuilder<MemoryStore>;

#[test]
fn each_bad_option_is_refused_by_its_name() {
    let second = Duration::from_secs(1);
    assert!(Deduplicator::builder(MemoryStore::new()).lease(second).retention(second).build().is_ok());
    assert!(Deduplicator::builder(MemoryStore::new()).retention(Duration::MAX).build().is_ok());
    let cases: [(&str, Change); 25] = [
        ("lease", |b| b.lease(Duration::ZERO)),
        ("lease", |b| b.lease(Duration::MAX).retention(Duration::MAX)),
        ("lease", |b| b.lease(Duration::from_secs(10)).retention(Duration::from_secs(9))),
        ("retention", |b| b.retention(Duration::ZERO)),
        ("retention", |b| b.retention(Duration::MAX - Duration::from_secs(1))),
        ("tail", |b| b.tail(Duration::MAX - Duration::from_secs(1))),
        ("margin", |b| b.margin(Duration::from_secs(30))),
        ("renew_every", |b| b.renew_every(Duration::from_secs(27))),
        ("renew_every", |b| b.renew_every(Duration::ZERO)),
        ("renew_for_max", |b| b.renew_for_max(Duration::ZERO)),
        ("store_timeout", |b| b.store_timeout(Duration::ZERO)),
        ("store_timeout", |b| b.store_timeout(Duration::MAX)),
        ("completion_timeout", |b| b.completion_timeout(Duration::ZERO)),
        ("completion_timeout", |b| b.completion_timeout(Duration::MAX)),
        ("resolver_timeout", |b| b.resolver_timeout(Duration::ZERO)),
        ("resolver_timeout", |b| b.resolver_timeout(Duration::MAX)),
        ("call_timeout", |b| b.call_timeout(Duration::ZERO)),
        ("purge_every", |b| b.purge_every(Duration::ZERO)),
        ("attempts_max", |b| b.attempts_max(0)),
        ("outcome_len_max", |b| b.outcome_len_max(usize::MAX)),
        ("checkpoint_len_max", |b| b.checkpoint_len_max(usize::MAX)),
        ("poll_every", |b| b.poll_every(Duration::ZERO, Duration::from_secs(1))),
        ("poll_every", |b| b.poll_every(Duration::from_secs(2), Duration::from_secs(1))),
        ("poll_every", |b| b.poll_every(Duration::from_secs(2), Duration::MAX)),
        ("renew_for_max", |b| b.renew_for_max(Duration::MAX - Duration::from_secs(1))),
    ];
    for (option, change) in cases {
        let error = change(Deduplicator::builder(MemoryStore::new())).build().unwrap_err();
        assert_eq!(error.option(), option, "{error}");
        assert!(error.to_string().contains(&format!("`{option}`")), "{error}");
    }
}

/// A bound is the last value that is allowed, and one step past it is refused.
#[test]
fn each_bound_itself_is_allowed_and_what_is_past_it_is_not() {
    const STEP: Duration = Duration::from_nanos(1);
    let cases: [(&str, Change, Change); 14] = [
        ("retention", |b| b.retention(COUNTABLE_MAX), |b| b.retention(COUNTABLE_MAX + STEP)),
        ("tail", |b| b.tail(COUNTABLE_MAX), |b| b.tail(COUNTABLE_MAX + STEP)),
        ("renew_for_max", |b| b.renew_for_max(COUNTABLE_MAX), |b| b.renew_for_max(COUNTABLE_MAX + STEP)),
        (
            "lease",
            |b| b.lease(LEASE_MAX).retention(Duration::MAX),
            |b| b.lease(LEASE_MAX + STEP).retention(Duration::MAX),
        ),
        ("store_timeout", |b| b.store_timeout(LEASE_MAX), |b| b.store_timeout(LEASE_MAX + STEP)),
        (
            "poll_every",
            |b| b.poll_every(Duration::from_secs(1), Duration::from_secs(1)),
            |b| b.poll_every(Duration::from_secs(1) + STEP, Duration::from_secs(1)),
        ),
        (
            "margin",
            |b| b.margin(Duration::from_secs(29)).renew_every(INTERVAL_MIN),
            |b| b.margin(Duration::from_secs(30)).renew_every(INTERVAL_MIN),
        ),
        (
            "renew_every",
            |b| b.renew_every(Duration::from_secs(27) - STEP),
            |b| b.renew_every(Duration::from_secs(27)),
        ),
        ("renew_every", |b| b.renew_every(INTERVAL_MIN), |b| b.renew_every(INTERVAL_MIN - STEP)),
        // Renewed each third of it.
        ("lease", |b| b.lease(3 * INTERVAL_MIN), |b| b.lease(3 * INTERVAL_MIN - STEP)),
        (
            "poll_every",
            |b| b.poll_every(INTERVAL_MIN, INTERVAL_MIN),
            |b| b.poll_every(INTERVAL_MIN - STEP, INTERVAL_MIN),
        ),
        ("purge_every", |b| b.purge_every(INTERVAL_MIN), |b| b.purge_every(INTERVAL_MIN - STEP)),
        ("outcome_len_max", |b| b.outcome_len_max(256 << 20), |b| b.outcome_len_max((256 << 20) + 1)),
        (
            "checkpoint_len_max",
            |b| b.checkpoint_len_max(256 << 20),
            |b| b.checkpoint_len_max((256 << 20) + 1),
        ),
    ];
    for (option, allowed, refused) in cases {
        assert!(allowed(Deduplicator::builder(MemoryStore::new())).build().is_ok(), "{option}");
        let error = refused(Deduplicator::builder(MemoryStore::new())).build().unwrap_err();
        assert_eq!(error.option(), option, "{error}");
    }
    assert_eq!(LEASE_MAX.as_secs() / 86_400, 366, "a lease is at most a year");
}

#[test]
fn a_renewal_that_comes_too_late_is_told_how_long_there_is() {
    let late = Deduplicator::builder(MemoryStore::new()).renew_every(Duration::from_secs(28));
    let error = late.build().unwrap_err();
    assert!(error.to_string().contains("an owner stops 27 seconds after its last renewal"), "{error}");
}

/// How a test sets a duration.
type Set = fn(DeduplicatorBuilder<MemoryStore>, Duration) -> DeduplicatorBuilder<MemoryStore>;

/// Each option that is a duration, at its extremes: an engine that runs and replays, or a refusal
/// by name.
#[test]
fn each_duration_at_its_extremes_works_or_is_refused_by_its_name() {
    const NANO: Duration = Duration::from_nanos(1);
    const WORKS: &str = "";
    // For zero, for a nanosecond, and for the longest that there is.
    let cases: [(&str, Set, [&str; 3]); 15] = [
        ("lease", |b, d| b.lease(d), ["lease"; 3]),
        // The lease of 30 s is longer than a short retention.
        ("retention", |b, d| b.retention(d), ["retention", "lease", WORKS]),
        ("tail", |b, d| b.tail(d), [WORKS; 3]),
        ("margin", |b, d| b.margin(d), [WORKS, WORKS, "margin"]),
        ("renew_every", |b, d| b.renew_every(d), ["renew_every"; 3]),
        ("renew_for_max", |b, d| b.renew_for_max(d), ["renew_for_max", WORKS, WORKS]),
        ("store_timeout", |b, d| b.store_timeout(d), ["store_timeout", WORKS, "store_timeout"]),
        (
            "completion_timeout",
            |b, d| b.completion_timeout(d),
            ["completion_timeout", WORKS, "completion_timeout"],
        ),
        ("resolver_timeout", |b, d| b.resolver_timeout(d), ["resolver_timeout", WORKS, "resolver_timeout"]),
        ("redelivered_for", |b, d| b.redelivered_for(d), [WORKS, WORKS, "redelivered_for"]),
        ("redelivered_for", |b, d| b.retention(Duration::MAX).redelivered_for(d), [WORKS; 3]),
        ("purge_every", |b, d| b.purge_every(d), ["purge_every", "purge_every", WORKS]),
        ("poll_every, least", |b, d| b.poll_every(d, LEASE_MAX), ["poll_every"; 3]),
        ("poll_every, most", |b, d| b.poll_every(INTERVAL_MIN, d), ["poll_every"; 3]),
        ("poll_every, both", |b, d| b.poll_every(d, d), ["poll_every"; 3]),
    ];
    for (option, set, expected) in cases {
        for (duration, expected) in [Duration::ZERO, NANO, Duration::MAX].into_iter().zip(expected) {
            let built = set(Deduplicator::builder(MemoryStore::new()), duration).build();
            match (built, expected) {
                (Ok(dedup), WORKS) => runs_and_replays(&dedup, option, duration),
                (Err(error), refused) => {
                    assert_eq!(error.option(), refused, "{option} of {duration:?}: {error}");
                }
                (Ok(_), _) => panic!("{option} of {duration:?} is taken"),
            }
        }
    }
}

/// Runs an operation, which a request waits for that may wait for ever, on one thread.
fn runs_and_replays(dedup: &Deduplicator<MemoryStore>, option: &str, duration: Duration) {
    let key = || crate::Key::new("options", "one").unwrap();
    let run = |text: &'static str| {
        let request = dedup.request(key()).wait(Duration::MAX);
        request.run(move |attempt| async move {
            attempt.checkpoint("begun").await?;
            Ok::<_, crate::ClaimError>(text.to_owned())
        })
    };
    let told = futures::executor::block_on(futures::future::join_all([run("first"), run("second")]));
    let values: Vec<_> = told.into_iter().map(|answer| answer.unwrap().into_value().unwrap()).collect();
    assert_eq!(values, ["first", "first"], "{option} of {duration:?}");
}
