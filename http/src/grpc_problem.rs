//! Problems as clients of gRPC understand them.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use crate::grpc;
use crate::problem::Problem;

const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const PROBLEM: HeaderName = HeaderName::from_static("idempotency-problem");

impl Problem {
    /// The problem as a client of gRPC understands it: a reply without messages, with a status, a
    /// message, and the slug as the metadata `idempotency-problem`. What requests with the content
    /// type `application/grpc` get by default.
    pub fn grpc_response(&self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        let fields = response.headers_mut();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        fields.insert(grpc::STATUS, HeaderValue::from(problem_status(self)));
        let message = percent_encoded(&format!("{}. {}", self.title, self.detail));
        fields.insert(MESSAGE, HeaderValue::try_from(message).expect("what is left is visible ASCII"));
        fields.insert(PROBLEM, HeaderValue::from_static(self.slug));
        response
    }
}

fn problem_status(problem: &Problem) -> u16 {
    match problem.status {
        // RESOURCE_EXHAUSTED.
        StatusCode::TOO_MANY_REQUESTS => 8,
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

/// As the values of `grpc-message` are written: visible ASCII and spaces as they are, but for the
/// percent sign.
fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}
