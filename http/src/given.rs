//! What the operation hands to the engine: a response for this caller, and what is kept of it for
//! later ones.

use std::sync::{Arc, Mutex, PoisonError};

use http::Response;
use http_body::Body;
use oncekey::Payload;
use oncekey::codec::{Codec, CodecError};

use crate::body::ResponseBody;
use crate::kept::{Kept, Responses};
use crate::vary::Varied;

pub(crate) struct Given<R: Body, E> {
    kept: Kept,
    /// For the caller whose request ran; `None` when it was read from a record, or was lent.
    live: Option<Box<Live<R, E>>>,
    lent: Option<Slot<R, E>>,
}

/// Where the service's answer is while the engine puts on record what it means: its client may not
/// wait for that.
pub(crate) struct Slot<R: Body, E>(Arc<Mutex<Option<Ended<R, E>>>>);

/// What a handler ended with.
pub(crate) struct Ended<R: Body, E> {
    pub(crate) live: Box<Live<R, E>>,
    pub(crate) is_an_outcome: bool,
}

impl<R: Body, E> Slot<R, E> {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    /// The answer, once.
    pub(crate) fn take(&self) -> Option<Ended<R, E>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<R: Body, E> Clone for Slot<R, E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
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
        Self { kept, live: Some(Box::new(Live::Response(response))), lent: None }
    }

    /// That it is done, where making the response of it panicked.
    pub(crate) fn outcome_without_response() -> Self {
        Self { kept: Kept::NotReplayable, live: Some(Box::new(Live::Panicked)), lent: None }
    }

    /// An answer that is no outcome.
    pub(crate) fn nothing_kept(live: Live<R, E>) -> Self {
        Self { kept: Kept::Nothing, live: Some(Box::new(live)), lent: None }
    }

    /// Whether it is what later callers should get, or be told of.
    pub(crate) fn is_an_outcome(&self) -> bool {
        !matches!(self.kept, Kept::Nothing)
    }

    /// Lends the answer, so that whoever has the slot may take it first.
    pub(crate) fn lend(mut self, slot: Slot<R, E>) -> Self {
        if let Some(live) = self.live.take() {
            let ended = Ended { live, is_an_outcome: self.is_an_outcome() };
            *slot.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
            self.lent = Some(slot);
        }
        self
    }

    /// `None` if it was taken where it was lent.
    pub(crate) fn into_live(self) -> Option<Live<R, E>> {
        let lent = || self.lent.as_ref().and_then(Slot::take).map(|ended| ended.live);
        self.live.or_else(lent).map(|live| *live)
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
        Ok(Given { kept: self.decode_kept(bytes)?, live: None, lent: None })
    }
}
