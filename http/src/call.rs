//! One request with a key, from its body to its response.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use futures::channel::oneshot;
use http::request::Parts;
use http::{HeaderValue, Request, Response};
use http_body::Body;
use oncekey::{Answer, Attempt, Failure, Fingerprint, Key, RunError, Store};
use tower_service::Service;

use crate::body::{self, Read, RequestBody, ResponseBody, Whole};
use crate::disposition::{Disposition, Effect};
use crate::fingerprint::Digest;
use crate::given::{Given, Live};
use crate::kept::{Kept, Recorded, Responses};
use crate::layer::Shared;
use crate::options::Run;
use crate::problem::Situation;

/// A request that is under way.
pub(crate) struct Call<S: Store + 'static, I> {
    pub(crate) shared: Arc<Shared<S>>,
    pub(crate) inner: I,
    pub(crate) parts: Parts,
    pub(crate) key: Key,
}

impl<S: Store + 'static, I> Call<S, I> {
    /// Reads the body, and then has the engine see to the rest.
    pub(crate) async fn answer<B, R>(self, body: B) -> Result<Response<ResponseBody<R>>, I::Error>
    where
        I: Service<Request<RequestBody<B>>, Response = Response<R>> + Send + 'static,
        I::Future: Send + 'static,
        I::Error: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Send,
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Send,
    {
        let limit = self.shared.options.request_body_max;
        let mut digest = Digest::of(&self.parts);
        // Of a body that says that it is too long, nothing is read.
        let refused = if body.size_hint().lower() > limit as u64 {
            Situation::BodyTooLarge { limit }
        } else {
            match body::read(body, limit, |data| digest.update(data)).await {
                Read::Whole(whole) => return self.answer_whole(whole, digest.finish()).await,
                Read::Over(..) => Situation::BodyTooLarge { limit },
                Read::Broken(..) => Situation::BodyUnreadable,
            }
        };
        Ok(self.shared.refusal(&refused))
    }

    async fn answer_whole<B, R>(
        self,
        body: Whole,
        fingerprint: Fingerprint,
    ) -> Result<Response<ResponseBody<R>>, I::Error>
    where
        I: Service<Request<RequestBody<B>>, Response = Response<R>> + Send + 'static,
        I::Future: Send + 'static,
        I::Error: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Send,
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Send,
    {
        let shared = Arc::clone(&self.shared);
        let Run::Task(spawn) = &shared.options.run else {
            return self.run(body, fingerprint).await;
        };
        let (answer, answered) = oneshot::channel();
        spawn(Box::pin(async move {
            // A client that went away takes no answer.
            let _gone = answer.send(self.run(body, fingerprint).await);
        }));
        // The task ends without an answer if the handler panics, or its runtime is shut down.
        answered.await.unwrap_or_else(|_| Ok(shared.refusal(&Situation::HandlerEnded)))
    }

    async fn run<B, R>(
        self,
        body: Whole,
        fingerprint: Fingerprint,
    ) -> Result<Response<ResponseBody<R>>, I::Error>
    where
        I: Service<Request<RequestBody<B>>, Response = Response<R>> + Send + 'static,
        I::Future: Send + 'static,
        I::Error: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Send,
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Send,
    {
        let Self { shared, inner, parts, key } = self;
        let options = &shared.options;
        let mut request =
            shared.dedup.request(key).fingerprint(fingerprint).wait(options.wait).codec(Responses);
        if let Some(policy) = options.policy {
            request = request.policy(policy);
        }
        if options.fail_open {
            request = request.fail_open();
        }
        let answer = request
            .run_or_fail(|attempt| {
                let shared = Arc::clone(&shared);
                async move { operate(&shared, inner, parts, body, attempt).await }
            })
            .await;
        answered(&shared, answer)
    }
}

/// The operation: the service's own answer to the request, and what is to be kept of it.
async fn operate<S, I, B, R>(
    shared: &Shared<S>,
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
    // Only what is about to run asks for room.
    let response = match poll_fn(|cx| inner.poll_ready(cx)).await {
        Ok(()) => inner.call(request).await,
        // It was not called.
        Err(error) => return Err(Failure::NoEffect(Given::live(Live::Error(error)))),
    };
    let response = response.map_err(|error| Failure::Unknown(Given::live(Live::Error(error))))?;
    let options = &shared.options;
    let (parts, body) = response.into_parts();
    let word = parts.extensions.get::<Effect>().copied();
    let disposition = word.map_or_else(|| (options.dispose)(&parts), Disposition::from);
    match disposition {
        Disposition::Release | Disposition::Unknown => {
            let response = Response::from_parts(parts, ResponseBody::untouched(body));
            let given = Given::live(Live::Response(response));
            Err(match disposition {
                Disposition::Release => Failure::NoEffect(given),
                _ => Failure::Unknown(given),
            })
        }
        Disposition::Keep => {
            let success = !parts.status.is_client_error() && !parts.status.is_server_error();
            let given = keep(shared, parts, body).await.map_err(Failure::Unknown)?;
            if success { Ok(given) } else { Err(Failure::Final(given)) }
        }
    }
}

/// Reads a response's body so that it can be kept.
///
/// # Errors
/// What is left of a body that broke off: the client gets it as far as it came, and what came of the operation is
/// unknown.
async fn keep<S: Store + 'static, R: Body<Data = Bytes>, E>(
    shared: &Shared<S>,
    parts: http::response::Parts,
    body: R,
) -> Result<Given<R, E>, Given<R, E>> {
    let options = &shared.options;
    let limit = options.response_body_max;
    let size = body.size_hint();
    let stream = size.upper().is_none() && !options.buffer_streams && !body.is_end_stream();
    if stream || size.lower() > limit as u64 {
        let response = Response::from_parts(parts, ResponseBody::untouched(body));
        return Ok(Given { kept: Kept::NotReplayable, live: Some(Live::Response(response)) });
    }
    match body::read(body, limit, |_| ()).await {
        Read::Whole(Whole { bytes, trailers }) => {
            let recorded = Recorded {
                status: parts.status,
                headers: options.kept_headers.pick(&parts.headers),
                body: bytes.clone(),
                trailers: trailers.clone(),
            };
            let response = Response::from_parts(parts, ResponseBody::whole(bytes, trailers));
            Ok(Given { kept: Kept::Whole(recorded), live: Some(Live::Response(response)) })
        }
        Read::Over(read, rest) => {
            let response = Response::from_parts(parts, ResponseBody::begun(read, rest));
            Ok(Given { kept: Kept::NotReplayable, live: Some(Live::Response(response)) })
        }
        Read::Broken(read, error) => {
            let response = Response::from_parts(parts, ResponseBody::broken(read, error));
            Err(Given::live(Live::Response(response)))
        }
    }
}

/// What the client gets of the engine's answer.
fn answered<S: Store + 'static, R: Body, E>(
    shared: &Shared<S>,
    answer: Result<Answer<Given<R, E>, Given<R, E>>, RunError<Given<R, E>>>,
) -> Result<Response<ResponseBody<R>>, E> {
    let options = &shared.options;
    let situation = match answer {
        Ok(Answer::Executed { value, .. }) => return value.into_live(),
        Ok(Answer::Replayed { value, .. } | Answer::FailedBefore { failure: Some(value), .. }) => {
            match value.into_replay() {
                Some(mut response) => {
                    response.headers_mut().insert(&options.replayed, HeaderValue::from_static("true"));
                    return Ok(response);
                }
                None => Situation::Done,
            }
        }
        Ok(Answer::Unrecorded { value, .. }) => return unrecorded(shared, value),
        Err(RunError::Operation { error, claim: oncekey::AfterFailure::NotStored(_), .. })
            if error.is_kept() =>
        {
            return unrecorded(shared, error);
        }
        Err(RunError::Operation { error, .. }) => return error.into_live(),
        Ok(Answer::Done { .. } | Answer::FailedBefore { failure: None, .. }) => Situation::Done,
        Ok(Answer::InProgress { left, .. }) => Situation::InProgress { left },
        Ok(Answer::Mismatch) => Situation::Mismatch,
        Ok(Answer::InDoubt { operation_id, .. }) => Situation::InDoubt { operation_id },
        Ok(Answer::Exhausted { attempts, .. }) => Situation::Exhausted { attempts },
        Err(RunError::LeaseLost { .. }) => Situation::LeaseLost,
        Err(RunError::Decode { .. }) => Situation::RecordUnusable,
        Err(RunError::Claim { source, .. }) => Situation::of_claim_error(&source),
        Err(_) => Situation::HandlerEnded,
    };
    Ok(shared.refusal(&situation))
}

/// The response goes out, and says that it is not on record.
fn unrecorded<S: Store + 'static, R: Body, E>(
    shared: &Shared<S>,
    given: Given<R, E>,
) -> Result<Response<ResponseBody<R>>, E> {
    let mut response = given.into_live()?;
    response.headers_mut().insert(&shared.options.unrecorded, HeaderValue::from_static("true"));
    Ok(response)
}
