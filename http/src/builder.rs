//! How a layer is set up.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::HeaderName;
use http::{HeaderValue, Method, Response, request, response};
use oncekey::{Deduplicator, Policy, Store};

use crate::detach::Run;
use crate::headers::KeptHeaders;
use crate::key::Syntax;
use crate::layer::IdempotencyLayer;
use crate::options::Options;
use crate::outcome_rule::OutcomeRule;
use crate::problem::Problem;
use crate::scope::{Principal, Route};

impl<S: Store + 'static> IdempotencyLayer<S> {
    /// Makes a layer with the defaults, over an engine.
    ///
    /// # Errors
    /// [`LayerError::NoSpawner`] without the feature `tokio`: [say](Builder::spawner) where
    /// handlers run. [`LayerError::NoRoute`] without the feature `axum`: name a
    /// [route](Builder::route).
    pub fn new(dedup: Deduplicator<S>, principal: Principal) -> Result<Self, LayerError> {
        Self::builder(dedup, principal).build()
    }

    /// Sets a layer up.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http::{Request, Response};
    /// use http_body_util::Full;
    /// use oncekey::{Deduplicator, MemoryStore};
    /// use oncekey_http::{IdempotencyLayer, Principal, RequestBody};
    /// use tower::{Layer as _, ServiceExt as _, service_fn};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # futures::executor::block_on(async {
    /// let layer = IdempotencyLayer::builder(Deduplicator::new(MemoryStore::new()), Principal::waived())
    ///     .required()
    ///     .run_in_request()
    ///     .build()?;
    /// let service = layer.layer(service_fn(|_: Request<RequestBody<Full<Bytes>>>| async {
    ///     Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from("charged")))
    /// }));
    ///
    /// let request = || Request::post("/charges").header("idempotency-key", "k").body(Full::<Bytes>::from("50"));
    /// let first = service.clone().oneshot(request()?).await?;
    /// assert!(!first.headers().contains_key("idempotent-replayed"));
    /// let again = service.clone().oneshot(request()?).await?;
    /// assert_eq!(again.headers()["idempotent-replayed"], "true");
    ///
    /// let without_a_key = Request::post("/charges").body(Full::<Bytes>::from("50"))?;
    /// assert_eq!(service.oneshot(without_a_key).await?.status(), 400);
    /// # Ok(()) }) }
    /// ```
    pub fn builder(dedup: Deduplicator<S>, principal: Principal) -> Builder<S> {
        Builder::new(dedup, principal)
    }
}

/// Sets a layer up. [`IdempotencyLayer::builder`] makes one, and has an example.
#[must_use = "a builder does nothing until it is built"]
pub struct Builder<S: Store + 'static> {
    dedup: Deduplicator<S>,
    options: Options,
    documentation: Option<String>,
}

impl<S: Store + 'static> fmt::Debug for Builder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("dedup", &self.dedup).field("options", &self.options).finish()
    }
}

/// Why a layer cannot be built with these options.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// There is no runtime to run handlers on.
    #[error(
        "nothing says where handlers run: name a spawner, or enable the feature `tokio`, or choose run_in_request"
    )]
    NoSpawner,
    /// Nothing tells two mounts of a router apart.
    #[error(
        "nothing says what a request is made to: enable the feature `axum`, or name a route; Route::path() if nothing takes a prefix off the path outside of this layer"
    )]
    NoRoute,
    /// The documentation's URL cannot stand in a header field.
    #[error("the URL of the documentation cannot stand in a Link field: {url:?}")]
    Documentation {
        /// The URL that was given.
        url: String,
    },
    /// The namespace is empty, so it does not tell services apart.
    #[error("the namespace is empty; give it a name")]
    Namespace,
    /// A limit is above what can be kept.
    #[error("{option} is {bytes} bytes; at most {most} can be kept")]
    TooMuch {
        /// The option.
        option: &'static str,
        /// The limit that was asked for.
        bytes: usize,
        /// The greatest limit.
        most: usize,
    },
}

/// Most bytes of a body that can be kept: with its header fields it must fit into a record.
const BODY_MAX: usize = 1 << 29;

impl<S: Store + 'static> Builder<S> {
    pub(crate) fn new(dedup: Deduplicator<S>, principal: Principal) -> Self {
        let options = Options::new(principal);
        Self { dedup, options, documentation: None }
    }

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

    /// Most bytes of a response's body that are kept; 512 KiB by default, and at most 512 MiB. A
    /// larger one goes to the first caller, and later ones are told that it is not kept. The
    /// engine's [`outcome_len_max`](oncekey::DeduplicatorBuilder::outcome_len_max) (1 MiB by
    /// default) bounds it too.
    pub fn response_body_max(mut self, bytes: usize) -> Self {
        self.options.response_body_max = bytes;
        self
    }

    /// Keeps bodies of unknown length too, up to the limit. A client then gets nothing of such a
    /// body until all of it is there. By default a body of unknown length is taken for a stream: it
    /// goes to the first caller as it comes, and is not kept.
    ///
    /// All replies of gRPC are of unknown length, those to unary calls too. **A service of unary
    /// calls needs this**: without it, duplicates are told that the call was processed and its
    /// reply not kept.
    pub fn buffer_streams(mut self) -> Self {
        self.options.buffer_streams = true;
        self
    }

    /// Which header fields of a response are kept; all but `Set-Cookie` by default. [`KeptHeaders`]
    /// has an example.
    pub fn kept_headers(mut self, kept: KeptHeaders) -> Self {
        self.options.kept_headers = kept;
        self
    }

    /// Which responses are outcomes. The defaults are [`OutcomeRule::by_status`], and
    /// [`OutcomeRule::by_grpc_status`] for gRPC. A handler's own [`Effect`](crate::Effect) goes
    /// before both, and before this.
    ///
    /// The closure returns an [`OutcomeRule`], or an `Option` of one; for `None`, the default
    /// decides. It sees the head of a response only. **Replies of gRPC mostly have their status in
    /// the trailers.** These are not asked once the closure has returned a rule, so let it return
    /// `None` for such replies.
    ///
    /// # Panics
    /// If the closure does, the client gets a problem with status 500. The handler came to its end,
    /// so that it is done goes on record where the default would keep the response, and its effect
    /// is unknown otherwise.
    ///
    /// ```
    /// # use oncekey_http::{OutcomeRule, IdempotencyLayer, Principal};
    /// # let dedup = oncekey::Deduplicator::new(oncekey::MemoryStore::new());
    /// let layer = IdempotencyLayer::builder(dedup, Principal::waived())
    ///     .outcome_rule(|parts| (parts.status == 503).then_some(OutcomeRule::Release));
    /// ```
    pub fn outcome_rule<O: Into<Option<OutcomeRule>>>(
        mut self,
        rule: impl Fn(&response::Parts) -> O + Send + Sync + 'static,
    ) -> Self {
        self.options.outcome_rule = Some(Arc::new(move |parts| rule(parts).into()));
        self
    }

    /// How long a duplicate waits for the response of the first request, instead of being told that
    /// it is in progress. By default it does not wait, as the draft's section 2.6 has it: "The
    /// request was retried before the original request completed. The resource SHOULD respond with
    /// a resource conflict error."
    ///
    /// A duplicate that waits keeps its body in memory, since it takes over if the first request
    /// fails. It ends when its client goes away. [`IdempotencyLayer`] says under cancel safety what
    /// that may leave behind.
    pub fn wait(mut self, at_most: Duration) -> Self {
        self.options.wait = at_most;
        self
    }

    /// The policy for attempts that stop in the middle, instead of the engine's default.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.options.policy = Some(policy);
        self
    }

    /// Runs the handler even if the store cannot answer, **without any promise**. By default such a
    /// request is refused with 503.
    pub fn fail_open(mut self) -> Self {
        self.options.fail_open = true;
        self
    }

    /// Where the rest of a request runs once its client has gone away, so that its handler is not
    /// cancelled. With the feature `tokio` the default is tokio. Until then a handler runs as it
    /// would without this layer. What is around it then, [`carry_context`](Self::carry_context)
    /// takes along.
    ///
    /// A server that shuts down does not wait for spawned handlers. If it should, give a spawner
    /// that can be waited for.
    pub fn spawner(mut self, spawn: impl Fn(BoxFuture<'static, ()>) + Send + Sync + 'static) -> Self {
        self.options.run = Run::Spawner(Arc::new(spawn));
        self
    }

    /// Takes along what is around a request when the rest of it goes on elsewhere, since its client
    /// has gone away: tokio's task-locals above all, without which a handler that reads one would
    /// panic in the middle. With the feature `tracing` the request's span goes along by itself.
    ///
    /// `capture` is called once for each request with a key, in its context, after its body was
    /// read; it returns what puts the rest of the request into that context again. That is called
    /// only if the client goes away. What it clones is a copy: a task-local that handlers change
    /// should hold an `Arc`.
    ///
    /// ```
    /// use futures::FutureExt as _;
    /// use futures::future::BoxFuture;
    /// # use oncekey::{Deduplicator, MemoryStore};
    /// # use oncekey_http::{IdempotencyLayer, Principal};
    ///
    /// tokio::task_local! { static TENANT: String; } // set by a layer outside: TENANT.scope(tenant, next.run(request))
    ///
    /// # let dedup = Deduplicator::new(MemoryStore::new());
    /// let layer = IdempotencyLayer::builder(dedup, Principal::waived()).carry_context(|_parts| {
    ///     let tenant = TENANT.try_with(Clone::clone);
    ///     move |job: BoxFuture<'static, ()>| match tenant {
    ///         Ok(tenant) => TENANT.scope(tenant, job).boxed(),
    ///         Err(_) => job, // a request without a tenant
    ///     }
    /// });
    /// ```
    ///
    /// # Panics
    /// If `capture` panics, the server sees it, and nothing was claimed. If what it returned does,
    /// the handler is dropped with its request, as with a [spawner](Self::spawner) that panics.
    pub fn carry_context<W>(mut self, capture: impl Fn(&request::Parts) -> W + Send + Sync + 'static) -> Self
    where
        W: FnOnce(BoxFuture<'static, ()>) -> BoxFuture<'static, ()> + Send + 'static,
    {
        self.options.context = Some(Arc::new(move |parts| Box::new(capture(parts))));
        self
    }

    /// Lets a handler end with its request: **a client that goes away in the middle cancels it**,
    /// and its effect is in doubt. Use this for handlers that undo their work when they are
    /// dropped.
    pub fn run_in_request(mut self) -> Self {
        self.options.run = Run::Request;
        self
    }

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
    /// parts of each request with a key are copied.
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

    /// Builds the layer.
    ///
    /// # Errors
    /// [`LayerError`] if an option cannot be carried out.
    pub fn build(self) -> Result<IdempotencyLayer<S>, LayerError> {
        let mut options = self.options;
        #[cfg(not(feature = "tokio"))]
        if matches!(options.run, Run::Unsaid) {
            return Err(LayerError::NoSpawner);
        }
        if !options.route.is_known() {
            return Err(LayerError::NoRoute);
        }
        if options.namespace.is_empty() {
            return Err(LayerError::Namespace);
        }
        if options.response_body_max > BODY_MAX {
            return Err(LayerError::TooMuch {
                option: "response_body_max",
                bytes: options.response_body_max,
                most: BODY_MAX,
            });
        }
        options.documentation = self.documentation.map(link).transpose()?;
        Ok(IdempotencyLayer::new_with(self.dedup, options))
    }
}

/// The field that links a problem to the documentation.
fn link(url: String) -> Result<HeaderValue, LayerError> {
    let link = format!("<{url}>; rel=\"describedby\"; type=\"text/html\"");
    match HeaderValue::try_from(link) {
        Ok(link) if !url.contains(['<', '>', ' ']) => Ok(link),
        _ => Err(LayerError::Documentation { url }),
    }
}
