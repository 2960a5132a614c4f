//! Services that have room for so many requests, and those that fail.

use std::convert::Infallible;
use std::task::Poll;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{join_all, ready};
use http::{Request, Response};
use http_body_util::Full;
use oncekey::MemoryStore;
use oncekey_http::{IdempotencyLayer, RequestBody};
use tower::limit::ConcurrencyLimitLayer;
use tower::{Layer as _, Service, ServiceExt as _, service_fn};

use crate::support::{Count, Gate, Got, LONG, in_time, layer, post, until};

fn gated(
    room: usize,
    layer: &IdempotencyLayer<MemoryStore>,
    gate: Gate,
) -> impl Service<
    Request<Full<Bytes>>,
    Response = Response<oncekey_http::ResponseBody<Full<Bytes>>>,
    Error = Infallible,
    Future: Send,
> + Clone
+ use<> {
    let service = service_fn(move |request: Request<RequestBody<Full<Bytes>>>| {
        let gate = gate.clone();
        async move {
            if request.headers().get("idempotency-key").is_some_and(|key| key == "gated") {
                gate.pass().await;
            }
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("done")))
        }
    });
    layer.layer(ConcurrencyLimitLayer::new(room).layer(service))
}

/// A service that is kept between its calls does not hold the room that the call itself needs.
#[tokio::test]
async fn room_for_one_is_enough() {
    let mut service = gated(1, &layer().build().unwrap(), Gate::closed());
    for key in ["a", "a", "b", "\"", "c"] {
        let called = service.ready().await.unwrap().call(post("/", key, ""));
        let status = in_time("it does not wait for itself", called).await.unwrap().status();
        assert_eq!(status.as_u16(), if key == "\"" { 400 } else { 200 });
    }
    // What was refused left its room behind too.
    let refused = service.ready().await.unwrap().call(post("/", "\"", "")).await.unwrap();
    assert_eq!(refused.status(), 400);
    let mut other = service.clone();
    assert!(in_time("nobody holds it", other.ready()).await.is_ok());
}

#[tokio::test]
async fn who_waits_for_a_duplicate_takes_no_room() {
    let gate = Gate::closed();
    let layer = layer().wait(LONG).build().unwrap();
    let service = gated(2, &layer, gate.clone());
    let first = tokio::spawn(service.clone().oneshot(post("/", "gated", "")).map(|answer| answer.is_ok()));
    gate.came(1).await;
    let mut waiting = Vec::new();
    for n in 1..=5 {
        waiting
            .push(tokio::spawn(service.clone().oneshot(post("/", "gated", "")).map(|answer| answer.is_ok())));
        until("it waits", || layer.dedup().waiting() >= n).await;
    }
    // One place is taken by the first, and the other is free.
    let other = in_time("there is room", service.clone().oneshot(post("/", "other", ""))).await;
    assert_eq!(other.unwrap().status(), 200);
    gate.open();
    assert!(first.await.unwrap());
    assert!(join_all(waiting).await.into_iter().all(Result::unwrap));
}

/// What needs nothing of the service under the layer does not wait until that has room.
#[tokio::test]
async fn without_room_duplicates_are_answered_all_the_same() {
    let gate = Gate::closed();
    let layer = layer().required_where(|parts| parts.uri.path() == "/strict").build().unwrap();
    let mut service = gated(1, &layer, gate.clone());
    let done = service.ready().await.unwrap().call(post("/", "done", ""));
    assert_eq!(in_time("there is room", done).await.unwrap().status(), 200);
    let first = tokio::spawn(service.clone().oneshot(post("/", "gated", "")).map(|answer| answer.is_ok()));
    gate.came(1).await;
    let keyless = |path: &str| {
        let mut request = post(path, "", "");
        request.headers_mut().remove("idempotency-key");
        request
    };
    for (request, status, replayed) in [
        (post("/", "gated", ""), 409, false),
        (post("/", "done", ""), 200, true),
        (post("/", "done", "other"), 422, false),
        (post("/", "\"", ""), 400, false),
        (keyless("/strict"), 400, false),
    ] {
        let answer = in_time("it is ready", service.ready()).await.unwrap().call(request);
        let got = Got::read(in_time("it has no room to wait for", answer).await.unwrap()).await.unwrap();
        assert_eq!((got.status.as_u16(), got.replayed()), (status, replayed));
    }
    // What runs has to wait, with a key or without.
    let mut fresh = Box::pin(service.ready().await.unwrap().call(post("/", "fresh", "")));
    let mut passing = Box::pin(service.ready().await.unwrap().call(keyless("/")));
    assert!((&mut fresh).now_or_never().is_none() && (&mut passing).now_or_never().is_none());
    gate.open();
    assert!(first.await.unwrap());
    assert_eq!(in_time("there is room again", fresh).await.unwrap().status(), 200);
    assert_eq!(in_time("there is room again", passing).await.unwrap().status(), 200);
}

/// One that is not ready the first `not` times, and answers with an error the first `failing` times.
#[derive(Clone)]
struct Failing {
    readied: Count,
    not: u32,
    called: Count,
    failing: u32,
}

impl Service<Request<RequestBody<Full<Bytes>>>> for Failing {
    type Response = Response<Full<Bytes>>;
    type Error = &'static str;
    type Future = futures::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(if self.readied.up() <= self.not { Err("not ready") } else { Ok(()) })
    }

    fn call(&mut self, request: Request<RequestBody<Full<Bytes>>>) -> Self::Future {
        let doubt = request.extensions().get::<oncekey::Attempt>().unwrap().after_doubt();
        let n = self.called.up();
        ready(if n <= self.failing {
            Err("failed")
        } else {
            Ok(Response::new(Full::from(format!("call {n}, after doubt: {doubt}"))))
        })
    }
}

/// The service's own errors go on as they are. One that it gave before it was called is of no effect, another may be.
#[tokio::test]
async fn errors_of_the_service_go_on() {
    for (not, failing, error, then) in
        [(1, 0, "not ready", "call 1, after doubt: false"), (0, 1, "failed", "call 2, after doubt: true")]
    {
        let failing = Failing { readied: Count::default(), not, called: Count::default(), failing };
        let mut service = layer().build().unwrap().layer(failing);
        assert_eq!(service.ready().await.err(), None, "it is asked when it is called");
        assert_eq!(service.call(post("/", "k", "")).await.err(), Some(error));
        let got = Got::read(service.call(post("/", "k", "")).await.unwrap()).await.unwrap();
        assert_eq!(got.text(), then);
    }
}
