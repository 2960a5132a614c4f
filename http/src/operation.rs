//! The operation that the engine runs: the service's own answer to a request, and what is to be
//! kept of it.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode, response};
use http_body::Body;
use oncekey::{Attempt, Failure, Store};
use tower_service::Service;

use crate::body::{self, Read, RequestBody, ResponseBody, Whole};
use crate::given::{Given, Live};
use crate::grpc;
use crate::kept::{Kept, Recorded};
use crate::options::Options;
use crate::outcome_rule::{Effect, OutcomeRule};
use crate::shared::Shared;
use crate::vary::{OnVary, Varied};

pub(crate) async fn operate<S, I, B, R>(
    shared: Arc<Shared<S>>,
    mut inner: I,
    parts: Parts,
    body: Whole,
    attempt: Attempt,
) -> Result<Given<R, I::Error>, Failure<Given<R, I::Error>>>
where
    S: Store + 'static,
    I: Service<Request<RequestBody<B>>, Response = Response<R>>,
    B: Body<Data = Bytes>,
    R: Body<Data = Bytes>,
{
    let asked = (shared.options.on_vary != OnVary::Replay).then(|| parts.headers.clone());
    let mut request = Request::from_parts(parts, RequestBody::whole(body.bytes, body.trailers));
    request.extensions_mut().insert(attempt);
    // Only what is about to run takes room: a duplicate that is answered, or waits, takes none.
    if let Err(error) = poll_fn(|cx| inner.poll_ready(cx)).await {
        // It was not called.
        return Err(Failure::NoEffect(Given::nothing_kept(Live::Error(error))));
    }
    let response = inner.call(request).await;
    let response = response.map_err(|error| Failure::Unknown(Given::nothing_kept(Live::Error(error))))?;
    // The handler has run. A body that panics costs this response and no more: the request is done
    // all the same, and is not run again.
    let failed = failed_by_head(response.status(), response.headers());
    let kept = AssertUnwindSafe(outcome(&shared.options, asked.as_ref(), response)).catch_unwind().await;
    kept.unwrap_or_else(|_panic| done(Given::outcome_without_response(), failed))
}

/// Applies the rule to a response: which part of it is kept, if any. `asked`: the header fields of
/// its request, unless none of them matters.
async fn outcome<R: Body<Data = Bytes>, E>(
    options: &Options,
    asked: Option<&HeaderMap>,
    response: Response<R>,
) -> Result<Given<R, E>, Failure<Given<R, E>>> {
    let (parts, body) = response.into_parts();
    let own = parts.extensions.get::<Effect>().copied().map(OutcomeRule::from);
    let own = match (own, &options.outcome_rule) {
        (None, Some(rule)) => match catch_unwind(AssertUnwindSafe(|| rule(&parts))) {
            Ok(rule) => rule,
            // Where the default would not have kept the response either, nobody knows what happened.
            Err(_panic) if by_head(&parts) != OutcomeRule::Keep => {
                return Err(Failure::Unknown(Given::nothing_kept(Live::Panicked)));
            }
            Err(_panic) => {
                let failed = failed_by_head(parts.status, &parts.headers);
                return done(Given::outcome_without_response(), failed);
            }
        },
        (own, _) => own,
    };
    match own.unwrap_or_else(|| by_head(&parts)) {
        OutcomeRule::Keep => {
            // What the head of a reply of gRPC leaves open, its trailers say.
            let open = own.is_none() && grpc::is(&parts.headers) && grpc::status(&parts.headers).is_none();
            keep(options, asked, parts, body, open).await
        }
        other => {
            let response = Response::from_parts(parts, ResponseBody::untouched(body));
            Err(not_kept(other, response))
        }
    }
}

/// A response that is kept, or of which it is kept that it is done.
fn done<R: Body, E>(given: Given<R, E>, failed: bool) -> Result<Given<R, E>, Failure<Given<R, E>>> {
    if failed { Err(Failure::Final(given)) } else { Ok(given) }
}

/// Whether the head of a response says that its operation failed.
fn failed_by_head(status: StatusCode, headers: &HeaderMap) -> bool {
    status.is_client_error()
        || status.is_server_error()
        || grpc::is(headers) && grpc::failed(grpc::status(headers))
}

/// The default rule.
fn by_head(parts: &response::Parts) -> OutcomeRule {
    match grpc::status(&parts.headers).filter(|_| grpc::is(&parts.headers)) {
        Some(status) => OutcomeRule::by_grpc_status(status),
        None => OutcomeRule::by_status(parts.status),
    }
}

fn not_kept<R: Body, E>(rule: OutcomeRule, response: Response<ResponseBody<R>>) -> Failure<Given<R, E>> {
    let given = Given::nothing_kept(Live::Response(response));
    if rule == OutcomeRule::Release { Failure::NoEffect(given) } else { Failure::Unknown(given) }
}

/// Reads a response's body so that it can be kept. One that breaks off is as a stream that does:
/// its head says what came of the operation, the client gets the body as far as it came, and it is
/// not run again for the rest.
///
/// `asked`: the header fields of the request, unless none of them matters. `open`: only the trailers say what came of the operation. Of a stream that is passed on, the
/// head has to do.
async fn keep<R: Body<Data = Bytes>, E>(
    options: &Options,
    asked: Option<&HeaderMap>,
    parts: response::Parts,
    body: R,
    open: bool,
) -> Result<Given<R, E>, Failure<Given<R, E>>> {
    let limit = options.response_body_max;
    let size = body.size_hint();
    let is_grpc = grpc::is(&parts.headers);
    let failed = failed_by_head(parts.status, &parts.headers);
    let stream = size.upper().is_none() && !options.buffer_streams && !body.is_end_stream();
    if stream || size.lower() > limit as u64 {
        let response = Response::from_parts(parts, ResponseBody::untouched(body));
        return done(Given::new(Kept::NotReplayable, response), failed);
    }
    match body::read(body, limit, |_| ()).await {
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
