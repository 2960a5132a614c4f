//! What the services of a layer share, and how they write refusals.

use http::Response;
use http::request::Parts;
use http_body::Body;
use oncekey::{Deduplicator, Store};

use crate::body::ResponseBody;
use crate::grpc;
use crate::options::Options;
use crate::problem::{Problem, Situation};

/// What all services of a layer share.
pub(crate) struct Shared<S: Store + 'static> {
    pub(crate) dedup: Deduplicator<S>,
    pub(crate) options: Options,
}

/// How a request came, and so how a refusal of it is written.
pub(crate) enum Asked {
    Http,
    Grpc,
    /// The user's own renderer is to see it.
    Shown(Box<Parts>),
}

impl<S: Store + 'static> Shared<S> {
    /// The response that a situation comes to.
    pub(crate) fn refusal<B: Body>(&self, situation: &Situation, asked: &Asked) -> Response<ResponseBody<B>> {
        let problem = Problem::of(situation);
        let json = || problem.response(&self.options.problem_base, self.options.documentation.as_ref());
        let response = match asked {
            Asked::Shown(parts) => {
                self.options.render.as_ref().map_or_else(json, |render| render(&problem, parts))
            }
            Asked::Grpc => problem.grpc_response(),
            Asked::Http => json(),
        };
        response.map(|body| ResponseBody::whole(body, None))
    }

    /// What is to be remembered of a request, for a refusal of it.
    pub(crate) fn asked(&self, parts: &Parts) -> Asked {
        match self.options.render {
            Some(_) => Asked::Shown(Box::new(parts.clone())),
            None if grpc::is(&parts.headers) => Asked::Grpc,
            None => Asked::Http,
        }
    }
}
