//! The parts that decide, tested without a server.

mod fingerprint;
mod grpc;
mod headers;
mod kept;
mod key;
mod options;
mod outcome_rule;
mod problems;
mod rules;
mod scope;

use http::request::Parts;

/// The parts of a request.
fn parts(build: impl FnOnce(http::request::Builder) -> http::request::Builder) -> Parts {
    build(http::Request::builder()).body(()).unwrap().into_parts().0
}
