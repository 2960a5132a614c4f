//! How a layer is set up.

mod requests;
mod responses;
mod running;
mod telling;

use std::fmt;

use http::HeaderValue;
use oncekey::{Deduplicator, Store};

use crate::layer::IdempotencyLayer;
use crate::options::Options;
#[cfg(not(feature = "tokio"))]
use crate::runner::Run;
use crate::scope::Principal;

impl<S: Store + 'static> IdempotencyLayer<S> {
    /// Makes a layer with the defaults, over an engine.
    ///
    /// # Errors
    /// [`LayerError::NoSpawner`] without the feature `tokio`: [say](Builder::spawner) where
    /// handlers run. [`LayerError::NoRoute`] without the feature `axum`: name a
    /// [route](Builder::route).
    pub fn new(dedup: Deduplicator<S>, principal: Principal) -> Result<Self, LayerError> {
        Self::builder(dedup, principal).build()
    }

    /// Sets a layer up.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http::{Request, Response};
    /// use http_body_util::Full;
    /// use oncekey::{Deduplicator, MemoryStore};
    /// use oncekey_http::{IdempotencyLayer, Principal, RequestBody};
    /// use tower::{Layer as _, ServiceExt as _, service_fn};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # futures::executor::block_on(async {
    /// let layer = IdempotencyLayer::builder(Deduplicator::new(MemoryStore::new()), Principal::waived())
    ///     .required()
    ///     .run_in_request()
    ///     .build()?;
    /// let service = layer.layer(service_fn(|_: Request<RequestBody<Full<Bytes>>>| async {
    ///     Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from("charged")))
    /// }));
    ///
    /// let request = || Request::post("/charges").header("idempotency-key", "k").body(Full::<Bytes>::from("50"));
    /// let first = service.clone().oneshot(request()?).await?;
    /// assert!(!first.headers().contains_key("idempotent-replayed"));
    /// let again = service.clone().oneshot(request()?).await?;
    /// assert_eq!(again.headers()["idempotent-replayed"], "true");
    ///
    /// let without_a_key = Request::post("/charges").body(Full::<Bytes>::from("50"))?;
    /// assert_eq!(service.oneshot(without_a_key).await?.status(), 400);
    /// # Ok(()) }) }
    /// ```
    pub fn builder(dedup: Deduplicator<S>, principal: Principal) -> Builder<S> {
        Builder::new(dedup, principal)
    }
}

/// Sets a layer up. [`IdempotencyLayer::builder`] makes one, and has an example.
#[must_use = "a builder does nothing until it is built"]
pub struct Builder<S: Store + 'static> {
    dedup: Deduplicator<S>,
    options: Options,
    documentation: Option<String>,
}

impl<S: Store + 'static> fmt::Debug for Builder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("dedup", &self.dedup).field("options", &self.options).finish()
    }
}

/// Why a layer cannot be built with these options.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// There is no runtime to run handlers on.
    #[error(
        "nothing says where handlers run: name a spawner, or enable the feature `tokio`, or choose run_in_request"
    )]
    NoSpawner,
    /// Nothing tells two mounts of a router apart.
    #[error(
        "nothing says what a request is made to: enable the feature `axum`, or name a route; Route::path() if nothing takes a prefix off the path outside of this layer"
    )]
    NoRoute,
    /// The documentation's URL cannot stand in a header field.
    #[error("the URL of the documentation cannot stand in a Link field: {url:?}")]
    Documentation {
        /// The URL that was given.
        url: String,
    },
    /// The namespace is empty, so it does not tell services apart.
    #[error("the namespace is empty; give it a name")]
    Namespace,
    /// The budget is zero, so that no store could keep to it.
    #[error("the budget is zero; give the store some time, 10 s by default")]
    Budget,
    /// A limit is above what can be kept.
    #[error("{option} is {bytes} bytes; at most {most} can be kept")]
    TooMuch {
        /// The option.
        option: &'static str,
        /// The limit that was asked for.
        bytes: usize,
        /// The greatest limit.
        most: usize,
    },
}

/// Most bytes of a body that can be kept: with its header fields it must fit into a record.
const BODY_MAX: usize = 1 << 29;

impl<S: Store + 'static> Builder<S> {
    pub(crate) fn new(dedup: Deduplicator<S>, principal: Principal) -> Self {
        let options = Options::new(principal);
        Self { dedup, options, documentation: None }
    }

    /// Builds the layer.
    ///
    /// # Errors
    /// [`LayerError`] if an option cannot be carried out.
    pub fn build(self) -> Result<IdempotencyLayer<S>, LayerError> {
        let mut options = self.options;
        #[cfg(not(feature = "tokio"))]
        if matches!(options.run, Run::Unsaid) {
            return Err(LayerError::NoSpawner);
        }
        if !options.route.is_known() {
            return Err(LayerError::NoRoute);
        }
        if options.namespace.is_empty() {
            return Err(LayerError::Namespace);
        }
        if options.budget.is_zero() {
            return Err(LayerError::Budget);
        }
        if options.response_body_max > BODY_MAX {
            return Err(LayerError::TooMuch {
                option: "response_body_max",
                bytes: options.response_body_max,
                most: BODY_MAX,
            });
        }
        options.documentation = self.documentation.map(link).transpose()?;
        Ok(IdempotencyLayer::new_with(self.dedup, options))
    }
}

/// The field that links a problem to the documentation.
fn link(url: String) -> Result<HeaderValue, LayerError> {
    let link = format!("<{url}>; rel=\"describedby\"; type=\"text/html\"");
    match HeaderValue::try_from(link) {
        Ok(link) if !url.contains(['<', '>', ' ']) => Ok(link),
        _ => Err(LayerError::Documentation { url }),
    }
}
