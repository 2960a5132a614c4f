//! The shop's routes: the page, the bank's ledger as it grows, and one endpoint behind three doors.

use std::convert::Infallible;
use std::error::Error;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router, middleware};
use futures::{Stream, stream};
use http::{HeaderMap, StatusCode};
use oncekey::{Attempt, Deduplicator, Store};
use oncekey_http::{IdempotencyLayer, Principal};
use tower::ServiceExt as _;

use crate::bank::{Bank, Charge, Order, SLOW};
use crate::switches::Switches;
use crate::{page, visitor};

/// How long a duplicate waits for the first answer; longer than the bank ever takes.
const WAIT: Duration = Duration::from_secs(10);

/// Short, so that a shop that was killed can be tried again soon. It is renewed while the bank is busy.
pub(crate) const LEASE: Duration = Duration::from_secs(4);

/// The whole shop, over an engine.
pub(crate) fn shop<S: Store + 'static>(
    dedup: &Deduplicator<S>,
    bank: &Arc<Bank>,
) -> Result<Router, Box<dyn Error>> {
    let layer = || {
        let principal = Principal::from_request(visitor::principal);
        // A visitor who leaves in the middle stays the visitor to the end.
        IdempotencyLayer::builder(dedup.clone(), principal).required().carry_context(visitor::carried)
    };
    let endpoint = Router::new().route("/charges", post(charge)).with_state(Arc::clone(bank));
    let doors = Doors {
        waiting: endpoint.clone().route_layer(layer().wait(WAIT).build()?),
        refusing: endpoint.clone().route_layer(layer().build()?),
        without_oncekey: endpoint,
    };
    Ok(Router::new()
        .route("/charges", post(enter).with_state(doors))
        .route("/ledger", get(ledger).with_state(Arc::clone(bank)))
        .layer(middleware::from_fn(visitor::recognise))
        .merge(page::routes()))
}

/// The same endpoint, three times. A shop has one of them; here the page can choose.
#[derive(Clone)]
struct Doors {
    /// A duplicate waits for the first answer.
    waiting: Router,
    /// A duplicate is told to ask again.
    refusing: Router,
    /// A duplicate is charged again.
    without_oncekey: Router,
}

/// Sends a request through the door that the page asked for.
async fn enter(State(doors): State<Doors>, request: Request) -> Response {
    let switches = Switches::of(request.headers());
    let door = match switches {
        Switches { without_oncekey: true, .. } => doors.without_oncekey,
        Switches { refuse_duplicates: true, .. } => doors.refusing,
        _ => doors.waiting,
    };
    let response = door.oneshot(request).await.into_response();
    if switches.lose_reply {
        // All is done, and the client will never hear of it.
        pending::<()>().await;
    }
    response
}

/// Takes the money. Nothing here knows about retries.
async fn charge(
    State(bank): State<Arc<Bank>>,
    attempt: Option<Extension<Attempt>>,
    headers: HeaderMap,
    Json(order): Json<Order>,
) -> Result<(StatusCode, Json<Charge>), StatusCode> {
    let takes = if Switches::of(&headers).slow_bank { SLOW } else { Duration::ZERO };
    let operation = attempt.map(|Extension(attempt)| attempt.operation_id().to_string());
    let charge: io::Result<Charge> = bank.charge(order, operation, takes).await;
    charge.map(|charge| (StatusCode::CREATED, Json(charge))).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

/// The bank's ledger, sent again whenever it grows.
async fn ledger(State(bank): State<Arc<Bank>>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let mut ledger = bank.ledger();
    ledger.mark_changed();
    let events = stream::unfold(ledger, |mut ledger| async move {
        ledger.changed().await.ok()?;
        let event = Event::default().json_data(&*ledger.borrow_and_update());
        Some((Ok(event.expect("a ledger is plain text and numbers")), ledger))
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}
