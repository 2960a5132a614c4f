//! What each client does when a reply breaks off in its head or its body, or when its body does not come in time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::post as on_post;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::Response;
use oncekey_store_testing::proxy::{Mode, Proxy};

use super::program::{ALL, Settings};
use super::{Asked, Client, Ledger, name, readme};
use crate::support::serve;

/// For how long clients wait for a reply.
const TIMEOUT: Duration = Duration::from_millis(1500);

/// Longer than its head, so that half of it all ends in the body.
fn text() -> Bytes {
    Bytes::from(format!(r#"{{"id": "ch_1", "object": "charge", "statement": "{}"}}"#, "x".repeat(1500)))
}

/// The first reply to `late` stops in the middle, and goes on for longer than any client waits.
async fn reply(State(arrivals): State<Arc<Ledger<()>>>, form: String) -> Response<Body> {
    let name = name(&form);
    arrivals.write(&name, ());
    let text = text();
    let response = Response::builder()
        .status(201)
        .header("content-type", "application/json")
        .header("content-length", text.len());
    let body = if name == "late" && arrivals.of(&name).len() == 1 {
        let half = stream::iter([Ok::<_, io::Error>(text.slice(..text.len() / 2))]);
        Body::from_stream(half.chain(stream::pending()))
    } else {
        Body::from(text)
    };
    response.body(body).unwrap()
}

/// Whether the caller had to ask again, although the client retries.
async fn is_left(client: Client, what: &str) -> bool {
    let arrivals = Arc::new(Ledger::new());
    let app = Router::new().route("/v1/charges", on_post(reply)).with_state(Arc::clone(&arrivals));
    let served = serve(app).await;
    let proxy = Proxy::start(served.addr);
    match what {
        "body" => proxy.by_turns([Mode::CutAnswers]),
        // After the status line, in the middle of a field.
        "head" => proxy.by_turns([Mode::CutAnswersAfter(30)]),
        _ => {}
    }
    let settings = Settings { base: format!("http://{}", proxy.addr()), timeout: TIMEOUT, retries: 5 };
    let asked = Asked { name: what.to_owned(), key: "key".to_owned() };
    let told = client.run(&settings, &[asked]).await.remove(0);
    assert_eq!((told.status, told.error.as_str()), (201, ""), "{client:?}, {what}: {told:?}");
    assert!(proxy.round_trips() >= 2, "{client:?}, {what}");
    told.asked_again > 0
}

#[tokio::test]
async fn clients_leave_broken_replies_to_their_callers_as_the_readme_says() {
    let asked = ALL.map(|client| {
        tokio::spawn(async move {
            (
                client,
                [is_left(client, "head").await, is_left(client, "body").await, is_left(client, "late").await],
            )
        })
    });
    let mut wrong = Vec::new();
    for asked in asked {
        let (client, left) = asked.await.unwrap();
        let says = readme(client).pop().unwrap();
        if left != ["head", "body", "late"].map(|what| says.contains(what)) {
            wrong.push(format!("{client:?}: {left:?}, and the README says {says:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
