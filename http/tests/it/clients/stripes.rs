//! `problems::stripe_like()`, as Stripe's own clients understand it.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::post as on_post;
use http::StatusCode;
use oncekey::{Deduplicator, MemoryStore, OperationId, Policy};
use oncekey_http::key::KeyProblem;
use oncekey_http::problem::{Problem, Situation};
use oncekey_http::problems::stripe_like;

use super::program::{Settings, Told};
use super::{Asked, Client, Ledger, name};
use crate::support::{Served, layer_over, serve};

const CLIENTS: [Client; 2] = [Client::StripePython, Client::StripeNode];

/// Each situation, the error that Stripe's clients raise for it, and how often they send a request that they may send twice.
/// For node each class has `Stripe` before its name.
fn situations() -> [(Situation, &'static str, usize); 19] {
    let soon = Duration::from_secs(1);
    [
        (Situation::KeyMissing, "InvalidRequestError", 1),
        (Situation::KeyMalformed(KeyProblem::Several), "InvalidRequestError", 1),
        (Situation::NoPrincipal, "PermissionError", 1),
        (Situation::BodyTooLarge { limit: Some(1) }, "InvalidRequestError", 1),
        (Situation::BodyUnreadable, "InvalidRequestError", 1),
        (Situation::TooManyKeys { retry_after: soon }, "RateLimitError", 1),
        (Situation::Mismatch, "IdempotencyError", 1),
        (Situation::VaryMismatch { fields: "accept".to_owned() }, "IdempotencyError", 1),
        (Situation::InProgress { retry_after: soon }, "APIError", 2),
        (Situation::InDoubt { operation_id: OperationId::from_bytes([7; 16]) }, "IdempotencyError", 1),
        (Situation::Exhausted { attempts: 3 }, "IdempotencyError", 1),
        (Situation::Done, "IdempotencyError", 1),
        (Situation::FailedBefore, "IdempotencyError", 1),
        (Situation::LeaseLost, "APIError", 2),
        (Situation::HandlerEnded, "APIError", 2),
        (Situation::ShuttingDown, "APIError", 2),
        (Situation::StoreUnavailable, "APIError", 2),
        (Situation::StoreFailed, "APIError", 1),
        (Situation::RecordUnusable, "APIError", 1),
    ]
}

type Arrivals = Arc<Ledger<()>>;

async fn with_retries(client: Client, served: &Served, retries: u32, operations: &[Asked]) -> Vec<Told> {
    let settings =
        Settings { base: format!("http://{}", served.addr), timeout: Duration::from_secs(60), retries };
    client.run(&settings, operations).await
}

fn class(client: Client, class: &str) -> String {
    if client == Client::StripeNode { format!("Stripe{class}") } else { class.to_owned() }
}

/// Answers each operation with the problem that has its name.
async fn problem(State(arrivals): State<Arrivals>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let form = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let name = name(std::str::from_utf8(&form).unwrap());
    arrivals.write(&name, ());
    let problems = situations().map(|(situation, ..)| Problem::of(&situation));
    let problem = problems.iter().find(|problem| problem.slug == name).unwrap();
    stripe_like()(problem, &parts).map(Body::from)
}

#[tokio::test]
async fn stripes_clients_raise_the_right_class_and_retry_only_what_may_help() {
    for client in CLIENTS {
        let arrivals = Arrivals::new(Ledger::new());
        let app = Router::new().route("/v1/charges", on_post(problem)).with_state(Arc::clone(&arrivals));
        let served = serve(app).await;
        let named =
            situations().map(|(situation, class, times)| (Problem::of(&situation).slug, class, times));
        let operations = named.map(|(slug, ..)| Asked { name: slug.to_owned(), key: format!("key-{slug}") });
        let told = with_retries(client, &served, 1, &operations).await;
        let mut wrong = Vec::new();
        for (slug, expected, times) in named {
            let told = told.iter().find(|told| told.name == slug).unwrap();
            let got = (told.error.clone(), arrivals.of(slug).len());
            if got != (class(client, expected), times) {
                wrong.push(format!("{slug}: {got:?}, status {}", told.status));
            }
        }
        assert!(wrong.is_empty(), "{client:?}: {wrong:#?}");
    }
}

/// Of a charge that ends with a 500, nobody knows whether it took effect.
async fn fails_in_the_middle(State(arrivals): State<Arrivals>, form: String) -> Result<String, StatusCode> {
    let name = name(&form);
    arrivals.write(&name, ());
    if name == "in-doubt" { Err(StatusCode::INTERNAL_SERVER_ERROR) } else { Ok("{}".to_owned()) }
}

/// By the layer itself: the client's own retry of a 500 is told that it is in doubt, and ends there.
#[tokio::test]
async fn stripes_clients_raise_their_idempotency_error_for_what_the_layer_refuses() {
    for client in CLIENTS {
        let arrivals = Arrivals::new(Ledger::new());
        let dedup = Deduplicator::builder(MemoryStore::new()).policy(Policy::Hold).build().unwrap();
        let layer = layer_over(dedup).problems(stripe_like()).build().unwrap();
        let app = Router::new()
            .route("/v1/charges", on_post(fails_in_the_middle))
            .route_layer(layer)
            .with_state(Arc::clone(&arrivals));
        let served = serve(app).await;
        let first = Asked { name: "first".to_owned(), key: "key".to_owned() };
        let first = with_retries(client, &served, 3, &[first]).await;
        assert_eq!((first[0].status, first[0].error.as_str()), (200, ""), "{first:?}");
        let then = ["other", "in-doubt"].map(|name| Asked {
            name: name.to_owned(),
            key: if name == "other" { "key" } else { "another" }.to_owned(),
        });
        let then = with_retries(client, &served, 3, &then).await;
        for told in then {
            let expected = class(client, "IdempotencyError");
            assert_eq!((told.status, &told.error), (400, &expected), "{told:?}");
        }
        let ran = ["first", "other", "in-doubt"].map(|name| arrivals.of(name).len());
        assert_eq!(ran, [1, 0, 1], "{client:?}");
    }
}
