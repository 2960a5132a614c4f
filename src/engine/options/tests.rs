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
    let cases: [(&str, Change); 22] = [
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
        ("claim_tries", |b| b.claim_tries(0)),
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
    let cases: [(&str, Change, Change); 10] = [
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
            |b| b.margin(Duration::from_secs(29)).renew_every(STEP),
            |b| b.margin(Duration::from_secs(30)).renew_every(STEP),
        ),
        (
            "renew_every",
            |b| b.renew_every(Duration::from_secs(27) - STEP),
            |b| b.renew_every(Duration::from_secs(27)),
        ),
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
    assert!(error.to_string().contains("an owner stops 27s after its last renewal"), "{error}");
}
