//! Which responses are outcomes.

use http::StatusCode;

use crate::grpc;

/// Whether a response is the outcome of its operation, and so what the next request with the key
/// meets.
///
/// ```
/// use http::StatusCode;
/// use oncekey_http::OutcomeRule;
///
/// assert_eq!(OutcomeRule::by_status(StatusCode::CREATED), OutcomeRule::Keep);
/// assert_eq!(OutcomeRule::by_status(StatusCode::TOO_MANY_REQUESTS), OutcomeRule::Release);
/// assert_eq!(OutcomeRule::by_status(StatusCode::BAD_GATEWAY), OutcomeRule::Unknown);
/// ```
///
/// [`Builder::outcome_rule`](crate::Builder::outcome_rule) replaces the default.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OutcomeRule {
    /// The response is the outcome of the operation. It is kept, and given to every later request
    /// with the key.
    Keep,
    /// Nothing happened: the key is free, and the next request runs.
    Release,
    /// Nobody knows whether something happened. The engine's policy says what the next request
    /// meets.
    Unknown,
}

/// What a handler itself says about the effect of the operation, in the extensions of its response.
/// It goes before any rule about statuses.
///
/// ```
/// use oncekey_http::Effect;
/// let mut response = http::Response::new("the bank did not take the call");
/// *response.status_mut() = http::StatusCode::BAD_GATEWAY;
/// response.extensions_mut().insert(Effect::None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Nothing happened: the key is free, and the next request runs.
    None,
    /// The result is final, success or not: the response is kept.
    Final,
    /// Nobody knows whether something happened.
    Unknown,
}

/// So that an axum handler can return `(StatusCode::BAD_GATEWAY, Effect::None, "the bank did not
/// take the call")`.
#[cfg(feature = "axum")]
impl axum::response::IntoResponseParts for Effect {
    type Error = std::convert::Infallible;

    fn into_response_parts(
        self,
        mut parts: axum::response::ResponseParts,
    ) -> Result<axum::response::ResponseParts, Self::Error> {
        parts.extensions_mut().insert(self);
        Ok(parts)
    }
}

impl From<Effect> for OutcomeRule {
    fn from(effect: Effect) -> Self {
        match effect {
            Effect::None => Self::Release,
            Effect::Final => Self::Keep,
            Effect::Unknown => Self::Unknown,
        }
    }
}

impl OutcomeRule {
    /// The default rule.
    ///
    /// | status | it is |
    /// |---|---|
    /// | 2xx, 3xx, and 4xx but for those below | kept |
    /// | 401, 403, 407, 409, 425, 429 | released: another try may fare better, and nothing was done |
    /// | 408 | unknown: the request was there in full, so it is the handler that was too slow, and was stopped in the middle |
    /// | 5xx | unknown, unless the handler [says](Effect) |
    /// | 1xx | unknown: no final response |
    pub fn by_status(status: StatusCode) -> Self {
        match status.as_u16() {
            401 | 403 | 407 | 409 | 425 | 429 => Self::Release,
            408 => Self::Unknown,
            200..=499 => Self::Keep,
            _ => Self::Unknown,
        }
    }

    /// The default rule for replies with the content type `application/grpc`, whose HTTP status is
    /// 200 in any case. Their `grpc-status` stands in their head or in their trailers.
    ///
    /// | `grpc-status` | it is |
    /// |---|---|
    /// | OK, INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, FAILED_PRECONDITION, OUT_OF_RANGE | kept |
    /// | PERMISSION_DENIED, RESOURCE_EXHAUSTED, ABORTED, UNIMPLEMENTED, UNAUTHENTICATED | released |
    /// | CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS, any other, none | unknown, unless the handler [says](Effect) |
    ///
    /// ```
    /// use oncekey_http::OutcomeRule;
    ///
    /// let (not_found, unavailable) = (5, 14);
    /// assert_eq!(OutcomeRule::by_grpc_status(not_found), OutcomeRule::Keep);
    /// assert_eq!(OutcomeRule::by_grpc_status(unavailable), OutcomeRule::Unknown);
    /// ```
    pub fn by_grpc_status(status: u16) -> Self {
        match status {
            // OK; INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, FAILED_PRECONDITION, OUT_OF_RANGE.
            grpc::OK | 3 | 5 | 6 | 9 | 11 => Self::Keep,
            // PERMISSION_DENIED, RESOURCE_EXHAUSTED, ABORTED, UNIMPLEMENTED, UNAUTHENTICATED.
            7 | 8 | 10 | 12 | 16 => Self::Release,
            // CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS, and what is
            // not a status.
            _ => Self::Unknown,
        }
    }
}
