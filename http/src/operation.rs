//! The operation that the engine runs: the service's own answer to a request, and what is to be kept of it.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response, response};
use http_body::Body;
use oncekey::{Attempt, Failure, Store};
use tower_service::Service;

use crate::body::{self, Read, RequestBody, ResponseBody, Whole};
use crate::disposition::{Disposition, Effect};
use crate::given::{Given, Live};
use crate::kept::{Kept, Recorded};
use crate::layer::Shared;
use crate::options::Options;

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
    let mut request = Request::from_parts(parts, RequestBody::whole(body.bytes, body.trailers));
    request.extensions_mut().insert(attempt);
    // Only what is about to run takes room: a duplicate that is answered, or waits, takes none.
    if let Err(error) = poll_fn(|cx| inner.poll_ready(cx)).await {
        // It was not called.
        return Err(Failure::NoEffect(Given::nothing_kept(Live::Error(error))));
    }
    let response = inner.call(request).await;
    let response = response.map_err(|error| Failure::Unknown(Given::nothing_kept(Live::Error(error))))?;
    let (parts, body) = response.into_parts();
    let word = parts.extensions.get::<Effect>().copied();
    let failure = match word.map_or_else(|| (shared.options.dispose)(&parts), Disposition::from) {
        Disposition::Keep => {
            let success = !parts.status.is_client_error() && !parts.status.is_server_error();
            let given = keep(&shared.options, parts, body).await;
            return if success { Ok(given) } else { Err(Failure::Final(given)) };
        }
        Disposition::Release => Failure::NoEffect,
        Disposition::Unknown => Failure::Unknown,
    };
    let response = Response::from_parts(parts, ResponseBody::untouched(body));
    Err(failure(Given::nothing_kept(Live::Response(response))))
}

/// Reads a response's body so that it can be kept. One that breaks off is as a stream that does: its head says what came
/// of the operation, the client gets the body as far as it came, and it is not run again for the rest.
async fn keep<R: Body<Data = Bytes>, E>(options: &Options, parts: response::Parts, body: R) -> Given<R, E> {
    let limit = options.response_body_max;
    let size = body.size_hint();
    let stream = size.upper().is_none() && !options.buffer_streams && !body.is_end_stream();
    if stream || size.lower() > limit as u64 {
        let response = Response::from_parts(parts, ResponseBody::untouched(body));
        return Given::new(Kept::NotReplayable, response);
    }
    match body::read(body, limit, |_| ()).await {
        Read::Whole(Whole { bytes, trailers }) => {
            let mut headers = options.kept_headers.pick(&parts.headers);
            // What this layer says of a response is said anew each time.
            for mark in [&options.replayed, &options.unrecorded] {
                headers.remove(mark);
            }
            let (status, body) = (parts.status, bytes.clone());
            let recorded = Recorded { status, headers, body, trailers: trailers.clone() };
            let response = Response::from_parts(parts, ResponseBody::whole(bytes, trailers));
            Given::new(Kept::Whole(Box::new(recorded)), response)
        }
        Read::Over(read, rest) => {
            let response = Response::from_parts(parts, ResponseBody::begun(read, rest));
            Given::new(Kept::NotReplayable, response)
        }
        Read::Broken(read, error) => {
            let response = Response::from_parts(parts, ResponseBody::broken(read, error));
            Given::new(Kept::NotReplayable, response)
        }
    }
}
