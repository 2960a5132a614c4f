//! Routers in routers: axum takes the prefix off the URI, and two resources must not become one.

use axum::Router;
use axum::routing::post as on_post;
use oncekey_http::Route;

use crate::support::{Count, Http, layer, post, send, serve};

#[tokio::test]
async fn nested_routers_do_not_share_keys() {
    let count = Count::default();
    let counting = count.clone();
    let handler = move || async move { format!("call {}", counting.up()) };
    let layer = layer().route(Route::matched_path()).build().unwrap();
    let charges = Router::new().route("/charges", on_post(handler)).layer(layer);
    let app = Router::new()
        .nest("/v1/{tenant}", charges.clone())
        .nest("/v2", charges.clone())
        .nest_service("/v3", charges.clone())
        .merge(charges);
    let served = serve(app).await;
    let ask = |path: &'static str| send(served.addr, Http::One, post(path, "k", "50"));
    for (n, path) in ["/v1/ada/charges", "/v2/charges", "/v3/charges", "/charges"].into_iter().enumerate() {
        let first = ask(path).await;
        assert_eq!((first.text(), first.replayed()), (format!("call {}", n + 1).as_str(), false), "{path}");
        let again = ask(path).await;
        assert_eq!((again.text(), again.replayed()), (format!("call {}", n + 1).as_str(), true), "{path}");
    }
    // The same route with the same key, and another resource: another request.
    assert_eq!(ask("/v1/bob/charges").await.problem(), "mismatch");
    assert_eq!(count.get(), 4);
}

/// Nothing was said about routes: two mounts are two routes all the same, and what is compared is what was sent.
#[tokio::test]
async fn by_default_nested_routers_do_not_share_keys_either() {
    let count = Count::default();
    let counting = count.clone();
    let handler = move || async move { format!("call {}", counting.up()) };
    let charges = Router::new().route("/charges", on_post(handler)).layer(layer().build().unwrap());
    let app = Router::new()
        .nest("/v1/{tenant}", charges.clone())
        .nest("/v2", Router::new().nest("/in", charges.clone()))
        .nest_service("/v3", charges.clone())
        .merge(charges);
    let served = serve(app).await;
    let paths = ["/v1/ada/charges", "/v1/bob/charges", "/v2/in/charges", "/v3/charges", "/charges"];
    for (n, path) in paths.into_iter().enumerate() {
        for replayed in [false, true] {
            let got = send(served.addr, Http::One, post(path, "k", "50")).await;
            assert_eq!(
                (got.text(), got.replayed()),
                (format!("call {}", n + 1).as_str(), replayed),
                "{path}"
            );
        }
    }
    assert_eq!(count.get(), 5);
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
