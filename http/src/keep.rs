//! What is kept of a response: all of it, if its body comes to an end soon enough.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode, response};
use http_body::Body;
use oncekey::Failure;

use crate::body::{self, Read, ResponseBody, Whole};
use crate::given::{Given, Live};
use crate::grpc;
use crate::kept::{Kept, Recorded};
use crate::options::Options;
use crate::outcome_rule::OutcomeRule;
use crate::vary::Varied;

/// How long the end of a body is waited for that may be a stream.
const PATIENCE: Duration = Duration::from_millis(100);

/// What is known of the length of a body before it is read.
enum Length {
    /// It comes to an end, and has at least so many bytes.
    Bounded(u64),
    /// Short or endless: that shows as it is read.
    Open,
    /// Server-sent events, which come one by one.
    Events,
}

impl Length {
    fn of(options: &Options, headers: &HeaderMap, body: &impl Body) -> Self {
        let size = body.size_hint();
        let announced = headers.get(CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse().ok());
        let is_events = || {
            let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
            kind.is_some_and(|kind| kind.starts_with(b"text/event-stream"))
        };
        match announced {
            Some(len) => Self::Bounded(size.lower().max(len)),
            None if size.upper().is_some() || options.buffer_streams || body.is_end_stream() => {
                Self::Bounded(size.lower())
            }
            None if is_events() => Self::Events,
            None => Self::Open,
        }
    }
}

/// Reads a response's body so that it can be kept. One that breaks off is as a stream that does:
/// its head says what came of the operation, the client gets the body as far as it came, and it is
/// not run again for the rest.
///
/// `asked`: the header fields of the request, unless none of them matters. `open`: only the trailers say what came of the operation. Of a stream that is passed on, the
/// head has to do.
pub(crate) async fn keep<R: Body<Data = Bytes>, E>(
    options: &Options,
    asked: Option<&HeaderMap>,
    parts: response::Parts,
    body: R,
    open: bool,
) -> Result<Given<R, E>, Failure<Given<R, E>>> {
    let limit = options.response_body_max;
    let is_grpc = grpc::is(&parts.headers);
    let failed = failed_by_head(parts.status, &parts.headers);
    let read = match Length::of(options, &parts.headers, &body) {
        Length::Bounded(least) if least <= limit as u64 => body::read(body, limit, |_| ()).await,
        Length::Open => {
            let clock = &options.clock;
            body::read_patiently(body, limit, || clock.sleep_until(clock.now() + PATIENCE)).await
        }
        Length::Bounded(_) | Length::Events => {
            let response = Response::from_parts(parts, ResponseBody::untouched(body));
            return done(Given::new(Kept::NotReplayable, response), failed);
        }
    };
    match read {
        Read::Whole(Whole { bytes, trailers }) => {
            let status = trailers.as_ref().filter(|_| is_grpc).and_then(grpc::status);
            // One that never came to its status is no outcome.
            let late = || status.map_or(OutcomeRule::Unknown, OutcomeRule::by_grpc_status);
            if let Some(other) = open.then(late).filter(|late| *late != OutcomeRule::Keep) {
                let body = ResponseBody::whole(bytes, trailers);
                return Err(not_kept(other, Response::from_parts(parts, body)));
            }
            let mut headers = options.kept_headers.pick(&parts.headers);
            // What this layer says of a response is said anew each time.
            for mark in [&options.replayed, &options.unrecorded] {
                headers.remove(mark);
            }
            let kept = trailers.as_ref().map(|trailers| options.kept_headers.pick(trailers));
            let varied = asked.map(|asked| Varied::of(&parts.headers, asked)).unwrap_or_default();
            let recorded =
                Recorded { status: parts.status, headers, body: bytes.clone(), trailers: kept, varied };
            let response = Response::from_parts(parts, ResponseBody::whole(bytes, trailers));
            let given = Given::new(Kept::Whole(Box::new(recorded)), response);
            done(given, failed || grpc::failed(status))
        }
        Read::Over(read, rest) => {
            let response = Response::from_parts(parts, ResponseBody::begun(read, rest));
            done(Given::new(Kept::NotReplayable, response), failed)
        }
        Read::Broken(read, error) => {
            let response = Response::from_parts(parts, ResponseBody::broken(read, error));
            done(Given::new(Kept::NotReplayable, response), failed)
        }
    }
}

/// A response that is kept, or of which it is kept that it is done.
pub(crate) fn done<R: Body, E>(
    given: Given<R, E>,
    failed: bool,
) -> Result<Given<R, E>, Failure<Given<R, E>>> {
    if failed { Err(Failure::Final(given)) } else { Ok(given) }
}

/// Whether the head of a response says that its operation failed.
pub(crate) fn failed_by_head(status: StatusCode, headers: &HeaderMap) -> bool {
    status.is_client_error()
        || status.is_server_error()
        || grpc::is(headers) && grpc::failed(grpc::status(headers))
}

/// A response that is no outcome.
pub(crate) fn not_kept<R: Body, E>(
    rule: OutcomeRule,
    response: Response<ResponseBody<R>>,
) -> Failure<Given<R, E>> {
    let given = Given::nothing_kept(Live::Response(response));
    if rule == OutcomeRule::Release { Failure::NoEffect(given) } else { Failure::Unknown(given) }
}
