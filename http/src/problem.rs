#![doc = include_str!("problem.md")]

use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LANGUAGE, CONTENT_TYPE, HeaderName, LINK, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use oncekey::OperationId;
use oncekey::store::StoreErrorKind;
use serde::Serialize;

use crate::key::KeyProblem;

/// Why the client does not get the handler's response.
///
/// What each is for the client is in [`Problem`], which [`Problem::of`] makes of it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Situation {
    /// The key is required, and there is none: the draft's section 2.7.
    KeyMissing,
    /// There is a field, and no key in it.
    KeyMalformed(KeyProblem),
    /// The request has a key, and nobody can tell whose request it is.
    NoPrincipal,
    /// The body is over the limit up to which it is compared, or over that of a layer outside.
    BodyTooLarge {
        /// The limit, in bytes; `None` if it is another layer's.
        limit: Option<usize>,
    },
    /// The body could not be read to its end.
    BodyUnreadable,
    /// The caller has as many keys in progress, or kept, as one may have; the handler did not run.
    TooManyKeys {
        /// When there may be room.
        retry_after: Duration,
    },
    /// The key was used for another request: the draft's sections 2.2 and 2.7.
    Mismatch,
    /// The kept response depends on header fields in which this request differs from the first.
    VaryMismatch {
        /// Their names, with commas.
        fields: String,
    },
    /// The first request is running: the draft's sections 2.6 and 2.7.
    InProgress {
        /// When its response may be there.
        retry_after: Duration,
    },
    /// An attempt stopped in the middle, and nobody knows what came of it.
    InDoubt {
        /// The id that it handed downstream, for whoever resolves it.
        operation_id: OperationId,
    },
    /// All attempts failed, and no more are made.
    Exhausted {
        /// How many there were.
        attempts: u32,
    },
    /// The request was carried out, and its response cannot be given again.
    Done,
    /// The request failed for good, and its response cannot be given again.
    FailedBefore,
    /// The attempt lost its claim in the middle, and was stopped.
    LeaseLost,
    /// The handler ended without a response.
    HandlerEnded,
    /// The service shuts down; the handler did not run.
    ShuttingDown,
    /// The store, or the engine's resolver, cannot answer for now; the handler did not run.
    StoreUnavailable,
    /// The store refuses, or returns inconsistent answers, and asking again will not help; the handler did
    /// not run.
    StoreFailed,
    /// What is on record cannot be used; the handler did not run.
    RecordUnusable,
}

impl Situation {
    /// Of a claim that could not be answered.
    pub(crate) fn of_claim_error(error: &oncekey::Error) -> Self {
        match error {
            oncekey::Error::Store { source, .. } => match source.kind() {
                StoreErrorKind::Corrupt | StoreErrorKind::Newer => Self::RecordUnusable,
                kind if kind.is_transient() => Self::StoreUnavailable,
                _ => Self::StoreFailed,
            },
            oncekey::Error::Incomparable { .. } => Self::RecordUnusable,
            oncekey::Error::Resolver { .. } => Self::StoreUnavailable,
            _ => Self::StoreFailed,
        }
    }
}

/// A problem, ready to be sent.
///
/// ```
/// use oncekey_http::problem::{Problem, Situation};
///
/// let problem = Problem::of(&Situation::Mismatch);
/// assert_eq!((problem.status.as_u16(), problem.slug), (422, "mismatch"));
/// let response = problem.response("https://pay.example/problems#", None);
/// assert_eq!(response.headers()["content-type"], "application/problem+json");
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Problem {
    /// The status.
    pub status: StatusCode,
    /// The last part of its type's URI. Stable: a client may depend on it.
    pub slug: &'static str,
    /// What kind of problem it is, the same each time.
    pub title: &'static str,
    /// What happened, and what to do about it.
    pub detail: String,
    /// When asking again makes sense; `None` if nobody knows, or it does not.
    pub retry_after: Option<Duration>,
    /// Whether the very same request can fare better if it is sent again, before somebody acts.
    /// Where it cannot, clients are [told](Self::tell_clients).
    pub retry_may_help: bool,
    /// The operation that somebody must resolve, for a program to read: the member `operation_id`.
    pub operation_id: Option<OperationId>,
}

const STRIPE_SHOULD_RETRY: HeaderName = HeaderName::from_static("stripe-should-retry");
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// How long a client is told to wait where nothing better is known.
pub(crate) const RETRY_SOON: Duration = Duration::from_secs(1);

impl Problem {
    /// What a client is told of a situation.
    ///
    /// 400 for a missing key, 422 for one that was used for another request and 409 for one whose
    /// request is outstanding are from the draft's section 2.7; the others are chosen here.
    pub fn of(situation: &Situation) -> Self {
        use Situation as S;
        let (status, slug, title) = match situation {
            S::KeyMissing => (StatusCode::BAD_REQUEST, "key-missing", "Idempotency-Key is missing"),
            S::KeyMalformed(_) => (StatusCode::BAD_REQUEST, "key-malformed", "Idempotency-Key is malformed"),
            S::NoPrincipal => (StatusCode::FORBIDDEN, "no-principal", "Idempotency-Key needs a known caller"),
            S::BodyTooLarge { .. } => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "body-too-large",
                "The body is too large for an Idempotency-Key",
            ),
            S::BodyUnreadable => (StatusCode::BAD_REQUEST, "body-unreadable", "The body could not be read"),
            S::TooManyKeys { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, "too-many-keys", "This caller has too many keys")
            }
            S::Mismatch => (StatusCode::UNPROCESSABLE_ENTITY, "mismatch", "Idempotency-Key is already used"),
            S::VaryMismatch { .. } => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "vary-mismatch",
                "The kept response is for a request with other header fields",
            ),
            S::InProgress { .. } => {
                (StatusCode::CONFLICT, "in-progress", "A request is outstanding for this Idempotency-Key")
            }
            S::InDoubt { .. } => {
                (StatusCode::CONFLICT, "in-doubt", "It is not known whether the request took effect")
            }
            S::Exhausted { .. } => (StatusCode::CONFLICT, "exhausted", "No further attempts are made"),
            S::FailedBefore => (
                StatusCode::CONFLICT,
                "failed-not-replayable",
                "The request failed for good, and its response is not kept",
            ),
            S::Done => (
                StatusCode::CONFLICT,
                "done-not-replayable",
                "The request was carried out, and its response is not kept",
            ),
            S::LeaseLost => (StatusCode::SERVICE_UNAVAILABLE, "lease-lost", "The request was interrupted"),
            S::HandlerEnded => {
                (StatusCode::INTERNAL_SERVER_ERROR, "handler-ended", "The request ended without a response")
            }
            S::ShuttingDown => {
                (StatusCode::SERVICE_UNAVAILABLE, "shutting-down", "The service is shutting down")
            }
            S::StoreUnavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "store-unavailable",
                "Idempotency cannot be ensured for now",
            ),
            S::StoreFailed => {
                (StatusCode::INTERNAL_SERVER_ERROR, "store-failed", "Idempotency cannot be ensured")
            }
            S::RecordUnusable => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "record-unusable",
                "The record of this key cannot be used",
            ),
        };
        let operation_id = match situation {
            S::InDoubt { operation_id } => Some(*operation_id),
            _ => None,
        };
        Self {
            status,
            slug,
            title,
            detail: detail(situation),
            retry_after: retry_after(situation),
            retry_may_help: retry_may_help(situation),
            operation_id,
        }
    }

    /// The value of `Retry-After`: [`retry_after`](Self::retry_after), rounded up to whole seconds,
    /// and at least one.
    pub fn retry_after_secs(&self) -> Option<u64> {
        self.retry_after.map(whole_seconds)
    }

    /// Adds the fields that tell clients not to send the request again, where
    /// [that does not help](Self::retry_may_help): `Stripe-Should-Retry: false`, which Stripe's
    /// clients read, and `X-Should-Retry: false`, which those made by Stainless read. Such clients
    /// otherwise send a request again after each 409 and 5xx. A field that is there stays as it is.
    ///
    /// The layer does this to each problem over HTTP, in whatever form it was written.
    pub fn tell_clients(&self, headers: &mut HeaderMap) {
        for name in [STRIPE_SHOULD_RETRY, X_SHOULD_RETRY] {
            if !self.retry_may_help && !headers.contains_key(&name) {
                headers.insert(name, HeaderValue::from_static("false"));
            }
        }
    }

    /// The response: problem details as JSON, `Retry-After` where asking again makes sense, what
    /// [tells clients](Self::tell_clients) where it does not, and no caching.
    ///
    /// `base` goes before the slug to make the type's URI. `documentation`, if any, is linked as
    /// the draft's section 2.7 shows.
    pub fn response(&self, base: &str, documentation: Option<&HeaderValue>) -> Response<Bytes> {
        #[derive(Serialize)]
        struct Details<'a> {
            r#type: String,
            title: &'a str,
            status: u16,
            detail: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            operation_id: Option<String>,
        }
        let details = Details {
            r#type: format!("{base}{}", self.slug),
            title: self.title,
            status: self.status.as_u16(),
            detail: &self.detail,
            operation_id: self.operation_id.map(|id| id.to_string()),
        };
        let body = serde_json::to_vec(&details).expect("strings and a number are written to memory");
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CONTENT_LANGUAGE, HeaderValue::from_static("en"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(after) = self.retry_after_secs() {
            headers.insert(RETRY_AFTER, HeaderValue::from(after));
        }
        self.tell_clients(&mut headers);
        if let Some(link) = documentation {
            headers.insert(LINK, link.clone());
        }
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = self.status;
        *response.headers_mut() = headers;
        response
    }
}

/// What goes before a slug by default: the documentation of this module, which has a heading for
/// each.
pub(crate) const BASE: &str = "https://docs.rs/oncekey-http/latest/oncekey_http/problem/index.html#";

/// Rounded up, and at least one: zero would say "at once".
fn whole_seconds(duration: Duration) -> u64 {
    let up = duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0));
    up.max(1)
}

fn retry_after(situation: &Situation) -> Option<Duration> {
    use Situation as S;
    match situation {
        S::InProgress { retry_after } | S::TooManyKeys { retry_after } => Some(*retry_after),
        S::LeaseLost | S::ShuttingDown | S::StoreUnavailable => Some(RETRY_SOON),
        S::KeyMissing
        | S::KeyMalformed(_)
        | S::NoPrincipal
        | S::BodyTooLarge { .. }
        | S::BodyUnreadable
        | S::Mismatch
        | S::VaryMismatch { .. }
        | S::InDoubt { .. }
        | S::Exhausted { .. }
        | S::Done
        | S::FailedBefore
        | S::HandlerEnded
        | S::StoreFailed
        | S::RecordUnusable => None,
    }
}

fn retry_may_help(situation: &Situation) -> bool {
    use Situation as S;
    match situation {
        S::BodyUnreadable
        | S::TooManyKeys { .. }
        | S::InProgress { .. }
        | S::LeaseLost
        | S::HandlerEnded
        | S::ShuttingDown
        | S::StoreUnavailable => true,
        S::KeyMissing
        | S::KeyMalformed(_)
        | S::NoPrincipal
        | S::BodyTooLarge { .. }
        | S::Mismatch
        | S::VaryMismatch { .. }
        | S::InDoubt { .. }
        | S::Exhausted { .. }
        | S::Done
        | S::FailedBefore
        | S::StoreFailed
        | S::RecordUnusable => false,
    }
}

fn detail(situation: &Situation) -> String {
    use Situation as S;
    match situation {
        S::KeyMissing => {
            "This operation needs an Idempotency-Key: a fresh random one for each new operation, and the same one for each retry of it."
                .to_owned()
        }
        S::KeyMalformed(problem) => format!("Not processed: {problem}."),
        S::NoPrincipal => {
            "Not processed: keys are kept for each caller, and this request does not say who calls.".to_owned()
        }
        S::BodyTooLarge { limit: None } => "Not processed: the body is too large.".to_owned(),
        S::BodyTooLarge { limit: Some(limit) } => {
            format!("Not processed: with an Idempotency-Key, a body may have at most {limit} bytes.")
        }
        S::BodyUnreadable => "Not processed: the body broke off, or could not be decoded.".to_owned(),
        S::TooManyKeys { .. } => {
            "Not processed: this caller has as many keys in progress, or kept, as the service allows. Ask again later, with the same key."
                .to_owned()
        }
        S::Mismatch => {
            "Not processed: this key was sent with another request. Use a new key for a new request, and the very same request for a retry."
                .to_owned()
        }
        S::VaryMismatch { fields } => format!(
            "Not processed again: the response to the first request with this key depends on `{fields}`, and this request has other values there. Send the very same request for a retry."
        ),
        S::InProgress { .. } => {
            "The first request with this key is being processed. Ask again with the same key for its response.".to_owned()
        }
        S::InDoubt { operation_id } => format!(
            "The first request with this key was interrupted, and is not processed again until it is known what came of it. Ask the operator of this service, naming operation {operation_id}."
        ),
        S::Exhausted { attempts } => format!(
            "Not processed again: {attempts} attempts with this key ended without a known result, and may have taken effect. Do not send the request under a new key; ask the operator of this service."
        ),
        S::FailedBefore => {
            "A request with this key was refused or failed for good, and is not processed again; the response that said why was not kept.".to_owned()
        }
        S::Done => {
            "A request with this key was processed, and is not processed again; its response was not kept. Look the result up.".to_owned()
        }
        S::LeaseLost | S::HandlerEnded => {
            "Processing was interrupted, and may have taken effect. Ask again with the same key, and only with that.".to_owned()
        }
        S::ShuttingDown | S::StoreUnavailable => "Not processed. Ask again with the same key.".to_owned(),
        S::StoreFailed => {
            "Not processed: the store of this service refuses to keep keys. Ask the operator of this service."
                .to_owned()
        }
        S::RecordUnusable => {
            "This request was not processed; an earlier one with the key may have been, and what is on record for it cannot be read. Do not send the request under a new key; ask the operator of this service.".to_owned()
        }
    }
}
