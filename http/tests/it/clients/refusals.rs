//! What each client does, set up as in `http/tests/clients`, with statuses that ask it to come again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::routing::post as on_post;
use http::{HeaderName, StatusCode};
use oncekey_http::problems::stripe_like;

use super::program::{ALL, Settings};
use super::{Asked, Client, Ledger, name, readme};
use crate::support::{layer, serve};

type Arrivals = Arc<Ledger<Instant>>;

const STATUSES: [u16; 5] = [409, 422, 425, 429, 503];
/// Of each status, so that a client that does not wait is seen not to, on a busy machine too.
const EACH: usize = 4;
/// Longer than any client waits by itself before its first retry.
const RETRY_AFTER: Duration = Duration::from_secs(4);

async fn refuse(
    State(arrivals): State<Arrivals>,
    form: String,
) -> (StatusCode, [(HeaderName, String); 2], &'static str) {
    let name = name(&form);
    arrivals.write(&name, Instant::now());
    let (status, _) = name.split_once('-').unwrap();
    let fields = [
        (http::header::RETRY_AFTER, RETRY_AFTER.as_secs().to_string()),
        (http::header::CONTENT_TYPE, "application/json".to_owned()),
    ];
    let body = r#"{"error": {"type": "api_error", "message": "refused by a test"}}"#;
    (StatusCode::from_u16(status.parse().unwrap()).unwrap(), fields, body)
}

/// The cells of its line in the README's table: after which statuses it asks again, and whether it waits as long as it is told.
async fn cells(client: Client) -> [String; 2] {
    let arrivals = Arrivals::new(Ledger::new());
    let app = Router::new().route("/v1/charges", on_post(refuse)).with_state(Arc::clone(&arrivals));
    let served = serve(app).await;
    let settings =
        Settings { base: format!("http://{}", served.addr), timeout: Duration::from_secs(60), retries: 1 };
    let names = STATUSES.iter().flat_map(|status| (0..EACH).map(move |n| format!("{status}-{n}")));
    let operations: Vec<_> = names.map(|name| Asked { key: name.clone(), name }).collect();
    client.run(&settings, &operations).await;
    let (mut again, mut obeyed) = (Vec::new(), Vec::new());
    for status in STATUSES {
        let of_status: Vec<_> = (0..EACH).map(|n| arrivals.of(&format!("{status}-{n}"))).collect();
        let times = of_status[0].len();
        assert!(of_status.iter().all(|arrivals| arrivals.len() == times), "{client:?}, {status}");
        if times == 2 {
            again.push(status.to_string());
            if of_status.iter().all(|arrivals| arrivals[1] - arrivals[0] >= RETRY_AFTER) {
                obeyed.push(status.to_string());
            }
        } else {
            assert_eq!(times, 1, "{client:?}, {status}");
        }
    }
    let waits = match obeyed.as_slice() {
        [] => "ignored".to_owned(),
        all if all == again => "obeyed".to_owned(),
        some => format!("obeyed after {}", some.join(", ")),
    };
    [again.join(", "), waits]
}

/// The layer refuses a long body before it was read; a client that is cut off while it still sends would ask again and again.
/// curl has no such argument of a program; its tests are elsewhere.
#[tokio::test]
async fn clients_hear_that_their_body_is_too_large_while_they_send_it() {
    for client in ALL.into_iter().filter(|client| *client != Client::Curl) {
        let layer = layer().request_body_max(1000);
        let layer = if client.is_stripes() { layer.problems(stripe_like()) } else { layer };
        let app = Router::new().route("/v1/charges", on_post(async || "{}"));
        let served = serve(app.route_layer(layer.build().unwrap())).await;
        let settings = Settings {
            base: format!("http://{}", served.addr),
            timeout: Duration::from_secs(60),
            retries: 1,
        };
        let operations: Vec<_> = (0..4)
            .map(|n| Asked { name: format!("{n}{}", "x".repeat(1_000_000)), key: format!("key-{n}") })
            .collect();
        let expected = if client.is_stripes() { 400 } else { 413 };
        for told in client.run(&settings, &operations).await {
            assert_eq!((told.status, told.asked_again), (expected, 0), "{client:?}: {}", told.error);
        }
    }
}

#[tokio::test]
async fn clients_do_with_refusals_what_the_readme_says() {
    let asked = ALL.map(|client| tokio::spawn(async move { (client, cells(client).await) }));
    for asked in asked {
        let (client, cells) = asked.await.unwrap();
        assert_eq!(cells, readme(client)[..2], "{client:?}");
    }
}
