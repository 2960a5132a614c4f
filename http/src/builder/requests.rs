//! Which requests the layer looks at, and what tells them apart.

use std::sync::Arc;

use http::header::HeaderName;
use http::{Method, request};
use oncekey::Store;

use super::Builder;
use crate::fingerprint::Compared;
use crate::key::Syntax;
use crate::scope::Route;

impl<S: Store + 'static> Builder<S> {
    /// The name that tells this service from others in the same store; `http` by default. Two
    /// services that share both the store and the namespace are one service: a request to one can
    /// get the response of the other.
    pub fn namespace(mut self, name: impl Into<String>) -> Self {
        self.options.namespace = name.into();
        self
    }

    /// Where a request goes; by default the path that the client sent, which needs the feature
    /// `axum`. Without it a route must be named: [`Route::path`] in a service that takes no prefixes
    /// off its paths. [`Route`] has examples.
    pub fn route(mut self, route: Route) -> Self {
        self.options.route = route;
        self
    }

    /// The name of the request's field; `Idempotency-Key` by default.
    pub fn field(mut self, name: HeaderName) -> Self {
        self.options.field = name;
        self
    }

    /// How the field is read; leniently by default.
    pub fn syntax(mut self, syntax: Syntax) -> Self {
        self.options.syntax = syntax;
        self
    }

    /// Refuses requests without a key, where the method is one of [`methods`](Self::methods). By
    /// default they pass untouched.
    pub fn required(self) -> Self {
        self.required_where(|_| true)
    }

    /// Refuses those requests without a key for which `required` says so.
    pub fn required_where(
        mut self,
        required: impl Fn(&request::Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.options.required = Arc::new(required);
        self
    }

    /// The methods that the layer looks at; POST and PATCH by default. Requests with other methods
    /// pass untouched.
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.options.methods = methods.into_iter().collect();
        self
    }

    /// Most bytes of the body of a request with a key; 2 MiB by default. It is held in memory,
    /// since all of it is compared before the handler runs. A larger one is refused with 413.
    pub fn request_body_max(mut self, bytes: usize) -> Self {
        self.options.request_body_max = bytes;
        self
    }

    /// What tells one request from another under the same key; by default method, path, query,
    /// content type and body. [`Compared`] has examples, and **a recipe for webhooks, which need
    /// another choice**.
    pub fn compared(mut self, compared: Compared) -> Self {
        self.options.compared = compared;
        self
    }
}
