//! Every error of this crate, as it reads in a log: a text under review, `errors.txt`.
//!
//! Each begins with what happened, and where a key is known, to which scope. It ends with what to do.

#![allow(clippy::unwrap_used)]

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use crate::admin::ResolverFailure;
use crate::answer::{ClaimFate, FailureKind, FinalFailure, NoValue, Unavailable};
use crate::codec::{Codec as _, Json};
use crate::kept::Kept;
use crate::memory::MemoryError;
use crate::protocol::{Algorithm, Conclusion, DecodeError, OperationId};
use crate::store::{StoreError, StoreErrorKind, StoreFailure};
use crate::{ClaimError, Deduplicator, DeduplicatorBuilder, Error, Fingerprint, Key, MemoryStore, RunError};

#[derive(Debug, thiserror::Error)]
#[error("the store's own error")]
struct OfAStore {
    kind: StoreErrorKind,
    maybe_applied: bool,
    source: io::Error,
}

impl StoreError for OfAStore {
    fn maybe_applied(&self) -> bool {
        self.maybe_applied
    }

    fn kind(&self) -> StoreErrorKind {
        self.kind
    }
}

/// Titles and texts, each error with its sources.
#[derive(Default)]
struct Listing(Vec<(String, Vec<String>)>);

impl Listing {
    fn add(&mut self, title: impl Into<String>, error: &dyn StdError) {
        let texts =
            std::iter::successors(Some(error), |&error| error.source()).map(ToString::to_string).collect();
        self.0.push((title.into(), texts));
    }

    fn text(&self) -> String {
        let mut text =
            "# Written by the test `errors::each_error_reads_as_reviewed`; ONCEKEY_BLESS=1 renews it.\n"
                .to_owned();
        for (title, texts) in &self.0 {
            write!(text, "\n{title}\n").unwrap();
            for (depth, line) in texts.iter().enumerate() {
                writeln!(text, "    {}{line}", if depth == 0 { "" } else { "caused by: " }).unwrap();
            }
        }
        text
    }
}

fn scope() -> String {
    "payments.charge".to_owned()
}

fn failure(kind: StoreErrorKind, maybe_applied: bool) -> StoreFailure {
    StoreFailure::new(OfAStore { kind, maybe_applied, source: io::Error::other("the client's error") })
}

fn id() -> OperationId {
    "0c5e3f0d6a1b4c2e9f8a7b6c5d4e3f21".parse().expect("32 digits")
}

fn of_keys_and_records(listing: &mut Listing) {
    let long = "x".repeat(256);
    let parts = ["a"; 9];
    for error in [Key::new("a", ""), Key::new(long, "b"), Key::scoped(parts, "b"), Key::from_bytes(&[9])] {
        listing.add("KeyError", &error.unwrap_err());
    }
    listing.add("FingerprintError", &Fingerprint::from_digest(Algorithm::BLAKE3, &[0; 64]).unwrap_err());
    let keyed_by_pairs = std::collections::BTreeMap::from([((1, 2), 3)]);
    listing.add("FingerprintError", &Fingerprint::sha256_json(&keyed_by_pairs).unwrap_err());
    listing.add("OperationId, read from text", &"x".parse::<OperationId>().unwrap_err());
    listing.add("DecodeError::Newer", &DecodeError::Newer { found: 9 });
    listing.add("DecodeError::Damaged", &DecodeError::Damaged { problem: "it is too short" });
    listing.add("codec::Json", &*Json.encode(&Some(f64::NAN)).unwrap_err());
}

fn of_options(listing: &mut Listing) {
    type Change = fn(DeduplicatorBuilder<MemoryStore>) -> DeduplicatorBuilder<MemoryStore>;
    const DAY: Duration = Duration::from_secs(86_400);
    const SECOND: Duration = Duration::from_secs(1);
    let changes: [Change; 12] = [
        |b| b.lease(Duration::ZERO),
        |b| b.lease(400 * DAY),
        |b| b.lease(10 * SECOND).retention(9 * SECOND),
        |b| b.tail(Duration::MAX - SECOND),
        |b| b.margin(30 * SECOND),
        |b| b.renew_every(27 * SECOND),
        |b| b.renew_every(Duration::from_micros(10)),
        |b| b.attempts_max(0),
        |b| b.outcome_len_max(usize::MAX),
        |b| b.poll_every(2 * SECOND, SECOND),
        |b| b.retention(DAY).redelivered_for(14 * DAY),
        |b| b.retention(DAY + SECOND).redelivered_for(15 * DAY / 10),
    ];
    for change in changes {
        listing.add("OptionsError", &change(Deduplicator::builder(MemoryStore::new())).build().unwrap_err());
    }
}

const KINDS: [StoreErrorKind; 7] = [
    StoreErrorKind::Unavailable,
    StoreErrorKind::TimedOut,
    StoreErrorKind::Full,
    StoreErrorKind::Corrupt,
    StoreErrorKind::Newer,
    StoreErrorKind::Rejected,
    StoreErrorKind::Other,
];

fn of_claims(listing: &mut Listing) {
    for kind in KINDS {
        let maybe_applied = kind.is_transient();
        let error = Error::Store { scope: scope(), source: failure(kind, maybe_applied) };
        listing.add(format!("Error::Store, {kind:?}, maybe_applied: {maybe_applied}"), &error);
    }
    for (name, source) in [
        ("no answer", StoreFailure::timed_out(Duration::from_millis(2500))),
        ("late answers", StoreFailure::too_slow()),
    ] {
        listing.add(format!("Error::Store, {name}"), &Error::Store { scope: scope(), source });
    }
    listing.add("Error::Inconsistent", &Error::Inconsistent { scope: scope() });
    listing.add("Error::Incomparable", &Error::Incomparable { scope: scope() });
    for source in [ResolverFailure::TimedOut { timeout: Duration::from_secs(5) }, ResolverFailure::Panicked] {
        listing.add("Error::Resolver", &Error::Resolver { scope: scope(), source });
    }
}

fn of_holders(listing: &mut Listing) {
    for possibly_applied in [false, true] {
        let error = ClaimError::Superseded { scope: scope(), possibly_applied };
        listing.add("ClaimError::Superseded", &error);
    }
    for (kind, maybe_applied) in [(StoreErrorKind::Unavailable, true), (StoreErrorKind::Rejected, false)] {
        let error = ClaimError::Store { scope: scope(), source: failure(kind, maybe_applied) };
        listing.add("ClaimError::Store", &error);
    }
    for (name, error) in [
        ("AlreadyCompleted", ClaimError::AlreadyCompleted { scope: scope() }),
        ("AlreadyReleased", ClaimError::AlreadyReleased { scope: scope() }),
        ("Gone", ClaimError::Gone { scope: scope() }),
        ("Unknown", ClaimError::Unknown { scope: scope() }),
        ("Inconsistent", ClaimError::Inconsistent { scope: scope() }),
        ("DeadlinePassed", lost()),
        ("CheckpointTooLarge", ClaimError::CheckpointTooLarge { scope: scope(), len: 9000, max: 4096 }),
        ("Prepared", ClaimError::Prepared { scope: scope() }),
        ("NotPrepared", ClaimError::NotPrepared { scope: scope() }),
        ("Unprotected", ClaimError::Unprotected),
    ] {
        listing.add(format!("ClaimError::{name}"), &error);
    }
}

fn lost() -> ClaimError {
    ClaimError::DeadlinePassed { scope: scope() }
}

fn fates() -> [(FailureKind, ClaimFate); 8] {
    [
        (FailureKind::NoEffect, ClaimFate::Released),
        (FailureKind::Final, ClaimFate::Recorded { kept: Kept::Whole }),
        (FailureKind::Final, ClaimFate::Recorded { kept: Kept::Shortened { len: 9000 } }),
        (FailureKind::Final, ClaimFate::Recorded { kept: Kept::TooLarge { len: 9000 } }),
        (FailureKind::Final, ClaimFate::NotStored(lost())),
        (FailureKind::Unknown, ClaimFate::InDoubt),
        (FailureKind::Unknown, ClaimFate::NotStored(lost())),
        (FailureKind::Unknown, ClaimFate::Unprotected),
    ]
}

fn of_runs(listing: &mut Listing) {
    let error = || io::Error::other("the operation's own error");
    for (kind, claim) in fates() {
        let title = format!("RunError::Operation, {kind:?}, {claim:?}");
        listing.add(title, &RunError::Operation { error: error(), kind, claim });
    }
    listing.add("RunError::LeaseLost", &RunError::<io::Error>::LeaseLost { source: lost() });
    let source = Error::Store { scope: scope(), source: failure(StoreErrorKind::Unavailable, false) };
    listing.add("RunError::Claim", &RunError::<io::Error>::Claim { source });
    let unread = RunError::<io::Error>::Decode {
        scope: scope(),
        conclusion: Conclusion::Succeeded,
        source: "the codec's own error".into(),
    };
    listing.add("RunError::Decode", &unread);
    for (kind, claim) in fates() {
        if kind == FailureKind::Final {
            let title = format!("NoValue::Failed, now, {claim:?}");
            listing.add(title, &NoValue::<_, String>::Failed(FinalFailure::Now { error: error(), claim }));
        }
    }
    let before = |failure: Option<&str>| FinalFailure::Before { failure: failure.map(str::to_owned) };
    for (name, no_value) in [
        ("Failed, before", NoValue::Failed(before(Some("card declined")))),
        ("Failed, before, not kept", NoValue::Failed(before(None))),
        ("Done, too large", NoValue::Done(Unavailable::TooLarge { len: 2_000_000 })),
        ("Done, unencodable", NoValue::Done(Unavailable::Unencodable)),
        ("Done, retention over", NoValue::Done(Unavailable::NoLongerKept)),
        ("InProgress", NoValue::InProgress { retry_after: Duration::from_micros(1_234_567) }),
        ("Mismatch", NoValue::Mismatch),
        ("InDoubt", NoValue::InDoubt(id())),
        ("Exhausted", NoValue::Exhausted(1)),
    ] {
        let no_value: NoValue<io::Error, String> = no_value;
        listing.add(format!("NoValue::{name}"), &no_value);
    }
}

fn of_stores(listing: &mut Listing) {
    listing.add("MemoryError::Full", &MemoryError::Full { unit: "records", used: 100, bound: 100 });
    listing.add("MemoryError::TooLarge", &MemoryError::TooLarge { len: 1 << 31 });
}

#[test]
fn each_error_reads_as_reviewed() {
    let mut listing = Listing::default();
    for part in [of_keys_and_records, of_options, of_claims, of_holders, of_runs, of_stores] {
        part(&mut listing);
    }
    for (title, texts) in &listing.0 {
        let text = &texts[0];
        assert!(!text.ends_with(['.', ' ', ';']) && !text.contains("  "), "{title}: {text}");
        let useless = text.contains("does not help");
        assert!(!(useless && text.contains("; try again")), "{title} contradicts itself: {text}");
        let known = title.starts_with("Error::")
            || title.starts_with("ClaimError::") && !title.ends_with("Unprotected");
        assert!(!known || text.contains("`payments.charge`"), "{title} does not name the scope: {text}");
    }
    let now = listing.text();
    if std::env::var_os("ONCEKEY_BLESS").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/errors.txt"), &now).unwrap();
    }
    let reviewed = include_str!("errors.txt");
    let differs = now.lines().zip(reviewed.lines()).find(|(now, reviewed)| now != reviewed);
    assert!(
        now == reviewed,
        "errors.txt differs, first at {differs:?}; if you meant it, run with ONCEKEY_BLESS=1"
    );
}
