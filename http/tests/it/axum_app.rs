//! An axum router, called without a socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::routing::post;
use axum::{Extension, Router};
use http::{HeaderMap, Request, Response, StatusCode};
use oncekey::{Attempt, Deduplicator, MemoryStore};
use oncekey_http::{IdempotencyLayer, Principal};
use tower::ServiceExt as _;

async fn charge(
    State(count): State<Arc<AtomicU32>>,
    Extension(attempt): Extension<Attempt>,
    body: String,
) -> String {
    let n = count.fetch_add(1, Ordering::SeqCst) + 1;
    format!("charge {n} of {body}, attempt {}", attempt.number())
}

fn app() -> (Router, Arc<AtomicU32>) {
    let count = Arc::new(AtomicU32::new(0));
    let layer = IdempotencyLayer::new(Deduplicator::new(MemoryStore::new()), Principal::waived()).unwrap();
    let app = Router::new().route("/charges", post(charge)).layer(layer).with_state(Arc::clone(&count));
    (app, count)
}

async fn send(app: &Router, key: Option<&str>, body: &'static str) -> (StatusCode, HeaderMap, String) {
    let mut request = Request::post("/charges");
    if let Some(key) = key {
        request = request.header("Idempotency-Key", key);
    }
    let response: Response<Body> =
        app.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    (parts.status, parts.headers, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn a_request_sent_again_gets_the_first_response_marked_as_replayed() {
    let (app, count) = app();
    let first = send(&app, Some("\"k\""), "50").await;
    assert_eq!((first.0, first.2.as_str()), (StatusCode::OK, "charge 1 of 50, attempt 1"));
    assert!(!first.1.contains_key("idempotent-replayed"));
    let again = send(&app, Some("k"), "50").await;
    assert_eq!((again.0, again.2), (first.0, first.2));
    assert_eq!(again.1["idempotent-replayed"], "true");
    assert_eq!(again.1["content-type"], first.1["content-type"]);
    let other = send(&app, Some("k"), "51").await;
    assert_eq!(other.0, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(other.1["content-type"], "application/problem+json");
    assert_eq!(count.load(Ordering::SeqCst), 1);
}
