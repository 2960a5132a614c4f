//! Whose request it is, and to what: the scope of its key.

use std::fmt;
use std::sync::Arc;

use http::Uri;
use http::request::Parts;
use oncekey::Key;
use oncekey::protocol::KeyError;
use sha2::{Digest as _, Sha256};

type Extract = dyn Fn(&Parts) -> Option<String> + Send + Sync;

/// Who makes a request: keys of different principals never meet, so no client can collect another's
/// response.
///
/// There is no default: whoever sets the layer up says where the principal is to be found, or that
/// there is none.
#[derive(Clone)]
pub struct Principal(Who);

#[derive(Clone)]
enum Who {
    From(Arc<Extract>),
    Waived,
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Who::From(_) => "Principal(extracted)",
            Who::Waived => "Principal(waived)",
        })
    }
}

impl Principal {
    /// Found in the request: an account id that a layer outside of this one has authenticated and
    /// put into the extensions, say. Never something that the caller may choose freely, nor
    /// something that is another at the next retry: the account, not the token or the session.
    ///
    /// A request for which it is `None` or empty is refused, if it has a key.
    ///
    /// ```
    /// use oncekey_http::Principal;
    ///
    /// /// Put into the extensions by the layer that authenticates.
    /// #[derive(Clone)]
    /// struct Account(String);
    ///
    /// let principal = Principal::from_request(|parts| parts.extensions.get().map(|Account(id)| id.clone()));
    /// ```
    pub fn from_request(extract: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Who::From(Arc::new(extract)))
    }

    /// There is none: **whoever knows a key can collect the response that was given for it**. For
    /// services with one caller, or behind a gateway that puts the caller into the key.
    pub fn waived() -> Self {
        Self(Who::Waived)
    }

    /// `None` if it cannot be told.
    pub(crate) fn of(&self, parts: &Parts) -> Option<String> {
        match &self.0 {
            Who::Waived => Some("-".to_owned()),
            // So that nobody is taken for "nobody in particular".
            Who::From(extract) => extract(parts).filter(|who| !who.is_empty()).map(|who| format!("={who}")),
        }
    }
}

/// What a request is made to: the same key may be used for another route. By default the path that
/// the client sent.
///
/// axum takes the prefix of a nested router off the path. With the feature `axum` the layer sees
/// the path as it was before: axum 0.8 leaves it in the request. **Without that feature there is no
/// default**, since two mounts of one router could not be told apart: say [`Route::path`] if nothing
/// outside of the layer takes a prefix off, or [`Route::from_request`] otherwise. Say it too for
/// another version of axum, and for anything else that rewrites paths outside of the layer.
#[derive(Clone, Default)]
pub struct Route(Where);

#[derive(Clone, Default)]
enum Where {
    /// The path, where it can be known.
    #[default]
    Unsaid,
    Path,
    From(Arc<Extract>),
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Where::Unsaid => "Route(default)",
            Where::Path => "Route(path)",
            Where::From(_) => "Route(extracted)",
        })
    }
}

impl Route {
    /// The path of the request, [as the client sent it](Self::path_of). Without the feature `axum`
    /// it is the path that the layer sees: **where something outside takes a prefix off, two mounts
    /// are one route**.
    pub fn path() -> Self {
        Self(Where::Path)
    }

    /// Found in the request; where it is `None` or empty, the path is taken. Take the path from
    /// [`Route::path_of`]: in a nested axum router, that of the request's own URI lacks the prefix.
    ///
    /// ```
    /// # use oncekey::{Deduplicator, MemoryStore};
    /// # use oncekey_http::{IdempotencyLayer, LayerError, Principal};
    /// use oncekey_http::Route;
    ///
    /// # fn main() -> Result<(), LayerError> {
    /// // Tenants by host: the same path on another host is another route.
    /// let route = Route::from_request(|parts| {
    ///     let host = parts.headers.get("host")?.to_str().ok()?;
    ///     Some(format!("{host}{}", Route::path_of(parts)))
    /// });
    /// # let dedup = Deduplicator::new(MemoryStore::new());
    /// let layer = IdempotencyLayer::builder(dedup, Principal::waived()).route(route);
    /// # layer.run_in_request().build().map(drop) }
    /// ```
    pub fn from_request(extract: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Where::From(Arc::new(extract)))
    }

    /// The path that the client sent: in an axum router, and with the feature `axum`, with the
    /// prefixes that routers around it took off.
    pub fn path_of(parts: &Parts) -> &str {
        target(parts).path()
    }

    /// The route that axum matched, `/orders/{id}`; where it matched none, the path. A key that is
    /// used for another path of the same route is then a mismatch, and no key of its own.
    ///
    /// ```
    /// # use oncekey::{Deduplicator, MemoryStore};
    /// # use oncekey_http::{IdempotencyLayer, LayerError, Principal};
    /// use oncekey_http::Route;
    ///
    /// # fn main() -> Result<(), LayerError> {
    /// # let dedup = Deduplicator::new(MemoryStore::new());
    /// let layer = IdempotencyLayer::builder(dedup, Principal::waived()).route(Route::matched_path());
    /// # layer.run_in_request().build().map(drop) }
    /// ```
    #[cfg(feature = "axum")]
    pub fn matched_path() -> Self {
        use axum::extract::MatchedPath;
        Self::from_request(|parts| parts.extensions.get::<MatchedPath>().map(|path| path.as_str().to_owned()))
    }

    /// Whether it tells two mounts of a router apart, or the service said that it need not.
    pub(crate) fn is_known(&self) -> bool {
        cfg!(feature = "axum") || !matches!(self.0, Where::Unsaid)
    }

    fn of(&self, parts: &Parts) -> String {
        let extracted = match &self.0 {
            Where::From(extract) => extract(parts).filter(|route| !route.is_empty()),
            Where::Unsaid | Where::Path => None,
        };
        extracted.unwrap_or_else(|| Self::path_of(parts).to_owned())
    }
}

/// Where the client sent the request to: axum takes the prefixes of nested routers off the
/// request's own URI.
pub(crate) fn target(parts: &Parts) -> &Uri {
    #[cfg(feature = "axum")]
    if let Some(original) = parts.extensions.get::<axum::extract::OriginalUri>() {
        return &original.0;
    }
    &parts.uri
}

/// Parts of a key's scope.
const SCOPE_LEN: usize = 4;

/// The engine's key for a request: the "unique composite key" that the draft's section 5 asks for,
/// so that nobody who guesses a key gets at what belongs to another client. In the scope of the
/// service, method, route and principal.
///
/// # Errors
/// [`KeyError`] if the idempotency key is empty or has more than 255 bytes.
pub(crate) fn key(
    parts: &Parts,
    namespace: &str,
    route: &Route,
    principal: &str,
    id: &str,
) -> Result<Key, KeyError> {
    let namespace = component(namespace.to_owned());
    let (route, principal) = (component(route.of(parts)), component(principal.to_owned()));
    // An asterisk-form target has no path (RFC 9112, section 3.2.4).
    let route = if route.is_empty() { "*".to_owned() } else { route };
    let scope: [&str; SCOPE_LEN] = [&namespace, parts.method.as_str(), &route, &principal];
    Key::scoped(scope, id)
}

/// The principal of such a key, as its scope has it.
pub(crate) fn principal_of(key: &Key) -> &str {
    key.scope().nth(SCOPE_LEN - 1).expect("the scope of each key has a principal")
}

/// The key of a variant of this key's operation. A variant may have variants: each has a key of its
/// own, so that whoever goes from one to the next comes to an end.
pub(crate) fn variant(key: &Key, variant: String) -> Key {
    let variant = match key.scope().nth(SCOPE_LEN) {
        Some(of) => component(format!("{of} {variant}")),
        None => variant,
    };
    let scope = key.scope().take(SCOPE_LEN).chain([&*variant]);
    Key::scoped(scope, key.id()).expect("a key has room for one more part")
}

/// Text that fits into a key: by its digest where it is too long. Text that looks like such a
/// digest goes by its own, so that no text is ever taken for another.
fn component(text: String) -> String {
    const PREFIX: &str = "sha256:";
    if text.len() <= Key::PART_LEN_MAX && !text.starts_with(PREFIX) {
        return text;
    }
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().fold(PREFIX.to_owned(), |hex, byte| format!("{hex}{byte:02x}"))
}
