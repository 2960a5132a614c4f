//! What the operation hands to the engine: a response for this caller, and what is kept of it for later ones.

use http::Response;
use http_body::Body;
use oncekey::Payload;
use oncekey::codec::{Codec, CodecError};

use crate::body::ResponseBody;
use crate::kept::{Kept, Responses};

pub(crate) struct Given<R: Body, E> {
    pub(crate) kept: Kept,
    /// For the caller whose request ran; `None` when it was read from a record.
    pub(crate) live: Option<Live<R, E>>,
}

/// What the service answered.
pub(crate) enum Live<R: Body, E> {
    Response(Response<ResponseBody<R>>),
    /// The service's own error, which goes on as it is.
    Error(E),
}

impl<R: Body, E> Given<R, E> {
    /// An answer of which nothing is kept.
    pub(crate) fn live(live: Live<R, E>) -> Self {
        Self { kept: Kept::NotReplayable, live: Some(live) }
    }

    pub(crate) fn is_kept(&self) -> bool {
        matches!(self.kept, Kept::Whole(_))
    }

    pub(crate) fn into_live(self) -> Result<Response<ResponseBody<R>>, E> {
        match self.live.expect("the engine gives back what the operation returned") {
            Live::Response(response) => Ok(response),
            Live::Error(error) => Err(error),
        }
    }

    /// The response as it was kept.
    pub(crate) fn into_replay(self) -> Option<Response<ResponseBody<R>>> {
        let Kept::Whole(recorded) = self.kept else { return None };
        let mut response = Response::new(ResponseBody::whole(recorded.body, recorded.trailers));
        *response.status_mut() = recorded.status;
        for (name, value) in recorded.headers {
            response.headers_mut().append(name, value);
        }
        Some(response)
    }
}

impl<R: Body, E> Codec<Given<R, E>> for Responses {
    fn encode(&self, value: &Given<R, E>) -> Result<Payload, CodecError> {
        self.encode_kept(&value.kept)
    }

    fn decode(&self, bytes: &Payload) -> Result<Given<R, E>, CodecError> {
        Ok(Given { kept: self.decode_kept(bytes)?, live: None })
    }
}
