//! One request with a key, from its body to its response.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use http::Response;
use http::request::Parts;
use http_body::Body;
use oncekey::codec::AsValue;
use oncekey::{Answer, Earlier, Failure, Fingerprint, Key, Store};
use tower_service::Service;

use crate::body::{self, BoxError, Read, RequestBody, ResponseBody, Whole};
use crate::detach::{Detaching, GoesOn};
use crate::fingerprint::Digest;
use crate::given::{Given, Live};
use crate::kept::Responses;
use crate::operation::operate;
use crate::problem::Situation;
use crate::respond::respond;
use crate::rules;
use crate::scope;
use crate::shared::Shared;

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
        let mut digest = Digest::of(&self.parts, scope::target(&self.parts));
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
            Err(refused) => return Ok(self.shared.refusal(&refused, &self.shared.refusal_form(&self.parts))),
        };
        let runner = self.shared.options.run.runner();
        let goes_on = GoesOn::yes();
        let run = self.run(whole, digest.finish(), goes_on.clone());
        match runner {
            Some(runner) => Detaching::new(run.boxed(), runner, goes_on).await,
            None => run.await,
        }
    }

    async fn run<B, R>(
        self,
        body: Whole,
        fingerprint: Fingerprint,
        goes_on: GoesOn,
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
        let Self { shared, inner, mut parts, key } = self;
        let options = &shared.options;
        let form = shared.refusal_form(&parts);
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
                goes_on.set(true);
                let (inner, parts, body) = work.take().expect("a claim that is granted ends the loop");
                let operation = operate(Arc::clone(&shared), inner, parts, body, attempt);
                async move {
                    // A handler that panicked has stopped, its effect unknown: nobody needs to wait
                    // for its lease to end.
                    let ended = AssertUnwindSafe(operation).catch_unwind().await;
                    ended.unwrap_or_else(|_| Err(Failure::Unknown(Given::nothing_kept(Live::Panicked))))
                }
            });
            match answer.await {
                // Another request runs, and this one has nothing to run: from here on it may be
                // dropped. If its client left during its first claim, there is nobody to wait for.
                Ok(Answer::Earlier(Earlier::InProgress { .. }))
                    if wait < options.wait && !goes_on.is_alone() =>
                {
                    goes_on.set(false);
                    wait = options.wait;
                }
                answer => break answer,
            }
        };
        respond(&shared, &form, answer)
    }
}

/// A request as the service under the layer gets it.
type Request<B> = http::Request<RequestBody<B>>;
