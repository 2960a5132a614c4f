//! One request with a key, from its body to its response.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use http::Response;
use http::header::HeaderName;
use http::request::Parts;
use http_body::Body;
use oncekey::codec::AsValue;
use oncekey::{Answer, Earlier, Failure, Fingerprint, Key, RunError, Store};
use tower_service::Service;

use crate::body::{self, BoxError, Read, RequestBody, ResponseBody, Whole};
use crate::context::Context;
use crate::detach::{Detaching, Progress, Stage, Told};
use crate::given::{Given, Live, Slot};
use crate::kept::Responses;
use crate::operation::operate;
use crate::problem::Situation;
use crate::respond::{RunResult, respond, told};
use crate::rules;
use crate::scope;
use crate::shared::{RefusalForm, Shared};
use crate::vary::{OnVary, Varied};

/// A request with a key that is under way.
pub(crate) struct KeyedCall<S: Store + 'static, I> {
    pub(crate) shared: Arc<Shared<S>>,
    pub(crate) inner: I,
    pub(crate) parts: Parts,
    pub(crate) key: Key,
}

impl<S: Store + 'static, I> KeyedCall<S, I> {
    /// Reads the body, and then asks the engine.
    pub(crate) async fn answer<B, R>(self, body: B) -> Result<Response<ResponseBody<R>>, I::Error>
    where
        I: Service<Request<B>, Response = Response<R>> + Send + 'static,
        I::Future: Send + 'static,
        I::Error: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError> + Send,
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Send,
    {
        let limit = self.shared.options.request_body_max;
        let mut digest = self.shared.options.compared.begin(&self.parts, scope::target(&self.parts));
        // Nothing is read of a body that declares too great a length.
        let read = if body.size_hint().lower() > limit as u64 {
            Err(Situation::BodyTooLarge { limit: Some(limit) })
        } else {
            match body::read(body, limit, |data| digest.update(data)).await {
                Read::Whole(whole) => Ok(whole),
                Read::Over(..) => Err(Situation::BodyTooLarge { limit: Some(limit) }),
                Read::Broken(_, error) => {
                    let long = body::is_too_long(&*error.into());
                    Err(if long {
                        Situation::BodyTooLarge { limit: None }
                    } else {
                        Situation::BodyUnreadable
                    })
                }
            }
        };
        let whole = match read {
            Ok(whole) => whole,
            Err(refused) => return Ok(self.refused(&refused)),
        };
        let Some(under_way) = self.shared.running.enter() else {
            return Ok(self.refused(&Situation::ShuttingDown));
        };
        let options = &self.shared.options;
        // Looked at here, where the request is polled.
        let moves = options.run.runner().map(|runner| {
            let around = Context::here(options.context.as_deref(), &self.parts);
            (runner, around)
        });
        let (clock, budget) = (Arc::clone(&options.clock), options.time_for_the_store());
        let fingerprint = digest.finish(&self.parts, &whole.bytes);
        let (shared, form) = (Arc::clone(&self.shared), self.shared.refusal_form(&self.parts));
        let (progress, slot) = (Progress::new(), Slot::new());
        let run = self.run(whole, fingerprint, form.clone(), progress.clone(), slot.clone());
        let run = run.inspect(move |_| drop(under_way)).boxed();
        match Detaching::new(run, progress, moves, clock, budget).await {
            Told::Answer(answer) => answer,
            Told::NotAnswered => Ok(shared.refusal(&Situation::StoreUnavailable, &form)),
            Told::NotRecorded => match slot.take() {
                Some(ended) => told(&shared, &form, *ended.live, !ended.is_an_outcome),
                None => Ok(shared.refusal(&Situation::HandlerEnded, &form)),
            },
        }
    }

    fn refused<R: Body>(&self, situation: &Situation) -> Response<ResponseBody<R>> {
        self.shared.refusal(situation, &self.shared.refusal_form(&self.parts))
    }

    async fn run<B, R>(
        self,
        body: Whole,
        fingerprint: Fingerprint,
        form: RefusalForm,
        progress: Progress,
        slot: Slot<R, I::Error>,
    ) -> Result<Response<ResponseBody<R>>, I::Error>
    where
        I: Service<Request<B>, Response = Response<R>> + Send + 'static,
        I::Future: Send + 'static,
        I::Error: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError> + Send,
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Send,
    {
        let Self { shared, inner, mut parts, mut key } = self;
        let options = &shared.options;
        let mut place = match shared.admit(&key).await {
            Ok(place) => place,
            Err(refused) => return Ok(shared.refusal(&refused, &form)),
        };
        rules::claimed_for(&mut parts, key.clone());
        // Taken by the claim that is granted.
        let mut work = Some((inner, parts, body));
        let mut wait = Duration::ZERO;
        let answer = loop {
            let request = shared.dedup.request(key.clone()).fingerprint(fingerprint);
            let request = request.wait(wait).codec(Responses);
            let mut request = request.failures(AsValue(Responses));
            if let Some(policy) = options.policy {
                request = request.policy(policy);
            }
            if options.fail_open {
                request = request.fail_open();
            }
            let answer = request.run_or_fail(|attempt| {
                let operation = (!progress.is_refused()).then(|| {
                    progress.set(Stage::Running);
                    let (inner, parts, body) = work.take().expect("a claim that is granted ends the loop");
                    operate(Arc::clone(&shared), inner, parts, body, attempt)
                });
                let (progress, slot) = (progress.clone(), slot.clone());
                async move {
                    let Some(operation) = operation else {
                        return Err(Failure::NoEffect(Given::nothing_kept(Live::Panicked)));
                    };
                    // A handler that panicked has stopped, its effect unknown: nobody needs to wait
                    // for its lease to end.
                    let ended = AssertUnwindSafe(operation).catch_unwind().await;
                    let ended =
                        ended.unwrap_or_else(|_| Err(Failure::Unknown(Given::nothing_kept(Live::Panicked))));
                    progress.set(Stage::Ended);
                    lend(ended, slot)
                }
            });
            match answer.await {
                // Another request runs, and this one has nothing to run: from here on it may be
                // dropped. If its client left during its first claim, there is nobody to wait for.
                Ok(Answer::Earlier(Earlier::InProgress { .. }))
                    if wait < options.wait && !progress.is_alone() =>
                {
                    progress.set(Stage::Waiting);
                    wait = options.wait;
                }
                answer => {
                    let (Some(kept), Some((_, parts, _))) = (kept(&answer), &work) else { break answer };
                    let differing = kept.differing(&parts.headers);
                    match options.on_vary {
                        _ if differing.is_empty() => break answer,
                        OnVary::Replay => break answer,
                        OnVary::Run => {
                            key = scope::variant(&key, kept.variant(&parts.headers));
                            // A record of its own.
                            place = match shared.admit(&key).await {
                                Ok(place) => place,
                                Err(refused) => return Ok(shared.refusal(&refused, &form)),
                            };
                        }
                        OnVary::Mismatch => {
                            let names: Vec<_> = differing.iter().map(HeaderName::as_str).collect();
                            let differs = Situation::VaryMismatch { fields: names.join(", ") };
                            return Ok(shared.refusal(&differs, &form));
                        }
                    }
                }
            }
        };
        if let Some(place) = &mut place {
            match &answer {
                Err(RunError::Claim { .. }) => place.left_nothing(),
                Ok(Answer::Executed { .. } | Answer::Unrecorded { .. }) => place.ran(),
                Err(RunError::Operation { .. } | RunError::LeaseLost { .. }) => place.ran(),
                _ => {}
            }
        }
        respond(&shared, &form, answer)
    }
}

/// Leaves the answer where its client can have it before it is on record.
fn lend<R: Body, E>(
    ended: Result<Given<R, E>, Failure<Given<R, E>>>,
    slot: Slot<R, E>,
) -> Result<Given<R, E>, Failure<Given<R, E>>> {
    match ended {
        Ok(given) => Ok(given.lend(slot)),
        Err(Failure::Final(given)) => Err(Failure::Final(given.lend(slot))),
        Err(Failure::NoEffect(given)) => Err(Failure::NoEffect(given.lend(slot))),
        Err(Failure::Unknown(given)) => Err(Failure::Unknown(given.lend(slot))),
    }
}

/// What the kept response that is about to be given again depends on.
fn kept<R: Body, E>(answer: &RunResult<R, E>) -> Option<&Varied> {
    match answer {
        Ok(Answer::Earlier(
            Earlier::Replayed { value, .. } | Earlier::FailedBefore { failure: Some(value), .. },
        )) => value.varied(),
        _ => None,
    }
}

/// A request as the service under the layer gets it.
type Request<B> = http::Request<RequestBody<B>>;
