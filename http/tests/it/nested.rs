//! Routers in routers: axum takes the prefix off the URI, and two resources must not become one.

use axum::Router;
use axum::routing::post as on_post;
use oncekey::{Deduplicator, MemoryStore};
use oncekey_http::{IdempotencyLayer, Route};

use crate::support::{Count, Http, layer, layer_over, post, send, serve};

/// Two mounts of a router are two routes, whatever was chosen. Two paths of one route are two routes by default; where the
/// route that axum matched was chosen, the second path is another request with the first one's key.
#[tokio::test]
async fn nested_routers_do_not_share_keys() {
    for (route, other_path_runs) in [(Route::default(), true), (Route::matched_path(), false)] {
        let context = format!("{route:?}");
        let count = Count::default();
        let counting = count.clone();
        let handler = move || async move { format!("call {}", counting.up()) };
        let layer = layer().route(route).build().unwrap();
        let charges = Router::new().route("/charges", on_post(handler)).layer(layer);
        let app = Router::new()
            .nest("/v1/{tenant}", charges.clone())
            .nest("/v2", charges.clone())
            .nest("/v3", Router::new().nest("/in", charges.clone()))
            .nest_service("/v4", charges.clone())
            .merge(charges);
        let served = serve(app).await;
        let ask = |path: &'static str| send(served.addr, Http::One, post(path, "k", "50"));
        let runs_once = async |path: &'static str, call: u32| {
            for replayed in [false, true] {
                let got = ask(path).await;
                let expected = (format!("call {call}"), replayed);
                assert_eq!((got.text().to_owned(), got.replayed()), expected, "{path}, {context}");
            }
        };
        let mounts = ["/v1/ada/charges", "/v2/charges", "/v3/in/charges", "/v4/charges", "/charges"];
        for (call, path) in (1..).zip(mounts) {
            runs_once(path, call).await;
        }
        if other_path_runs {
            runs_once("/v1/bob/charges", 6).await;
        } else {
            assert_eq!(ask("/v1/bob/charges").await.problem(), "mismatch");
        }
        assert_eq!(count.get(), if other_path_runs { 6 } else { 5 }, "{context}");
    }
}

/// The path and not the route that axum matched: that is there to be chosen.
#[tokio::test]
async fn by_default_the_route_is_the_path_that_the_client_sent() {
    let count = Count::default();
    let counting = count.clone();
    let handler = move || async move { format!("call {}", counting.up()) };
    let app = Router::new().route("/orders/{id}", on_post(handler)).layer(layer().build().unwrap());
    let served = serve(Router::new().merge(app)).await;
    for (n, path) in ["/orders/1", "/orders/2"].into_iter().enumerate() {
        let got = send(served.addr, Http::One, post(path, "k", "50")).await;
        assert_eq!((got.text(), got.replayed()), (format!("call {}", n + 1).as_str(), false));
    }
}

/// As people write it: the layer's defaults and the crate's, two shops with the same routes.
#[tokio::test]
async fn a_mount_is_never_answered_with_what_another_one_said() {
    let shop = |name: &'static str, layer: IdempotencyLayer<MemoryStore>| {
        Router::new()
            .route("/charges", on_post(move || async move { format!("charged by {name}") }))
            .layer(layer)
    };
    let dedup = Deduplicator::new(MemoryStore::new());
    let layer = || layer_over(dedup.clone()).build().unwrap();
    let by_host_and_path = || {
        let route = Route::from_request(|parts| {
            let host = parts.headers.get("host")?.to_str().ok()?;
            Some(format!("{host}{}", Route::path_of(parts)))
        });
        layer_over(dedup.clone()).namespace("by host").route(route).build().unwrap()
    };
    // A route that sees the path as axum left it: the request itself still tells where it was sent.
    let by_what_is_left = || {
        let route = Route::from_request(|parts| Some(parts.uri.path().to_owned()));
        layer_over(dedup.clone()).namespace("what is left").route(route).build().unwrap()
    };
    for (way, layer, second) in [
        ("default", &layer as &dyn Fn() -> IdempotencyLayer<MemoryStore>, "charged by b"),
        ("host and path", &by_host_and_path, "charged by b"),
        ("what is left", &by_what_is_left, "mismatch"),
    ] {
        let app = Router::new().nest("/shop-a", shop("a", layer())).nest("/shop-b", shop("b", layer()));
        let served = serve(app).await;
        let a = send(served.addr, Http::One, post("/shop-a/charges", "k", "50")).await;
        assert_eq!(a.text(), "charged by a", "{way}");
        let b = send(served.addr, Http::One, post("/shop-b/charges", "k", "50")).await;
        let b = if b.status == 422 { b.problem() } else { b.text().to_owned() };
        assert_eq!(b, second, "{way}");
    }
}
