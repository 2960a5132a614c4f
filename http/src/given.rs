//! What the operation hands to the engine: a response for this caller, and what is kept of it for
//! later ones.

use http::Response;
use http_body::Body;
use oncekey::Payload;
use oncekey::codec::{Codec, CodecError};

use crate::body::ResponseBody;
use crate::kept::{Kept, Responses};
use crate::vary::Varied;

pub(crate) struct Given<R: Body, E> {
    kept: Kept,
    /// For the caller whose request ran; `None` when it was read from a record.
    live: Option<Box<Live<R, E>>>,
}

/// What the service answered.
pub(crate) enum Live<R: Body, E> {
    Response(Response<ResponseBody<R>>),
    /// The service's own error, which goes on as it is.
    Error(E),
    /// Nothing: it panicked, or the making of its response did.
    Panicked,
}

impl<R: Body, E> Given<R, E> {
    /// An outcome.
    pub(crate) fn new(kept: Kept, response: Response<ResponseBody<R>>) -> Self {
        Self { kept, live: Some(Box::new(Live::Response(response))) }
    }

    /// That it is done, where making the response of it panicked.
    pub(crate) fn outcome_without_response() -> Self {
        Self { kept: Kept::NotReplayable, live: Some(Box::new(Live::Panicked)) }
    }

    /// An answer that is no outcome.
    pub(crate) fn nothing_kept(live: Live<R, E>) -> Self {
        Self { kept: Kept::Nothing, live: Some(Box::new(live)) }
    }

    /// Whether it is what later callers should get, or be told of.
    pub(crate) fn is_an_outcome(&self) -> bool {
        !matches!(self.kept, Kept::Nothing)
    }

    pub(crate) fn into_live(self) -> Live<R, E> {
        *self.live.expect("the engine gives back what the operation returned")
    }

    /// What a kept response depends on.
    pub(crate) fn varied(&self) -> Option<&Varied> {
        match &self.kept {
            Kept::Whole(recorded) => Some(&recorded.varied),
            Kept::NotReplayable | Kept::Nothing => None,
        }
    }

    /// The response as it was kept.
    pub(crate) fn into_replay(self) -> Option<Response<ResponseBody<R>>> {
        let Kept::Whole(recorded) = self.kept else { return None };
        let mut response = Response::new(ResponseBody::whole(recorded.body, recorded.trailers));
        *response.status_mut() = recorded.status;
        *response.headers_mut() = recorded.headers;
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
