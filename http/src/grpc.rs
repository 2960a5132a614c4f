//! gRPC: its replies are HTTP 200 whatever came of a call, with the status in a field of the head or, after the messages,
//! in a trailer.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use crate::disposition::Disposition;
use crate::problem::Problem;

pub(crate) const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const PROBLEM: HeaderName = HeaderName::from_static("idempotency-problem");

/// Whether the message is of gRPC. gRPC-Web is not: its trailers are in its body.
pub(crate) fn is(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    value
        .and_then(|value| value.strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest, [] | [b'+' | b';' | b' ', ..]))
}

/// The status in these fields. `None` if there is none; one that is not a number is UNKNOWN, as clients take it.
pub(crate) fn status(fields: &HeaderMap) -> Option<u16> {
    let value = fields.get(STATUS)?;
    Some(value.to_str().ok().and_then(|code| code.parse().ok()).unwrap_or(UNKNOWN))
}

const OK: u16 = 0;
const UNKNOWN: u16 = 2;

/// Whether a call with this status failed.
pub(crate) fn failed(status: Option<u16>) -> bool {
    status.is_some_and(|status| status != OK)
}

/// The default rule about statuses, which goes by what the HTTP statuses that they stand for come to.
pub(crate) fn disposition(status: u16) -> Disposition {
    match status {
        // OK; INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, FAILED_PRECONDITION, OUT_OF_RANGE.
        OK | 3 | 5 | 6 | 9 | 11 => Disposition::Keep,
        // PERMISSION_DENIED, RESOURCE_EXHAUSTED, ABORTED, UNIMPLEMENTED, UNAUTHENTICATED.
        7 | 8 | 10 | 12 | 16 => Disposition::Release,
        // CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS, and what is not a status.
        _ => Disposition::Unknown,
    }
}

/// A problem as a client of gRPC understands it: a reply without messages, with a status, a message, and the problem's
/// slug in the metadata.
pub(crate) fn response(problem: &Problem) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    fields.insert(STATUS, HeaderValue::from(problem_status(problem)));
    let message = percent_encoded(&format!("{}. {}", problem.title, problem.detail));
    fields.insert(MESSAGE, HeaderValue::try_from(message).expect("what is left is visible ASCII"));
    fields.insert(PROBLEM, HeaderValue::from_static(problem.slug));
    response
}

fn problem_status(problem: &Problem) -> u16 {
    match problem.status {
        // UNAVAILABLE: the very same call again, a little later. Clients may do so by themselves.
        _ if problem.retry_after.is_some() => 14,
        // INVALID_ARGUMENT, PERMISSION_DENIED, OUT_OF_RANGE.
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => 3,
        StatusCode::FORBIDDEN => 7,
        StatusCode::PAYLOAD_TOO_LARGE => 11,
        // FAILED_PRECONDITION: not again, until somebody did something about it.
        StatusCode::CONFLICT => 9,
        // INTERNAL.
        _ => 13,
    }
}

/// As the values of `grpc-message` are written: visible ASCII and spaces as they are, but for the percent sign.
fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}
