//! How refusals are written, and limits that other layers set.

use std::io;

use axum::Router;
use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::routing::post as on_post;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Limited;
use tower::ServiceExt as _;
use tower::util::MapRequestLayer;

use crate::support::{BOTH, Count, Gate, Http, layer, post, send, serve};

/// In a form of the service's own too, and for whoever made it: clients that retry each 409 are told not to.
#[tokio::test]
async fn clients_are_told_where_no_retry_can_help() {
    let own = |problem: &oncekey_http::problem::Problem, _: &http::request::Parts| {
        let mut response = Response::new(Bytes::from(problem.slug));
        *response.status_mut() = problem.status;
        if problem.slug == "key-malformed" {
            response.headers_mut().insert("x-should-retry", "perhaps".parse().unwrap());
        }
        response
    };
    let stream = || async {
        // It goes on for longer than anybody reads, so it is not kept.
        Body::from_stream(futures::stream::pending::<Result<Bytes, io::Error>>())
    };
    let stripes = layer().problems(oncekey_http::problems::stripe_like());
    // Stripe's clients raise what it is for 400 only.
    for (layer, done) in [(layer(), 409), (layer().problems(own), 409), (stripes, 400)] {
        let gate = Gate::closed();
        let gating = gate.clone();
        let app = Router::new()
            .route("/", on_post(move || async move { gating.pass().await }))
            .route("/stream", on_post(stream))
            .layer(layer.build().unwrap());
        let told = async |request: Request<Body>| {
            let response = app.clone().oneshot(request).await.unwrap();
            let told = |name| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
            (response.status().as_u16(), told("stripe-should-retry"), told("x-should-retry"))
        };
        let asks = |path, key| post(path, key, "50").map(Body::new);
        let first = tokio::spawn(app.clone().oneshot(asks("/", "k")));
        gate.came(1).await;
        assert_eq!(told(asks("/", "k")).await, (409, None, None), "in progress: it may be asked for again");
        gate.open();
        assert_eq!(first.await.unwrap().unwrap().status(), 200);
        assert_eq!(told(asks("/stream", "k")).await, (200, None, None));
        let no = Some("false".to_owned());
        assert_eq!(told(asks("/stream", "k")).await, (done, no.clone(), no.clone()), "done, and not kept");
        let (status, stripe, x) = told(asks("/", "\"")).await;
        assert_eq!((status, stripe), (400, no.clone()));
        assert!(x == no || x.as_deref() == Some("perhaps"));
    }
}

#[tokio::test]
async fn a_service_writes_problems_in_a_form_of_its_own() {
    let render = |problem: &oncekey_http::problem::Problem, request: &http::request::Parts| {
        let who = request.headers.get("who").map_or("nobody", |who| who.to_str().unwrap());
        let body = format!("{} {} {:?}", problem.slug, who, problem.retry_after.is_some());
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = StatusCode::IM_A_TEAPOT;
        response.headers_mut().insert("x-shown", "yes".parse().unwrap());
        response
    };
    let gate = Gate::closed();
    let gating = gate.clone();
    let handler = move || async move { gating.pass().await };
    let layer = layer().required().request_body_max(9).problems(render).build().unwrap();
    let served = serve(Router::new().route("/", on_post(handler)).layer(layer)).await;
    let ask = |key: &str, body: &str, kind: &'static str| {
        let mut request = post("/", key, body.to_owned());
        request.headers_mut().insert("who", "ada".parse().unwrap());
        request.headers_mut().insert("content-type", kind.parse().unwrap());
        send(served.addr, Http::Two, request)
    };
    let mut first = Box::pin(ask("k", "50", "text/plain"));
    tokio::select! {
        _ = &mut first => panic!("the gate is closed"),
        () = gate.came(1) => {}
    }
    // Before the body is read, while it is, and after the engine's answer; for every kind of client.
    for (key, body, kind, said) in [
        ("a b", "50", "text/plain", "key-malformed ada false"),
        ("l", "0123456789", "text/plain", "body-too-large ada false"),
        ("k", "51", "text/plain", "mismatch ada false"),
        ("k", "50", "text/plain", "in-progress ada true"),
        ("a b", "50", "application/grpc", "key-malformed ada false"),
    ] {
        let got = ask(key, body, kind).await;
        assert_eq!((got.status, got.text()), (StatusCode::IM_A_TEAPOT, said));
        assert_eq!(got.headers["x-shown"], "yes");
    }
    gate.open();
    assert_eq!(first.await.status, 200);
}

/// Whoever sends more than a layer outside lets through is told so, and not that its body broke off.
#[tokio::test]
async fn a_limit_outside_is_too_large_as_well() {
    for http in BOTH {
        let count = Count::default();
        let counting = count.clone();
        let handler = move |body: String| async move { format!("call {} of {}", counting.up(), body.len()) };
        let limit = MapRequestLayer::new(|request: Request<Body>| {
            // axum wraps what a body says, and this is how it comes from a layer that limits it.
            request.map(|body| Body::new(Limited::new(Body::new(body), 100)))
        });
        let app = Router::new().route("/", on_post(handler)).layer(layer().build().unwrap()).layer(limit);
        let served = serve(app).await;
        let refused = send(served.addr, http, post("/", "k", "x".repeat(101))).await;
        assert_eq!((refused.status.as_u16(), refused.problem().as_str()), (413, "body-too-large"));
        assert!(!refused.text().contains("bytes"), "the limit is not this layer's: {}", refused.text());
        assert_eq!(count.get(), 0);
        let fits = send(served.addr, http, post("/", "k", "x".repeat(100))).await;
        assert_eq!((fits.status.as_u16(), fits.text()), (200, "call 1 of 100"));
    }
}

/// axum's own limit acts in the extractor, inside of the layer, with a 413 of axum's, which is kept as what it is.
#[tokio::test]
async fn axums_default_limit_is_the_handlers() {
    let handler = |body: Bytes| async move { body.len().to_string() };
    let app = Router::new().route("/", on_post(handler)).layer(layer().build().unwrap());
    let served = serve(app.layer(DefaultBodyLimit::max(100))).await;
    let request = |len| post("/", "k", "x".repeat(len));
    for replayed in [false, true] {
        let got = send(served.addr, Http::One, request(101)).await;
        assert_eq!((got.status.as_u16(), got.replayed()), (413, replayed));
        assert_ne!(got.headers["content-type"], "application/problem+json");
    }
}
