//! Which header fields of a response are kept with it.

use std::collections::HashSet;

use http::HeaderMap;
use http::header::{
    CONNECTION, CONTENT_LENGTH, DATE, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE,
    TRANSFER_ENCODING, UPGRADE,
};

use crate::grpc;

/// Which header fields of a response are kept with it, and come back when it is replayed. By
/// default: all but `Set-Cookie`.
///
/// Never kept, whatever is chosen: those that are about one connection (RFC 9110, section 7.6.1;
/// those that `Connection` names among them), and `Content-Length` and `Date`, which the server
/// writes anew. `Trailer` is kept, as the trailer fields are: HTTP/1.1 servers send none that it
/// does not announce.
///
/// ```
/// use http::header::{ETAG, SET_COOKIE};
/// # use oncekey::{Deduplicator, MemoryStore};
/// # use oncekey_http::{IdempotencyLayer, LayerError, Principal};
/// use oncekey_http::KeptHeaders;
///
/// # fn main() -> Result<(), LayerError> {
/// # let dedup = Deduplicator::new(MemoryStore::new());
/// let layer = IdempotencyLayer::builder(dedup, Principal::waived())
///     .kept_headers(KeptHeaders::all_but([SET_COOKIE, ETAG]));
/// # layer.run_in_request().build().map(drop) }
/// ```
///
/// The choice is about trailers too. Always kept is `grpc-status`: a reply of gRPC without it is
/// half a reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeptHeaders {
    names: HashSet<HeaderName>,
    /// The names are those kept; otherwise those left out.
    only: bool,
}

impl Default for KeptHeaders {
    fn default() -> Self {
        Self::all_but([SET_COOKIE])
    }
}

impl KeptHeaders {
    /// These only.
    pub fn only(names: impl IntoIterator<Item = HeaderName>) -> Self {
        Self { names: names.into_iter().collect(), only: true }
    }

    /// All but these. Name `Set-Cookie` too, unless a cookie may be given to whoever repeats the
    /// request.
    pub fn all_but(names: impl IntoIterator<Item = HeaderName>) -> Self {
        Self { names: names.into_iter().collect(), only: false }
    }

    /// The fields to keep, in their order; several values of one name stay in theirs.
    pub(crate) fn pick(&self, headers: &HeaderMap) -> HeaderMap {
        let named_by_connection: HashSet<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        headers
            .iter()
            .filter(|(name, _)| self.names.contains(*name) == self.only || **name == grpc::STATUS)
            .filter(|(name, _)| !is_about_a_connection(name) && !named_by_connection.contains(*name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }
}

fn is_about_a_connection(name: &HeaderName) -> bool {
    [
        CONNECTION,
        CONTENT_LENGTH,
        DATE,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRANSFER_ENCODING,
        UPGRADE,
    ]
    .contains(name)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}
