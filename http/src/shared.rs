//! What the services of a layer share, and how they write refusals.

use std::sync::Arc;

use http::Response;
use http::request::Parts;
use http_body::Body;
use oncekey::{Deduplicator, Store};

use crate::body::ResponseBody;
use crate::bounds::Bounds;
use crate::grpc;
use crate::options::Options;
use crate::problem::{Problem, Situation};
use crate::running::Running;

/// What all services of a layer share.
pub(crate) struct Shared<S: Store + 'static> {
    pub(crate) dedup: Deduplicator<S>,
    pub(crate) options: Options,
    pub(crate) running: Arc<Running>,
    pub(crate) bounds: Arc<Bounds>,
}

/// How a refusal of a request is written.
#[derive(Clone)]
pub(crate) enum RefusalForm {
    Json,
    Grpc,
    /// By the user's own renderer, which gets the parts of the request.
    Custom(Arc<Parts>),
}

impl<S: Store + 'static> Shared<S> {
    pub(crate) fn new(dedup: Deduplicator<S>, options: Options) -> Self {
        let bounds = Arc::new(Bounds::new(options.limits, Arc::clone(&options.clock)));
        Self { dedup, options, running: Arc::default(), bounds }
    }

    /// The response for this situation.
    pub(crate) fn refusal<B: Body>(
        &self,
        situation: &Situation,
        form: &RefusalForm,
    ) -> Response<ResponseBody<B>> {
        let problem = Problem::of(situation);
        let json = || problem.response(&self.options.problem_base, self.options.documentation.as_ref());
        let response = match form {
            RefusalForm::Custom(parts) => {
                let mut response =
                    self.options.render.as_ref().map_or_else(json, |render| render(&problem, parts));
                if !grpc::is(response.headers()) {
                    problem.tell_clients(response.headers_mut());
                }
                response
            }
            RefusalForm::Grpc => problem.grpc_response(),
            RefusalForm::Json => json(),
        };
        response.map(|body| ResponseBody::whole(body, None))
    }

    /// The form of a refusal of this request.
    pub(crate) fn refusal_form(&self, parts: &Parts) -> RefusalForm {
        match self.options.render {
            Some(_) => RefusalForm::Custom(Arc::new(parts.clone())),
            None if grpc::is(&parts.headers) => RefusalForm::Grpc,
            None => RefusalForm::Json,
        }
    }
}
