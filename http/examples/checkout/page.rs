//! What a browser loads: three files, embedded here, and nothing from anywhere else.

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};

use crate::visitor;

/// The page, its style and its script.
pub(crate) fn routes() -> Router {
    Router::new()
        .route("/", get(page))
        .route("/page.css", get(|| async { file("text/css; charset=utf-8", include_str!("page.css")) }))
        .route("/page.js", get(|| async { file("text/javascript; charset=utf-8", include_str!("page.js")) }))
}

async fn page(headers: HeaderMap) -> Response {
    let mut response = file("text/html; charset=utf-8", include_str!("page.html"));
    response.headers_mut().insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'self'; img-src 'self' data:"),
    );
    if let Some((name, cookie)) = visitor::welcome(&headers) {
        response.headers_mut().insert(name, cookie);
    }
    response
}

fn file(content_type: &'static str, text: &'static str) -> Response {
    // Whoever edits the page and starts the shop again sees the new one.
    ([(CONTENT_TYPE, content_type), (CACHE_CONTROL, "no-cache")], text).into_response()
}
