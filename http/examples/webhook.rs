//! A receiver of webhooks, whose sender counts its tries in the body: each event is handled once.
//!
//! `cargo run -p oncekey-http --example webhook`

use std::error::Error;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicU32, Ordering};

use axum::{Router, body::Body, routing::post};
use http::{HeaderName, Request, StatusCode};
use oncekey::{Deduplicator, MemoryStore};
use oncekey_http::{Compared, IdempotencyLayer, LayerError, Principal};
use tower::ServiceExt as _;

static HANDLED: AtomicU32 = AtomicU32::new(0);

fn app() -> Result<Router, LayerError> {
    let dedup = Deduplicator::new(MemoryStore::new()); // a store that survives a restart, in production
    // The signature is checked by a layer outside, which says whose event it is. One sender here.
    let layer = IdempotencyLayer::builder(dedup, Principal::waived())
        .field(HeaderName::from_static("webhook-id")) // the sender's event id
        .required()
        .compared(Compared::webhook()) // not the body, which moves
        .build()?;
    Ok(Router::new().route("/events", post(handle)).route_layer(layer))
}

async fn handle(event: String) -> String {
    let number = HANDLED.fetch_add(1, Ordering::SeqCst) + 1;
    format!("handled {event} as number {number}")
}

/// The sender sends the same event, and another body at each try.
async fn deliver(app: &Router, id: &str, attempt: u32) -> Result<(StatusCode, bool), Box<dyn Error>> {
    let body = format!(r#"{{"event":"paid","attempt":{attempt}}}"#);
    let request = Request::post("/events").header("webhook-id", id).body(Body::from(body))?;
    let response = app.clone().oneshot(request).await?;
    Ok((response.status(), response.headers().contains_key("idempotent-replayed")))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let app = app()?;
    assert_eq!(deliver(&app, "evt_1", 1).await?, (StatusCode::OK, false));
    assert_eq!(
        deliver(&app, "evt_1", 2).await?,
        (StatusCode::OK, true),
        "the sender did not hear the answer"
    );
    assert_eq!(deliver(&app, "evt_2", 1).await?, (StatusCode::OK, false));
    assert_eq!(HANDLED.load(Ordering::SeqCst), 2);
    writeln!(io::stdout(), "three deliveries, two events handled")?;
    Ok(())
}
