//! The operation that the engine runs: the service's own answer to a request, and whether it is an
//! outcome.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use http::request::Parts;
use http::{HeaderMap, Request, Response, response};
use http_body::Body;
use oncekey::{Attempt, Failure, Store};
use tower_service::Service;

use crate::body::{RequestBody, ResponseBody, Whole};
use crate::given::{Given, Live};
use crate::grpc;
use crate::keep::{done, failed_by_head, keep, not_kept};
use crate::options::Options;
use crate::outcome_rule::{Effect, OutcomeRule};
use crate::shared::Shared;
use crate::vary::OnVary;

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

/// The default rule.
fn by_head(parts: &response::Parts) -> OutcomeRule {
    match grpc::status(&parts.headers).filter(|_| grpc::is(&parts.headers)) {
        Some(status) => OutcomeRule::by_grpc_status(status),
        None => OutcomeRule::by_status(parts.status),
    }
}
