//! What is around a request, taken along when the rest of it is moved to a task of its own.

use futures::future::BoxFuture;
use http::request::Parts;

pub(crate) type Job = BoxFuture<'static, ()>;

/// Puts a job into the context that was there when the request came.
pub(crate) type Wrap = dyn FnOnce(Job) -> Job + Send;

/// Looks at what is around a request.
pub(crate) type Capture = dyn Fn(&Parts) -> Box<Wrap> + Send + Sync;

/// What was around a request when its body had been read.
pub(crate) struct Context {
    #[cfg(feature = "tracing")]
    span: tracing::Span,
    own: Option<Box<Wrap>>,
}

impl Context {
    /// Of the request that is being polled.
    pub(crate) fn here(capture: Option<&Capture>, parts: &Parts) -> Self {
        Self {
            #[cfg(feature = "tracing")]
            span: tracing::Span::current(),
            own: capture.map(|capture| capture(parts)),
        }
    }

    pub(crate) fn around(self, job: Job) -> Job {
        let job = match self.own {
            Some(wrap) => wrap(job),
            None => job,
        };
        #[cfg(feature = "tracing")]
        let job =
            if self.span.is_none() { job } else { Box::pin(tracing::Instrument::instrument(job, self.span)) };
        job
    }
}
