//! One caller among many: how much of the store it may take.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::post as on_post;
use http::{Request, StatusCode};
use http_body_util::Full;
use oncekey::time::ManualClock;
use oncekey::{Deduplicator, MemoryStore};
use oncekey_http::{Builder, Effect, IdempotencyLayer, OnVary, Principal};
use tower::ServiceExt as _;

use crate::support::{Count, Gate, Got, in_time, layer, post};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn by_caller(dedup: &Deduplicator<MemoryStore>) -> Builder<MemoryStore> {
    let principal =
        Principal::from_request(|parts| parts.headers.get("who").map(|who| who.to_str().unwrap().to_owned()));
    IdempotencyLayer::builder(dedup.clone(), principal)
}

/// Engine, store and layer on one clock.
fn engine(records_max: usize) -> (Deduplicator<MemoryStore>, ManualClock) {
    let clock = ManualClock::new();
    let store = MemoryStore::builder().clock(clock.clone()).records_max(records_max).build();
    (Deduplicator::builder(store).clock(clock.clone()).build().unwrap(), clock)
}

struct Shop {
    app: Router,
    count: Count,
    gate: Gate,
}

impl Shop {
    fn new(layer: Builder<MemoryStore>) -> Self {
        let (count, gate) = (Count::default(), Gate::closed());
        let (counting, gating) = (count.clone(), gate.clone());
        let app = Router::new()
            .route(
                "/",
                on_post(move || async move {
                    let n = counting.up();
                    ([("vary", "x-version")], format!("call {n}"))
                }),
            )
            .route("/gated", on_post(move || async move { gating.pass().await }))
            .route("/refusing", on_post(|| async { (StatusCode::TOO_MANY_REQUESTS, "slowly") }))
            .route("/without", on_post(|| async { (StatusCode::BAD_GATEWAY, Effect::None, "") }))
            .route_layer(layer.build().unwrap());
        Self { app, count, gate }
    }

    async fn send(&self, request: Request<Full<bytes::Bytes>>) -> Got {
        let answer = self.app.clone().oneshot(request.map(Body::new));
        Got::read(in_time("an answer", answer).await.unwrap()).await.unwrap()
    }

    async fn ask(&self, who: &str, path: &str, key: &str) -> Got {
        self.send(by(who, path, key)).await
    }
}

fn by(who: &str, path: &str, key: &str) -> Request<Full<bytes::Bytes>> {
    let mut request = post(path, key, "50");
    request.headers_mut().insert("who", who.parse().unwrap());
    request
}

fn too_many(got: &Got) -> u64 {
    assert_eq!((got.status.as_u16(), got.problem().as_str()), (429, "too-many-keys"));
    got.retry_after().unwrap()
}

#[tokio::test]
async fn one_caller_cannot_fill_the_store_for_the_others() {
    let (dedup, clock) = engine(100);
    let shop = Shop::new(by_caller(&dedup).clock(clock.clone()).kept_max(50, DAY));
    for n in 0..100 {
        // Whatever is answered, a claim leaves a record.
        let path = ["/", "/refusing", "/without", "/nowhere"][n % 4];
        let full = dedup.store().usage().records == 50;
        let got = shop.ask("ada", path, &format!("{n}")).await;
        match path {
            "/nowhere" => assert_eq!(got.status, 404),
            _ if full => drop(too_many(&got)),
            "/" => assert_eq!(got.status, 200),
            "/refusing" => assert_eq!(got.text(), "slowly"),
            _ => assert_eq!(got.status, 502),
        }
    }
    assert_eq!(dedup.store().usage().records, 50);
    clock.advance(Duration::from_secs(3600));
    let after = too_many(&shop.ask("ada", "/", "more").await);
    assert_eq!(after, 23 * 3600, "the oldest is kept for a day");
    // What is on record is answered, and others are not concerned.
    assert!(shop.ask("ada", "/", "0").await.replayed());
    assert_eq!(shop.ask("ada", "/refusing", "1").await.text(), "slowly");
    assert_eq!(shop.ask("bob", "/", "0").await.status, 200);
    assert_eq!(dedup.store().usage().records, 51);
    // They stop to count as they stop to be kept.
    clock.advance(Duration::from_secs(23 * 3600));
    assert_eq!(shop.ask("ada", "/", "more").await.status, 200);
}

#[tokio::test]
async fn one_caller_cannot_have_everything_in_progress() {
    let (dedup, _) = engine(100);
    let shop = Shop::new(by_caller(&dedup).in_progress_max(2));
    assert_eq!(shop.ask("ada", "/", "done").await.status, 200);
    assert_eq!(shop.ask("ada", "/refusing", "released").await.status, 429);
    let running: Vec<_> = ["1", "2"]
        .map(|key| tokio::spawn(shop.app.clone().oneshot(by("ada", "/gated", key).map(Body::new))))
        .into();
    shop.gate.came(2).await;
    let records = dedup.store().usage().records;
    assert_eq!(too_many(&shop.ask("ada", "/", "3").await), 1);
    assert_eq!(too_many(&shop.ask("ada", "/refusing", "released").await), 1, "it would run");
    assert_eq!(shop.ask("ada", "/gated", "1").await.problem(), "in-progress");
    assert!(shop.ask("ada", "/", "done").await.replayed());
    assert_eq!(dedup.store().usage().records, records, "nothing was claimed");
    assert_eq!(shop.ask("bob", "/", "3").await.status, 200);
    shop.gate.open();
    for one in running {
        assert_eq!(one.await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(shop.ask("ada", "/", "3").await.status, 200);
}

/// Another process, or this one before its restart, knows keys that are not counted here.
#[tokio::test]
async fn keys_that_are_on_record_already_are_answered_past_the_bound() {
    let (dedup, clock) = engine(100);
    let before = Shop::new(by_caller(&dedup));
    assert_eq!(before.ask("ada", "/", "old").await.status, 200);
    let shop = Shop::new(by_caller(&dedup).clock(clock).kept_max(1, DAY).in_progress_max(1));
    assert_eq!(shop.ask("ada", "/", "new").await.status, 200);
    assert!(shop.ask("ada", "/", "old").await.replayed());
    too_many(&shop.ask("ada", "/", "newer").await);
    assert_eq!(shop.count.get(), 1);
}

/// Bounds and times at their limits.
#[tokio::test]
async fn a_bound_may_be_nothing_and_last_forever() {
    let (dedup, clock) = engine(100);
    let set_up = || by_caller(&dedup).clock(clock.clone());
    let none = Shop::new(set_up().kept_max(0, DAY));
    assert_eq!(too_many(&none.ask("ada", "/", "a").await), 24 * 3600);
    assert_eq!(too_many(&Shop::new(set_up().in_progress_max(0)).ask("ada", "/", "a").await), 1);
    let forever = Shop::new(set_up().kept_max(1, Duration::MAX));
    assert_eq!(forever.ask("ada", "/", "b").await.status, 200);
    clock.advance(DAY / 2);
    assert_eq!(too_many(&forever.ask("ada", "/", "c").await), 24 * 3600);
    assert!(forever.ask("ada", "/", "b").await.replayed());
    // Only what is in progress counts.
    let at_once = Shop::new(set_up().kept_max(1, Duration::ZERO));
    for key in ["d", "e"] {
        assert_eq!(at_once.ask("ada", "/", key).await.status, 200);
    }
}

/// Each variant is a record, so whoever makes up variants comes to the bound as well.
#[tokio::test]
async fn variants_count_as_keys_do() {
    let (dedup, clock) = engine(100);
    let layer = by_caller(&dedup).clock(clock).on_vary(OnVary::Run).kept_max(3, DAY);
    let shop = Shop::new(layer);
    let variant = |version: &str| {
        let mut request = by("ada", "/", "k");
        request.headers_mut().insert("x-version", version.parse().unwrap());
        request
    };
    for version in ["1", "2", "3"] {
        assert_eq!(shop.send(variant(version)).await.status, 200);
    }
    too_many(&shop.send(variant("4")).await);
    assert!(shop.send(variant("2")).await.replayed());
    assert_eq!((shop.count.get(), dedup.store().usage().records), (3, 3));
}

/// A router's own 404 is never claimed, if the layer is put on its routes.
#[tokio::test]
async fn a_path_that_no_route_has_claims_nothing() {
    let layer = layer().required().build().unwrap();
    let inner = Router::new().route("/charges", on_post(|| async { "charged" })).route_layer(layer.clone());
    let app = Router::new().nest("/v1", inner.clone()).merge(inner);
    for path in ["/nowhere", "/v1/nowhere"] {
        let response = app.clone().oneshot(post(path, "k", "50").map(Body::new)).await.unwrap();
        assert_eq!(response.status(), 404);
    }
    assert_eq!(layer.dedup().store().usage().records, 0);
    for path in ["/charges", "/v1/charges"] {
        let response = app.clone().oneshot(post(path, "k", "50").map(Body::new)).await.unwrap();
        assert_eq!(response.status(), 200);
    }
    assert_eq!(layer.dedup().store().usage().records, 2);
}
