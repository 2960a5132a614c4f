//! Problems in the error forms of well-known APIs, ready for
//! [`Builder::problems`](crate::Builder::problems).
//!
//! **A service whose clients expect errors in a form of its own must write problems in that form**,
//! or they are not seen as errors. Stripe's node client is one that looks for the member `error` in
//! a body, and not at the status: it takes `application/problem+json` for a success, also where
//! nothing ran. A form that is not here is a closure of some ten lines;
//! [`Problem`] has all that it needs.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode, request};
use serde::Serialize;

use crate::grpc;
use crate::problem::{BASE, Problem};

/// Stripe's form, as its clients read it: `{"error": {"type": .., "code": .., "message": ..}}`.
///
/// - `type` is `idempotency_error` where the key is the trouble, `invalid_request_error` for other
///   4xx, and `api_error` for 5xx.
/// - `code` is the problem's slug with underscores, but `idempotency_key_in_use` for `in-progress`.
/// - `message` is the problem's detail, and `doc_url` the page of this crate about it.
/// - Statuses are those of the problem, but 400 instead of 409, 413 and 422 where a retry does not
///   help. Stripe's clients tell errors apart by status: they raise their idempotency error, or
///   that of an invalid request, for 400 only, and a general `APIError` for other statuses.
/// - `operation_id` is there where the problem has one.
///
/// Requests of gRPC get [`Problem::grpc_response`].
///
/// ```
/// # use oncekey_http::{IdempotencyLayer, Principal};
/// use oncekey_http::problems;
///
/// # let dedup = oncekey::Deduplicator::new(oncekey::MemoryStore::new());
/// let layer = IdempotencyLayer::builder(dedup, Principal::waived()).problems(problems::stripe_like());
/// ```
pub fn stripe_like() -> impl Fn(&Problem, &request::Parts) -> Response<Bytes> + Send + Sync + Clone + 'static
{
    |problem, request| if grpc::is(&request.headers) { problem.grpc_response() } else { stripe(problem) }
}

fn stripe(problem: &Problem) -> Response<Bytes> {
    #[derive(Serialize)]
    struct Body<'a> {
        error: Error<'a>,
    }
    #[derive(Serialize)]
    struct Error<'a> {
        r#type: &'static str,
        code: String,
        message: &'a str,
        doc_url: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        operation_id: Option<String>,
    }
    let about_the_key = matches!(problem.status, StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY);
    let error = Error {
        r#type: match problem.status {
            _ if about_the_key => "idempotency_error",
            status if status.is_client_error() => "invalid_request_error",
            _ => "api_error",
        },
        code: match problem.slug {
            "in-progress" => "idempotency_key_in_use".to_owned(),
            slug => slug.replace('-', "_"),
        },
        message: &problem.detail,
        doc_url: format!("{BASE}{}", problem.slug),
        operation_id: problem.operation_id.map(|id| id.to_string()),
    };
    let body = serde_json::to_vec(&Body { error }).expect("strings are written to memory");
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = match problem.status {
        StatusCode::CONFLICT | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY
            if !problem.retry_may_help =>
        {
            StatusCode::BAD_REQUEST
        }
        status => status,
    };
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(after) = problem.retry_after_secs() {
        fields.insert(RETRY_AFTER, HeaderValue::from(after));
    }
    problem.tell_clients(fields);
    response
}
