//! gRPC: its replies are HTTP 200 whatever came of a call, with the status in a field of the head
//! or, after the messages, in a trailer.

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

pub(crate) const STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Whether the message is of gRPC. gRPC-Web is not: its trailers are in its body.
pub(crate) fn is(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    value
        .and_then(|value| value.strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest, [] | [b'+' | b';' | b' ', ..]))
}

/// The status in these fields. `None` if there is none; one that is not a number is UNKNOWN, as
/// clients take it.
pub(crate) fn status(fields: &HeaderMap) -> Option<u16> {
    let value = fields.get(STATUS)?;
    Some(value.to_str().ok().and_then(|code| code.parse().ok()).unwrap_or(UNKNOWN))
}

pub(crate) const OK: u16 = 0;
const UNKNOWN: u16 = 2;

/// Whether a call with this status failed.
pub(crate) fn failed(status: Option<u16>) -> bool {
    status.is_some_and(|status| status != OK)
}
