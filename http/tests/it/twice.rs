//! A layer around a router that has one already.

use std::convert::Infallible;

use axum::Router;
use axum::routing::post as on_post;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use oncekey::{Deduplicator, MemoryStore};
use oncekey_http::{IdempotencyLayer, Principal};
use tower::{Layer as _, Service, ServiceExt as _, service_fn};

use crate::support::{BOTH, Count, Got, LONG, layer_over, post, send, serve};

/// It would wait for itself, or be told that it is in progress.
#[tokio::test]
async fn a_request_does_not_wait_for_itself() {
    for http in BOTH {
        let dedup = Deduplicator::new(MemoryStore::new());
        let layer = || layer_over(dedup.clone()).required().wait(LONG).build().unwrap();
        let count = Count::default();
        let counting = count.clone();
        let handler = move |body: String| async move { format!("call {} of {body}", counting.up()) };
        let app = Router::new().route("/", on_post(handler)).layer(layer()).layer(layer()).layer(layer());
        let served = serve(app).await;
        for replayed in [false, true] {
            let got = send(served.addr, http, post("/", "k", "50")).await;
            assert_eq!((got.text(), got.replayed()), ("call 1 of 50", replayed), "{http:?}");
        }
        assert_eq!(send(served.addr, http, post("/", "k", "51")).await.problem(), "mismatch");
        assert_eq!(count.get(), 1);
    }
}

/// Two that keep keys apart in different ways are two: the inner one is not let down by an outer one that is coarser.
#[tokio::test]
async fn one_with_other_keys_does_its_own() {
    let dedup = Deduplicator::new(MemoryStore::new());
    let who = Principal::from_request(|parts| parts.headers.get("who")?.to_str().ok().map(str::to_owned));
    let inner = IdempotencyLayer::builder(dedup.clone(), who).build().unwrap();
    let outer = layer_over(dedup).methods([http::Method::PUT, http::Method::POST]).build().unwrap();
    let count = Count::default();
    let counting = count.clone();
    let service = service_fn(move |_| {
        let n = counting.up();
        async move { Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(format!("call {n}")))) }
    });
    let mut service = outer.layer(inner.layer(service));
    let mut ask = async |who: Option<&str>, key: &str| {
        let mut request: Request<Full<Bytes>> = post("/", key, "50");
        if let Some(who) = who {
            request.headers_mut().insert("who", who.parse().unwrap());
        }
        let response = service.ready().await.unwrap().call(request).await.unwrap();
        Got::read(response).await.unwrap()
    };
    // The inner one asks who calls, and the outer one replays that.
    assert_eq!(ask(None, "a").await.problem(), "no-principal");
    assert_eq!(count.get(), 0);
    assert_eq!(ask(Some("ada"), "b").await.text(), "call 1");
    assert!(ask(Some("ada"), "b").await.replayed());
    assert_eq!(count.get(), 1);
}
