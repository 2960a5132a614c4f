//! Who is at the till: the part of a login that matters here. Each browser gets a random id in a cookie, and the layer
//! takes it for the principal, so that nobody collects the answer to somebody else's key.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderValue, request};

const COOKIE_NAME: &str = "visitor";

/// A visitor who has been here before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Visitor(String);

tokio::task_local! {
    /// Whose request is being handled, for what lies far below its handler.
    static AT_THE_TILL: Visitor;
}

/// Tells who sends a request, outside of the layer that asks for it.
pub(crate) async fn recognise(mut request: Request, next: Next) -> Response {
    match visitor(request.headers()) {
        Some(visitor) => {
            request.extensions_mut().insert(visitor.clone());
            AT_THE_TILL.scope(visitor, next.run(request)).await
        }
        None => next.run(request).await,
    }
}

/// Takes [`AT_THE_TILL`] along, for [`carry_context`](oncekey_http::Builder::carry_context): when a visitor leaves in the
/// middle, the rest of the request runs outside of [`recognise`].
pub(crate) fn carried(
    _: &request::Parts,
) -> impl FnOnce(BoxFuture<'static, ()>) -> BoxFuture<'static, ()> + Send + use<> {
    let visitor = AT_THE_TILL.try_with(Clone::clone);
    move |job| match visitor {
        Ok(visitor) => AT_THE_TILL.scope(visitor, job).boxed(),
        Err(_) => job,
    }
}

/// A short name for the visitor whose request is being handled; `None` for a stranger.
pub(crate) fn at_the_till() -> Option<String> {
    AT_THE_TILL.try_with(|visitor| visitor.0[..4].to_owned()).ok()
}

/// Where the layer finds the principal.
pub(crate) fn principal(parts: &request::Parts) -> Option<String> {
    parts.extensions.get::<Visitor>().map(|visitor| visitor.0.clone())
}

/// The cookie for a browser that has none yet.
pub(crate) fn welcome(headers: &HeaderMap) -> Option<(http::HeaderName, HeaderValue)> {
    if visitor(headers).is_some() {
        return None;
    }
    let mut id = [0; 16];
    getrandom::fill(&mut id).expect("the operating system has random bytes");
    let id = u128::from_be_bytes(id);
    let cookie = format!("{COOKIE_NAME}={id:032x}; Path=/; HttpOnly; SameSite=Strict");
    Some((SET_COOKIE, HeaderValue::try_from(cookie).expect("it is visible ASCII")))
}

fn visitor(headers: &HeaderMap) -> Option<Visitor> {
    let fields = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = fields.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, id) = pairs.find(|(name, id)| *name == COOKIE_NAME && is_id(id))?;
    Some(Visitor(id.to_owned()))
}

fn is_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
