//! Everything that can be chosen about a layer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderName;
use http::{HeaderValue, Method, Response, request, response};
use oncekey::Policy;
use oncekey::time::{Clock, SystemClock};

use crate::bounds::Limits;
use crate::context::Capture;
use crate::detach::Budget;
use crate::fingerprint::Compared;
use crate::headers::KeptHeaders;
use crate::key::Syntax;
use crate::outcome_rule::OutcomeRule;
use crate::problem::{self, Problem};
use crate::runner::{Run, default_run};
use crate::scope::{Principal, Route};
use crate::vary::OnVary;

type Required = dyn Fn(&request::Parts) -> bool + Send + Sync;
type Render = dyn Fn(&Problem, &request::Parts) -> Response<Bytes> + Send + Sync;
type RuleFn = dyn Fn(&response::Parts) -> Option<OutcomeRule> + Send + Sync;

/// Everything that can be chosen.
pub(crate) struct Options {
    pub(crate) namespace: String,
    pub(crate) principal: Principal,
    pub(crate) route: Route,
    pub(crate) field: HeaderName,
    pub(crate) syntax: Syntax,
    pub(crate) required: Arc<Required>,
    pub(crate) methods: Vec<Method>,
    pub(crate) request_body_max: usize,
    pub(crate) compared: Compared,
    pub(crate) on_vary: OnVary,
    pub(crate) response_body_max: usize,
    pub(crate) buffer_streams: bool,
    pub(crate) kept_headers: KeptHeaders,
    /// The user's own rule.
    pub(crate) outcome_rule: Option<Arc<RuleFn>>,
    pub(crate) wait: Duration,
    pub(crate) policy: Option<Policy>,
    pub(crate) fail_open: bool,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) limits: Limits,
    pub(crate) budget: Duration,
    pub(crate) run: Run,
    /// What else than the tracing span goes along with a job that is moved.
    pub(crate) context: Option<Arc<Capture>>,
    pub(crate) replayed: HeaderName,
    pub(crate) unrecorded: HeaderName,
    pub(crate) problem_base: String,
    pub(crate) documentation: Option<HeaderValue>,
    /// The user's own.
    pub(crate) render: Option<Arc<Render>>,
}

impl Options {
    /// The defaults.
    pub(crate) fn new(principal: Principal) -> Self {
        Self {
            namespace: "http".to_owned(),
            principal,
            route: Route::default(),
            field: HeaderName::from_static("idempotency-key"),
            syntax: Syntax::Lenient,
            required: Arc::new(|_| false),
            methods: vec![Method::POST, Method::PATCH],
            request_body_max: 2 << 20,
            compared: Compared::default(),
            on_vary: OnVary::default(),
            response_body_max: 512 << 10,
            buffer_streams: false,
            kept_headers: KeptHeaders::default(),
            outcome_rule: None,
            wait: Duration::ZERO,
            policy: None,
            fail_open: false,
            clock: Arc::new(SystemClock::new()),
            limits: Limits::default(),
            budget: Duration::from_secs(10),
            run: default_run(),
            context: None,
            replayed: HeaderName::from_static("idempotent-replayed"),
            unrecorded: HeaderName::from_static("idempotent-unrecorded"),
            problem_base: problem::BASE.to_owned(),
            documentation: None,
            render: None,
        }
    }
}

impl Options {
    pub(crate) fn time_for_the_store(&self) -> Budget {
        let claim = (!self.fail_open).then_some(self.budget);
        Budget { claim, wait: claim.map(|claim| claim.saturating_add(self.wait)), record: self.budget }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("namespace", &self.namespace)
            .field("principal", &self.principal)
            .field("route", &self.route)
            .field("field", &self.field)
            .field("syntax", &self.syntax)
            .field("methods", &self.methods)
            .field("request_body_max", &self.request_body_max)
            .field("compared", &self.compared)
            .field("on_vary", &self.on_vary)
            .field("response_body_max", &self.response_body_max)
            .field("wait", &self.wait)
            .field("policy", &self.policy)
            .field("limits", &self.limits)
            .field("budget", &self.budget)
            .field("fail_open", &self.fail_open)
            .finish_non_exhaustive()
    }
}
