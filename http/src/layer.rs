//! The layer, and the service that it makes.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _};
use http::{Request, Response};
use http_body::Body;
use oncekey::{Deduplicator, Store};
use tower_layer::Layer;
use tower_service::Service;

use crate::body::{BoxError, RequestBody, ResponseBody};
use crate::keyed_call::KeyedCall;
use crate::options::Options;
use crate::rules::Before;
use crate::shared::Shared;

/// Gives the services under it idempotency by key: a request that is sent again gets the response
/// of the first one, and its handler does not run again.
///
/// Cheap to clone; clones are one layer.
///
/// [`IdempotencyLayer::builder`] has an example.
///
/// # What is wrapped
/// The layer wraps any `Service<http::Request<_>>` that can be cloned. That service gets a
/// [`RequestBody`], and the body of its responses becomes a [`ResponseBody`]. The service made of
/// it is always ready. The inner service is asked whether it is ready only when a request is to
/// run, so duplicates are answered while it has no room.
///
/// A request may come through two layers with the same key, of which namespace, principal, method
/// and route are part. The outer layer then answers for it, and the inner one lets it pass, since
/// otherwise it would wait for itself.
///
/// # Cancel safety
/// A request's future may be dropped at any point, as a server does when its client goes away. If
/// its body was not yet read to its end, it never reaches a handler. After that, the rest of the
/// request goes on in a task of its own: its handler runs to its end, and a retry gets the
/// response. With [`run_in_request`](crate::Builder::run_in_request) it does not go on.
///
/// A duplicate that [waits](crate::Builder::wait) has nothing to run, and ends with its client. If
/// it was about to take over from an attempt that failed, the engine gives that claim up, and the
/// next request runs. **If the store is so slow that the claim arrives after the engine has looked
/// for it**, the claim stays for one lease. The key is then in doubt under
/// [`Policy::Hold`](oncekey::Policy::Hold), although no handler ran under it.
///
/// # Panics
/// A handler that panics is taken for one whose effect is unknown; its client gets a problem with
/// status 500. With the feature `tokio`, a service panics when it is polled outside of a tokio
/// runtime, unless the builder was told where handlers run.
pub struct IdempotencyLayer<S: Store + 'static> {
    pub(crate) shared: Arc<Shared<S>>,
}

impl<S: Store + 'static> IdempotencyLayer<S> {
    pub(crate) fn new_with(dedup: Deduplicator<S>, options: Options) -> Self {
        Self { shared: Arc::new(Shared::new(dedup, options)) }
    }

    #[cfg(test)]
    pub(crate) fn options(&self) -> &Options {
        &self.shared.options
    }

    /// The engine, for its keeper and for operators.
    pub fn dedup(&self) -> &Deduplicator<S> {
        &self.shared.dedup
    }
}

impl<S: Store + 'static> Clone for IdempotencyLayer<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<S: Store + 'static> fmt::Debug for IdempotencyLayer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyLayer").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

impl<S: Store + 'static, I> Layer<I> for IdempotencyLayer<S> {
    type Service = Idempotency<S, I>;

    fn layer(&self, inner: I) -> Self::Service {
        Idempotency { shared: Arc::clone(&self.shared), inner }
    }
}

/// A service with idempotency: from an [`IdempotencyLayer`].
pub struct Idempotency<S: Store + 'static, I> {
    shared: Arc<Shared<S>>,
    inner: I,
}

impl<S: Store + 'static, I: Clone> Clone for Idempotency<S, I> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), inner: self.inner.clone() }
    }
}

impl<S: Store + 'static, I> fmt::Debug for Idempotency<S, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idempotency").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

impl<S, I, B, R> Service<Request<B>> for Idempotency<S, I>
where
    S: Store + 'static,
    I: Service<Request<RequestBody<B>>, Response = Response<R>> + Clone + Send + 'static,
    I::Future: Send + 'static,
    I::Error: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError> + Send,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Send,
{
    type Response = Response<ResponseBody<R>>;
    type Error = I::Error;
    type Future = BoxFuture<'static, Result<Self::Response, I::Error>>;

    /// Always ready: a request that is refused, or is a duplicate, takes no room in the service
    /// under this one, and must not wait for it. One that runs waits until a clone of that service
    /// is ready, and fails with its error if it never is.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), I::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (parts, body) = request.into_parts();
        match self.shared.options.before(&parts) {
            Before::Pass => {
                let request = Request::from_parts(parts, RequestBody::untouched(body));
                let mut inner = self.inner.clone();
                let passing = async move {
                    // Tower lets a clone be called that was made ready itself, and no other.
                    poll_fn(|cx| inner.poll_ready(cx)).await?;
                    Ok(inner.call(request).await?.map(ResponseBody::untouched))
                };
                passing.boxed()
            }
            Before::Refuse(situation) => {
                let refusal = self.shared.refusal(&situation, &self.shared.refusal_form(&parts));
                async move { Ok(refusal) }.boxed()
            }
            Before::Keyed(key) => {
                let call =
                    KeyedCall { shared: Arc::clone(&self.shared), inner: self.inner.clone(), parts, key };
                call.answer(body).boxed()
            }
        }
    }
}
