//! Counters, gauges and histograms, by `metrics`.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use oncekey::Key;
use oncekey::answer::Kept;
use oncekey::observe::StoreCall;
use oncekey::observe::{Event, Observer};

use crate::ScopeLabel;

/// The names of the metrics.
pub mod names {
    /// Claims by `answer` and `scope`.
    pub const CLAIMS: &str = "oncekey_claims_total";
    /// Ends of granted claims on record, by `end` (`completed`, `released`, `abandoned`) and
    /// `scope`.
    pub const CONCLUSIONS: &str = "oncekey_conclusions_total";
    /// Claims held now, by `scope`.
    pub const HELD: &str = "oncekey_held_claims";
    /// Calls that wait for a duplicate now, by `scope`.
    pub const WAITERS: &str = "oncekey_waiters";
    /// Leases lost, by `scope` and whether somebody else had the key by then (`superseded`).
    pub const LEASES_LOST: &str = "oncekey_lost_leases_total";
    /// Effects in doubt, by `scope` and what was done about it (`event`): `abandoned`, `held` for a
    /// resolver, `taken_over`, `resolved`.
    pub const DOUBTS: &str = "oncekey_doubts_total";
    /// Operations that ran without their outcome on record, by `scope` and `why`: `not_stored`,
    /// `failed_open`.
    pub const UNRECORDED: &str = "oncekey_unrecorded_total";
    /// Operations that are done on record without an outcome that later calls can get, by `scope`
    /// and `why`: `too_large`, `unencodable`.
    pub const NOT_KEPT: &str = "oncekey_outcomes_not_kept_total";
    /// How long calls to the store take, in seconds, by `method` and `result`: `ok`, or the kind of
    /// failure.
    pub const STORE_SECONDS: &str = "oncekey_store_call_seconds";
}

/// Metrics of an engine, through whatever recorder the service has installed. Give it to
/// [`DeduplicatorBuilder::observer`](oncekey::DeduplicatorBuilder::observer).
///
/// | name | kind | labels |
/// |---|---|---|
/// | `oncekey_claims_total` | counter | `scope`, `answer`: `granted`, `replay`, `done`, `in progress`, `mismatch`, `in doubt`, `exhausted`, `incomparable`, `unanswered` |
/// | `oncekey_conclusions_total` | counter | `scope`, `end`: `completed`, `released`, `abandoned` |
/// | `oncekey_held_claims` | gauge | `scope` |
/// | `oncekey_waiters` | gauge | `scope` |
/// | `oncekey_lost_leases_total` | counter | `scope`, `superseded`: `true`, `false` |
/// | `oncekey_doubts_total` | counter | `scope`, `event`: `abandoned`, `held`, `taken_over`, `resolved` |
/// | `oncekey_unrecorded_total` | counter | `scope`, `why`: `not_stored`, `failed_open` |
/// | `oncekey_outcomes_not_kept_total` | counter | `scope`, `why`: `too_large`, `unencodable` |
/// | `oncekey_store_call_seconds` | histogram, seconds | `method`, `result`: `ok`, `unavailable`, `timed_out`, `full`, `corrupt`, `newer`, `rejected`, `other` |
///
/// A claim that was granted too late, and begun anew, counts each time it was granted.
#[derive(Clone, Debug)]
pub struct Metrics {
    scope: ScopeLabel,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// With the first component of each scope.
    pub fn new() -> Self {
        Self { scope: ScopeLabel::First }
    }

    /// How much of a scope is shown. Each value of it is a series of its own.
    #[must_use]
    pub fn scope(mut self, scope: ScopeLabel) -> Self {
        self.scope = scope;
        self
    }

    /// Tells the recorder what the metrics are, and their units. Call it once, after the recorder
    /// is installed.
    pub fn describe() {
        describe_counter!(names::CLAIMS, "Claims by their answer");
        describe_counter!(names::CONCLUSIONS, "Granted claims by how they ended, on record");
        describe_gauge!(names::HELD, "Claims held now");
        describe_gauge!(names::WAITERS, "Calls that wait for a running duplicate now");
        describe_counter!(names::LEASES_LOST, "Claims whose holder may no longer act");
        describe_counter!(names::DOUBTS, "Attempts that stopped in the middle, by what was done about them");
        describe_counter!(names::UNRECORDED, "Operations that ran without their outcome on record");
        describe_counter!(names::NOT_KEPT, "Operations that are done without an outcome for later calls");
        describe_histogram!(names::STORE_SECONDS, Unit::Seconds, "How long calls to the store take");
    }
}

impl Observer for Metrics {
    fn event(&self, key: &Key, event: &Event<'_>) {
        let scope = || self.scope.of(key);
        let claims = |answer: &'static str| {
            counter!(names::CLAIMS, "scope" => scope(), "answer" => answer).increment(1);
        };
        let concluded = |end: &'static str| {
            counter!(names::CONCLUSIONS, "scope" => scope(), "end" => end).increment(1);
        };
        let doubts = |event: &'static str| {
            counter!(names::DOUBTS, "scope" => scope(), "event" => event).increment(1);
        };
        let unrecorded = |why: &'static str| {
            counter!(names::UNRECORDED, "scope" => scope(), "why" => why).increment(1);
        };
        match event {
            Event::Granted { after_doubt, .. } => {
                claims("granted");
                gauge!(names::HELD, "scope" => scope()).increment(1);
                if *after_doubt {
                    doubts("taken_over");
                }
            }
            Event::LetGo => gauge!(names::HELD, "scope" => scope()).decrement(1),
            Event::Answered { answer, .. } => {
                claims(answer);
                if *answer == "in doubt" {
                    doubts("held");
                }
            }
            Event::Unanswered => claims("unanswered"),
            Event::Waiting => gauge!(names::WAITERS, "scope" => scope()).increment(1),
            Event::Waited => gauge!(names::WAITERS, "scope" => scope()).decrement(1),
            Event::LeaseLost { superseded, .. } => {
                let superseded = if *superseded { "true" } else { "false" };
                counter!(names::LEASES_LOST, "scope" => scope(), "superseded" => superseded).increment(1);
            }
            Event::Completed { kept, .. } => {
                concluded("completed");
                let why = match kept {
                    Kept::Whole => return,
                    Kept::TooLarge { .. } => "too_large",
                    Kept::Unencodable => "unencodable",
                    _ => "other",
                };
                counter!(names::NOT_KEPT, "scope" => scope(), "why" => why).increment(1);
            }
            Event::Released => concluded("released"),
            Event::Abandoned => {
                concluded("abandoned");
                doubts("abandoned");
            }
            Event::Resolved => doubts("resolved"),
            Event::Unrecorded => unrecorded("not_stored"),
            Event::FailedOpen => unrecorded("failed_open"),
            _ => {}
        }
    }

    fn store_call(&self, call: &StoreCall) {
        use oncekey::store::StoreErrorKind as Kind;
        let result = match call.failure {
            None => "ok",
            Some(Kind::Unavailable) => "unavailable",
            Some(Kind::TimedOut) => "timed_out",
            Some(Kind::Full) => "full",
            Some(Kind::Corrupt) => "corrupt",
            Some(Kind::Newer) => "newer",
            Some(Kind::Rejected) => "rejected",
            Some(_) => "other",
        };
        histogram!(names::STORE_SECONDS, "method" => call.method, "result" => result)
            .record(call.took.as_secs_f64());
    }
}
