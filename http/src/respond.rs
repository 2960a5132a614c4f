//! From the engine's answer to the client's.

use http::{HeaderValue, Response};
use http_body::Body;
use oncekey::answer::ClaimFate;
use oncekey::{Answer, Earlier, RunError, Store};

use crate::body::ResponseBody;
use crate::given::{Given, Live};
use crate::problem::Situation;
use crate::shared::{RefusalForm, Shared};

/// The engine's answer to a run.
pub(crate) type RunResult<R, E> = Result<Answer<Given<R, E>, Given<R, E>>, RunError<Given<R, E>>>;
type ServiceResult<R, E> = Result<Response<ResponseBody<R>>, E>;

/// The response that the client gets.
pub(crate) fn respond<S: Store + 'static, R: Body, E>(
    shared: &Shared<S>,
    form: &RefusalForm,
    answer: RunResult<R, E>,
) -> ServiceResult<R, E> {
    let situation = match answer {
        Ok(Answer::Executed { value, .. }) => return live(shared, form, value, true),
        Ok(Answer::Unrecorded { value, .. }) => return live(shared, form, value, false),
        // An outcome that could not be stored is not on record, nor is anything of a call that ran
        // unprotected.
        Err(RunError::Operation { error, claim, .. }) => {
            let recorded = match claim {
                ClaimFate::Recorded { .. } | ClaimFate::Released | ClaimFate::InDoubt => true,
                ClaimFate::NotStored(_) => !error.is_an_outcome(),
                // Unprotected, or an answer of a later engine.
                _ => false,
            };
            return live(shared, form, error, recorded);
        }
        // The draft's section 2.6: "The resource SHOULD respond with the result of the previously
        // completed operation, success or an error."
        Ok(Answer::Earlier(Earlier::Replayed { value, .. })) => match value.into_replay() {
            Some(response) => return Ok(marked(response, &shared.options.replayed)),
            None => Situation::Done,
        },
        Ok(Answer::Earlier(Earlier::FailedBefore { failure: Some(value), .. })) => {
            match value.into_replay() {
                Some(response) => return Ok(marked(response, &shared.options.replayed)),
                None => Situation::FailedBefore,
            }
        }
        Ok(Answer::Earlier(Earlier::Done { .. })) => Situation::Done,
        Ok(Answer::Earlier(Earlier::FailedBefore { failure: None, .. })) => Situation::FailedBefore,
        Ok(Answer::Earlier(Earlier::InProgress { retry_after, .. })) => Situation::InProgress { retry_after },
        Ok(Answer::Earlier(Earlier::Mismatch)) => Situation::Mismatch,
        Ok(Answer::Earlier(Earlier::InDoubt { operation_id, .. })) => Situation::InDoubt { operation_id },
        Ok(Answer::Earlier(Earlier::Exhausted { attempts, .. })) => Situation::Exhausted { attempts },
        Err(RunError::LeaseLost { .. }) => Situation::LeaseLost,
        Err(RunError::Decode { .. }) => Situation::RecordUnusable,
        Err(RunError::Claim { source, .. }) => Situation::of_claim_error(&source),
        // An error of a later engine: the handler may have run.
        Err(_) => Situation::HandlerEnded,
    };
    Ok(shared.refusal(&situation, form))
}

/// The response of a handler that ran for this very request.
fn live<S: Store + 'static, R: Body, E>(
    shared: &Shared<S>,
    form: &RefusalForm,
    given: Given<R, E>,
    recorded: bool,
) -> ServiceResult<R, E> {
    // One that was taken was told to the client.
    let answered = given.into_live().unwrap_or(Live::Panicked);
    told(shared, form, answered, recorded)
}

/// What a handler answered, for its own client.
pub(crate) fn told<S: Store + 'static, R: Body, E>(
    shared: &Shared<S>,
    form: &RefusalForm,
    answered: Live<R, E>,
    recorded: bool,
) -> ServiceResult<R, E> {
    let response = match answered {
        Live::Response(mut response) => {
            // Only this layer sets these fields.
            for mark in [&shared.options.replayed, &shared.options.unrecorded] {
                response.headers_mut().remove(mark);
            }
            response
        }
        Live::Error(error) => return Err(error),
        Live::Panicked => shared.refusal(&Situation::HandlerEnded, form),
    };
    Ok(if recorded { response } else { marked(response, &shared.options.unrecorded) })
}

fn marked<B>(mut response: Response<B>, mark: &http::HeaderName) -> Response<B> {
    response.headers_mut().insert(mark, HeaderValue::from_static("true"));
    response
}
