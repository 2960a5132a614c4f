//! A layer around a router that has one already.

use std::convert::Infallible;

use axum::Router;
use axum::routing::post as on_post;
use bytes::Bytes;
use futures::future::{Ready, ready};
use http::{Request, Response};
use http_body_util::Full;
use oncekey::{Deduplicator, MemoryStore};
use oncekey_http::{IdempotencyLayer, Principal};
use tower::{Layer as _, ServiceExt as _, service_fn};

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

fn counted<R>(count: &Count, _: R) -> Ready<Result<Response<Full<Bytes>>, Infallible>> {
    ready(Ok(Response::new(Full::from(format!("call {}", count.up())))))
}

/// Two that keep keys apart in different ways are two: the inner one is not let down by an outer one that is coarser.
#[tokio::test]
async fn one_with_other_keys_does_its_own() {
    let dedup = Deduplicator::new(MemoryStore::new());
    let who = Principal::from_request(|parts| parts.headers.get("who")?.to_str().ok().map(str::to_owned));
    let inner = IdempotencyLayer::builder(dedup.clone(), who).build().unwrap();
    let outer = layer_over(dedup).methods([http::Method::PUT, http::Method::POST]).build().unwrap();
    let count = Count::default();
    let (outside, within) = (count.clone(), count.clone());
    let outer = outer.layer(inner.layer(service_fn(move |request| counted(&outside, request))));
    let inner = inner.layer(service_fn(move |request| counted(&within, request)));
    let sent = |key: &str| post("/", key, "50");
    let by_ada = |key: &str| {
        let mut request: Request<Full<Bytes>> = sent(key);
        request.headers_mut().insert("who", "ada".parse().unwrap());
        request
    };
    // The inner one asks who calls.
    let refused = Got::read(outer.clone().oneshot(sent("a")).await.unwrap()).await.unwrap();
    assert_eq!((refused.problem().as_str(), count.get()), ("no-principal", 0));
    let first = Got::read(outer.clone().oneshot(by_ada("b")).await.unwrap()).await.unwrap();
    assert_eq!((first.text(), first.replayed()), ("call 1", false));
    let again = Got::read(outer.oneshot(by_ada("b")).await.unwrap()).await.unwrap();
    assert_eq!((again.text(), again.replayed()), ("call 1", true));
    // And it has a record of its own.
    let within = Got::read(inner.oneshot(by_ada("b")).await.unwrap()).await.unwrap();
    assert_eq!((within.text(), within.replayed(), count.get()), ("call 1", true, 1));
}
