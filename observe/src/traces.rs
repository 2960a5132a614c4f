//! Spans and events, by `tracing`.

use std::fmt::Write as _;

use oncekey::Key;
use oncekey::observe::{CallPhase, Span as Watched};
use oncekey::observe::{Event, Observer};
use sha2::{Digest as _, Sha256};
use tracing::field::{Empty, display};
use tracing::{Span, debug, error, info, info_span, trace, warn};

use crate::ScopeLabel;

/// The target of all spans and events.
const TARGET: &str = "oncekey";

/// Spans and events of an engine, under the target `oncekey`. Give it to
/// [`DeduplicatorBuilder::observer`](oncekey::DeduplicatorBuilder::observer).
///
/// | span (at `INFO`) | fields | lasts |
/// |---|---|---|
/// | `claim` | `scope`, `key`, `answer`, `attempt`, `operation_id` | from the call until it knows what to do, waiting included |
/// | `run` | `scope`, `key`, `attempt` | while the operation is driven |
/// | `complete` | `scope`, `key`, `attempt`, `answer` | until what became of it is on record, or cannot be |
///
/// `answer` of a claim is `granted`, `replay`, `done`, `in progress`, `mismatch`, `in doubt`,
/// `exhausted`, `incomparable` or `unanswered`; of a completion `completed`, `released` or
/// `abandoned`, and empty if it failed. `key` is a hash: the first 16 hexadecimal digits of the
/// SHA-256 of the [salt](Self::salt) and the key's bytes, the same in each process, to find what
/// belongs together.
///
/// What somebody should look at is an event of its own: at `WARN` a lost lease, an effect in doubt,
/// an outcome not recorded, one that later calls cannot get, an unprotected run and a store that
/// failed and is tried again; at `ERROR` a store that is not tried again. The rest is at `DEBUG` and
/// `TRACE`.
#[derive(Clone, Debug)]
pub struct Traces {
    scope: ScopeLabel,
    salt: Vec<u8>,
}

impl Default for Traces {
    fn default() -> Self {
        Self::new()
    }
}

impl Traces {
    /// Whole scopes, and no salt.
    pub fn new() -> Self {
        Self { scope: ScopeLabel::Whole, salt: Vec::new() }
    }

    /// How much of a scope is shown.
    #[must_use]
    pub fn scope(mut self, scope: ScopeLabel) -> Self {
        self.scope = scope;
        self
    }

    /// Hashed before each key. A key that can be guessed, such as an order's number, can be found
    /// from its hash by trying; not by somebody who does not know a secret salt.
    #[must_use]
    pub fn salt(mut self, salt: impl Into<Vec<u8>>) -> Self {
        self.salt = salt.into();
        self
    }

    /// What stands for a key in spans and events: to look for one whose id you know.
    ///
    /// ```
    /// use oncekey::Key;
    /// use oncekey_observe::Traces;
    ///
    /// # fn main() -> Result<(), oncekey::protocol::KeyError> {
    /// let traces = Traces::new().salt("a secret of this service");
    /// let hash = traces.key_hash(&Key::new("payments.charge", "7f3a-91")?);
    /// assert_eq!(hash.len(), 16);
    /// # Ok(()) }
    /// ```
    pub fn key_hash(&self, key: &Key) -> String {
        let digest = Sha256::new().chain_update(&self.salt).chain_update(key.as_bytes()).finalize();
        digest.iter().take(8).fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("a string takes what is written");
            text
        })
    }
}

impl Observer for Traces {
    fn event(&self, key: &Key, event: &Event<'_>) {
        record(event);
        let (scope, key) = (|| self.scope.of(key), || self.key_hash(key));
        match event {
            Event::Granted { attempt, operation_id, after_doubt, reply_lost, .. } => {
                if *after_doubt {
                    warn!(target: TARGET, scope = scope(), key = key(), attempt, %operation_id,
                        "an attempt that stopped in the middle is taken over; its effect is in doubt");
                } else {
                    debug!(target: TARGET, scope = scope(), key = key(), attempt, reply_lost, "claim granted");
                }
            }
            Event::Answered { answer: "in doubt", .. } => {
                warn!(target: TARGET, scope = scope(), key = key(),
                    "an attempt stopped in the middle, and waits until somebody resolved what happened");
            }
            Event::Answered { answer, .. } => {
                debug!(target: TARGET, scope = scope(), key = key(), answer, "claim answered");
            }
            Event::LeaseLost { superseded, .. } => {
                warn!(target: TARGET, scope = scope(), key = key(), superseded, "the lease is lost");
            }
            Event::Unrecorded => {
                warn!(target: TARGET, scope = scope(), key = key(), "an operation ran, and its outcome could not be stored");
            }
            Event::Abandoned => {
                warn!(target: TARGET, scope = scope(), key = key(), "an attempt is given up, its effect in doubt");
            }
            Event::FailedOpen => {
                warn!(target: TARGET, scope = scope(), key = key(), "the store cannot answer; the operation runs unprotected");
            }
            Event::StoreFailed { failure, retry_in: Some(retry_in), .. } => {
                warn!(target: TARGET, scope = scope(), key = key(), kind = ?failure.kind(), retry_in = ?retry_in,
                    error = causes(failure), "the store failed, and is tried again");
            }
            Event::StoreFailed { failure, .. } => {
                error!(target: TARGET, scope = scope(), key = key(), kind = ?failure.kind(), error = causes(failure),
                    "the store failed, and is not tried again");
            }
            Event::Resolved => info!(target: TARGET, scope = scope(), key = key(), "a doubt is resolved"),
            Event::Forgotten => info!(target: TARGET, scope = scope(), key = key(), "a key is forgotten"),
            // The store's failure was told.
            Event::Unanswered => debug!(target: TARGET, scope = scope(), key = key(), "claim not answered"),
            Event::Completed { kept, .. } if kept.is_whole() => {
                debug!(target: TARGET, scope = scope(), key = key(), "completed");
            }
            Event::Completed { kept, .. } => {
                warn!(target: TARGET, scope = scope(), key = key(), kept = ?kept,
                    "completed without an outcome that later calls can get");
            }
            Event::Released => debug!(target: TARGET, scope = scope(), key = key(), "released"),
            other => trace!(target: TARGET, scope = scope(), key = key(), "{other:?}"),
        }
    }

    fn begin(&self, key: &Key, phase: CallPhase) -> Option<Box<dyn Watched>> {
        let (scope, key) = (|| self.scope.of(key), || self.key_hash(key));
        let span = match phase {
            CallPhase::Claim => info_span!(target: TARGET, "claim", scope = scope(), key = key(),
                answer = Empty, attempt = Empty, operation_id = Empty),
            CallPhase::Run { attempt, .. } => {
                info_span!(target: TARGET, "run", scope = scope(), key = key(), attempt)
            }
            CallPhase::Complete { attempt, .. } => {
                info_span!(target: TARGET, "complete", scope = scope(), key = key(), attempt, answer = Empty)
            }
            _ => return None,
        };
        (!span.is_disabled()).then(|| Box::new(PhaseSpan(span)) as Box<dyn Watched>)
    }
}

/// Notes on the phase under way what an event says of it. Events come while their phase's span is
/// the current one.
fn record(event: &Event<'_>) {
    let (phase, answer) = match event {
        Event::Granted { .. } => ("claim", "granted"),
        Event::Answered { answer, .. } => ("claim", *answer),
        Event::Unanswered => ("claim", "unanswered"),
        Event::Completed { .. } => ("complete", "completed"),
        Event::Released => ("complete", "released"),
        Event::Abandoned => ("complete", "abandoned"),
        _ => return,
    };
    let span = Span::current();
    if span.metadata().is_none_or(|of| of.target() != TARGET || of.name() != phase) {
        return;
    }
    span.record("answer", answer);
    if let Event::Granted { attempt, operation_id, .. } = event {
        span.record("attempt", attempt);
        span.record("operation_id", display(operation_id));
    }
}

/// An error and what caused it, in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        write!(text, ": {cause}").expect("a string takes what is written");
        next = cause.source();
    }
    text
}

/// A span that is entered and left by hand, since its work moves between threads.
struct PhaseSpan(Span);

impl Watched for PhaseSpan {
    fn enter(&mut self) {
        self.0.with_subscriber(|(id, dispatch)| dispatch.enter(id));
    }

    fn exit(&mut self) {
        self.0.with_subscriber(|(id, dispatch)| dispatch.exit(id));
    }
}
