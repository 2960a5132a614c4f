//! What the layer itself says to clients.

use std::sync::Arc;

use bytes::Bytes;
use http::header::HeaderName;
use http::{Response, request};
use oncekey::Store;

use super::Builder;
use crate::problem::Problem;

impl<S: Store + 'static> Builder<S> {
    /// The name of the field that marks a replayed response (with `true`); `Idempotent-Replayed` by
    /// default.
    pub fn replayed_field(mut self, name: HeaderName) -> Self {
        self.options.replayed = name;
        self
    }

    /// The name of the field that marks a response which could not be put on record (with `true`),
    /// so that a retry may run again; `Idempotent-Unrecorded` by default.
    pub fn unrecorded_field(mut self, name: HeaderName) -> Self {
        self.options.unrecorded = name;
        self
    }

    /// The first part of the URI of a problem's type, before the slug; by default the documentation
    /// of [`problem`](crate::problem). Clients may depend on it, so choose once: an `https:`
    /// address of your own documentation, or a `tag:` URI.
    pub fn problem_base(mut self, base: impl Into<String>) -> Self {
        self.options.problem_base = base.into();
        self
    }

    /// The URL where this service documents its idempotency. Each problem links to it, as the
    /// draft's section 2.7 shows.
    pub fn documentation(mut self, url: impl Into<String>) -> Self {
        self.documentation = Some(url.into());
        self
    }

    /// Writes problems in a form of the service's own; the parts are those of the request. The
    /// default is [`Problem::response`], and [`Problem::grpc_response`] for gRPC. With this, the
    /// parts of each request with a key are copied. [`problems`](crate::problems) has forms that are
    /// ready. Where no retry can help, the response gets the fields that
    /// [say so](Problem::tell_clients), unless it has them.
    ///
    /// ```
    /// # use oncekey_http::{IdempotencyLayer, Principal};
    /// # let dedup = oncekey::Deduplicator::new(oncekey::MemoryStore::new());
    /// let layer = IdempotencyLayer::builder(dedup, Principal::waived()).problems(|problem, _request| {
    ///     let mut response = http::Response::new(format!("{{\"error\":\"{}\"}}", problem.slug).into());
    ///     *response.status_mut() = problem.status;
    ///     response
    /// });
    /// ```
    pub fn problems(
        mut self,
        render: impl Fn(&Problem, &request::Parts) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        self.options.render = Some(Arc::new(render));
        self
    }
}
